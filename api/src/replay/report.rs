//! What a replay came to, as data and in words.

use super::rerun::{Done, Made};
use super::submits;
use crate::journal::Place;
use crate::wording::length;
use orchestrion_world::protocol::{Effect, Notice};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Digest;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// A replay that came to its end: every step decided the same and left the same state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    pub runs: u64,
    pub steps: u64,
    pub inputs: u64,
    /// Submissions among the inputs.
    pub tasks: u64,
    /// Tasks that were admitted, and ends that were told. Each admitted task ends once: where the journal
    /// is whole, what is missing is unfinished.
    pub admitted: u64,
    pub ended: u64,
    /// From the first step of each run to its last.
    pub recorded_ms: u64,
    pub replay_us: u64,
    /// How many times faster the replay was.
    pub speedup: u64,
    pub steps_per_second: u64,
    /// The state digest after the last step, in hexadecimal.
    pub final_state: String,
    /// The end of the journal that is no whole record, where there is one.
    pub torn: Option<String>,
    /// The invariant that the recorded run broke in its last step, and breaks again.
    pub broke: Option<String>,
    /// Whether a world with changed rules was run beside the recorded one.
    pub compared: bool,
    /// With changed rules: the first decision that comes out otherwise.
    pub change: Option<Change>,
}

/// A decision that changed rules change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub place: Place,
    pub tick: u64,
    pub task: Option<String>,
    /// What was decided about it in that step, in words.
    pub recorded: Vec<String>,
    pub changed: Vec<String>,
}

impl ReplayReport {
    pub(crate) fn take(&mut self, done: &Done) {
        self.steps += 1;
        self.inputs += done.inputs.len() as u64;
        self.tasks += submits(&done.inputs);
        match &done.made {
            Made::Step(step) => {
                for effect in &step.effects {
                    match effect {
                        Effect::Notice(Notice::Accepted { .. }) => self.admitted += 1,
                        Effect::Notice(Notice::Ended { .. }) => self.ended += 1,
                        Effect::Notice(_) | Effect::Order(_) => {}
                    }
                }
            }
            Made::Broke(audit) => self.broke = Some(audit.clone()),
        }
    }

    pub(crate) fn took(&mut self, took: Duration, state: Digest) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.replay_us = us;
        self.speedup = self.recorded_ms.saturating_mul(1000) / us;
        self.steps_per_second = self.steps.saturating_mul(1_000_000) / us;
        self.final_state = state.to_string();
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplayReport { runs, steps, inputs, tasks, recorded_ms, replay_us, speedup, .. } = self;
        let runs = if *runs == 1 { "1 run".to_owned() } else { format!("{runs} runs") };
        writeln!(
            f,
            "{runs} replayed: {steps} steps, {inputs} inputs, {tasks} tasks. Every decision and every state is as recorded."
        )?;
        writeln!(
            f,
            "{} of recorded time took {}.{:03} s ({speedup} times as fast, {} steps/s).",
            length(Ticks(*recorded_ms)),
            replay_us / 1_000_000,
            replay_us / 1000 % 1000,
            self.steps_per_second
        )?;
        writeln!(f, "Of {} admitted tasks, {} ended.", self.admitted, self.ended)?;
        write!(f, "Final state: {}", self.final_state)?;
        if let Some(torn) = &self.torn {
            write!(
                f,
                "\nThe journal ends in a record that was not written to its end, which nobody was told of: {torn}"
            )?;
        }
        if let Some(audit) = &self.broke {
            write!(f, "\nThe last step broke an invariant when it was recorded, and breaks it again: {audit}")?;
        }
        match &self.change {
            Some(change) => write!(f, "\n{change}"),
            None if self.compared => write!(f, "\nWith the changed rules, no decision differs."),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { place, tick, task, recorded, changed } = self;
        let about = task.as_ref().map_or_else(|| "the workers".to_owned(), |task| format!("task {task}"));
        writeln!(
            f,
            "With the changed rules, the first decision that differs is about {about}, at tick {tick} ({place})."
        )?;
        let told = |what: &[String]| if what.is_empty() { "nothing".to_owned() } else { what.join("; ") };
        writeln!(f, "  then: {}", told(recorded))?;
        write!(f, "  now:  {}", told(changed))
    }
}
