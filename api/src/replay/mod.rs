//! Replay: a recorded run is executed again, and every decision and every state must come out the same.
//!
//! Reads a journal (a running server's as well) and writes nothing. With changed rules, a second world
//! takes the same inputs beside the recorded one, and the first decision that comes out otherwise is
//! named; after that the recorded reports no longer belong to the second world, and it is left alone.

mod report;
pub(crate) mod rerun;

#[cfg(test)]
mod tests;

pub use orchestrion_world::config::overrides::OverrideError;
pub use report::{Change, ReplayReport};
pub use rerun::Divergence;

use crate::journal::{JournalError, Place, Run, Segment, runs};
use orchestrion_systems::{Simulation, Step};
use orchestrion_world::config::overrides;
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::{Effect, Input, Intent, Notice};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Digest;
use rerun::{Done, Made, Rerun};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

/// What to replay, and how.
#[derive(Default)]
pub struct ReplayOptions<'a> {
    /// Begin at the segment that holds this step. With `from` or `to`, only the newest run is replayed:
    /// steps are numbered within a run.
    pub from: Option<u64>,
    /// End after this step.
    pub to: Option<u64>,
    /// Rules to change, as `placement.policy` and `least-loaded`.
    pub overrides: Vec<(String, String)>,
    /// Told bytes done and bytes in all, now and then.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

impl fmt::Debug for ReplayOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplayOptions { from, to, overrides, progress: _ } = self;
        let mut shown = f.debug_struct("ReplayOptions");
        shown.field("from", from).field("to", to).field("overrides", overrides).finish_non_exhaustive()
    }
}

/// Why a replay did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Override(#[from] OverrideError),
    #[error("the replay differs from the record at {0}")]
    Diverged(Box<Divergence>),
    #[error("the replay differs from the record at {place}: the ledger there is not the state its run had come to")]
    Ledger { place: Place },
    #[error("{place}: no world can be made from the ledger there: {problem}")]
    Unrestorable { place: Place, problem: String },
    #[error("{place}: the step breaks an invariant that it did not break when it was recorded: {audit}")]
    Breaks { place: Place, audit: String },
    #[error("{place}: the step broke an invariant when it was recorded and does not now: {audit}")]
    NoLongerBreaks { place: Place, audit: String },
    #[error("the journal holds no step {from}: it begins at step {first}")]
    NoSuchStep { from: u64, first: u64 },
    #[error("the newest run in the journal holds no step {from}: it ends with step {last}")]
    BeyondEnd { from: u64, last: u64 },
    #[error("no step is both from {from} on and up to {to}")]
    Backwards { from: u64, to: u64 },
}

/// Steps between two words of progress.
const PROGRESS_EVERY: u64 = 8192;

/// Replays a folder's runs, or the part of a run that one segment holds.
pub fn replay(path: &Path, mut options: ReplayOptions<'_>) -> Result<ReplayReport, ReplayError> {
    let runs = runs(path)?;
    let chosen: &[Run] = match (options.from, options.to) {
        (None, None) => &runs,
        _ => runs.last().map_or(&[], std::slice::from_ref),
    };
    let total = chosen.iter().flat_map(|run| &run.segments).map(|segment| segment.bytes).sum();
    let began = Instant::now();
    let mut report = ReplayReport { compared: !options.overrides.is_empty(), ..ReplayReport::default() };
    let mut chain = None;
    let mut bytes_before = 0;
    let mut before: Option<Ledger> = None;
    let mut state = Digest(0);
    for run in chosen {
        let segments = part(run, &options)?;
        let mut last = segments.first().map_or(0, |segment| segment.origin.first_seq.saturating_sub(1));
        let mut rerun = Rerun::new(segments, chain);
        let mut other = Other::default();
        let mut span: Option<(u64, u64)> = None;
        while let Some(done) = rerun.step(&mut |_| {})? {
            if options.to.is_some_and(|to| done.seq > to) {
                break;
            }
            last = done.seq;
            if let (None, Some(before), Some(start)) = (span, before.take(), &rerun.start) {
                // A run that goes on begins with the state of the run before; one may also begin empty.
                if start.core.booted.is_some() && *start != before {
                    return Err(ReplayError::Ledger { place: rerun.place() });
                }
            }
            span = Some((span.map_or(done.tick.0, |(first, _)| first), done.tick.0));
            report.take(&done);
            if report.compared && report.change.is_none() {
                report.change = other.beside(&mut rerun, &done, &options.overrides)?;
            }
            if let Some(progress) = &mut options.progress
                && report.steps.is_multiple_of(PROGRESS_EVERY)
            {
                progress(bytes_before + rerun.reader.bytes(), total);
            }
        }
        if let Some(from) = options.from.filter(|from| *from > last) {
            return Err(ReplayError::BeyondEnd { from, last });
        }
        report.runs += 1;
        state = rerun.simulation.as_mut().map_or(state, Simulation::state);
        // A step that broke leaves no state: the next run begins with the one before it.
        before = match report.broke {
            None => rerun.simulation.as_ref().map(Simulation::ledger),
            Some(_) => None,
        };
        report.recorded_ms += span.map_or(0, |(first, last)| last - first);
        report.torn = rerun.reader.torn().map(|torn| format!("{}: {}", torn.place, torn.flaw));
        chain = rerun.reader.chain();
        bytes_before += rerun.reader.bytes();
    }
    report.took(began.elapsed(), state);
    Ok(report)
}

/// The segments of a run from the one that holds the first step that is asked for.
fn part<'r>(run: &'r Run, options: &ReplayOptions<'_>) -> Result<&'r [Segment], ReplayError> {
    let first = run.segments.first().map_or(1, |segment| segment.origin.first_seq);
    let from = options.from.unwrap_or(first);
    if let Some(to) = options.to.filter(|to| *to < from) {
        return Err(ReplayError::Backwards { from, to });
    }
    if options.from.is_none() {
        return Ok(run.whole());
    }
    match run.segments.iter().rposition(|segment| segment.origin.first_seq <= from) {
        Some(at) => Ok(run.from(at)),
        None => Err(ReplayError::NoSuchStep { from, first }),
    }
}

/// The world with the changed rules, until it decides otherwise.
#[derive(Default)]
struct Other(Option<Simulation>);

impl Other {
    fn beside(
        &mut self,
        rerun: &mut Rerun<'_>,
        done: &Done,
        overrides: &[(String, String)],
    ) -> Result<Option<Change>, ReplayError> {
        if let Some(mut ledger) = rerun.start.take() {
            if let Some(recorded) = ledger.core.rules.clone() {
                let mut rules = (*recorded).clone();
                overrides::apply(&mut rules, overrides)?;
                ledger.core.set_rules(rules);
            }
            let simulation = Simulation::restore(&ledger)
                .map_err(|error| ReplayError::Unrestorable { place: rerun.place(), problem: error.to_string() })?;
            self.0 = Some(simulation);
        }
        let (Some(simulation), Made::Step(recorded)) = (&mut self.0, &done.made) else { return Ok(None) };
        let mut inputs = done.inputs.clone();
        for input in &mut inputs {
            if let Input::SetRules(rules) = input {
                overrides::apply(rules, overrides)?;
            }
        }
        let stepped = catch_unwind(AssertUnwindSafe(|| simulation.step(done.tick, inputs)));
        let changed = stepped.map_err(|panic| ReplayError::Breaks {
            place: rerun.place(),
            audit: format!("{} (with the changed rules)", crate::pulse::message_of(panic.as_ref())),
        })?;
        Ok(first_change(rerun, done, recorded, &changed))
    }
}

fn first_change(rerun: &Rerun<'_>, done: &Done, recorded: &Step, changed: &Step) -> Option<Change> {
    let (was, is) = (&recorded.effects, &changed.effects);
    let at = (0..was.len().max(is.len())).find(|&n| match (was.get(n), is.get(n)) {
        (Some(was), Some(is)) => !same_decision(was, is),
        _ => true,
    })?;
    let task = was.get(at).and_then(Effect::task).or_else(|| is.get(at).and_then(Effect::task));
    let words = |effects: &[Effect]| -> Vec<String> {
        let about = |effect: &&Effect| task.is_some() && effect.task() == task;
        let mut told: Vec<String> = effects.iter().filter(about).map(|e| rerun.names.effect(e)).collect();
        if task.is_none() {
            told.extend(effects.get(at).map(|e| rerun.names.effect(e)));
        }
        told
    };
    Some(Change {
        place: rerun.place(),
        tick: done.tick.0,
        task: task.map(|task| task.to_string()),
        recorded: words(was),
        changed: words(is),
    })
}

/// Estimates may differ: they tell of a decision, they are none.
fn same_decision(was: &Effect, is: &Effect) -> bool {
    let plain = |effect: &Effect| match effect {
        Effect::Notice(Notice::Accepted { task, position, predicted_start: _, left }) => {
            let (task, position, predicted_start, left) = (*task, *position, Ticks(0), *left);
            Effect::Notice(Notice::Accepted { task, position, predicted_start, left })
        }
        other => other.clone(),
    };
    was == is || plain(was) == plain(is)
}

fn submits(inputs: &[Input]) -> u64 {
    inputs.iter().filter(|input| matches!(input, Input::Intent(Intent::Submit { .. }))).count() as u64
}
