//! Thinning: the spool is written anew on a thread of its own, while the old one goes on.
//!
//! Reads the old file and writes `spool.new` in the journal's folder. What is appended meanwhile the owner
//! copies behind it, and then lets it take the old one's name: a crash leaves one of them whole.

use super::frame::MAGIC;
use super::log::{Span, path_in};
use crate::journal::{Fsync, JournalError};
use orchestrion_world::id::TaskId;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// One that is under way.
#[derive(Debug)]
pub(super) struct Thinning {
    thread: JoinHandle<io::Result<Thinned>>,
    /// Bytes of the old spool that were there when it began.
    pub(super) from: u64,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Thinned {
    pub(super) file: File,
    pub(super) lines: BTreeMap<TaskId, Span>,
    pub(super) len: u64,
}

impl Thinning {
    /// Begins to copy `kept` out of `old`, which has `from` bytes by now.
    pub(super) fn begin(
        dir: PathBuf,
        old: Arc<File>,
        from: u64,
        mut kept: Vec<(TaskId, Span)>,
    ) -> io::Result<Thinning> {
        let thread = std::thread::Builder::new().name("spool-thin".into()).spawn(move || {
            kept.sort_unstable_by_key(|(_, span)| span.at);
            let mut file = BufWriter::new(fresh(&dir)?);
            file.write_all(MAGIC)?;
            let (mut lines, mut len, mut line) = (BTreeMap::new(), MAGIC.len() as u64, Vec::new());
            for (task, span) in kept {
                line.resize(span.len, 0);
                old.read_exact_at(&mut line, span.at)?;
                file.write_all(&line)?;
                lines.insert(task, Span { at: len, len: span.len });
                len += span.len as u64;
            }
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            // So that little is left to force when the pulse waits for it.
            file.sync_data()?;
            Ok(Thinned { file, lines, len })
        })?;
        Ok(Thinning { thread, from })
    }

    pub(super) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread.
    pub(super) fn join(self) -> io::Result<Thinned> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes it panicked")))
    }
}

/// An empty file beside the spool; what a crash left of an earlier one goes.
pub(super) fn fresh(dir: &Path) -> io::Result<File> {
    let path = dir.join("spool.new");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    File::options().read(true).append(true).create_new(true).mode(0o600).open(path)
}

/// Gives the fresh file the spool's name. A failure after that is a failed sync: which of the two is on the
/// disk, nobody knows then.
pub(super) fn adopt(dir: &Path, file: &File, fsync: Fsync) -> Result<(), JournalError> {
    let rename = || -> io::Result<File> {
        if fsync != Fsync::Never {
            file.sync_all()?;
        }
        let folder = File::open(dir)?;
        fs::rename(dir.join("spool.new"), path_in(dir))?;
        Ok(folder)
    };
    let folder = rename().map_err(JournalError::io("write anew", path_in(dir)))?;
    if fsync != Fsync::Never {
        folder.sync_all().map_err(|source| JournalError::Sync { path: path_in(dir), source })?;
    }
    Ok(())
}
