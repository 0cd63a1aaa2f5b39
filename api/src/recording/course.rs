//! The course of each task: when it came, waited, started, spoke and ended.
//!
//! Taken from a step's inputs and effects, recorded or simulated alike, so that both can be compared.

use orchestrion_world::id::{Attempt, TaskId, WorkerId};
use orchestrion_world::protocol::{Effect, Input, Intent, Notice, Order, Outcome, Refusal, Report, TaskSpec, Usage};
use orchestrion_world::time::{Tick, Ticks};
use std::collections::BTreeMap;

/// What happened to one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    pub came: Tick,
    pub spec: TaskSpec,
    pub refused: Option<Refusal>,
    /// The wait that it was told when it was accepted.
    pub predicted_start: Option<Ticks>,
    /// In order; the last one is the one that counts.
    pub tries: Vec<Try>,
    pub first_token: Option<Tick>,
    pub end: Option<(Tick, Outcome)>,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    pub attempt: Attempt,
    pub worker: WorkerId,
    pub placed: Tick,
    pub started: Option<Tick>,
    pub called_back: Option<Tick>,
    /// What the station said of it at its end.
    pub finished: Option<(Tick, Usage)>,
}

/// The courses of all tasks that came while it was looked.
#[derive(Clone, Debug, Default)]
pub struct Courses {
    tasks: BTreeMap<TaskId, Course>,
    /// How many were there before; nobody knows when those came.
    pub left_out: usize,
    /// Models that workers were told to load, and to let go.
    pub loads: u64,
    pub evictions: u64,
    /// Lost workers that were told to begin again, and pools that lost too many for that.
    pub restarts: u64,
    pub restarts_stopped: u64,
}

impl Course {
    /// From its coming to the engine's taking it up, for the first time.
    pub fn wait(&self) -> Option<Ticks> {
        self.tries.iter().find_map(|attempt| attempt.started).map(|at| at.since(self.came))
    }

    /// What it came to, where it came to its end.
    pub fn done(&self) -> Option<(Tick, Usage)> {
        match self.end {
            Some((at, Outcome::Done(usage))) => Some((at, usage)),
            Some((_, Outcome::Cancelled { .. } | Outcome::Failed { .. })) | None => None,
        }
    }
}

impl Courses {
    pub fn iter(&self) -> impl Iterator<Item = (TaskId, &Course)> {
        self.tasks.iter().map(|(id, course)| (*id, course))
    }

    pub fn get(&self, task: TaskId) -> Option<&Course> {
        self.tasks.get(&task)
    }

    /// Takes in what went into a step and what came out of it.
    pub fn take(&mut self, now: Tick, inputs: &[Input], effects: &[Effect]) {
        for input in inputs {
            match input {
                Input::Intent(Intent::Submit { task, spec }) => self.came(now, *task, spec),
                Input::Report(report) => self.said(now, report),
                Input::Intent(_) | Input::Boot { .. } | Input::SetRules(_) => {}
            }
        }
        for effect in effects {
            match effect {
                Effect::Order(Order::Cancel { task, attempt, .. }) => {
                    if let Some(attempt) = self.attempt(*task, *attempt) {
                        attempt.called_back = Some(now);
                    }
                }
                Effect::Order(Order::LoadShard { .. }) => self.loads += 1,
                Effect::Order(Order::FreeShard { .. }) => self.evictions += 1,
                Effect::Order(_) => {}
                Effect::Notice(notice) => self.told(now, notice),
            }
        }
    }

    fn came(&mut self, came: Tick, task: TaskId, spec: &TaskSpec) {
        let (refused, predicted_start, first_token, end) = (None, None, None, None);
        let spec = spec.clone();
        let course = Course { came, spec, refused, predicted_start, tries: vec![], first_token, end };
        // A second submission of an id is none.
        self.tasks.entry(task).or_insert(course);
    }

    fn said(&mut self, now: Tick, report: &Report) {
        match report {
            Report::Progress { made, .. } => {
                for (task, ..) in made {
                    if let Some(course) = self.tasks.get_mut(task) {
                        course.first_token = course.first_token.or(Some(now));
                    }
                }
            }
            Report::Finished { task, attempt, usage, .. } => {
                if let Some(attempt) = self.attempt(*task, *attempt) {
                    attempt.finished = Some((now, *usage));
                }
            }
            _ => {}
        }
    }

    fn told(&mut self, now: Tick, notice: &Notice) {
        match notice {
            Notice::Accepted { task, predicted_start, .. } => {
                if let Some(course) = self.tasks.get_mut(task) {
                    course.predicted_start = Some(*predicted_start);
                }
            }
            // A live task has the id: it was not this one that was refused.
            Notice::Refused { refusal: Refusal::DuplicateTask, .. } => {}
            Notice::Refused { task, refusal } => {
                if let Some(course) = self.tasks.get_mut(task) {
                    course.refused = Some(*refusal);
                }
            }
            Notice::Placed { task, attempt, worker, .. } => {
                if let Some(course) = self.tasks.get_mut(task) {
                    let (started, called_back, finished) = (None, None, None);
                    let (attempt, worker) = (*attempt, *worker);
                    course.tries.push(Try { attempt, worker, placed: now, started, called_back, finished });
                }
            }
            Notice::Started { task, attempt, .. } => {
                if let Some(attempt) = self.attempt(*task, *attempt) {
                    attempt.started = Some(now);
                }
            }
            Notice::Ended { task, outcome } => {
                if let Some(course) = self.tasks.get_mut(task) {
                    course.end = Some((now, *outcome));
                }
            }
            Notice::Restarted { .. } => self.restarts += 1,
            Notice::RestartsStopped { .. } => self.restarts_stopped += 1,
            _ => {}
        }
    }

    fn attempt(&mut self, task: TaskId, attempt: Attempt) -> Option<&mut Try> {
        self.tasks.get_mut(&task)?.tries.iter_mut().find(|known| known.attempt == attempt)
    }
}
