//! What becomes of a model on a worker.

use crate::id::ModelId;
use crate::time::Ticks;
use serde::{Deserialize, Serialize};

/// Why a model could not be loaded or freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ShardFault {
    /// The worker serves the model it came with and no other.
    Fixed,
    /// The bytes that arrived are not those of the model: they are never served from.
    Corrupt,
    /// Another try may work.
    Transient,
    /// There is no file of it, or none that can be read.
    Missing,
    /// The machine has no room for it.
    NoMemory,
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
