//! Taking a folder over: locks it, verifies its last segment and cuts what a crash left behind it.
//!
//! What is taken stands still until a run begins in it: that is when the last run's state is recovered.

use super::JournalError;
use super::cursor::{Cursor, Opened, Torn};
use super::record::Chain;
use super::segment::{list, lock, snapshot_of};
use super::writer::JournalConfig;
use std::fs::{self, File};
use std::path::Path;

/// A folder that is held by this process and ends with a whole record.
#[derive(Debug)]
pub struct Taken {
    pub(super) config: JournalConfig,
    pub(super) lock: File,
    pub(super) end: End,
}

impl Taken {
    /// Locks the folder, which is made where there is none, and cuts a torn tail.
    pub fn take(config: JournalConfig) -> Result<Taken, JournalError> {
        fs::create_dir_all(&config.dir).map_err(JournalError::io("create", &config.dir))?;
        let lock = lock(&config.dir)?;
        let end = repair(&config.dir)?;
        Ok(Taken { config, lock, end })
    }

    pub(crate) fn config(&self) -> &JournalConfig {
        &self.config
    }

    /// The number of the last segment, where there is one.
    pub(crate) fn last(&self) -> Option<u32> {
        (self.end.number > 0).then_some(self.end.number)
    }
}

/// Where a journal ends.
#[derive(Debug)]
pub(super) struct End {
    /// Of its last segment; 0 where there is none.
    pub(super) number: u32,
    pub(super) chain: Chain,
    pub(super) torn: Option<Torn>,
}

/// Verifies the last segment and cuts what a crash left behind its last whole record.
fn repair(dir: &Path) -> Result<End, JournalError> {
    let mut segments = list(dir)?;
    let mut first_cut = None;
    while let Some((number, path)) = segments.pop() {
        match Cursor::open(&path, true)? {
            Err(torn) => {
                warn_cut(&torn);
                fs::remove_file(&path).map_err(JournalError::io("remove", &path))?;
                // Its number is used again.
                let _ = fs::remove_file(snapshot_of(&path));
                first_cut = first_cut.or(Some(torn));
            }
            Ok(Opened { mut reader, .. }) => {
                while reader.read()?.is_some() {}
                if let Some(torn) = &reader.torn {
                    warn_cut(torn);
                    let file = File::options().write(true).open(&path).map_err(JournalError::io("open", &path))?;
                    file.set_len(reader.offset)
                        .and_then(|()| file.sync_all())
                        .map_err(JournalError::io("cut the torn tail of", &path))?;
                }
                return Ok(End { number, chain: reader.chain, torn: first_cut.or(reader.torn) });
            }
        }
    }
    Ok(End { number: 0, chain: [0; 32], torn: first_cut })
}

fn warn_cut(torn: &Torn) {
    let Torn { place, bytes, flaw } = torn;
    tracing::warn!(%place, bytes, %flaw, "the journal's last record was not written to its end: cut off");
}
