//! Workers and what they stand on: leases, pools, models.

use crate::config::Rules;
use crate::health::{Breaker, Restarts, WorkerState};
use crate::id::{Attempt, DeviceId, Epoch, JobId, ModelId, PoolId, ShardOrder, TaskId, WorkerId};
use crate::protocol::{AdmissionMode, Class, WorkerFacts};
use crate::queues::Shares;
use crate::time::{Tick, Ticks};
use crate::units::{Bytes, Permille};
use crate::vram::{Residence, Resident};
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};

/// One worker: an engine with models on its devices.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub id: WorkerId,
    pub epoch: Epoch,
    pub facts: WorkerFacts,
    pub state: WorkerState,
    /// When it last said anything, or was told to begin.
    pub heard: Tick,
    /// When it was asked since then whether it lives.
    pub probed: Option<Tick>,
    pub breaker: Breaker,
    pub restarts: Restarts,
    /// Sorted by task. As many as slots in use.
    pub leases: Vec<Lease>,
    /// How fast it reads prompts, its answers beside them; counted in tokens while there are prompts to read.
    pub reading: Drain,
    /// Its models, sorted by model.
    pub residents: Vec<Resident>,
    /// The last order to load or free one of them.
    pub ordered: ShardOrder,
}

/// A task on a slot. A revoked lease holds its slot and memory until the worker lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub task: TaskId,
    pub attempt: Attempt,
    /// Of the task, which may have ended before the worker lets go.
    pub model: ModelId,
    pub class: Class,
    /// Context memory reserved on the worker's devices.
    pub kv: Bytes,
    /// Tokens of its prompt, until its first token says that they were read.
    pub unread: u32,
    pub revoked: bool,
    /// Revoked for interactive work, which has the slot next.
    pub called_back: bool,
}

impl Worker {
    /// At the beginning of a life.
    pub fn new(id: WorkerId, epoch: Epoch, facts: WorkerFacts, residents: Vec<Resident>, now: Tick) -> Worker {
        Worker {
            id,
            epoch,
            facts,
            state: WorkerState::Starting,
            heard: now,
            probed: None,
            breaker: Breaker::CLOSED,
            restarts: Restarts::none(now),
            leases: vec![],
            reading: Drain::default(),
            residents,
            ordered: ShardOrder::default(),
        }
    }

    /// Whether it takes tasks, if it has a slot for them.
    pub fn takes(&self) -> bool {
        self.state == WorkerState::Ready && !matches!(self.breaker, Breaker::Open { .. })
    }

    /// Slots that its breaker lets tasks onto.
    pub fn offered(&self) -> u16 {
        match self.breaker {
            Breaker::Closed { .. } => self.facts.slots,
            Breaker::HalfOpen { .. } => self.facts.slots.min(1),
            Breaker::Open { .. } => 0,
        }
    }

    /// Slots without a lease.
    pub fn free_slots(&self) -> u16 {
        self.offered().saturating_sub(self.leases.len() as u16)
    }

    /// Slots that batch tasks may hold together, of a share of all.
    pub fn batch_slots(&self, share: Permille) -> u16 {
        let slots = u64::from(self.facts.slots);
        let kept = u64::from(slots > 1 && share < Permille(1000));
        (slots * u64::from(share.0)).div_ceil(1000).min(slots - kept) as u16
    }

    /// Slots that batch tasks hold.
    pub fn batch_leases(&self) -> u16 {
        self.leases.iter().filter(|lease| lease.class == Class::Batch).count() as u16
    }

    /// Slots that a task of the class could have now.
    pub fn room(&self, class: Class, batch_share: Permille) -> u16 {
        match class {
            Class::Interactive => self.free_slots(),
            Class::Batch => self.free_slots().min(self.batch_slots(batch_share).saturating_sub(self.batch_leases())),
        }
    }

    /// Tokens of prompts that it has yet to read, as far as it said.
    pub fn unread(&self) -> u64 {
        self.leases.iter().map(|lease| u64::from(lease.unread)).sum()
    }

    /// The share of slots in use.
    pub fn load(&self) -> Permille {
        Permille((self.leases.len() * 1000 / usize::from(self.facts.slots).max(1)) as u32)
    }

    pub fn resident(&self, model: ModelId) -> Option<&Resident> {
        self.residents.binary_search_by_key(&model, |r| r.model).ok().map(|at| &self.residents[at])
    }

    pub fn resident_mut(&mut self, model: ModelId) -> Option<&mut Resident> {
        self.residents.binary_search_by_key(&model, |r| r.model).ok().map(|at| &mut self.residents[at])
    }

    /// The model, where it takes tasks if the worker does.
    pub fn serving(&self, model: ModelId) -> Option<&Resident> {
        self.resident(model).filter(|r| r.life == Residence::Sealed)
    }

    /// The model, where the worker takes tasks of it now.
    pub fn serves(&self, model: ModelId) -> Option<&Resident> {
        self.serving(model).filter(|_| self.takes())
    }

    /// Tasks of the model that it holds, also those it has yet to let go of.
    pub fn leases_of(&self, model: ModelId) -> usize {
        self.leases.iter().filter(|lease| lease.model == model).count()
    }

    /// What is booked on each of its devices for so many bytes in all.
    pub fn parts(&self, whole: Bytes) -> impl Iterator<Item = (DeviceId, Bytes)> + '_ {
        self.facts.devices.iter().map(move |d| (d.device, whole.share(d.share)))
    }

    /// The least whole that `free` of each device allows.
    pub fn least(&self, free: impl Fn(DeviceId) -> Bytes) -> Bytes {
        let wholes = self.facts.devices.iter().map(|part| match part.share {
            Permille(1000) => free(part.device),
            share => free(part.device).whole(share),
        });
        wholes.min().unwrap_or_default()
    }

    /// When something is due if it says nothing more: a probe, the end of patience, or its next beginning.
    pub fn alarm_at(&self, rules: Option<&Rules>) -> Option<Tick> {
        let health = &rules?.health;
        match self.state {
            // The answer has its time from the question on: a server that slept asks before it judges.
            WorkerState::Ready | WorkerState::Draining => Some(match self.probed {
                Some(asked) => asked + Ticks(health.beat_timeout.0 / 2),
                None => self.heard + Ticks(health.beat_timeout.0.div_ceil(2)),
            }),
            WorkerState::Starting => Some(self.heard + health.beat_timeout),
            WorkerState::Loading => Some(self.heard + health.load_timeout),
            WorkerState::Failed => self.restarts.due,
            WorkerState::Stopped => None,
        }
    }

    /// When its breaker's time is over.
    pub fn fuse_at(&self) -> Option<Tick> {
        self.breaker.due()
    }

    /// Where the lease of an attempt stands in `leases`.
    pub fn lease_at(&self, task: TaskId, attempt: Attempt) -> Option<usize> {
        let at = self.leases.binary_search_by_key(&task, |l| l.task).ok()?;
        (self.leases[at].attempt == attempt).then_some(at)
    }
}

/// One pool of the rules.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub id: PoolId,
    pub model: ModelId,
    /// Workers that take tasks.
    pub ready: u16,
    /// When its workers were last told to begin again, within the window of the rules; the oldest first.
    pub restarts: Vec<Tick>,
    /// There were too many of them: lost workers stay down until somebody resumes the pool.
    pub halted: bool,
    /// Its workers take no tasks: an operator wants it so.
    pub closed: bool,
    /// The one that runs.
    pub job: Option<JobId>,
}

impl Pool {
    /// Without workers.
    pub fn new(id: PoolId, model: ModelId) -> Pool {
        Pool { id, model, ready: 0, restarts: vec![], halted: false, closed: false, job: None }
    }
}

/// One model of the rules, and what was learned of its load.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub id: ModelId,
    /// Workers of all its pools that take tasks.
    pub ready: u32,
    /// Since when no worker takes tasks that serves it or could load it, or since those that waited were last given
    /// up for that.
    pub stranded: Option<Tick>,
    /// The longest context of any worker that serves it or could load it.
    pub reach: u32,
    /// While its tasks wait: when loading it is weighed again.
    pub weigh_at: Option<Tick>,
    /// Workers that load it, and models that make way for it.
    pub coming: u16,
    pub interactive: Line,
    pub batch: Line,
}

/// What was learned of one class of a model's tasks, and what its line remembers. Batch work does not get every
/// slot and waits for interactive work, so neither says much of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// How long its tasks hold a slot, on average; `None` until the first has finished.
    pub service: Option<Ticks>,
    pub drain: Drain,
    pub delay: Delay,
    pub shares: Shares,
}

/// How fast a line of the model drains, counted only while somebody waits in it without a break.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When the last task left for a slot, or when the wait began; `None` while nobody waits.
    pub since: Option<Tick>,
    /// Ticks, and tasks that left for a slot in them.
    pub ticks: u64,
    pub left: u64,
}

/// Whether a line takes all who come, and the delay that decides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    /// When the interval that is watched is over.
    pub until: Option<Tick>,
    /// The least that anybody waited in it who left others of its tenant behind.
    pub least: Option<Ticks>,
    pub mode: AdmissionMode,
}

impl Delay {
    /// A task left after it had waited so long.
    pub fn note(&mut self, waited: Ticks) {
        self.least = Some(self.least.map_or(waited, |least| least.min(waited)));
    }
}

impl Model {
    /// A model of the rules before anything was learned of it.
    pub fn new(id: ModelId, stranded: Tick) -> Model {
        let (interactive, batch) = (Line::default(), Line::default());
        Model { id, ready: 0, stranded: Some(stranded), reach: 0, weigh_at: None, coming: 0, interactive, batch }
    }

    pub fn line(&self, class: Class) -> &Line {
        match class {
            Class::Interactive => &self.interactive,
            Class::Batch => &self.batch,
        }
    }

    pub fn line_mut(&mut self, class: Class) -> &mut Line {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Batch => &mut self.batch,
        }
    }

    /// How long a task of the class holds a slot: its own mean, or that of the other class.
    pub fn service(&self, class: Class) -> Option<Ticks> {
        let other = self.interactive.service.or(self.batch.service);
        self.line(class).service.or(other)
    }

    /// When its queued tasks are given up.
    pub fn alarm_at(&self, rules: Option<&Rules>) -> Option<Tick> {
        Some(self.stranded? + rules?.health.no_worker_grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(slots: u16, classes: &[Class]) -> Worker {
        let (attempt, model, kv) = (Attempt::of(1, 1), ModelId(0), Bytes(0));
        let lease = |(n, &class): (usize, &Class)| {
            let task = TaskId(n as u128);
            Lease { task, attempt, model, class, kv, unread: 0, revoked: false, called_back: false }
        };
        let facts = WorkerFacts { pool: PoolId(0), devices: vec![], slots, came_with: None, loader: None };
        let mut worker = Worker::new(WorkerId(0), Epoch(1), facts, vec![], Tick(0));
        worker.leases = classes.iter().enumerate().map(lease).collect();
        worker
    }

    #[test]
    fn a_share_is_rounded_up_and_leaves_one_of_several() {
        let of = |share| [1, 2, 3, 4, 8, u16::MAX].map(|slots| worker(slots, &[]).batch_slots(Permille(share)));
        assert_eq!(of(1), [1, 1, 1, 1, 1, 66]);
        assert_eq!(of(500), [1, 1, 2, 2, 4, 32_768]);
        assert_eq!(of(750), [1, 1, 2, 3, 6, 49_152]);
        assert_eq!(of(999), [1, 1, 2, 3, 7, 65_470]);
        assert_eq!(of(1000), [1, 2, 3, 4, 8, u16::MAX]);
    }

    #[test]
    fn room_is_what_is_free_and_for_batch_work_within_its_share() {
        use Class::*;
        let room = |classes: &[Class]| {
            let worker = worker(4, classes);
            [Interactive, Batch].map(|class| worker.room(class, Permille(500)))
        };
        assert_eq!(room(&[]), [4, 2]);
        assert_eq!(room(&[Batch]), [3, 1]);
        assert_eq!(room(&[Batch, Batch]), [2, 0]);
        assert_eq!(room(&[Batch, Interactive, Interactive]), [1, 1]);
        assert_eq!(room(&[Interactive, Interactive, Interactive, Interactive]), [0, 0]);
        // They came in under a larger share.
        assert_eq!(room(&[Batch, Batch, Batch]), [1, 0]);
    }
}
