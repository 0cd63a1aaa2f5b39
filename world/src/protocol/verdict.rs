//! What the core says no to, with the figures compared, and how what it took in ended.

use super::{CancelReason, TimeLimit, Usage};
use crate::budget::Kind;
use crate::config::OverloadPolicy;
use crate::id::{DeviceId, TaskId};
use crate::time::Ticks;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// Why a worker was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerRefusal {
    /// The rules have no such pool.
    UnknownPool,
    /// `HealthRules::workers_max` is reached.
    TooMany,
    /// Its weights do not fit beside what stands on the device.
    NoMemory { needed: Bytes, free: Bytes },
    /// It has no slots.
    NoSlots,
    /// Its devices are none, too many, out of order, or their shares are not the whole.
    Devices,
    /// Its device is in quarantine.
    Quarantined { device: DeviceId },
}

/// Why a task was not admitted, with the figures compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No such model in the rules.
    UnknownModel,
    /// A live task has this id.
    DuplicateTask,
    /// Prompt and answer exceed every worker's context.
    ContextExceeded { tokens: u64, ctx_max: u32 },
    /// The deadline is nearer than the soonest start and the shortest run from there. Waiting helps where it is the
    /// queue that is in the way.
    DeadlineInfeasible { deadline: Ticks, needed: Ticks, retry_after: Option<Ticks> },
    /// The queue has stood too long, and the task would have to wait longer than the target.
    QueueDelayed { expected: Ticks, target: Ticks, retry_after: Ticks },
    /// A budget has less than the task may use at most.
    BudgetExhausted { of: Payer, kind: Kind, needed: u64, left: u64 },
    /// The tenant has or asks for as much as it may at a time.
    TenantLimited { limit: TenantLimit, bound: u64, retry_after: Ticks },
    /// The session takes no more turns.
    SessionOver { over: SessionOver },
    /// There are as many sessions as may be, and a turn of each waits or runs.
    SessionsFull { bound: u32, retry_after: Ticks },
    /// There is no place in the queue, and by `policy` nobody gives way.
    QueueFull { policy: OverloadPolicy, bound: u32, retry_after: Ticks },
    /// No worker of the model is up.
    PoolUnready { retry_after: Ticks },
    /// An operator has closed the pools of the model.
    PoolClosed { retry_after: Ticks },
    /// Workers of the model are up, and its client's placement allows none of them.
    NowhereAllowed { retry_after: Ticks },
}

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Payer {
    Tenant,
    Session,
}

/// What a tenant may not have more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TenantLimit {
    /// Tasks in a length of time.
    TaskRate,
    /// Tokens in a length of time.
    TokenRate,
    /// Tasks that wait.
    Queued,
    /// Tasks that wait or run.
    Live,
}

/// Why a session takes no more turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SessionOver {
    /// It has had this many.
    Turns(u32),
    /// Its time is over, and its last turn is not.
    Expired,
    /// Its client closed it, and its last turn is not over.
    Closed,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done(Usage),
    Cancelled { reason: CancelReason, tokens_out: u32 },
    Failed { failure: Failure, tokens_out: u32 },
}

/// Why a task failed after it was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Failure {
    DeadlinePassed,
    /// Its worker was lost after its first token, or too often before it.
    WorkerLost,
    /// The engine said that the request cannot run.
    InvalidInput,
    /// No worker is left that could run it.
    NoWorker,
    /// The queue was full, and by `policy` it gave its place to `by`.
    Displaced {
        policy: OverloadPolicy,
        by: TaskId,
        retry_after: Ticks,
    },
    /// An attempt took longer than the rules allow, and another was not to be had.
    TimedOut(TimeLimit),
    /// Two attempts made different tokens.
    Diverged,
}
