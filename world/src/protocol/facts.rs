//! What workers are and what models take, as stations measured it.

use crate::id::{DeviceId, ModelId, PoolId};
use crate::units::{Bytes, MilliRate, Permille, Sha256};
use serde::{Deserialize, Serialize};

/// What a worker is, as it announces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    pub pool: PoolId,
    /// What it spans, by id, each with its share of every model and context; the shares are the whole.
    pub devices: Vec<DeviceShare>,
    /// Tasks at a time, of all its models together.
    pub slots: u16,
    /// The model that it came with loaded. Where it begins by itself that may be another than its pool's.
    pub came_with: Option<(ModelId, ModelFacts)>,
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
    /// Prompt and answer together; what is made of an input that is not answered counts as one token.
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
