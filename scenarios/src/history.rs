//! Audits of what only a history can show: over the effects of a run, in order.

use orchestrion_world::health::Breaker;
use orchestrion_world::id::{Attempt, ModelId, PoolId, TaskId, TenantId, WorkerId};
use orchestrion_world::placement::Placement;
use orchestrion_world::protocol::{Class, Effect, Failure, Input, Intent, Notice, Order, Outcome};
use std::collections::{BTreeMap, VecDeque};

/// What has been said of each task so far.
#[derive(Clone, Debug, Default)]
pub struct History {
    lives: BTreeMap<TaskId, Told>,
    /// Of the tasks that were accepted: their line, and which admission they were.
    places: BTreeMap<TaskId, (Line, u64)>,
    /// Who waits for a first attempt, by admission, with where it may go if not anywhere.
    fresh: BTreeMap<Line, BTreeMap<u64, Wanted>>,
    admissions: u64,
    /// Submitted in this step and not answered yet, in order.
    asked: VecDeque<(TaskId, Line, Wanted)>,
    /// As last told.
    breakers: BTreeMap<WorkerId, Breaker>,
}

/// The queue that a task waits in, and whose part of it.
type Line = (ModelId, Class, TenantId);

/// Where a task's client wants it.
type Wanted = Option<Box<Placement>>;

/// The last thing told of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Waiting(Attempt),
    Placed(Attempt),
    Started(Attempt),
    Ended,
}

impl History {
    /// Takes in what a step is about to hear.
    pub fn ask(&mut self, inputs: &[Input]) {
        let submits = inputs.iter().filter_map(|input| match input {
            Input::Intent(Intent::Submit { task, spec }) => {
                Some((*task, (spec.model, spec.class, spec.tenant), spec.placement.clone()))
            }
            Input::Intent(_) | Input::Report(_) | Input::Boot { .. } | Input::SetRules(_) => None,
        });
        self.asked = submits.collect();
    }

    /// The step is over: every submission was answered.
    pub fn close(&self) -> Result<(), String> {
        let unanswered = &self.asked;
        unanswered.is_empty().then_some(()).ok_or_else(|| format!("25: nobody answered {unanswered:?}"))
    }

    /// The submission that is next to be answered.
    fn answered(&mut self, task: TaskId) -> Result<(Line, Wanted), String> {
        let asked = self.asked.pop_front().filter(|(id, ..)| *id == task);
        asked.map(|(_, line, wanted)| (line, wanted)).ok_or_else(|| format!("25: {task} was answered out of turn"))
    }

    /// Only for a newcomer that is about to be let in, and never interactive work for batch work.
    fn may_displace(&self, task: TaskId, by: TaskId) -> Result<(), String> {
        let newcomer = self.asked.front().filter(|(id, ..)| *id == by).map(|(_, (_, class, _), _)| *class);
        let newcomer = newcomer.ok_or_else(|| format!("25: {task} gave way to {by}, which nobody submits"))?;
        let fits = self.places.get(&task).is_some_and(|((_, class, _), _)| *class >= newcomer);
        let fresh = matches!(self.lives.get(&task), Some(Told::Waiting(Attempt { number: 0, .. })));
        (fits && fresh).then_some(()).ok_or_else(|| format!("5: {task} gave way to {by}, which is not above it"))
    }

    /// Only batch work gives up its slot, and only to interactive work that waits.
    fn may_preempt(&self, task: TaskId, by: TaskId) -> Result<(), String> {
        let class = |task| self.places.get(&task).map(|((_, class, _), _)| *class);
        let waits = matches!(self.lives.get(&by), Some(Told::Waiting(_)));
        let fits = waits && (class(task), class(by)) == (Some(Class::Batch), Some(Class::Interactive));
        fits.then_some(()).ok_or_else(|| format!("5: {task} was put back for {by}, which is not above it"))
    }

    /// Takes in an effect; the broken rule where it cannot follow what was told before.
    pub fn hear(&mut self, effect: &Effect) -> Result<(), String> {
        let Effect::Notice(notice) = effect else { return self.hear_order(effect) };
        if let Notice::BreakerChanged { worker, breaker } = *notice {
            self.breakers.insert(worker, breaker);
        }
        let Some(task) = notice.task() else { return Ok(()) };
        let next = match *notice {
            Notice::Accepted { .. } => {
                let (line, wanted) = self.answered(task)?;
                self.admissions += 1;
                self.places.insert(task, (line, self.admissions));
                self.fresh.entry(line).or_default().insert(self.admissions, wanted);
                let before = self.lives.insert(task, Told::Waiting(Attempt::of(self.admissions, 0)));
                let fresh = before.is_none_or(|told| told == Told::Ended);
                return fresh.then_some(()).ok_or_else(|| format!("1: {task} was accepted while it lived"));
            }
            Notice::Placed { attempt, worker, pool, .. } => {
                let open = matches!(self.breakers.get(&worker), Some(Breaker::Open { .. }));
                let open = open.then(|| format!("8: {task} was placed on {worker}, whose breaker is open"));
                open.map_or(Ok(()), Err)?;
                self.goes_first(task, attempt, pool)?;
                Told::Placed(attempt)
            }
            Notice::Started { attempt, .. } => Told::Started(attempt),
            Notice::Preempted { lost, by, .. } => {
                self.may_preempt(task, by)?;
                Told::Waiting(lost)
            }
            Notice::Retrying { lost, .. } => Told::Waiting(lost),
            Notice::Ended { outcome, .. } => {
                if let Outcome::Failed { failure: Failure::Displaced { by, .. }, .. } = outcome {
                    self.may_displace(task, by)?;
                }
                self.leave(task);
                Told::Ended
            }
            Notice::Refused { .. } => return self.answered(task).map(drop),
            _ => return Err(format!("1: {notice:?} says something of a task that nobody follows")),
        };
        let Some(told) = self.lives.get_mut(&task) else {
            return Err(format!("1: {task} was never accepted: {notice:?}"));
        };
        let follows = match (*told, next) {
            (Told::Ended, _) => false,
            (_, Told::Ended) => true,
            (Told::Waiting(lost), Told::Placed(attempt)) => attempt == Attempt::of(lost.ordinal, lost.number + 1),
            (Told::Placed(live), Told::Started(attempt)) => live == attempt,
            (Told::Placed(live) | Told::Started(live), Told::Waiting(lost)) => live == lost,
            _ => false,
        };
        let before = std::mem::replace(told, next);
        follows.then_some(()).ok_or_else(|| format!("1, 11: {task} was told {next:?} after {before:?}"))
    }

    /// Nobody of its line came before it and waits still, and batch work leaves none interactive behind, but those
    /// who may not go to the pool.
    fn goes_first(&mut self, task: TaskId, attempt: Attempt, pool: PoolId) -> Result<(), String> {
        let Some(&(line, place)) = self.places.get(&task) else { return Ok(()) };
        let (model, class, _) = line;
        let interactive = (model, Class::Interactive, TenantId(0))..=(model, Class::Interactive, TenantId(u64::MAX));
        // What a mask wants of devices is not told here: such a task may wait for others of the pool's.
        let could = |wanted: &Wanted| {
            wanted.as_ref().is_none_or(|wanted| wanted.devices.is_none() && wanted.bans_pool(pool).is_none())
        };
        let first = |waiting: &BTreeMap<u64, Wanted>| waiting.iter().find(|(_, w)| could(w)).map(|(place, _)| *place);
        let left = self.fresh.range(interactive).find_map(|(_, waiting)| first(waiting));
        if let (Class::Batch, Some(older)) = (class, left) {
            return Err(format!("5: {task} of the batch class was placed before interactive admission {older}"));
        }
        let first = self.fresh.get(&line).and_then(first).filter(|first| *first < place);
        if let (1, Some(older)) = (attempt.number, first) {
            return Err(format!("4: {task}, admission {place}, was placed before {older} of its line"));
        }
        self.leave(task);
        Ok(())
    }

    fn leave(&mut self, task: TaskId) {
        let line = self.places.get(&task).and_then(|(line, place)| Some((self.fresh.get_mut(line)?, place)));
        if let Some((line, place)) = line {
            line.remove(place);
        }
    }

    fn hear_order(&self, effect: &Effect) -> Result<(), String> {
        let Effect::Order(order) = effect else { return Ok(()) };
        match *order {
            Order::Start { task, attempt, .. } => {
                let placed = self.lives.get(&task) == Some(&Told::Placed(attempt));
                placed.then_some(()).ok_or_else(|| format!("11: {task} is started without a placement"))
            }
            Order::Cancel { task, attempt, .. } => {
                let over = match self.lives.get(&task) {
                    Some(Told::Ended) => true,
                    Some(Told::Waiting(lost)) => attempt <= *lost,
                    Some(Told::Placed(_) | Told::Started(_)) | None => false,
                };
                over.then_some(()).ok_or_else(|| format!("2: {task} is cancelled at its worker before that was told"))
            }
            Order::Reset { .. }
            | Order::Probe { .. }
            | Order::SpawnWorker { .. }
            | Order::StopWorker { .. }
            | Order::LoadShard { .. }
            | Order::FreeShard { .. }
            | Order::VerifyShard { .. } => Ok(()),
        }
    }

    /// Tasks whose end was not told.
    pub fn living(&self) -> usize {
        self.lives.values().filter(|told| **told != Told::Ended).count()
    }
}
