//! The four nouns. Everything that enters the clockwork is an [`Input`] (an [`Intent`] of a client or
//! a [`Report`] of a station), everything that leaves it an [`Effect`] (an [`Order`] for a station or
//! a [`Notice`] for a client). Plain data, journalled as it stands: a variant here is a format.
//!
//! Tokens do not pass: stations write them to the task's token log, the core hears how many there were
//! and alone says how a task ended.

mod verdict;

use crate::budget::Left;
use crate::config::Rules;
use crate::health::{Breaker, Loss};
use crate::id::{Attempt, DeviceId, Epoch, JobId, ModelId, PoolId, SessionId, TaskId, TenantId, WorkerId};
use crate::job::{Action, Job, JobRefusal};
use crate::placement::Placement;
use crate::time::{Tick, Ticks};
use crate::units::{Bytes, MilliRate, Permille, Sha256};
use serde::{Deserialize, Serialize};
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

/// What the core needs to know of a task; the words stay outside (see `payload`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub model: ModelId,
    pub class: Class,
    /// Whose share, limits and budgets it goes by.
    pub tenant: TenantId,
    pub session: Option<SessionId>,
    /// Counted by the model's own tokenizer at the door.
    pub prompt_tokens: u32,
    /// SHA-256 of the prompt's token ids, little endian.
    pub prompt_digest: Sha256,
    pub max_tokens: u32,
    /// From the step that admits it; the door turns absolute times into lengths.
    pub deadline: Option<Ticks>,
    /// Answers can be produced again from model, prompt, seed and parameters.
    pub seed: u64,
    pub determinism: Determinism,
    /// Where its client wants it, if it says.
    pub placement: Option<Box<Placement>>,
}

/// What an attempt owes to what readers of an earlier one were shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Determinism {
    /// The task is run again only while nobody was shown a token.
    #[default]
    BestEffort,
    /// It may be run again after that, on a worker of the same fingerprint: what was shown is made again,
    /// compared and not sent again.
    Strict,
}

/// Which of the two queues of a model a task waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Somebody is waiting: served first.
    Interactive,
    /// Nobody is: served when no interactive task could start.
    Batch,
}

/// Why a task was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CancelReason {
    /// The client asked.
    Client,
    /// The client's connection closed.
    Disconnect,
    /// Nobody read the stream for its grace.
    Abandoned,
    /// The server is going down.
    Shutdown,
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
        facts: ModelFacts,
    },
    /// A `LoadShard` or `FreeShard` came to nothing.
    ShardFailed {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
        fault: ShardFault,
    },
    /// What a model took of the worker's memory is free.
    ShardFreed {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
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
}

/// Why a model could not be loaded or freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ShardFault {
    /// The worker serves the model it came with and no other.
    Fixed,
    /// The bytes that arrived are not those of the model: they are never served from.
    Corrupt,
    /// Another try may work.
    Transient,
}

/// What a worker is, as it announces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    pub pool: PoolId,
    /// What it spans, by id, each with its share of every model and context; the shares are the whole.
    pub devices: Vec<DeviceShare>,
    /// Tasks at a time, of all its models together.
    pub slots: u16,
    /// Of the pool's model, where the worker came with it loaded.
    pub came_with: Option<ModelFacts>,
    /// What it can load on order; none where it serves the model it came with and no other.
    pub loader: Option<Loader>,
}

/// A device, as one worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceShare {
    pub device: DeviceId,
    /// Memory of the device that workers may use.
    pub capacity: Bytes,
    pub share: Permille,
}

/// A model as it stands on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// SHA-256 of the model file.
    pub digest: Sha256,
    /// Of all that its tokens depend on besides the request: model file, engine and numerics.
    pub fingerprint: Sha256,
    /// What the model's weights take, on all devices together.
    pub weights: Bytes,
    /// What one token of context takes while its task runs.
    pub kv_per_token: Bytes,
    /// Prompt and answer together.
    pub ctx_max: u32,
    /// Tokens of all its tasks together, measured when the model was loaded; the core learns better ones.
    pub prefill: MilliRate,
    pub decode: MilliRate,
}

/// What a worker can load, and how fast it would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loader {
    /// Bytes that it loads in a second.
    pub load: Bytes,
    /// Bytes of weights that it goes through in a second for prompts and for answers: each token takes them all.
    pub prompt: Bytes,
    pub answer: Bytes,
    /// Of its least able device, in tenths: 86 is 8.6.
    pub compute: u16,
    /// Sorted: quantizations, architectures and features that its engine has.
    pub abilities: Vec<String>,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub finish: Finish,
    pub tokens_in: u32,
    pub tokens_out: u32,
    /// Microseconds from its first to its last prompt token.
    pub prefill_us: u64,
    /// Microseconds from its first to its last answer token.
    pub decode_us: u64,
}

/// Why generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Finish {
    /// The model's end token or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// An `Order::Cancel` reached it.
    Cancelled,
}

/// What kind of fault it was, which decides what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FaultClass {
    /// Another try may work.
    Transient,
    /// The request itself cannot run: no try will.
    InvalidInput,
    /// The worker is broken.
    Fatal,
    /// The worker had no room for it, and nothing is wrong with either.
    Retryable,
    /// It made other tokens than readers were shown by an earlier attempt: the worker is not to be trusted.
    Diverged,
}

/// Which of an attempt's times was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TimeLimit {
    FirstToken,
    Idle,
    Wall,
}

/// What befell an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Setback {
    WorkerLost,
    Fault(FaultClass),
    TimedOut(TimeLimit),
}

/// What leaves a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    Order(Order),
    Notice(Notice),
}

/// What a station is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    Start {
        worker: WorkerId,
        epoch: Epoch,
        task: TaskId,
        attempt: Attempt,
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
        expects: ModelFacts,
    },
    /// Let the model's memory go. Answered by one `ShardFreed` or `ShardFailed`.
    FreeShard {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
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
            | Order::Probe { worker, .. }
            | Order::SpawnWorker { worker, .. }
            | Order::StopWorker { worker, .. } => worker,
        }
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
    /// New rules are out of bounds, or name other models or pools, or other facts of them, than the journal began with: they
    /// were not taken.
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

/// What happens to a model on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardChange {
    /// It is loaded, which is expected to take this long.
    Loading {
        takes: Ticks,
    },
    /// It serves.
    Loaded,
    /// It could not be loaded or freed.
    Failed {
        fault: ShardFault,
    },
    /// It takes no more tasks, to make way.
    Yielding {
        to: ModelId,
    },
    /// Nobody wants its place any more: it serves again.
    Stays,
    Evicting {
        reason: EvictionReason,
    },
    /// Its memory is free.
    Gone,
}

/// Why a model is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EvictionReason {
    /// Another needs its memory.
    Demand { by: ModelId },
    /// Its device is fuller than the rules like.
    Pressure,
    /// Its bytes are not those of the model.
    Corrupt,
}

/// Whom a line takes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AdmissionMode {
    /// All for whom there is a place.
    #[default]
    Open,
    /// Who would not wait longer than the target.
    Held,
}
