//! Explain: what happened to one task and why, told from the journal by executing it again.
//!
//! Finds the run that holds the task, steps it from the segment where the task came in until its end,
//! and keeps every placement decision about it in full. Each step is held against the record on the way,
//! which is the proof. Of a task with several inputs it keeps the decisions about one, and how each ended.
//! Reads a running server's journal as well; writes nothing.

use crate::http::vectors::INPUTS_MOST;
use crate::journal::{JournalError, Segment, runs};
use crate::replay::ReplayError;
use crate::replay::rerun::{Done, Made, Rerun};
use crate::spool::Part;
use crate::wording::{count, length, made_room, utc};
use orchestrion_systems::placement::explain::{Asked, Considered, Decider, DecisionLog};
use orchestrion_systems::placement::flip::Flip;
use orchestrion_world::config::PlacementRule;
use orchestrion_world::id::{TaskId, WorkerId};
use orchestrion_world::protocol::{Effect, Input, Intent, Notice, Report};
use orchestrion_world::time::{Tick, Ticks};
use serde::{Serialize, Serializer};
use std::fmt;
use std::path::Path;

mod chapters;

/// What the OpenAI surface puts before a task's id in an answer's.
const ANSWERS: [&str; 3] = ["chatcmpl-", "cmpl-", "rerank-"];

/// The id of the task in that of an answer, or in its own.
pub fn task_of(id: &str) -> &str {
    ANSWERS.iter().find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id)
}

pub(crate) use chapters::{Chapters, chapters};

/// Why a task cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(
        "no task {task} in this journal: it may have been refused at the door, or its segment was removed by retention"
    )]
    Unknown { task: TaskId },
    #[error("task {task} has {}, counted from 0; there is no input {asked}", count(*.inputs, "input"))]
    NoInput { task: TaskId, inputs: u32, asked: u32 },
}

/// One task's story and the proof of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The one that is told: the scheduler knows each input as a task.
    pub task: String,
    /// How it ended, or that it has not yet.
    pub summary: String,
    /// When it was submitted: milliseconds since 1970 by the clock of the boot; none where the part of
    /// the journal that says so is gone.
    pub submitted_unix_ms: Option<u64>,
    /// All inputs, in their order, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputEnd>,
    pub timeline: Vec<Moment>,
    pub proof: Proof,
}

/// An input of a task that has several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputEnd {
    pub task: String,
    /// How it ended, or that it has not yet.
    pub summary: String,
}

/// Something that happened to the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    pub seq: u64,
    pub tick: u64,
    /// Since the first moment.
    pub after_ms: u64,
    /// A sentence without its subject.
    pub what: String,
    /// Where it is a placement decision: all of it.
    #[serde(serialize_with = "as_data")]
    pub decision: Option<DecisionLog>,
}

/// That the story is what happened: the decisions of these steps came out as recorded, digest by digest, and so did
/// the state wherever it is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The segment of the last of them.
    pub file: String,
    /// Each boot begins a run, and each run counts its steps from 1.
    pub runs: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// Digests of the last step's decisions and of the state after it, in hexadecimal.
    pub decisions: String,
    pub state: String,
}

/// Tells the story of an input of `task` from the runs in a folder, or the segment, that hold it: from where it came
/// in, through every run that took it over.
pub fn explain(path: &Path, task: TaskId, input: u32) -> Result<Explanation, ExplainError> {
    let runs = runs(path)?;
    let ids = (0..INPUTS_MOST as u32).map(|index| (Part::id(task, index), index)).collect();
    let Chapters { chapters, came_in, inputs } = chapters(&runs, task, &ids)?;
    if input >= inputs {
        return Err(ExplainError::NoInput { task, inputs, asked: input });
    }
    let heard = |index| Heard { task: Part::id(task, index), accepted: came_in.is_none(), end: None };
    tell(&chapters, (0..inputs).map(heard).collect(), input as usize)
}

/// How far an input is known to have come.
struct Heard {
    task: TaskId,
    accepted: bool,
    end: Option<String>,
}

impl Heard {
    fn take(&mut self, rerun: &Rerun<'_>, effect: &Effect) {
        if effect.task() != Some(self.task) || self.end.is_some() {
            return;
        }
        match effect {
            Effect::Notice(Notice::Accepted { .. }) => self.accepted = true,
            Effect::Notice(Notice::Ended { .. }) => self.end = Some(rerun.names.effect(effect)),
            // A second submission of a live id is refused, and the first goes on.
            Effect::Notice(Notice::Refused { .. }) if !self.accepted => self.end = Some(rerun.names.effect(effect)),
            Effect::Notice(_) | Effect::Order(_) => {}
        }
    }

    fn summary(&self) -> String {
        self.end.clone().unwrap_or_else(|| "has not ended in the part that is recorded".to_owned())
    }
}

fn tell(chapters: &[&[Segment]], mut inputs: Vec<Heard>, told: usize) -> Result<Explanation, ExplainError> {
    let task = inputs[told].task;
    let mut story = Story::of(task);
    let mut proof = Proof::default();
    for segments in chapters {
        let mut rerun = Rerun::new(segments, None);
        proof.runs += 1;
        while let Some(done) = rerun.step(&mut |simulation| simulation.watch(task))? {
            if let Some(ledger) = rerun.start.take() {
                story.booted = ledger.core.booted;
                if proof.runs == 1 {
                    proof.first_seq = done.seq;
                }
            }
            proof.last_seq = done.seq;
            let decisions = rerun.simulation.as_mut().map(|simulation| simulation.take_decisions()).unwrap_or_default();
            if inputs[told].end.is_none() {
                story.take(&rerun, &done, decisions);
            }
            if let Made::Step(step) = &done.made {
                proof.decisions = step.decisions.to_string();
                inputs.iter_mut().for_each(|input| step.effects.iter().for_each(|effect| input.take(&rerun, effect)));
            }
            if inputs.iter().all(|input| input.end.is_some()) {
                break;
            }
        }
        proof.file = rerun.place().file.display().to_string();
        proof.state = rerun.simulation.as_mut().map(|simulation| simulation.state().to_string()).unwrap_or_default();
    }
    let end = |input: &Heard| InputEnd { task: input.task.to_string(), summary: input.summary() };
    Ok(Explanation {
        task: task.to_string(),
        summary: inputs[told].summary(),
        submitted_unix_ms: story.submitted_unix_ms,
        inputs: if inputs.len() > 1 { inputs.iter().map(end).collect() } else { vec![] },
        timeline: story.moments,
        proof,
    })
}

struct Story {
    task: TaskId,
    booted: Option<(u64, Tick)>,
    submitted_unix_ms: Option<u64>,
    moments: Vec<Moment>,
    /// The decision told last, so that waiting on unchanged workers is told once.
    told: Option<DecisionLog>,
    /// Tokens since the last other moment, from one worker.
    tokens: Option<(WorkerId, u32)>,
}

impl Story {
    fn of(task: TaskId) -> Story {
        let (booted, submitted_unix_ms, moments, told, tokens) = (None, None, vec![], None, None);
        Story { task, booted, submitted_unix_ms, moments, told, tokens }
    }

    fn take(&mut self, rerun: &Rerun<'_>, done: &Done, decisions: Vec<DecisionLog>) {
        for input in &done.inputs {
            match input {
                Input::Boot { wall_ms } => self.booted = Some((*wall_ms, done.tick)),
                Input::Intent(Intent::Submit { task, .. })
                    if *task == self.task && self.submitted_unix_ms.is_none() =>
                {
                    self.submitted_unix_ms = self.booted.map(|(wall, at)| wall.saturating_add(done.tick.since(at).0));
                }
                Input::Report(Report::Progress { worker, made, .. }) => {
                    let tokens = made.iter().filter(|(id, ..)| *id == self.task).map(|(.., tokens)| *tokens);
                    let tokens = tokens.fold(0, u32::saturating_add);
                    if tokens > 0 {
                        self.got(done, *worker, tokens);
                    }
                }
                _ => {}
            }
            if let Some(what) = rerun.names.input(input, self.task) {
                self.say(done, what, None);
            }
        }
        let Made::Step(step) = &done.made else {
            self.say(done, "was live when the server broke an invariant and ended".to_owned(), None);
            return;
        };
        let task = self.task;
        let mut decisions = decisions.into_iter();
        let notices = step.effects.iter().filter(|effect| matches!(effect, Effect::Notice(_)));
        for effect in notices {
            if let Some(what) = made_room(effect, task) {
                self.say(done, what, None);
            }
            if effect.task() != Some(task) {
                continue;
            }
            // Its decisions come in the order of its placements.
            let placed = matches!(effect, Effect::Notice(Notice::Placed { .. }));
            let decision = if placed { decisions.find(|decision| decision.chosen.is_some()) } else { None };
            self.told = decision.clone().or(self.told.take());
            self.say(done, rerun.names.effect(effect), decision);
        }
        for decision in decisions {
            let same = |told: &DecisionLog| {
                told.candidates == decision.candidates && told.chosen == decision.chosen && decision.asked.is_empty()
            };
            if !self.told.as_ref().is_some_and(same) {
                self.say(done, "found no worker that could start it".to_owned(), Some(decision.clone()));
                self.told = Some(decision);
            }
        }
    }

    fn got(&mut self, done: &Done, worker: WorkerId, tokens: u32) {
        let sum = match self.tokens {
            Some((before, sum)) if before == worker => {
                self.moments.pop();
                sum.saturating_add(tokens)
            }
            _ => tokens,
        };
        self.say(done, format!("had got {} from worker {worker} by now", count(sum, "token")), None);
        self.tokens = Some((worker, sum));
    }

    fn say(&mut self, done: &Done, what: String, decision: Option<DecisionLog>) {
        self.tokens = None;
        let first = self.moments.first().map_or(done.tick.0, |moment| moment.tick);
        let after_ms = done.tick.0.saturating_sub(first);
        self.moments.push(Moment { seq: done.seq, tick: done.tick.0, after_ms, what, decision });
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { task, summary, submitted_unix_ms, inputs, timeline, proof } = self;
        for (index, InputEnd { task: id, summary }) in inputs.iter().enumerate() {
            let told = if id == task { ", told below" } else { "" };
            writeln!(f, "Input {index} (task {id}{told}) {summary}.")?;
        }
        if !inputs.is_empty() {
            writeln!(f)?;
        }
        writeln!(f, "Task {task} {summary}.")?;
        match submitted_unix_ms {
            Some(ms) => writeln!(f, "It was submitted at {}.", utc(*ms))?,
            None => writeln!(f, "It was submitted before the part of the journal that is kept.")?,
        }
        writeln!(f)?;
        for Moment { seq, after_ms, what, decision, .. } in timeline {
            writeln!(f, "{:>10}  It {what} (step {seq}).", format!("+{}", length(Ticks(*after_ms))))?;
            if let Some(decision) = decision {
                for line in decision.to_string().lines() {
                    writeln!(f, "{:>12}{line}", "")?;
                }
            }
        }
        let Proof { file, runs, first_seq, last_seq, decisions, state } = proof;
        let through = if *runs > 1 { format!(" of {runs} runs") } else { String::new() };
        writeln!(f)?;
        writeln!(
            f,
            "Proof: steps {first_seq} to {last_seq}{through} were executed again from the journal, and each decided the same and"
        )?;
        writeln!(f, "left the same state as recorded. The last of them stands in {file}:")?;
        write!(f, "decisions {decisions}, state {state}.")
    }
}

/// Without the task: JSON has no number that wide, and the explanation names it already.
fn as_data<S: Serializer>(decision: &Option<DecisionLog>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Data<'a> {
        model: &'a str,
        rule: PlacementRule,
        prompt_tokens: u32,
        max_tokens: u32,
        candidates: &'a [Considered],
        chosen: Option<WorkerId>,
        decided_by: Option<Decider>,
        flip: Option<Flip>,
        asked: &'a [Asked],
    }
    let data = decision.as_ref().map(|log| Data {
        model: &log.model,
        rule: log.rule,
        prompt_tokens: log.prompt_tokens,
        max_tokens: log.max_tokens,
        candidates: &log.candidates,
        chosen: log.chosen,
        decided_by: log.decided_by,
        flip: log.flip,
        asked: &log.asked,
    });
    data.serialize(to)
}

#[cfg(test)]
mod tests;
