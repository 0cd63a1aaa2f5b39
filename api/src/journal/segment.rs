//! Segments: their names, their headers, the folder's lock and what retention takes away.
//!
//! Reads folders and writes headers; the frames inside are [`super::record`]'s.

use super::JournalError;
use super::record::{Chain, Kind, encode, postcard_into};
use orchestrion_world::ledger::{Ledger, full_digest};
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The version of the layout and of every type in it: a change of `Input` or `Ledger` is a new one.
pub(crate) const FORMAT: u64 = 2;

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
    /// The digest of the ledger that follows.
    pub digest: Digest,
}

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub origin: Origin,
    /// The state its first record steps from.
    pub ledger: Ledger,
}

impl Header {
    pub(crate) fn new(origin: Origin, ledger: Ledger) -> Header {
        let digest = full_digest(&ledger);
        Header { origin: Origin { digest, tick: ledger.core.now, seed: ledger.core.seed, ..origin }, ledger }
    }

    pub(crate) fn encode(&self, frame: &mut Vec<u8>) -> Result<Chain, usize> {
        encode(frame, Kind::Header, FORMAT, &[0; 32], |out| {
            postcard_into(out, &self.origin);
            postcard_into(out, &self.ledger);
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

/// Removes the oldest closed segments beyond `bytes` or older than `age`; `open` is never touched. A
/// segment that cannot be removed is left and said so: serving matters more than tidying.
pub(crate) fn retain(dir: &Path, open: u32, bytes: Option<u64>, age: Option<Duration>, now: SystemTime) {
    let Ok(segments) = list(dir) else { return };
    let closed: Vec<(PathBuf, fs::Metadata)> = segments
        .into_iter()
        .filter(|(number, _)| *number < open)
        .filter_map(|(_, path)| fs::metadata(&path).ok().map(|facts| (path, facts)))
        .collect();
    let mut total: u64 = closed.iter().map(|(_, facts)| facts.len()).sum();
    for (path, facts) in closed {
        let old = age.is_some_and(|age| {
            facts.modified().ok().and_then(|then| now.duration_since(then).ok()).is_some_and(|since| since > age)
        });
        // From the oldest on, without holes: the chain of what stays is whole.
        if !old && bytes.is_none_or(|max| total <= max) {
            return;
        }
        match fs::remove_file(&path) {
            Ok(()) => {
                tracing::info!(segment = %path.display(), bytes = facts.len(), "journal segment past its retention removed")
            }
            Err(error) => {
                tracing::warn!(segment = %path.display(), %error, "journal segment past its retention stays");
                return;
            }
        }
        total -= facts.len();
    }
}
