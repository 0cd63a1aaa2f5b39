//! A bundle: the part of a journal that one task's story takes, made fit to be shown to others.
//!
//! Reads a journal and writes one file, a segment of its own: the state before the task came, then every step to
//! its end. It replays and explains without a GPU and without the rest. What names people, models or times is
//! redacted, and because that changes the state, each step is executed again in a world with the redacted state,
//! must decide the same, and is recorded with the digests it has there.

mod redact;

#[cfg(test)]
mod tests;

pub use redact::Ids;

use crate::explain::{Chapters, ExplainError, chapters};
use crate::journal::{Chain, FORMAT, HEADER_MAX, Header, JournalError, Origin, Outcome, RECORD_MAX, Record, runs};
use crate::pulse::message_of;
use crate::replay::ReplayError;
use crate::replay::rerun::{Done, Made, Rerun};
use orchestrion_systems::Simulation;
use orchestrion_world::id::TaskId;
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::{Effect, Input, Intent, Notice};
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use redact::{Found, Redaction, of_rules, without_core};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Why no bundle was made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error(transparent)]
    Explain(#[from] ExplainError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the state at step {seq} has no readable form: {source}")]
    Unreadable { seq: u64, source: serde_json::Error },
    #[error("without its names, step {seq} decides something else: what was decided there rests on them")]
    Differs { seq: u64 },
    #[error("the state at step {seq} is no state of a world without its names: {problem}")]
    Unrestorable { seq: u64, problem: String },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// What a bundle is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    pub file: PathBuf,
    pub bytes: u64,
    /// BLAKE3 of the file, in hexadecimal.
    pub blake3: String,
    /// The build that recorded it, and the journal's format.
    pub build: String,
    pub format: u64,
    /// The task's id in the bundle.
    pub task: String,
    pub ids: Ids,
    pub first_seq: u64,
    pub last_seq: u64,
    /// Tasks in it.
    pub tasks: u64,
    /// The invariant that its last step breaks.
    pub broke: Option<String>,
    /// Digests of the state it begins with and ends with.
    pub first_state: String,
    pub last_state: String,
    pub commands: [String; 2],
}

/// Writes the bundle of a task into a new file.
pub fn bundle(journal: &Path, task: TaskId, out: &Path) -> Result<Manifest, BundleError> {
    let runs = runs(journal)?;
    let story = chapters(&runs, task, &BTreeMap::from([(task, 0)]))?;
    let order = Order { cast: Cast::of(&story, task)?, story, task, out };
    match order.write(Ids::Renumbered) {
        Err(BundleError::Differs { .. }) => order.write(Ids::Kept),
        other => other,
    }
}

/// The state that the story begins with, and what is to be replaced in it.
struct Cast {
    start: Ledger,
    build: String,
    found: Found,
    /// The wall time that the times in the bundle count from.
    epoch_ms: u64,
}

impl Cast {
    fn of(story: &Chapters<'_>, task: TaskId) -> Result<Cast, BundleError> {
        let mut start = None;
        let mut found = Found::default();
        let mut build = String::new();
        let mut first_boot = None;
        scenes(story, task, &mut |before, done, of| {
            if let (None, Some(before)) = (&start, before) {
                found.look_at(&without_core(&before)).map_err(unreadable(done.seq))?;
                found.look_at(&before.core.rules.as_deref().map(of_rules)).map_err(unreadable(done.seq))?;
                start = Some(before);
                build = of.to_owned();
            }
            for input in &done.inputs {
                match input {
                    Input::Boot { wall_ms } => first_boot = first_boot.or(Some(*wall_ms)),
                    Input::SetRules(rules) => found.look_at(&of_rules(rules)).map_err(unreadable(done.seq))?,
                    Input::Intent(_) | Input::Report(_) => found.look_at(input).map_err(unreadable(done.seq))?,
                }
            }
            Ok(())
        })?;
        let Some(start) = start else { return Err(ExplainError::Unknown { task }.into()) };
        let epoch_ms = start.core.booted.map(|(wall, _)| wall).or(first_boot).unwrap_or(0);
        Ok(Cast { start, build, found, epoch_ms })
    }
}

fn unreadable(seq: u64) -> impl Fn(serde_json::Error) -> BundleError {
    move |source| BundleError::Unreadable { seq, source }
}

/// Sees the state before the first step, and each step with the build that recorded it.
type Seen<'a> = dyn FnMut(Option<Ledger>, &Done, &str) -> Result<(), BundleError> + 'a;

/// Plays every step from the one in which the task came to the one in which it ended, through every run.
fn scenes(story: &Chapters<'_>, task: TaskId, seen: &mut Seen<'_>) -> Result<(), BundleError> {
    let mut begun = false;
    for segments in &story.chapters {
        let mut rerun = Rerun::new(segments, None);
        let mut before = None;
        while let Some(done) = rerun.step(&mut |_| {})? {
            before = rerun.start.take().or(before);
            if begun || story.came_in.is_none_or(|seq| seq == done.seq) {
                begun = true;
                seen(before.take(), &done, &rerun.build)?;
                if matches!(done.made, Made::Broke(_)) || ends(&done, task) {
                    return Ok(());
                }
            } else if story.came_in == Some(done.seq + 1) {
                before = rerun.simulation.as_ref().map(Simulation::ledger);
            }
        }
    }
    Ok(())
}

/// Whether the step told the task's end, or that it was not let in.
fn ends(done: &Done, task: TaskId) -> bool {
    let Made::Step(step) = &done.made else { return false };
    step.effects.iter().any(|effect| match effect {
        Effect::Notice(Notice::Ended { task: id, .. }) => *id == task,
        Effect::Notice(Notice::Refused { task: id, .. }) => *id == task && done.inputs.iter().any(|i| submits(i, task)),
        Effect::Notice(_) | Effect::Order(_) => false,
    })
}

fn submits(input: &Input, task: TaskId) -> bool {
    matches!(input, Input::Intent(Intent::Submit { task: id, .. }) if *id == task)
}

/// What is to be bundled, and where.
struct Order<'a> {
    story: Chapters<'a>,
    cast: Cast,
    task: TaskId,
    out: &'a Path,
}

impl Order<'_> {
    /// Writes the file, or leaves none.
    fn write(&self, ids: Ids) -> Result<Manifest, BundleError> {
        let file = File::options().write(true).create_new(true).open(self.out).map_err(|e| self.unwritten(e))?;
        let made = self.compose(BufWriter::new(file), ids);
        if made.is_err() {
            // The error that is told is the first one; a half-written bundle is of no use to anybody.
            let _ = fs::remove_file(self.out);
        }
        made
    }

    fn compose(&self, mut to: BufWriter<File>, ids: Ids) -> Result<Manifest, BundleError> {
        let Order { story, cast, task, out } = self;
        let redaction = Redaction::new(&cast.found, ids, cast.epoch_ms);
        let first_seq = story.came_in.unwrap_or(1);
        let ledger = redaction.ledger(&cast.start).map_err(unreadable(first_seq))?;
        let mut world = Simulation::restore(&ledger)
            .map_err(|error| BundleError::Unrestorable { seq: first_seq, problem: error.to_string() })?;
        let mut pen = Pen::default();
        let first_state = pen.header(&cast.build, first_seq, ledger)?;
        to.write_all(&pen.frame).map_err(|e| self.unwritten(e))?;
        let (mut seq, mut broke, mut last_state) = (first_seq, None, first_state);
        scenes(story, *task, &mut |_, done, _| {
            let inputs = done.inputs.iter().map(|input| redaction.input(input)).collect::<Result<Vec<_>, _>>();
            let inputs = inputs.map_err(unreadable(done.seq))?;
            let now = catch_unwind(AssertUnwindSafe(|| world.step(done.tick, inputs.clone())));
            let outcome = match (&done.made, now) {
                (Made::Step(was), Ok(step)) => {
                    if redaction.effects(&was.effects).map_err(unreadable(done.seq))? != step.effects {
                        return Err(BundleError::Differs { seq: done.seq });
                    }
                    last_state = world.state();
                    Outcome::Stepped { decisions: step.decisions, state: Some(last_state) }
                }
                // The words of the panic may hold an id: they are those of the redacted world.
                (Made::Broke(_), Err(panic)) => {
                    let audit = message_of(panic.as_ref());
                    broke = Some(audit.clone());
                    Outcome::Broke { audit }
                }
                (Made::Step(_), Err(_)) | (Made::Broke(_), Ok(_)) => {
                    return Err(BundleError::Differs { seq: done.seq });
                }
            };
            pen.record(&Record { seq, tick: done.tick, inputs, outcome })?;
            seq += 1;
            to.write_all(&pen.frame).map_err(|e| self.unwritten(e))
        })?;
        to.flush().map_err(|e| self.unwritten(e))?;
        let (task, file) = (redaction.task(*task).to_string(), out.display());
        Ok(Manifest {
            file: out.to_path_buf(),
            bytes: pen.bytes,
            blake3: pen.hasher.finalize().to_string(),
            build: cast.build.clone(),
            format: FORMAT,
            commands: [format!("orch replay {file}"), format!("orch explain {task} --journal {file}")],
            task,
            ids,
            first_seq,
            last_seq: seq - 1,
            tasks: cast.found.tasks() as u64,
            broke,
            first_state: first_state.to_string(),
            last_state: last_state.to_string(),
        })
    }

    fn unwritten(&self, source: io::Error) -> BundleError {
        BundleError::Write { path: self.out.to_path_buf(), source }
    }
}

/// Writes frames of one segment, and knows what it wrote.
#[derive(Default)]
struct Pen {
    frame: Vec<u8>,
    chain: Chain,
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Pen {
    fn header(&mut self, build: &str, first_seq: u64, ledger: Ledger) -> Result<Digest, BundleError> {
        let (build, previous) = (build.to_owned(), [0; 32]);
        // Seed, tick and digest are the ledger's.
        let (seed, tick, digest) = (0, Tick(0), Digest(0));
        let origin = Origin { build, run: 1, number: 1, seed, first_seq, tick, previous, digest };
        let header = Header::new(origin, ledger);
        let digest = header.origin.digest;
        self.chain = header.encode(&mut self.frame).map_err(too_long(HEADER_MAX))?;
        self.wrote();
        Ok(digest)
    }

    fn record(&mut self, record: &Record) -> Result<(), BundleError> {
        self.chain = record.encode(&mut self.frame, &self.chain).map_err(too_long(RECORD_MAX))?;
        self.wrote();
        Ok(())
    }

    fn wrote(&mut self) {
        self.bytes += self.frame.len() as u64;
        self.hasher.update(&self.frame);
    }
}

fn too_long(max: usize) -> impl Fn(usize) -> BundleError {
    move |len| JournalError::TooLong { len, max }.into()
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { file, bytes, blake3, build, format, task, ids, first_seq, last_seq, tasks, .. } = self;
        writeln!(f, "{}: {bytes} bytes, BLAKE3 {blake3}", file.display())?;
        writeln!(
            f,
            "Recorded by build {build}, journal format {format}: steps {first_seq} to {last_seq}, {tasks} tasks."
        )?;
        writeln!(f, "State before the first step {}, after the last {}.", self.first_state, self.last_state)?;
        if let Some(audit) = &self.broke {
            writeln!(f, "The last step breaks an invariant: {audit}")?;
        }
        writeln!(f, "Names, digests, seeds and wall times are replaced; every decision is as it was recorded.")?;
        match ids {
            Ids::Renumbered => writeln!(f, "Tasks have other ids; this one is {task}.")?,
            Ids::Kept => writeln!(f, "Tasks keep their ids, since retries rest on them: those tell when they came.")?,
        }
        let [replay, explain] = &self.commands;
        write!(f, "  {replay}\n  {explain}")
    }
}
