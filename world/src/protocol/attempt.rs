//! How an attempt went, and what befell it.

use serde::{Deserialize, Serialize};

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub finish: Finish,
    pub tokens_in: u32,
    /// Of those, known from an earlier request that began alike, so that they were not computed.
    pub tokens_cached: u32,
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
