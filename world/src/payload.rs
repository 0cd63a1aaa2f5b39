//! What rides beside the protocol: the prompt and how to sample from it.
//!
//! A payload goes from the door to the station that runs the task. It never enters the World and is
//! never journalled: the core decides by counts and digests, and nobody's words stand in its record.

use crate::protocol::Class;
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
    /// Added to the logits of single tokens before all else; each token stands once.
    pub bias: Arc<[Bias]>,
    /// Whether likelihoods are wanted, and then of how many rivals of each token.
    pub logprobs: Option<u8>,
    /// What the answer has to match; generation ends where nothing more can match.
    pub grammar: Option<Arc<Grammar>>,
    /// At most this many tokens are generated.
    pub max_tokens: u32,
    /// Who goes first where an engine has to choose.
    pub class: Class,
    /// Prompts of the same salt share what was computed for a common beginning; without one, with nobody.
    pub salt: Option<u64>,
    pub output: Output,
}

/// What is made of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Its continuation.
    Text,
    /// One vector for the whole of it: one token without text, which carries the vector.
    Embedding,
    /// How well the second of two texts answers the first: one token without text, whose vector has the score as the
    /// model gives it, and as a share of one.
    Score,
}

/// The shape of an answer, as its request wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grammar {
    /// JSON that a JSON Schema allows; its text.
    JsonSchema(Box<str>),
    /// A regular expression in the `regex` crate's syntax, for the whole answer.
    Regex(Box<str>),
    /// A context-free grammar in the Lark syntax of llguidance.
    Lark(Box<str>),
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

/// What is added to the logit of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bias {
    pub token: u32,
    /// Thousandths, as in [`Sampling`].
    pub by: i32,
}

/// How a model writes that it calls a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallForm {
    /// Stands before a call; empty where the call alone tells.
    pub opens: &'static str,
    /// Stands behind it; empty where a call goes on to the end of the answer.
    pub closes: &'static str,
    /// The member of a call, beside its `name`, that holds what the tool is given.
    pub arguments: &'static str,
    /// Calls stand in a list.
    pub in_list: bool,
}

/// A token of an answer on its way from the station to the readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// Counts from 0 within the task.
    pub index: u32,
    pub id: u32,
    /// Whole characters; empty where they are held back, and for the end token, which is no text.
    pub text: &'a str,
    /// Where the task wants it; the end token has none.
    pub likelihood: Option<Likelihood>,
    /// Where the task's output is no text: its numbers, as the bits of f32.
    pub vector: Option<Box<[u32]>>,
}

/// How likely the model held a token of the answer, before bias, penalty, temperature and cuts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Likelihood {
    /// The token that was drawn.
    pub drawn: Likely,
    /// The likeliest, likeliest first; the token drawn may be among them.
    pub top: Vec<Likely>,
}

/// A token and the logarithm of its probability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Likely {
    /// What the token stands for: perhaps a part of a character.
    pub bytes: Box<[u8]>,
    /// Natural logarithm, in millionths: at most 0.
    pub micro_logprob: i32,
}
