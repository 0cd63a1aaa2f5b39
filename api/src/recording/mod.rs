//! A recording: what a journal can tell of a day, as plain data.
//!
//! Reads the runs of a journal by executing them again, so that effects are known as well as inputs and a
//! damaged or torn journal is told as replay tells it. Keeps what came from outside, in order, and the course of
//! each task; beats, progress and everything else that can be had again by simulation is left out. Runs that go
//! on from one another are one recording; where a world begins empty, a new one begins. Writes nothing.

mod course;
mod gauged;

#[cfg(test)]
mod tests;

pub use course::{Course, Courses, Try};
pub use gauged::Gauged;

use crate::journal::{JournalError, runs};
use crate::replay::ReplayError;
use crate::replay::rerun::{Made, Rerun};
use orchestrion_world::config::Rules;
use orchestrion_world::id::{SessionId, TaskId, WorkerId};
use orchestrion_world::protocol::{CancelReason, Input, Intent, Report, TaskSpec, WorkerFacts};
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;

use std::path::Path;

/// Tasks, and other events, that one recording holds at most: about 2 GiB of them.
const EVENTS_MAX: usize = 4_000_000;

/// Why a journal gives no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("the journal holds no rules, so nothing was served in it")]
    NoRules,
    #[error("the journal holds more than {max} events, which is more than fits into memory; name one of its segments")]
    TooLong { max: usize },
}

/// A continuous stretch of a journal.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Keys every draw of the world's dice.
    pub seed: u64,
    /// In force when it begins.
    pub rules: Rules,
    pub begins: Tick,
    pub ends: Tick,
    /// What came from outside, in order.
    pub events: Vec<(Tick, Event)>,
    pub courses: Courses,
    pub gauged: Gauged,
    /// Steps, and the digest of the state after the last.
    pub steps: u64,
    pub state: Digest,
    /// The end of the journal that is no whole record, where there is one.
    pub torn: Option<String>,
}

/// Something that the world did not decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Rules(Box<Rules>),
    Submit(TaskId, TaskSpec),
    Cancel(TaskId, CancelReason),
    Close(SessionId),
    Up(WorkerId, WorkerFacts),
    Down(WorkerId),
}

impl Recording {
    /// Reads a folder's runs, the last continuous stretch of them, or the part of one that a segment holds.
    pub fn read(path: &Path) -> Result<Recording, RecordingError> {
        let mut recording: Option<Recording> = None;
        let mut chain = None;
        for run in runs(path)? {
            let mut rerun = Rerun::new(run.whole(), chain);
            while let Some(done) = rerun.step(&mut |_| {})? {
                if let Some(start) = rerun.start.take()
                    && (recording.is_none() || start.core.booted.is_none())
                {
                    let mut fresh = Recording::beginning(start.core.seed, done.tick);
                    fresh.rules = rules_at(start.core.rules.as_deref(), &done.inputs);
                    let ready = start.workers.iter().filter(|worker| worker.state.is_up());
                    fresh.events.extend(ready.map(|w| (done.tick, Event::Up(w.id, w.facts.clone()))));
                    fresh.courses.left_out = start.tasks.len();
                    recording = Some(fresh);
                }
                // A step that broke an invariant was told to nobody.
                let (Some(recording), Made::Step(step)) = (&mut recording, &done.made) else { continue };
                recording.ends = done.tick;
                recording.events.extend(done.inputs.iter().filter_map(event).map(|event| (done.tick, event)));
                if recording.events.len() > EVENTS_MAX {
                    return Err(RecordingError::TooLong { max: EVENTS_MAX });
                }
                recording.courses.take(done.tick, &done.inputs, &step.effects);
                if let Some(simulation) = &rerun.simulation {
                    recording.gauged.look(done.tick, simulation);
                }
                recording.steps += 1;
            }
            if let (Some(recording), Some(simulation)) = (&mut recording, &mut rerun.simulation) {
                recording.state = simulation.state();
                recording.torn = rerun.reader.torn().map(|torn| format!("{}: {}", torn.place, torn.flaw));
            }
            chain = rerun.reader.chain();
        }
        recording.filter(|recording| !recording.rules.pools.is_empty()).ok_or(RecordingError::NoRules)
    }

    fn beginning(seed: u64, begins: Tick) -> Recording {
        let (rules, courses, gauged) = (Rules::default(), Courses::default(), Gauged::default());
        let (steps, state, torn) = (0, Digest(0), None);
        Recording { seed, rules, begins, ends: begins, events: vec![], courses, gauged, steps, state, torn }
    }
}

/// Those of the state, or, where it has none, those that the first step brings.
fn rules_at(known: Option<&Rules>, first: &[Input]) -> Rules {
    let brought = first.iter().find_map(|input| match input {
        Input::SetRules(rules) => Some(&**rules),
        Input::Boot { .. } | Input::Intent(_) | Input::Report(_) => None,
    });
    known.or(brought).cloned().unwrap_or_default()
}

/// What of an input came from outside and is not to be simulated.
fn event(input: &Input) -> Option<Event> {
    match input {
        Input::SetRules(rules) => Some(Event::Rules(rules.clone())),
        Input::Intent(Intent::Submit { task, spec }) => Some(Event::Submit(*task, spec.clone())),
        Input::Intent(Intent::Cancel { task, reason }) => Some(Event::Cancel(*task, *reason)),
        Input::Intent(Intent::Close { session }) => Some(Event::Close(*session)),
        Input::Report(Report::WorkerUp { worker, facts, .. }) => Some(Event::Up(*worker, facts.clone())),
        Input::Report(Report::WorkerDown { worker, .. }) => Some(Event::Down(*worker)),
        // A clock's reading decides nothing; the rest is what a simulated station says by itself.
        Input::Boot { .. } | Input::Report(_) | Input::Intent(Intent::Operate { .. }) => None,
    }
}
