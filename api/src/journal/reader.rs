//! Reads journals back: which runs there are, and a run's ledgers and records in order.
//!
//! Inside a segment the [`Cursor`] verifies; here, that one segment goes on where the one before ended.
//! Nothing here changes a file, so a running server's journal can be read as well.

use super::JournalError;
use super::cursor::{Cursor, Opened, Torn};
use super::record::{Chain, Record};
use super::segment::{Header, Origin, Place, file_name, list, number_of};
use super::snapshot;
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
    /// Whether its header holds the state it starts from.
    has_ledger: bool,
    /// Whether nothing follows it, so that its end may be torn.
    last: bool,
}

/// What a [`RunReader`] yields.
#[derive(Debug)]
pub enum Entry {
    /// A segment begins: with the state its records step from, where that is known.
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
        let segment = Segment { path, origin, bytes: reader.len, has_ledger: reader.has_ledger(), last };
        match runs.last_mut().filter(|run| run.segments.iter().all(|s| s.origin.run == segment.origin.run)) {
            Some(run) => run.segments.push(segment),
            None => runs.push(Run { segments: vec![segment] }),
        }
    }
    if runs.is_empty() { Err(JournalError::Nothing { path: path.to_path_buf() }) } else { Ok(runs) }
}

/// The end of a folder's last run, from the newest segment on that can be started from: what recovery has to
/// execute again. `last` is the number of the last segment.
pub(crate) fn tail(dir: &Path, last: u32) -> Result<Run, JournalError> {
    let mut segments = Vec::new();
    for number in (1..=last).rev() {
        let path = dir.join(file_name(number));
        if !path.exists() {
            break;
        }
        let may_tear = number == last;
        let Opened { origin, reader } = match Cursor::open(&path, may_tear)? {
            Ok(opened) => opened,
            Err(Torn { place, flaw, .. }) => return Err(JournalError::Corrupt { place, flaw }),
        };
        let (bytes, has_ledger) = (reader.len, reader.has_ledger());
        let segment = Segment { path, origin, bytes, has_ledger, last: may_tear };
        let starts = segment.starts();
        segments.push(segment);
        if starts {
            segments.reverse();
            return Ok(Run { segments });
        }
    }
    Err(JournalError::NoStart { file: dir.join(file_name(last)) })
}

impl Segment {
    /// Whether the state that its first record steps from can be read.
    fn starts(&self) -> bool {
        self.has_ledger || snapshot::read(&self.path, &self.origin).is_some()
    }
}

impl Run {
    /// All of it that can be executed again: where retention took its first segments, that begins with one
    /// that has a snapshot.
    pub(crate) fn whole(&self) -> &[Segment] {
        &self.segments[self.segments.iter().position(Segment::starts).unwrap_or(0)..]
    }

    /// The part of the run that begins at the segment at `at`, or as far before as it takes for a start: one
    /// whose snapshot was never made, or is lost, cannot be one.
    pub(crate) fn from(&self, at: usize) -> &[Segment] {
        let start = self.segments[..=at].iter().rposition(Segment::starts);
        &self.segments[start.unwrap_or(at)..]
    }
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
        let ledger = match reader.ledger()? {
            Some(ledger) => Some(ledger),
            None => snapshot::read(&next.path, &origin),
        };
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
