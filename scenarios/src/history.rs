//! Audits of what only a history can show: over the effects of a run, in order.

use orchestrion_world::id::{Attempt, TaskId};
use orchestrion_world::protocol::{Class, Effect, Failure, Input, Intent, Notice, Order, Outcome};
use std::collections::{BTreeMap, VecDeque};

/// What has been said of each task so far.
#[derive(Clone, Debug, Default)]
pub struct History {
    lives: BTreeMap<TaskId, Told>,
    /// Of the tasks that were accepted.
    classes: BTreeMap<TaskId, Class>,
    /// Submitted in this step and not answered yet, in order.
    asked: VecDeque<(TaskId, Class)>,
}

/// The last thing told of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Waiting(Attempt),
    Placed(Attempt),
    Started(Attempt),
    Ended,
}

impl History {
    /// Takes in what a step is about to hear. Every submission of the step before was answered.
    pub fn ask(&mut self, inputs: &[Input]) -> Result<(), String> {
        let submits = inputs.iter().filter_map(|input| match input {
            Input::Intent(Intent::Submit { task, spec }) => Some((*task, spec.class)),
            Input::Intent(_) | Input::Report(_) | Input::Boot { .. } | Input::SetRules(_) => None,
        });
        let unanswered = std::mem::replace(&mut self.asked, submits.collect());
        unanswered.is_empty().then_some(()).ok_or(format!("25: nobody answered {unanswered:?}"))
    }

    /// The submission that is next to be answered.
    fn answered(&mut self, task: TaskId) -> Result<Class, String> {
        let asked = self.asked.pop_front().filter(|(id, _)| *id == task);
        asked.map(|(_, class)| class).ok_or(format!("25: {task} was answered out of turn"))
    }

    /// Only for a newcomer that is about to be let in, and never interactive work for batch work.
    fn may_displace(&self, task: TaskId, by: TaskId) -> Result<(), String> {
        let newcomer = self.asked.front().filter(|(id, _)| *id == by).map(|(_, class)| *class);
        let newcomer = newcomer.ok_or(format!("25: {task} gave way to {by}, which nobody submits"))?;
        let fits = self.classes.get(&task).is_some_and(|class| *class >= newcomer);
        let fresh = self.lives.get(&task) == Some(&Told::Waiting(Attempt(0)));
        (fits && fresh).then_some(()).ok_or(format!("5: {task} gave way to {by}, which is not above it"))
    }

    /// Takes in an effect; the broken rule where it cannot follow what was told before.
    pub fn hear(&mut self, effect: &Effect) -> Result<(), String> {
        let Effect::Notice(notice) = effect else { return self.hear_order(effect) };
        let (task, next) = match *notice {
            Notice::Accepted { task, .. } => {
                let class = self.answered(task)?;
                self.classes.insert(task, class);
                let before = self.lives.insert(task, Told::Waiting(Attempt(0)));
                let fresh = before.is_none_or(|told| told == Told::Ended);
                return fresh.then_some(()).ok_or(format!("1: {task} was accepted while it lived"));
            }
            Notice::Placed { task, attempt, .. } => (task, Told::Placed(attempt)),
            Notice::Started { task, attempt, .. } => (task, Told::Started(attempt)),
            Notice::Retrying { task, lost, .. } => (task, Told::Waiting(lost)),
            Notice::Ended { task, outcome } => {
                if let Outcome::Failed { failure: Failure::Displaced { by, .. }, .. } = outcome {
                    self.may_displace(task, by)?;
                }
                (task, Told::Ended)
            }
            Notice::Refused { task, .. } => return self.answered(task).map(drop),
            Notice::PoolChanged { .. } | Notice::RulesRefused | Notice::WorkerRefused { .. } => return Ok(()),
        };
        let Some(told) = self.lives.get_mut(&task) else {
            return Err(format!("1: {task} was never accepted: {notice:?}"));
        };
        let follows = match (*told, next) {
            (Told::Ended, _) => false,
            (_, Told::Ended) => true,
            (Told::Waiting(lost), Told::Placed(attempt)) => attempt.0 == lost.0 + 1,
            (Told::Placed(live), Told::Started(attempt)) => live == attempt,
            (Told::Placed(live) | Told::Started(live), Told::Waiting(lost)) => live == lost,
            _ => false,
        };
        let before = std::mem::replace(told, next);
        follows.then_some(()).ok_or(format!("1, 11: {task} was told {next:?} after {before:?}"))
    }

    fn hear_order(&self, effect: &Effect) -> Result<(), String> {
        let Effect::Order(order) = effect else { return Ok(()) };
        match *order {
            Order::Start { task, attempt, .. } => {
                let placed = self.lives.get(&task) == Some(&Told::Placed(attempt));
                placed.then_some(()).ok_or(format!("11: {task} is started without a placement"))
            }
            Order::Cancel { task, attempt, .. } => {
                let over = match self.lives.get(&task) {
                    Some(Told::Ended) => true,
                    Some(Told::Waiting(lost)) => attempt <= *lost,
                    Some(Told::Placed(_) | Told::Started(_)) | None => false,
                };
                over.then_some(()).ok_or(format!("2: {task} is cancelled at its worker before that was told"))
            }
            Order::Reset { .. } => Ok(()),
        }
    }

    /// Tasks whose end was not told.
    pub fn living(&self) -> usize {
        self.lives.values().filter(|told| **told != Told::Ended).count()
    }
}
