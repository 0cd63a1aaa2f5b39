//! Workers and what they stand on: leases, pools, models.

use crate::config::Rules;
use crate::id::{Attempt, Epoch, ModelId, PoolId, TaskId, WorkerId};
use crate::protocol::WorkerFacts;
use crate::time::{Tick, Ticks};
use crate::units::{Bytes, MilliRate, Permille};
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};

/// One worker: an engine with a model on a device.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub id: WorkerId,
    pub epoch: Epoch,
    pub model: ModelId,
    pub facts: WorkerFacts,
    pub state: WorkerState,
    /// When it last said anything.
    pub heard: Tick,
    /// Sorted by task. As many as slots in use.
    pub leases: Vec<Lease>,
    /// Learned: prompt and answer tokens of all its tasks together.
    pub prefill: MilliRate,
    pub decode: MilliRate,
}

/// Whether a worker takes tasks. A lost one is kept, so that its older life stays fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerState {
    Ready,
    Lost,
}

/// A task on a slot. A revoked lease holds its slot and memory until the worker lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub task: TaskId,
    pub attempt: Attempt,
    /// Context memory reserved on the worker's device.
    pub kv: Bytes,
    pub revoked: bool,
}

impl Worker {
    /// Slots without a lease.
    pub fn free_slots(&self) -> u16 {
        self.facts.slots.saturating_sub(self.leases.len() as u16)
    }

    /// The share of slots in use.
    pub fn load(&self) -> Permille {
        Permille((self.leases.len() * 1000 / usize::from(self.facts.slots).max(1)) as u32)
    }

    /// Context memory that a task of so many tokens takes.
    pub fn kv_for(&self, tokens: u64) -> Bytes {
        Bytes(self.facts.kv_per_token.0.saturating_mul(tokens))
    }

    /// When it counts as lost if it says nothing more.
    pub fn alarm_at(&self, rules: Option<&Rules>) -> Option<Tick> {
        let timeout = rules?.health.beat_timeout;
        (self.state == WorkerState::Ready).then_some(self.heard + timeout)
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
}

/// One model of the rules, and what was learned of its load.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub id: ModelId,
    /// How long its tasks hold a slot, on average; `None` until the first has finished.
    pub service: Option<Ticks>,
    /// Since when no worker of it is up.
    pub stranded: Option<Tick>,
    pub drain: Drain,
}

/// How fast the model's queue drains, counted only while somebody waits without a break.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When the last task left for a slot, or when the wait began; `None` while nobody waits.
    pub since: Option<Tick>,
    /// Ticks, and tasks that left for a slot in them.
    pub ticks: u64,
    pub left: u64,
}

impl Model {
    /// When its queued tasks are given up.
    pub fn alarm_at(&self, rules: Option<&Rules>) -> Option<Tick> {
        Some(self.stranded? + rules?.health.no_worker_grace)
    }
}
