//! Appends records: one write(2) for a step, a chain through all of them, a new segment when one is full.
//!
//! Writes the folder it was opened on, which it locks. On opening it cuts a torn tail and says so; on a
//! failed write it takes back what of the record got through, so that the segment ends with a whole
//! record whatever happens. It retries nothing by itself: the pulse decides what a failure means.

use super::JournalError;
use super::cursor::Torn;
use super::flusher::Flusher;
use super::medium::{Medium, put};
use super::record::{Chain, HEADER_MAX, RECORD_MAX, Record};
use super::segment::{Header, Origin, file_name, retain};
use super::snapshot;
use super::taken::{End, Taken};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the journal is and how it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    pub dir: PathBuf,
    /// A segment is closed by the first record that takes it to this size.
    pub segment_bytes: u64,
    /// And by this many records: recovery executes at most so many again.
    pub segment_records: u64,
    pub fsync: Fsync,
    /// Closed segments beyond this, all together, are removed, the oldest first; none keeps all.
    pub retain_bytes: Option<u64>,
    /// Closed segments older than this are removed; none keeps all.
    pub retain_age: Option<Duration>,
}

/// When records are forced to disk. A killed process loses nothing in any of them; a power loss does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// When the kernel likes, a segment part by part and before the next begins: a power loss can take half a minute.
    Never,
    /// Within 100 ms, in the background.
    #[default]
    Interval,
    /// Before anything of the step is acknowledged.
    Always,
}

/// The open end of a journal.
#[derive(Debug)]
pub struct Writer {
    config: JournalConfig,
    /// Released when the writer is dropped.
    _lock: File,
    origin: Origin,
    path: PathBuf,
    medium: Box<dyn Medium>,
    /// None where each record is forced as it is appended.
    flusher: Option<Flusher>,
    /// Bytes of the segment that are whole frames.
    len: u64,
    /// The length at which to begin the next segment.
    full_at: u64,
    /// The `seq` at which to begin it, whatever its length.
    full_seq: u64,
    /// Whether bytes beyond `len` could not be taken back yet.
    ragged: bool,
    chain: Chain,
    next_seq: u64,
    /// Of the last step.
    tick: Tick,
    frame: Vec<u8>,
    torn: Option<Torn>,
}

impl Writer {
    /// Takes the folder, cuts a torn tail and begins a run from `ledger` in a new segment.
    pub fn open(config: JournalConfig, build: &str, ledger: Ledger) -> Result<Writer, JournalError> {
        Self::begin(Taken::take(config)?, build, ledger)
    }

    /// Begins a run from `ledger` in a new segment of a folder that was taken.
    pub fn begin(taken: Taken, build: &str, ledger: Ledger) -> Result<Writer, JournalError> {
        let Taken { config, lock, end: End { number, chain, torn } } = taken;
        let origin = Origin {
            build: build.to_owned(),
            run: number + 1,
            number: number + 1,
            seed: 0,
            first_seq: 1,
            tick: Tick(0),
            previous: chain,
            digest: Digest(0),
        };
        let mut frame = Vec::with_capacity(4096);
        let header = Header::new(origin, ledger);
        let Begun { path, file, chain } = begin(&config, &header, &mut frame)?;
        let flusher = match config.fsync {
            Fsync::Never | Fsync::Interval => {
                Some(Flusher::start(Arc::clone(&file)).map_err(JournalError::io("start the sync thread of", &path))?)
            }
            Fsync::Always => None,
        };
        let len = frame.len() as u64;
        retain(&config, header.origin.number, SystemTime::now());
        Ok(Writer {
            full_at: config.segment_bytes.max(len + 1),
            full_seq: header.origin.first_seq.saturating_add(config.segment_records.max(1)),
            config,
            _lock: lock,
            next_seq: header.origin.first_seq,
            tick: header.origin.tick,
            origin: header.origin,
            path,
            medium: Box::new(file),
            flusher,
            len,
            ragged: false,
            chain,
            frame,
            torn,
        })
    }

    /// The `seq` that the next record is to have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(crate) fn config(&self) -> &JournalConfig {
        &self.config
    }

    /// The number of the segment being written.
    pub(crate) fn number(&self) -> u32 {
        self.origin.number
    }

    /// The segment being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was cut off when the journal was opened.
    pub fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// Appends a record. After an error nothing of it is in the journal, and it may be tried again where
    /// the error may pass.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        debug_assert_eq!(record.seq, self.next_seq, "records are numbered without gaps");
        self.check_flusher()?;
        if self.ragged {
            self.medium.cut(self.len).map_err(JournalError::io("take back a partial write to", &self.path))?;
            self.ragged = false;
        }
        let chain = record
            .encode(&mut self.frame, &self.chain)
            .map_err(|len| JournalError::TooLong { len, max: RECORD_MAX })?;
        if let Err(failed) = put(self.medium.as_mut(), &self.frame, self.len) {
            self.ragged = failed.ragged;
            return Err(JournalError::Io { action: "append to", path: self.path.clone(), source: failed.source });
        }
        let before = self.len;
        self.len += self.frame.len() as u64;
        self.chain = chain;
        self.next_seq += 1;
        self.tick = record.tick;
        // Under `never` a part of the segment at a time: its end alone is left to force when it is closed.
        let part = self.config.segment_bytes / 16 + 1;
        match &self.flusher {
            None => self.force()?,
            Some(_) if self.config.fsync == Fsync::Never && before / part == self.len / part => {}
            Some(flusher) => flusher.mark(),
        }
        Ok(())
    }

    /// Whether the segment has its size: [`Writer::rotate`] at the next good moment.
    pub fn is_full(&self) -> bool {
        self.len >= self.full_at || self.next_seq >= self.full_seq
    }

    /// Closes the segment, begins the next and says the number of the one that is closed. Of the state after the
    /// last record only the digest is written, however large it is: its snapshot is made behind the pulse's back.
    /// After an error the old segment goes on, and is full again a little later.
    pub fn rotate(&mut self, state: Digest) -> Result<u32, JournalError> {
        self.full_at = self.len + self.config.segment_bytes / 16 + 1;
        self.full_seq = self.next_seq.saturating_add(self.config.segment_records / 16 + 1);
        self.check_flusher()?;
        // Under every setting, and before the next one is there: a power loss that took the end of this one and
        // left that one's header would leave a gap, which refuses the boot.
        self.force()?;
        let closed = self.origin.number;
        let origin = Origin {
            number: closed + 1,
            first_seq: self.next_seq,
            previous: self.chain,
            tick: self.tick,
            digest: state,
            ..self.origin.clone()
        };
        let header = Header { origin, ledger: None };
        let Begun { path, file, chain } = begin(&self.config, &header, &mut self.frame)?;
        if let Some(flusher) = &self.flusher {
            flusher.turn_to(Arc::clone(&file));
        }
        self.medium = Box::new(file);
        (self.origin, self.path, self.chain) = (header.origin, path, chain);
        self.len = self.frame.len() as u64;
        self.full_at = self.config.segment_bytes.max(self.len + 1);
        self.full_seq = self.next_seq.saturating_add(self.config.segment_records.max(1));
        Ok(closed)
    }

    /// Puts the state that the segment begins with beside it: before its first record.
    pub(crate) fn snapshot(&self, ledger: Ledger) -> Result<(), JournalError> {
        debug_assert_eq!(self.next_seq, self.origin.first_seq, "it begins with this state");
        let header = Header { origin: self.origin.clone(), ledger: Some(ledger) };
        snapshot::write(&self.path, &header, self.config.fsync)
    }

    /// Forces everything appended to disk, unless that is left to the kernel.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.check_flusher()?;
        if self.config.fsync == Fsync::Never { Ok(()) } else { self.force() }
    }

    fn force(&self) -> Result<(), JournalError> {
        self.medium.force().map_err(|source| JournalError::Sync { path: self.path.clone(), source })
    }

    fn check_flusher(&self) -> Result<(), JournalError> {
        match self.flusher.as_ref().and_then(Flusher::take_failure) {
            Some(source) => Err(JournalError::Sync { path: self.path.clone(), source }),
            None => Ok(()),
        }
    }

    #[cfg(test)]
    pub(crate) fn write_through(&mut self, wrap: impl FnOnce(Box<dyn Medium>) -> Box<dyn Medium>) -> io::Result<()> {
        let file = File::options().append(true).open(&self.path)?;
        self.medium = wrap(Box::new(Arc::new(file)));
        Ok(())
    }
}

struct Begun {
    path: PathBuf,
    file: Arc<File>,
    chain: Chain,
}

/// Creates a segment and writes its header, whose bytes stay in `frame`. Leaves nothing on failure.
fn begin(config: &JournalConfig, header: &Header, frame: &mut Vec<u8>) -> Result<Begun, JournalError> {
    let path = config.dir.join(file_name(header.origin.number));
    let chain = header.encode(frame).map_err(|len| JournalError::TooLong { len, max: HEADER_MAX })?;
    let create = || -> io::Result<File> {
        let mut options = File::options();
        options.append(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path)?;
        file.write_all(frame)?;
        if config.fsync != Fsync::Never {
            file.sync_all()?;
            // The name must survive as well as the bytes.
            File::open(&config.dir)?.sync_all()?;
        }
        Ok(file)
    };
    match create() {
        Ok(file) => Ok(Begun { path, file: Arc::new(file), chain }),
        Err(source) => {
            if source.kind() != io::ErrorKind::AlreadyExists {
                let _ = fs::remove_file(&path);
            }
            Err(JournalError::Io { action: "begin segment", path, source })
        }
    }
}
