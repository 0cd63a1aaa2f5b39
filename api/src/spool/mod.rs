//! The spool: the words and results that the journal does not hold, for as long as they are needed.
//!
//! A second append log in the journal's folder, written in the same commit as the record of the step: the
//! words of a task before the record that admits it, its result before the record that ends it. What
//! happened is the journal's to say; the spool only keeps what goes with it. Tasks of the queue surface
//! alone stand in it: those of the OpenAI surface live with their connection.
//!
//! # Format 4
//! A file `spool`, mode 0600, begins with the eight bytes `ORSPOOL4`. Then frames up to its end: the marker
//! `ORSL`, the length of the body (u32, little endian), a CRC-32 of these eight bytes and the body, and the
//! body: postcard of [`Line`]. Bytes that are no valid frame are left out with a word. It is written anew at
//! each boot and when it has doubled, beside the old one, whose name it then takes.

mod frame;
mod load;
mod log;
mod thinning;

#[cfg(test)]
pub(crate) mod tests;

pub use load::{Found, load};
pub(crate) use log::Spool;

use crate::port::Dropped;
use crate::token_log::Answer;
use orchestrion_world::id::{TaskId, WorkerId};
use orchestrion_world::payload::{Bias, Grammar, Output, Sampling};
use orchestrion_world::protocol::{Class, Outcome};
use orchestrion_world::time::Ticks;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// A task was admitted.
    Wanted(Box<Wanted>),
    /// A task ended.
    Finished(Box<Finished>),
}

/// What a task's entry at the door is made of, whatever became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    pub task: TaskId,
    /// The digest of the request's body.
    pub body: [u8; 32],
    pub class: Class,
    pub fingerprint: String,
    pub seed: u64,
    pub prompt_tokens: u32,
    pub max_tokens: u32,
    pub logprobs: bool,
    pub dropped: Dropped,
    /// Of a task whose answer is numbers.
    pub part: Option<Part>,
    /// What the client was told when the task was admitted.
    pub position: u32,
    pub predicted_start: Ticks,
}

/// Which input of its client's task it is, and how the client is told of it. The model reads nothing of this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The task that the client knows, whose id the first input has.
    pub of: TaskId,
    pub index: u32,
    pub count: u32,
    pub model: String,
    pub form: Form,
    /// A document that is told with its score, as JSON.
    pub document: Option<String>,
}

/// What is made of inputs, in the form that the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// The first `dimensions` of each vector, scaled to length one again.
    Embedding { base64: bool, dimensions: Option<u32> },
    /// The best `top_n`, by how well they answer the query.
    Rerank { top_n: u32, raw_scores: bool },
}

impl Form {
    pub(crate) fn output(self) -> Output {
        match self {
            Form::Embedding { .. } => Output::Embedding,
            Form::Rerank { .. } => Output::Score,
        }
    }
}

/// An admitted task with its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub card: Card,
    pub prompt: Vec<u32>,
    pub stop: Vec<Box<str>>,
    pub sampling: Sampling,
    pub bias: Vec<Bias>,
    pub logprobs: Option<u8>,
    pub grammar: Option<Grammar>,
}

/// A task's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    pub card: Card,
    /// The worker that took it up.
    pub worker: Option<WorkerId>,
    pub outcome: Outcome,
    /// Attempts disagreed.
    pub broken: bool,
    /// Readers saw tokens that a crash took; the stream ends beyond all that it could have had.
    pub cut: bool,
    /// The entry's own: the pulse stages results, and an answer may be megabytes.
    #[serde(with = "shared")]
    pub answer: Arc<Answer>,
    /// Milliseconds since 1970 at its end.
    pub wall_ms: u64,
}

impl Line {
    pub(crate) fn task(&self) -> TaskId {
        match self {
            Line::Wanted(wanted) => wanted.card.task,
            Line::Finished(finished) => finished.card.task,
        }
    }
}

/// An answer in a frame is the answer, whoever else holds it.
mod shared {
    use super::{Answer, Arc, Deserialize, Serialize};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(answer: &Arc<Answer>, to: S) -> Result<S::Ok, S::Error> {
        answer.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Answer>, D::Error> {
        Answer::deserialize(from).map(Arc::new)
    }
}
