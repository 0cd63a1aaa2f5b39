//! The journal: every step's inputs and the digests of what came of them, appended and chained.
//!
//! A journal is a folder of segments `00000001.orj`, `00000002.orj`, … Each boot begins a *run* in a new
//! segment; a run goes on in further segments. The first holds the ledger that the run starts from; that of a
//! further one stands beside it, in its *snapshot* `00000002.ors`, once it is made, and lets it be read without
//! the ones before. It holds no prompts and no answers, only counts and digests. A boot goes on from the state
//! the last run came to (`recovery`). What it deliberately does not do: no compression, no index.
//!
//! # Format 4
//! Integers are little endian; "postcard" is the encoding of the crate of that name, version 1, of the
//! named types in field order. A segment is one header frame and then record frames up to its end.
//!
//! | offset | bytes | of a frame |
//! |---|---|---|
//! | 0 | 4 | marker: `ORJH` for the header, `ORJR` for a record |
//! | 4 | 4 | length of the body; at most 256 MiB in the header, 16 MiB in a record |
//! | 8 | 8 | header: the format version, 5; record: its `seq` |
//! | 16 | 4 | CRC-32 (IEEE) of bytes 0..16 and the body |
//! | 20 | 32 | chain: BLAKE3 of the chain of the frame before, bytes 0..16 and the body |
//! | 52 | | body |
//!
//! The header's chain starts from 32 zero bytes; its body is postcard of [`Origin`], then, in the first segment
//! of a run, of `world::ledger::Ledger`. A snapshot is one frame: the header of its segment, with the ledger.
//! `Origin::previous` is the last chain of the segment numbered one lower, zero where there was none. A record's
//! body is postcard of `(Tick, Vec<Input>, Outcome)`. `seq` counts the steps of a run from 1 without gaps, through
//! all of its segments.
//!
//! The last segment may end in a torn tail: bytes after the last valid frame among which no valid frame
//! begins. A crash leaves such a tail; the next writer cuts it off. Anything else that does not fit is
//! corruption.

mod cursor;
pub(crate) mod flusher;
pub(crate) mod medium;
mod reader;
mod record;
mod segment;
pub(crate) mod snapshot;
mod taken;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use cursor::Torn;
pub(crate) use reader::tail;
pub use reader::{Entry, Run, RunReader, Segment, runs};
pub use record::{Chain, Flaw, Outcome, Record, STATE_EVERY};
pub(crate) use record::{HEADER_MAX, RECORD_MAX};
pub(crate) use segment::{FORMAT, file_name, retain};
pub use segment::{Header, Origin, Place};
pub use taken::Taken;
pub use writer::{Fsync, JournalConfig, Writer};

use std::io;
use std::path::PathBuf;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "another server writes the journal in {}; stop it, or give this one a folder of its own (`journal.dir`)",
        dir.display()
    )]
    Locked { dir: PathBuf },
    #[error("there is no journal at {}: a journal is a folder of segments such as 00000001.orj", path.display())]
    Nothing { path: PathBuf },
    #[error("{} is not a journal segment: it does not begin with ORJH", file.display())]
    NotAJournal { file: PathBuf },
    #[error(
        "{} has format version {found}, and this build reads version {known}; let the build that wrote it finish its \
         tasks, or name another folder to begin without them (`journal.dir`)",
        file.display()
    )]
    Version { file: PathBuf, found: u64, known: u64 },
    #[error("{place}: {flaw}; the journal is damaged there. To go on without it, move the segment out of the folder")]
    Corrupt { place: Place, flaw: Flaw },
    #[error("{place}: intact, but it does not decode ({problem}); build {build} wrote it, read it with that build")]
    Foreign { place: Place, build: String, problem: String },
    #[error("segment {missing:08}.orj is missing: {} follows it, a part of the record is gone", next.display())]
    Gap { missing: u32, next: PathBuf },
    #[error("{} does not continue the segment before it: {problem}", file.display())]
    Discontinued { file: PathBuf, problem: &'static str },
    #[error(
        "{} goes on from the segment before it, and no snapshot says from what state; read it together with that \
         one, or name another folder to begin without it (`journal.dir`)",
        file.display()
    )]
    NoStart { file: PathBuf },
    #[error("a record of {len} bytes exceeds the format's {max}")]
    TooLong { len: usize, max: usize },
    #[error(
        "{}: {problem}; move it out of the folder to begin without it, and the tasks it kept are cancelled",
        file.display()
    )]
    Spool { file: PathBuf, problem: String },
    #[error("could not force {} to disk: {source}; only a restart can tell what of it is there", path.display())]
    Sync { path: PathBuf, source: io::Error },
}

impl JournalError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> JournalError {
        let path = path.into();
        move |source| JournalError::Io { action, path, source }
    }

    /// Whether the same call may succeed later: a full disk can be given room, a lost page is lost.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, JournalError::Io { .. })
    }
}
