//! What is submitted, and how a line takes it in.

use crate::id::{ModelId, SessionId, TenantId};
use crate::placement::Placement;
use crate::prefix::{PREFIXES_OF_TASK, PrefixId, PrefixKey};
use crate::time::Ticks;
use crate::units::Sha256;
use serde::{Deserialize, Serialize};

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
    /// Beginnings of the prompt that a worker may know: see [`crate::prefix`].
    pub prefix: Box<[PrefixKey]>,
    pub max_tokens: u32,
    /// From the step that admits it; the door turns absolute times into lengths.
    pub deadline: Option<Ticks>,
    /// Answers can be produced again from model, prompt, seed and parameters.
    pub seed: u64,
    pub determinism: Determinism,
    /// Where its client wants it, if it says.
    pub placement: Option<Box<Placement>>,
}

impl TaskSpec {
    /// The context it takes at its longest, in tokens.
    pub fn tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.max_tokens)
    }

    /// The beginnings of its prompt, the shortest first, as they may be known.
    pub fn beginnings(&self) -> impl DoubleEndedIterator<Item = PrefixId> + ExactSizeIterator {
        let (model, tenant) = (self.model, self.tenant);
        let keys = &self.prefix[..self.prefix.len().min(PREFIXES_OF_TASK)];
        keys.iter().map(move |&prefix| PrefixId { model, tenant, prefix })
    }
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

/// Whom a line takes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AdmissionMode {
    /// All for whom there is a place.
    #[default]
    Open,
    /// Who would not wait longer than the target.
    Held,
}
