//! Reads a spool back: the last words and the last result of each task in it.
//!
//! Changes nothing. Which of them count is for the journal's state to say.

use super::frame::{self, MAGIC};
use super::log::path_in;
use super::{Finished, Line, Wanted};
use crate::journal::JournalError;
use orchestrion_world::id::TaskId;
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// What a spool holds.
#[derive(Debug, Default)]
pub struct Found {
    pub(crate) wanted: BTreeMap<TaskId, Wanted>,
    pub(crate) finished: BTreeMap<TaskId, Finished>,
    /// Bytes that were no valid frame, and stretches of them that others follow.
    pub(crate) bytes_lost: u64,
    pub(crate) damaged: u64,
}

/// The spool of a journal's folder; empty where there is none.
pub fn load(dir: &Path) -> Result<Found, JournalError> {
    let path = path_in(dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(error) => return Err(JournalError::io("read", path)(error)),
    };
    let spool = |problem: String| JournalError::Spool { file: path.clone(), problem };
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        let known = String::from_utf8_lossy(MAGIC).into_owned();
        return Err(spool(format!("it does not begin with {known}, as the spools that this build reads do")));
    };
    let mut found = Found::default();
    while !rest.is_empty() {
        let Some(body) = frame::body(rest) else {
            let skip = frame::next(rest);
            found.bytes_lost += skip.unwrap_or(rest.len()) as u64;
            found.damaged += u64::from(skip.is_some());
            rest = skip.map_or(&[], |at| &rest[at..]);
            continue;
        };
        let line = postcard::from_bytes(body).map_err(|error| {
            spool(format!("an intact line of it does not decode ({error}): another build wrote it"))
        })?;
        match line {
            Line::Wanted(wanted) => drop(found.wanted.insert(wanted.card.task, *wanted)),
            Line::Finished(finished) => drop(found.finished.insert(finished.card.task, *finished)),
        }
        rest = &rest[frame::HEAD + body.len()..];
    }
    found.say(&path);
    Ok(found)
}

impl Found {
    fn say(&self, path: &Path) {
        let Found { bytes_lost, damaged, .. } = self;
        if *damaged > 0 {
            tracing::error!(spool = %path.display(), bytes_lost, damaged,
                "the spool is damaged: what stood there is left out, and a task whose words it was is cancelled");
        } else if *bytes_lost > 0 {
            tracing::warn!(spool = %path.display(), bytes_lost,
                "the spool's last line was not written to its end: cut off; nobody was told of it");
        }
    }
}
