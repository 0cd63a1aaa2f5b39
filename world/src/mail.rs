//! What a step works on: its inputs sorted by who reads them, the lists one phase leaves for the next,
//! and the effects. Empty between steps, so not in the Ledger. Lists that fill in most steps keep their room.

use crate::id::{Attempt, DeviceId, Epoch, JobId, ModelId, PoolId, SessionId, ShardOrder, TaskId, WorkerId};
use crate::job::Action;
use crate::protocol::{
    CancelReason, Effect, FaultClass, ModelFacts, Notice, Order, ShardFault, TaskSpec, Usage, WorkerFacts,
};
use crate::units::Sha256;
use crate::wheel::TimerKey;
use std::collections::BTreeSet;

/// See the module's head. Each list is drained by the phase named beside it.
#[derive(Debug, Default)]
pub struct Mail {
    /// Health: a process began, and with it whatever lived in the last one is gone.
    pub booted: bool,
    /// Health, in order of arrival.
    pub words: Vec<Word>,
    /// Progress, in order of arrival.
    pub starts: Vec<(WorkerId, Epoch, TaskId, Attempt)>,
    pub progress: Vec<Made>,
    /// Eviction, in order of arrival.
    pub shards: Vec<(Answers, ShardWord)>,
    /// Eviction: devices on which memory was taken.
    pub pressed: BTreeSet<DeviceId>,
    /// Release.
    pub ends: Vec<AttemptEnd>,
    pub cancels: Vec<(TaskId, CancelReason)>,
    /// Release, from health: attempts whose worker was lost.
    pub orphans: Vec<(TaskId, Attempt)>,
    /// Release, from intake: tasks whose tokens were lost with the process that showed them.
    pub cut: Vec<TaskId>,
    /// Sessions, from intake: those whose time is over, and those that their clients closed.
    pub expired: Vec<SessionId>,
    pub closed: Vec<SessionId>,
    /// Admission.
    pub submits: Vec<(TaskId, TaskSpec)>,
    /// Admission, from release: cancels of tasks that may be among the submits of this step.
    pub early_cancels: Vec<(TaskId, CancelReason)>,
    /// Health and release, from intake.
    pub due: Vec<TimerKey>,
    /// Placement: models whose queue grew or whose capacity did.
    pub stirred: BTreeSet<ModelId>,
    /// Placement, from eviction: those of them that others made way for.
    pub cleared: BTreeSet<ModelId>,
    /// Jobs: what operators ask.
    pub operations: Vec<(JobId, PoolId, Action)>,
    /// Jobs, from release: those whose time is over.
    pub jobs_due: Vec<JobId>,
    /// Jobs, from health and release: workers that came, went or let go of their last task.
    pub moved: Vec<WorkerId>,
    /// Jobs, from intake: weights that workers were asked to look at.
    pub verified: Vec<Verified>,
    /// Jobs, from health: workers whose weights of this file are not what was loaded.
    pub corrupted: Vec<(WorkerId, Sha256)>,
    /// Placement: models that found no memory before, and may find some now.
    pub hopeful: BTreeSet<ModelId>,
    /// Dispatch, from placement.
    pub placed: Vec<(TaskId, WorkerId)>,
    /// Leaves with the step, in order of decision.
    pub effects: Vec<Effect>,
}

/// Tokens that a worker's attempts made.
#[derive(Clone, Debug)]
pub struct Made {
    pub worker: WorkerId,
    pub epoch: Epoch,
    pub tokens: Vec<(TaskId, Attempt, u32)>,
}

/// What a worker says of itself.
#[derive(Clone, Debug)]
pub enum Word {
    Up(WorkerId, Epoch, WorkerFacts),
    Loading(WorkerId, Epoch),
    Down(WorkerId, Epoch, Option<FaultClass>),
    Alive(WorkerId, Epoch),
    Corrupt(WorkerId, Epoch, Sha256),
}

/// Which order to load or free a model is answered.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    pub worker: WorkerId,
    pub epoch: Epoch,
    pub model: ModelId,
    pub order: ShardOrder,
}

/// What became of an order to load or free a model.
#[derive(Clone, Copy, Debug)]
pub enum ShardWord {
    Loaded(ModelFacts),
    Failed(ShardFault),
    Freed,
}

/// What a worker found of weights that it was asked to look at; none where they are not there any more.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    pub worker: WorkerId,
    pub epoch: Epoch,
    pub model: ModelId,
    pub job: JobId,
    pub seal: Option<Sha256>,
}

/// How an attempt ended at its worker.
#[derive(Clone, Debug)]
pub struct AttemptEnd {
    pub worker: WorkerId,
    pub epoch: Epoch,
    pub task: TaskId,
    pub attempt: Attempt,
    pub result: Result<Usage, FaultClass>,
}

impl Mail {
    /// Tells a client.
    pub fn notice(&mut self, notice: Notice) {
        self.effects.push(Effect::Notice(notice));
    }

    /// Tells a station.
    pub fn order(&mut self, order: Order) {
        self.effects.push(Effect::Order(order));
    }
}
