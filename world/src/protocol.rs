//! The four nouns. Everything that enters the clockwork is an [`Input`] (an [`Intent`] of a client or
//! a [`Report`] of a station), everything that leaves it an [`Effect`] (an [`Order`] for a station or
//! a [`Notice`] for a client). Plain data, journalled as it stands: a variant here is a format.
//!
//! Tokens do not pass: stations write them to the task's token log, the core hears how many there were
//! and alone says how a task ended.

mod attempt;
mod facts;
mod shard;
mod spec;
mod verdict;

use crate::budget::Left;
use crate::config::Rules;
use crate::health::{Breaker, Loss};
use crate::id::{Attempt, DeviceId, Epoch, JobId, ModelId, PoolId, SessionId, ShardOrder, TaskId, WorkerId};
use crate::job::{Action, Job, JobRefusal};
use crate::time::{Tick, Ticks};
use crate::units::Sha256;
use serde::{Deserialize, Serialize};

pub use attempt::{FaultClass, Finish, Setback, TimeLimit, Usage};
pub use facts::{DeviceShare, Loader, ModelFacts, WorkerFacts};
pub use shard::{EvictionReason, ShardChange, ShardFault};
pub use spec::{AdmissionMode, CancelReason, Class, Determinism, TaskSpec};
pub use verdict::{Failure, Outcome, Payer, Refusal, SessionOver, TenantLimit, WorkerRefusal};

/// What enters a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A process took the journal up: wall time in milliseconds since 1970 at the step's tick.
    Boot {
        wall_ms: u64,
    },
    /// The configuration from here on.
    SetRules(Box<Rules>),
    Intent(Intent),
    Report(Report),
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    Submit {
        task: TaskId,
        spec: TaskSpec,
    },
    Cancel {
        task: TaskId,
        reason: CancelReason,
    },
    /// The session takes no more turns; those that wait or run go on.
    Close {
        session: SessionId,
    },
    /// An operator's; the job is the door's name for it.
    Operate {
        job: JobId,
        pool: PoolId,
        action: Action,
    },
}

/// What a station tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A worker is ready to take tasks, for the first time or again.
    WorkerUp {
        worker: WorkerId,
        epoch: Epoch,
        facts: WorkerFacts,
    },
    /// A worker ended; `error` where it was not asked to.
    WorkerDown {
        worker: WorkerId,
        epoch: Epoch,
        error: Option<FaultClass>,
    },
    /// A worker lives.
    Beat {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// The engine took the task up: its prompt is being read.
    Started {
        worker: WorkerId,
        epoch: Epoch,
        task: TaskId,
        attempt: Attempt,
    },
    /// Tokens made since the last such report, a batch for each station. The first token of a task is
    /// reported before it is published, so that no task is run again after a reader saw a token.
    Progress {
        worker: WorkerId,
        epoch: Epoch,
        made: Vec<(TaskId, Attempt, u32)>,
    },
    /// Every `Start` is answered by exactly one `Finished` or `Faulted`; the slot is free from then on.
    Finished {
        worker: WorkerId,
        epoch: Epoch,
        task: TaskId,
        attempt: Attempt,
        usage: Usage,
    },
    Faulted {
        worker: WorkerId,
        epoch: Epoch,
        task: TaskId,
        attempt: Attempt,
        class: FaultClass,
    },
    /// A model stands in the worker's memory and its seal was checked. `facts` as measured.
    ShardLoaded {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
        order: ShardOrder,
        facts: ModelFacts,
    },
    /// A `LoadShard` or `FreeShard` came to nothing.
    ShardFailed {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
        order: ShardOrder,
        fault: ShardFault,
    },
    /// What a model took of the worker's memory is free.
    ShardFreed {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
        order: ShardOrder,
    },
    /// A worker that was told to begin lives and loads its model.
    Loading {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// The weights of this file that the worker uses are not what was loaded.
    ShardCorrupt {
        worker: WorkerId,
        epoch: Epoch,
        digest: Sha256,
    },
    /// The model's weights are what was loaded: the root of their hashes, made anew. None where they have gone.
    ShardVerified {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
        job: JobId,
        seal: Option<Sha256>,
    },
}

/// What leaves a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    Order(Order),
    Notice(Notice),
}

impl Effect {
    /// The task it is about.
    pub fn task(&self) -> Option<TaskId> {
        match self {
            Effect::Order(order) => order.task(),
            Effect::Notice(notice) => notice.task(),
        }
    }
}

/// What a station is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    Start {
        worker: WorkerId,
        epoch: Epoch,
        task: TaskId,
        attempt: Attempt,
        model: ModelId,
    },
    Cancel {
        worker: WorkerId,
        epoch: Epoch,
        task: TaskId,
        attempt: Attempt,
    },
    /// Drop all work and announce yourself with a new epoch.
    Reset {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// Take the model into memory. Answered by one `ShardLoaded` or `ShardFailed`.
    LoadShard {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
        order: ShardOrder,
        expects: ModelFacts,
    },
    /// Let the model's memory go. Answered by one `ShardFreed` or `ShardFailed`.
    FreeShard {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
        order: ShardOrder,
    },
    /// Say that you live.
    Probe {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// Begin a life of this epoch: load the model and announce yourself.
    SpawnWorker {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
    },
    /// Drop all work, give the memory back and end.
    StopWorker {
        worker: WorkerId,
        epoch: Epoch,
    },
    /// Look whether the model's weights are what was loaded. Answered by one `ShardVerified` or `ShardCorrupt`.
    VerifyShard {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
        job: JobId,
    },
}

impl Order {
    /// The worker it is for.
    pub fn worker(&self) -> WorkerId {
        match *self {
            Order::Start { worker, .. }
            | Order::Cancel { worker, .. }
            | Order::Reset { worker, .. }
            | Order::LoadShard { worker, .. }
            | Order::FreeShard { worker, .. }
            | Order::VerifyShard { worker, .. }
            | Order::Probe { worker, .. }
            | Order::SpawnWorker { worker, .. }
            | Order::StopWorker { worker, .. } => worker,
        }
    }

    /// The task it is about.
    pub fn task(&self) -> Option<TaskId> {
        match *self {
            Order::Start { task, .. } | Order::Cancel { task, .. } => Some(task),
            Order::Reset { .. }
            | Order::LoadShard { .. }
            | Order::FreeShard { .. }
            | Order::VerifyShard { .. }
            | Order::Probe { .. }
            | Order::SpawnWorker { .. }
            | Order::StopWorker { .. } => None,
        }
    }

    /// The task that it starts: an engine needs its words.
    pub fn starts(&self) -> Option<TaskId> {
        self.task().filter(|_| matches!(self, Order::Start { .. }))
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The task will end exactly once. `position` counts from 0 within its class; `left` is what its tenant and
    /// its session have left once it is paid for, whichever has less.
    Accepted {
        task: TaskId,
        position: u32,
        predicted_start: Ticks,
        left: Left,
    },
    /// The task never was.
    Refused {
        task: TaskId,
        refusal: Refusal,
    },
    /// A worker was chosen.
    Placed {
        task: TaskId,
        attempt: Attempt,
        pool: PoolId,
        worker: WorkerId,
    },
    /// The engine took it up.
    Started {
        task: TaskId,
        attempt: Attempt,
        worker: WorkerId,
    },
    /// An attempt was lost; the task waits for the next.
    Retrying {
        task: TaskId,
        lost: Attempt,
        until: Tick,
        why: Setback,
    },
    /// A batch task was put back from its slot into its line, for interactive work of which `by` is the next.
    Preempted {
        task: TaskId,
        lost: Attempt,
        worker: WorkerId,
        by: TaskId,
    },
    /// The one end.
    Ended {
        task: TaskId,
        outcome: Outcome,
    },
    /// A worker came or went: how many are ready in its pool now.
    PoolChanged {
        pool: PoolId,
        ready: u16,
    },
    /// A model came, goes or went on a worker.
    ShardChanged {
        worker: WorkerId,
        model: ModelId,
        change: ShardChange,
    },
    /// New rules were not taken: out of bounds, or with other models, pools or facts of them than the journal's.
    RulesRefused,
    /// A line begins or ceases to refuse who would wait longer than `target`: the least that anybody waited in it
    /// was `delay`.
    ModeChanged {
        model: ModelId,
        class: Class,
        mode: AdmissionMode,
        delay: Ticks,
        target: Ticks,
    },
    /// A worker announced itself and was not taken in.
    WorkerRefused {
        worker: WorkerId,
        reason: WorkerRefusal,
    },
    /// A lost worker was told to begin again.
    Restarted {
        worker: WorkerId,
        pool: PoolId,
        loss: Loss,
    },
    /// The pool's workers were lost too often: those that are down stay down until somebody resumes it.
    RestartsStopped {
        pool: PoolId,
    },
    BreakerChanged {
        worker: WorkerId,
        breaker: Breaker,
    },
    /// Nothing runs on the device until somebody resumes a pool that stands on it.
    Quarantined {
        device: DeviceId,
    },
    /// A job began, went a step on, or is over.
    JobChanged {
        job: Box<Job>,
    },
    /// The job never was.
    JobRefused {
        job: JobId,
        refusal: JobRefusal,
    },
}

impl Notice {
    /// The task it is about.
    pub fn task(&self) -> Option<TaskId> {
        match *self {
            Notice::Accepted { task, .. }
            | Notice::Refused { task, .. }
            | Notice::Placed { task, .. }
            | Notice::Started { task, .. }
            | Notice::Retrying { task, .. }
            | Notice::Preempted { task, .. }
            | Notice::Ended { task, .. } => Some(task),
            Notice::PoolChanged { .. }
            | Notice::ModeChanged { .. }
            | Notice::ShardChanged { .. }
            | Notice::RulesRefused
            | Notice::WorkerRefused { .. }
            | Notice::Restarted { .. }
            | Notice::RestartsStopped { .. }
            | Notice::BreakerChanged { .. }
            | Notice::Quarantined { .. }
            | Notice::JobChanged { .. }
            | Notice::JobRefused { .. } => None,
        }
    }
}
