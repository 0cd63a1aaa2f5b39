//! Reads journals back: which runs there are, and a run's ledgers and records in order.
//!
//! Inside a segment the [`Cursor`] verifies; here, that one segment goes on where the one before ended.
//! Nothing here changes a file, so a running server's journal can be read as well.

use super::JournalError;
use super::cursor::{Cursor, Opened, Torn};
use super::record::{Chain, Record};
use super::segment::{Header, Origin, Place, list, number_of};
use std::path::{Path, PathBuf};

/// One boot's segments, in order.
#[derive(Clone, Debug)]
pub struct Run {
    pub segments: Vec<Segment>,
}

/// A segment that can be read.
#[derive(Clone, Debug)]
pub struct Segment {
    pub path: PathBuf,
    pub origin: Origin,
    pub bytes: u64,
    /// Whether nothing follows it, so that its end may be torn.
    last: bool,
}

/// What a [`RunReader`] yields.
#[derive(Debug)]
pub enum Entry {
    /// A segment begins: the state its records step from.
    Segment(Box<Header>),
    Step(Record),
}

/// The runs at `path`: those of a folder, or the part of one that a single segment holds.
pub fn runs(path: &Path) -> Result<Vec<Run>, JournalError> {
    if !path.exists() {
        return Err(JournalError::Nothing { path: path.to_path_buf() });
    }
    let files = if path.is_dir() { list(path)? } else { vec![(number_of(path).unwrap_or(0), path.to_path_buf())] };
    let in_folder = path.is_dir();
    let mut runs: Vec<Run> = Vec::new();
    let mut before: Option<u32> = None;
    let count = files.len();
    for (at, (number, path)) in files.into_iter().enumerate() {
        if let Some(missing) = before.map(|n| n + 1).filter(|due| *due != number) {
            return Err(JournalError::Gap { missing, next: path });
        }
        before = Some(number);
        let last = at + 1 == count;
        let Opened { origin, reader } = match Cursor::open(&path, last)? {
            Ok(opened) => opened,
            Err(torn) => {
                tracing::warn!(segment = %path.display(), bytes = torn.bytes, "a torn header, without records: left out");
                continue;
            }
        };
        if in_folder && origin.number != number {
            return Err(JournalError::Discontinued {
                file: path,
                problem: "its header has another number than its name",
            });
        }
        let segment = Segment { path, origin, bytes: reader.len, last };
        match runs.last_mut().filter(|run| run.segments.iter().all(|s| s.origin.run == segment.origin.run)) {
            Some(run) => run.segments.push(segment),
            None => runs.push(Run { segments: vec![segment] }),
        }
    }
    if runs.is_empty() { Err(JournalError::Nothing { path: path.to_path_buf() }) } else { Ok(runs) }
}

/// Reads one run, or its end from some segment on.
#[derive(Debug)]
pub struct RunReader<'a> {
    waiting: std::slice::Iter<'a, Segment>,
    current: Option<Cursor>,
    chain: Option<Chain>,
    read_before: u64,
}

impl<'a> RunReader<'a> {
    /// `before` is the last chain of what precedes `segments`, where that was read.
    pub fn new(segments: &'a [Segment], before: Option<Chain>) -> RunReader<'a> {
        RunReader { waiting: segments.iter(), current: None, chain: before, read_before: 0 }
    }

    /// The next ledger or record; none at the end, or where the torn tail begins.
    pub fn read(&mut self) -> Result<Option<Entry>, JournalError> {
        if let Some(segment) = &mut self.current {
            if let Some(record) = segment.read()? {
                return Ok(Some(Entry::Step(record)));
            }
            self.chain = Some(segment.chain);
        }
        let Some(next) = self.waiting.next() else { return Ok(None) };
        let due = self.current.as_ref().map(|segment| segment.next_seq);
        self.read_before += self.current.as_ref().map_or(0, |segment| segment.len);
        let Ok(Opened { origin, mut reader }) = Cursor::open(&next.path, next.last)? else { return Ok(None) };
        let gone_on = |problem| JournalError::Discontinued { file: next.path.clone(), problem };
        if self.chain.is_some_and(|chain| chain != origin.previous) {
            return Err(gone_on("its header names another last hash: records between them were lost or exchanged"));
        }
        if due.is_some_and(|due| due != origin.first_seq) {
            return Err(gone_on("its records do not go on where the segment before it ends"));
        }
        let ledger = reader.ledger()?;
        self.current = Some(reader);
        Ok(Some(Entry::Segment(Box::new(Header { origin, ledger }))))
    }

    /// Where the entry read last stands.
    pub fn place(&self) -> Option<Place> {
        self.current.as_ref().map(|segment| segment.place_of_last())
    }

    /// What was found at the end instead of a record.
    pub fn torn(&self) -> Option<&Torn> {
        self.current.as_ref().and_then(|segment| segment.torn.as_ref())
    }

    /// The chain of the last record read to its segment's end.
    pub fn chain(&self) -> Option<Chain> {
        self.current.as_ref().map(|segment| segment.chain).or(self.chain)
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.read_before + self.current.as_ref().map_or(0, |segment| segment.offset)
    }
}
