//! Segments: their names, their headers, the folder's lock and what retention takes away.
//!
//! Reads folders and writes headers; the frames inside are [`super::record`]'s.

use super::record::{Chain, Kind, encode, postcard_into};
use super::{JournalConfig, JournalError};
use orchestrion_world::ledger::{Ledger, full_digest};
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The version of the layout and of every type in it: a change of `Input` or `Ledger` is a new one.
pub(crate) const FORMAT: u64 = 7;

/// Where a segment comes from; the first part of its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The version of the program that wrote it.
    pub build: String,
    /// The number of the first segment of its run.
    pub run: u32,
    /// Its own number, as in its name.
    pub number: u32,
    /// The seed of the run's world.
    pub seed: u64,
    /// `seq` of its first record.
    pub first_seq: u64,
    /// The tick of the step before that.
    pub tick: Tick,
    /// The last chain of the segment before it, zero where there was none.
    pub previous: Chain,
    /// The digest of the state that its first record steps from.
    pub digest: Digest,
}

/// The header of a segment, or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub origin: Origin,
    /// The state that its first record steps from. The header of a segment within a run has none: it would
    /// hold the pulse up to write it there.
    pub ledger: Option<Ledger>,
}

impl Header {
    /// Of the first segment of a run.
    pub(crate) fn new(origin: Origin, ledger: Ledger) -> Header {
        let digest = full_digest(&ledger);
        let origin = Origin { digest, tick: ledger.core.now, seed: ledger.core.seed, ..origin };
        Header { origin, ledger: Some(ledger) }
    }

    pub(crate) fn encode(&self, frame: &mut Vec<u8>) -> Result<Chain, usize> {
        encode(frame, Kind::Header, FORMAT, &[0; 32], |out| {
            postcard_into(out, &self.origin);
            if let Some(ledger) = &self.ledger {
                postcard_into(out, ledger);
            }
        })
    }
}

/// A place in a journal, as errors name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    pub file: PathBuf,
    /// Of the record that stands or should stand there; none is the header.
    pub seq: Option<u64>,
    /// Of its frame in the file.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seq {
            Some(seq) => write!(f, "{}, record {seq} at byte {}", self.file.display(), self.offset),
            None => write!(f, "{}, header", self.file.display()),
        }
    }
}

pub(crate) fn file_name(number: u32) -> String {
    format!("{number:08}.orj")
}

/// Where the snapshot of a segment stands, if there is one.
pub(crate) fn snapshot_of(segment: &Path) -> PathBuf {
    segment.with_extension("ors")
}

/// The segments of a folder by number. Other files are nobody's business here.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u32, PathBuf)>, JournalError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(JournalError::io("list", dir))? {
        let path = entry.map_err(JournalError::io("list", dir))?.path();
        if let Some(number) = number_of(&path) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The number in a segment's name, if it is one.
pub(crate) fn number_of(path: &Path) -> Option<u32> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".orj")?;
    (digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Holds the folder for one writer until dropped. The lock is the open file, so a killed server leaves none.
pub(crate) fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(JournalError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked { dir: dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(JournalError::Io { action: "lock", path, source }),
    }
}

/// Removes the oldest closed segments beyond `retain_bytes` or older than `retain_age`, with their snapshots;
/// `needed` and what follows it, which recovery may read, is never touched. What cannot be removed is left
/// and said so: serving matters more than tidying.
pub(crate) fn retain(config: &JournalConfig, needed: u32, now: SystemTime) {
    let JournalConfig { dir, retain_bytes, retain_age, .. } = config;
    let Ok(segments) = list(dir) else { return };
    let size = |path: &Path| fs::metadata(path).map_or(0, |facts| facts.len());
    let closed: Vec<(u32, PathBuf, u64)> = segments
        .split_last()
        .map_or(&[][..], |(_open, closed)| closed)
        .iter()
        .map(|(number, path)| (*number, path.clone(), size(path) + size(&snapshot_of(path))))
        .collect();
    let mut total: u64 = closed.iter().map(|(_, _, bytes)| bytes).sum();
    for (_, path, bytes) in closed.into_iter().filter(|(number, ..)| *number < needed) {
        let since =
            fs::metadata(&path).and_then(|facts| facts.modified()).ok().and_then(|at| now.duration_since(at).ok());
        let old = retain_age.is_some_and(|age| since.is_some_and(|since| since > age));
        // From the oldest on, without holes: the chain of what stays is whole.
        if !old && retain_bytes.is_none_or(|max| total <= max) {
            return;
        }
        let removed = match fs::remove_file(snapshot_of(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::warn!(segment = %path.display(), %error, "journal segment past its retention stays");
            return;
        }
        tracing::info!(segment = %path.display(), bytes, "journal segment past its retention removed");
        total -= bytes;
    }
}
