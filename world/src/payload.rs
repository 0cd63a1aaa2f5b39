//! What rides beside the protocol: the prompt and how to sample from it.
//!
//! A payload goes from the door to the station that runs the task. It never enters the World and is
//! never journalled: the core decides by counts and digests, and nobody's words stand in its record.

use crate::units::Permille;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One task's content, shared, never copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Token ids, special tokens included, in the order the model reads them.
    pub prompt: Arc<[u32]>,
    /// Generation ends before the first of these would appear in the text.
    pub stop: Arc<[Box<str>]>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// At most this many tokens are generated.
    pub max_tokens: u32,
}

/// How tokens are drawn. Thousandths, so that a request reads the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    /// Keys the counter-based generator together with the position.
    pub seed: u64,
    /// 0 takes the most likely token, ties to the lowest id.
    pub temperature: Permille,
    /// Only the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Only the smallest set of tokens whose probability reaches this; 1000 keeps all.
    pub top_p: Permille,
    /// Only tokens at least this likely, relative to the most likely one; 0 keeps all.
    pub min_p: Permille,
    /// Divides positive and multiplies negative logits of tokens already seen; 1000 is off.
    pub repetition_penalty: Permille,
}
