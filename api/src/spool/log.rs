//! The open end of a spool: lines are staged, committed with the step's record, and thinned out.
//!
//! Writes `spool` in the journal's folder, whose lock the journal holds. As with the journal, a failed write
//! is taken back and tried again by the pulse.

use super::Line;
use super::frame::{self, LINE_MAX, MAGIC};
use super::thinning::{Thinned, Thinning, adopt, fresh};
use crate::journal::flusher::Flusher;
use crate::journal::medium::{Medium, put};
use crate::journal::{Fsync, JournalConfig, JournalError};
use orchestrion_world::id::TaskId;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A spool smaller than this is not worth the writing anew.
const THIN_FROM: u64 = 4 << 20;

pub(super) fn path_in(dir: &Path) -> PathBuf {
    dir.join("spool")
}

/// The bytes of a line in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) at: u64,
    pub(super) len: usize,
}

/// A spool that is appended to.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    fsync: Fsync,
    file: Arc<File>,
    medium: Box<dyn Medium>,
    flusher: Option<Flusher>,
    len: u64,
    /// Whether bytes beyond `len` could not be taken back yet.
    ragged: bool,
    /// The line that counts of each task: its words, or its result once it has one.
    lines: BTreeMap<TaskId, Span>,
    staged: Vec<u8>,
    staged_lines: Vec<(TaskId, usize)>,
    thin_at: u64,
    thinning: Option<Thinning>,
}

impl Spool {
    /// Begins a spool with `lines` in the place of the one that is there.
    pub(crate) fn begin(config: &JournalConfig, lines: impl IntoIterator<Item = Line>) -> Result<Spool, JournalError> {
        let mut bytes = MAGIC.to_vec();
        let mut spans = BTreeMap::new();
        for line in lines {
            let at = bytes.len() as u64;
            let len = frame::encode(&mut bytes, &line).map_err(too_long)?;
            spans.insert(line.task(), Span { at, len });
        }
        let write = || -> io::Result<File> {
            let mut file = fresh(&config.dir)?;
            file.write_all(&bytes)?;
            Ok(file)
        };
        let file = Arc::new(write().map_err(JournalError::io("write anew", path_in(&config.dir)))?);
        adopt(&config.dir, &file, config.fsync)?;
        let flusher = match config.fsync {
            Fsync::Interval => Some(
                Flusher::start(Arc::clone(&file)).map_err(JournalError::io("start the sync thread of", &config.dir))?,
            ),
            Fsync::Never | Fsync::Always => None,
        };
        let len = bytes.len() as u64;
        Ok(Spool {
            dir: config.dir.clone(),
            fsync: config.fsync,
            medium: Box::new(Arc::clone(&file)),
            file,
            flusher,
            len,
            ragged: false,
            lines: spans,
            staged: Vec::new(),
            staged_lines: Vec::new(),
            thin_at: thin_at(len),
            thinning: None,
        })
    }

    /// Puts a line among those of the next commit.
    pub(crate) fn stage(&mut self, line: &Line) -> Result<(), JournalError> {
        let len = frame::encode(&mut self.staged, line).map_err(too_long)?;
        self.staged_lines.push((line.task(), len));
        Ok(())
    }

    /// Appends what is staged. After an error it is still staged, and may be tried again where the error
    /// may pass; without anything staged it does nothing.
    pub(crate) fn commit(&mut self) -> Result<(), JournalError> {
        if let Some(source) = self.flusher.as_ref().and_then(Flusher::take_failure) {
            return Err(JournalError::Sync { path: path_in(&self.dir), source });
        }
        if self.staged.is_empty() {
            return Ok(());
        }
        if self.ragged {
            self.medium.cut(self.len).map_err(JournalError::io("take back a partial write to", path_in(&self.dir)))?;
            self.ragged = false;
        }
        if let Err(failed) = put(self.medium.as_mut(), &self.staged, self.len) {
            self.ragged = failed.ragged;
            return Err(JournalError::io("append to", path_in(&self.dir))(failed.source));
        }
        for (task, len) in self.staged_lines.drain(..) {
            self.lines.insert(task, Span { at: self.len, len });
            self.len += len as u64;
        }
        self.staged.clear();
        match (&self.flusher, self.fsync) {
            (Some(flusher), _) => flusher.mark(),
            (None, Fsync::Always) => self.sync()?,
            (None, Fsync::Never | Fsync::Interval) => {}
        }
        Ok(())
    }

    /// Forces what was committed to disk, unless that is left to the kernel.
    pub(crate) fn sync(&self) -> Result<(), JournalError> {
        if self.fsync == Fsync::Never {
            return Ok(());
        }
        self.medium.force().map_err(|source| JournalError::Sync { path: path_in(&self.dir), source })
    }

    /// Whether it has doubled since it was written anew, and is not being.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.thin_at && self.thinning.is_none()
    }

    /// Begins to write it anew with the lines of the tasks that `keeps` names. To be called when all that was
    /// committed stands in the journal: until then a task's words count beside its result. After an error the
    /// old one goes on, and is full again a little later.
    pub(crate) fn thin(&mut self, keeps: impl Fn(TaskId) -> bool) -> Result<(), JournalError> {
        self.thin_at = self.len.saturating_add(THIN_FROM);
        let kept = self.lines.iter().filter(|(task, _)| keeps(**task)).map(|(task, span)| (*task, *span)).collect();
        let begun = Thinning::begin(self.dir.clone(), Arc::clone(&self.file), self.len, kept);
        self.thinning = Some(begun.map_err(JournalError::io("write anew", path_in(&self.dir)))?);
        Ok(())
    }

    /// Goes on with the spool that was written anew, once it is. What was appended meanwhile is copied behind
    /// it first, so that this waits for little.
    pub(crate) fn settle(&mut self) -> Result<(), JournalError> {
        let Some(thinning) = self.thinning.take_if(|thinning| thinning.is_done()) else { return Ok(()) };
        let from = thinning.from;
        let copied = thinning.join().and_then(|mut anew| {
            let mut bytes = vec![0; usize::try_from(self.len - from).unwrap_or(usize::MAX)];
            self.file.read_exact_at(&mut bytes, from)?;
            anew.file.write_all(&bytes)?;
            Ok(anew)
        });
        let Thinned { file, mut lines, len } = copied.map_err(|source| {
            // On a full disk its room is wanted; where this fails, the next one removes it.
            let _ = std::fs::remove_file(self.dir.join("spool.new"));
            JournalError::io("write anew", path_in(&self.dir))(source)
        })?;
        adopt(&self.dir, &file, self.fsync)?;
        let later = self.lines.iter().filter(|(_, span)| span.at >= from);
        lines.extend(later.map(|(task, span)| (*task, Span { at: span.at - from + len, len: span.len })));
        let file = Arc::new(file);
        if let Some(flusher) = &self.flusher {
            flusher.turn_to(Arc::clone(&file));
        }
        self.medium = Box::new(Arc::clone(&file));
        self.len = len + (self.len - from);
        (self.lines, self.ragged) = (lines, false);
        self.thin_at = thin_at(self.len);
        let old = std::mem::replace(&mut self.file, file);
        // The last hold of a file without a name frees its blocks, which takes tens of milliseconds. Without a
        // thread it is freed here.
        let _ = std::thread::Builder::new().spawn(move || drop(old));
        Ok(())
    }
}

#[cfg(test)]
impl Spool {
    pub(super) fn is_thinning(&self) -> bool {
        self.thinning.is_some()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(thinning) = self.thinning.take() {
            // What is half written is of no use, and the next one begins with removing it.
            let _ = thinning.join();
        }
    }
}

fn thin_at(len: u64) -> u64 {
    len.saturating_mul(2).saturating_add(THIN_FROM)
}

fn too_long(len: usize) -> JournalError {
    JournalError::TooLong { len, max: LINE_MAX }
}
