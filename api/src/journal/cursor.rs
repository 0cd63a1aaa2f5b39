//! Walks one segment, verified: framing, CRC, chain, numbering.
//!
//! The file's length is taken when it is opened, so a live segment reads up to its last complete record.
//! Nothing is allocated by a length that was not bounded first. Here is decided what is a torn tail and
//! what is damage: a crash tears the end, and nothing valid comes after it.

use super::JournalError;
use super::record::{Chain, Flaw, HEAD, Head, Kind, Record};
use super::segment::{FORMAT, Origin, Place};
use orchestrion_world::ledger::{Ledger, full_digest};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes at a journal's end that are no complete record: what a crash left of the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    pub place: Place,
    pub bytes: u64,
    pub flaw: Flaw,
}

/// A place in one segment.
#[derive(Debug)]
pub(crate) struct Cursor {
    path: PathBuf,
    input: BufReader<File>,
    /// The file's length when it was opened.
    pub(crate) len: u64,
    /// Of the next frame.
    pub(crate) offset: u64,
    /// Of the frame read last.
    last: (Option<u64>, u64),
    pub(crate) chain: Chain,
    pub(crate) next_seq: u64,
    build: String,
    body: Vec<u8>,
    /// Where the ledger begins in the header's body.
    ledger_at: usize,
    has_ledger: bool,
    may_tear: bool,
    pub(crate) torn: Option<Torn>,
}

pub(crate) struct Opened {
    pub(crate) origin: Origin,
    pub(crate) reader: Cursor,
}

enum Got {
    End,
    Frame(Head),
    Flawed(Flaw),
}

impl Cursor {
    /// Reads and verifies the header. With `may_tear`, a header that was never written to its end is the
    /// inner error.
    pub(crate) fn open(path: &Path, may_tear: bool) -> Result<Result<Opened, Torn>, JournalError> {
        let file = File::open(path).map_err(JournalError::io("open", path))?;
        let len = file.metadata().map_err(JournalError::io("read", path))?.len();
        let mut reader = Cursor {
            path: path.to_path_buf(),
            input: BufReader::with_capacity(256 << 10, file),
            len,
            offset: 0,
            last: (None, 0),
            chain: [0; 32],
            next_seq: 0,
            build: String::new(),
            body: Vec::new(),
            ledger_at: 0,
            has_ledger: false,
            may_tear,
            torn: None,
        };
        let flaw = match reader.frame(Kind::Header)? {
            Got::Frame(head) => match head.check_chain(&reader.body, &[0; 32]) {
                Ok(chain) => return reader.begin(chain).map(Ok),
                Err(flaw) => flaw,
            },
            Got::End => Flaw::Short { have: 0, need: HEAD as u64 },
            Got::Flawed(flaw) => flaw,
        };
        // A crash leaves a header short, or, on some file systems, as zeros.
        let unwritten = matches!(flaw, Flaw::Short { .. }) || reader.zeros()?;
        if flaw == Flaw::Marker && !unwritten {
            return Err(JournalError::NotAJournal { file: reader.path });
        }
        let place = reader.place_of_last();
        if may_tear && unwritten && !reader.frame_follows(1)? {
            return Ok(Err(Torn { place, bytes: len, flaw }));
        }
        Err(JournalError::Corrupt { place, flaw })
    }

    fn begin(mut self, chain: Chain) -> Result<Opened, JournalError> {
        let (origin, rest) =
            postcard::take_from_bytes::<Origin>(&self.body).map_err(|e| self.foreign("an unknown one", &e))?;
        self.ledger_at = self.body.len() - rest.len();
        self.has_ledger = !rest.is_empty();
        self.chain = chain;
        self.next_seq = origin.first_seq;
        self.build = origin.build.clone();
        Ok(Opened { origin, reader: self })
    }

    /// Whether the header holds the state that the first record steps from.
    pub(crate) fn has_ledger(&self) -> bool {
        self.has_ledger
    }

    /// That state; to be taken before the first record is read.
    pub(crate) fn ledger(&mut self) -> Result<Option<Ledger>, JournalError> {
        if !self.has_ledger {
            return Ok(None);
        }
        let bytes = self.body.get(self.ledger_at..).unwrap_or_default();
        let ledger = postcard::from_bytes::<Ledger>(bytes).map_err(|e| self.foreign(&self.build, &e))?;
        let (origin, _) = postcard::take_from_bytes::<Origin>(&self.body).map_err(|e| self.foreign(&self.build, &e))?;
        if full_digest(&ledger) != origin.digest {
            return Err(JournalError::Corrupt { place: self.place_of_last(), flaw: Flaw::Ledger });
        }
        Ok(Some(ledger))
    }

    /// The next record; none at the end or at a torn tail.
    pub(crate) fn read(&mut self) -> Result<Option<Record>, JournalError> {
        if self.torn.is_some() {
            return Ok(None);
        }
        let before = self.offset;
        let flaw = match self.frame(Kind::Record)? {
            Got::End => return Ok(None),
            Got::Flawed(flaw) => flaw,
            Got::Frame(head) if head.number != self.next_seq => {
                Flaw::Number { found: head.number, expected: self.next_seq }
            }
            Got::Frame(head) => match head.check_chain(&self.body, &self.chain) {
                Err(flaw) => flaw,
                Ok(chain) => {
                    let record = Record::decode(head.number, &self.body).map_err(|e| self.foreign(&self.build, &e))?;
                    self.chain = chain;
                    self.next_seq += 1;
                    return Ok(Some(record));
                }
            },
        };
        self.offset = before;
        let place = self.place_of_last();
        if self.may_tear && !self.frame_follows(self.next_seq)? {
            self.torn = Some(Torn { place, bytes: self.len - before, flaw });
            return Ok(None);
        }
        Err(JournalError::Corrupt { place, flaw })
    }

    fn frame(&mut self, kind: Kind) -> Result<Got, JournalError> {
        let at = self.offset;
        self.last = ((kind == Kind::Record).then_some(self.next_seq), at);
        let have = self.len - at;
        if have == 0 {
            return Ok(Got::End);
        }
        let mut head = [0; HEAD];
        if have < HEAD as u64 {
            return Ok(Got::Flawed(Flaw::Short { have, need: HEAD as u64 }));
        }
        let short = |need: u64| Ok(Got::Flawed(Flaw::Short { have, need }));
        // A live writer may take a partial write back while it is read: that is a short frame too.
        if !self.fill(&mut head)? {
            return short(HEAD as u64);
        }
        let head = match Head::read(&head, kind) {
            Ok(head) => head,
            Err(flaw) => return Ok(Got::Flawed(flaw)),
        };
        if kind == Kind::Header && head.number != FORMAT {
            return Err(JournalError::Version { file: self.path.clone(), found: head.number, known: FORMAT });
        }
        let need = (HEAD + head.len) as u64;
        if have < need {
            return short(need);
        }
        let mut body = std::mem::take(&mut self.body);
        body.resize(head.len, 0);
        let whole = self.fill(&mut body)?;
        self.body = body;
        if !whole {
            return short(need);
        }
        if let Err(flaw) = head.check_crc(&self.body) {
            return Ok(Got::Flawed(flaw));
        }
        self.offset = at + need;
        Ok(Got::Frame(head))
    }

    /// Reads exactly that much; false where the file ends before.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, JournalError> {
        match self.input.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(self.io(source)),
        }
    }

    /// Whether a valid record begins anywhere after the frame that was read last: then that one is not
    /// the torn end of the file but a damaged part of it. `due` is the least number it may have.
    fn frame_follows(&mut self, due: u64) -> Result<bool, JournalError> {
        let from = self.last.1 + 1;
        // What a hostile file may cost: beyond it the answer is "damaged", which never cuts anything.
        let mut budget = 4 * (self.len - from.min(self.len)) + (64 << 20);
        let mut window = vec![0u8; 64 << 10];
        let mut at = from;
        while at + HEAD as u64 <= self.len {
            let got = self.read_at(at, &mut window)?;
            for (i, _) in window[..got].windows(4).enumerate().filter(|(_, w)| *w == Kind::Record.marker()) {
                let begins = at + i as u64;
                let Some(cost) = self.valid_record_at(begins, due)? else { return Ok(true) };
                if cost > budget {
                    return Ok(true);
                }
                budget -= cost;
            }
            // A marker may lie across the windows' border.
            at += got.saturating_sub(3).max(1) as u64;
        }
        Ok(false)
    }

    /// None where a valid record stands there; otherwise the bytes it cost to find out.
    fn valid_record_at(&mut self, at: u64, due: u64) -> Result<Option<u64>, JournalError> {
        let mut bytes = [0; HEAD];
        if self.read_at(at, &mut bytes)? < HEAD {
            return Ok(Some(0));
        }
        let Ok(head) = Head::read(&bytes, Kind::Record) else { return Ok(Some(HEAD as u64)) };
        if head.number < due || (self.len - at) < (HEAD + head.len) as u64 {
            return Ok(Some(HEAD as u64));
        }
        let mut body = vec![0; head.len];
        let whole = self.read_at(at + HEAD as u64, &mut body)? == body.len();
        let cost = (HEAD + head.len) as u64;
        Ok(if whole && head.check_crc(&body).is_ok() { None } else { Some(cost) })
    }

    fn zeros(&mut self) -> Result<bool, JournalError> {
        let mut window = vec![0u8; 64 << 10];
        let mut at = 0;
        while at < self.len {
            let got = self.read_at(at, &mut window)?;
            if got == 0 || window[..got].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += got as u64;
        }
        Ok(true)
    }

    /// As many bytes from `at` on as there are and the buffer takes. Reading frames ends with this.
    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, JournalError> {
        self.input.seek(SeekFrom::Start(at)).map_err(|e| self.io(e))?;
        let mut got = 0;
        while got < buffer.len() {
            match self.input.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.io(source)),
            }
        }
        Ok(got)
    }

    pub(crate) fn place_of_last(&self) -> Place {
        Place { file: self.path.clone(), seq: self.last.0, offset: self.last.1 }
    }

    fn foreign(&self, build: &str, problem: &postcard::Error) -> JournalError {
        JournalError::Foreign { place: self.place_of_last(), build: build.to_owned(), problem: problem.to_string() }
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io { action: "read", path: self.path.clone(), source }
    }
}
