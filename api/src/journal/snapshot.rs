//! Snapshots: the state that a segment within a run starts from, in a file of its own beside it.
//!
//! `00000007.ors` is the header of `00000007.orj` once more, with the ledger. It is written beside and then
//! renamed, so a crash leaves a whole one or none. One that cannot be read, is damaged or belongs to another
//! segment counts as none, and says so: an earlier one and the records since come to the same state.

use super::cursor::Cursor;
use super::record::HEADER_MAX;
use super::segment::{Header, Origin, snapshot_of};
use super::{Fsync, JournalError};
use orchestrion_world::ledger::Ledger;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Puts the snapshot of a segment beside it.
pub(crate) fn write(segment: &Path, header: &Header, fsync: Fsync) -> Result<(), JournalError> {
    let path = snapshot_of(segment);
    let fresh = path.with_file_name("snapshot.new");
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut frame = Vec::new();
    header.encode(&mut frame).map_err(|len| JournalError::TooLong { len, max: HEADER_MAX })?;
    let write = || -> io::Result<()> {
        let mut options = File::options();
        // What a crash left of another one is overwritten.
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&fresh)?;
        file.write_all(&frame)?;
        if fsync != Fsync::Never {
            file.sync_all()?;
        }
        fs::rename(&fresh, &path)?;
        if fsync != Fsync::Never {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| {
        // Of no use half written, and the next one overwrites it where this fails.
        let _ = fs::remove_file(&fresh);
        JournalError::io("write the snapshot", &path)(source)
    })
}

/// The state that the segment of `origin` starts from, where its snapshot holds it.
pub(crate) fn read(segment: &Path, origin: &Origin) -> Option<Ledger> {
    let path = snapshot_of(segment);
    let found = match Cursor::open(&path, false) {
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(error.to_string()),
        Ok(Err(torn)) => Err(torn.flaw.to_string()),
        Ok(Ok(opened)) if opened.origin != *origin => Err("it belongs to another segment".to_owned()),
        Ok(Ok(mut opened)) => opened.reader.ledger().map_err(|error| error.to_string()),
    };
    match found {
        Ok(Some(ledger)) => Some(ledger),
        Ok(None) => None,
        Err(problem) => {
            tracing::warn!(snapshot = %path.display(), problem, "a snapshot cannot be used: an earlier one is");
            None
        }
    }
}
