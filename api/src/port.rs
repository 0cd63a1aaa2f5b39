//! Where the door meets what it does not know: lanes into the pulse, and the ports that `tools` fills.
//!
//! The api never sees the execution layer. It asks [`Prepare`] to turn words into tokens and hands
//! orders to [`Stations`]; the binary connects both to gpu.

use orchestrion_systems::SessionView;
use orchestrion_systems::view::PoolView;
use orchestrion_world::budget::Left;
use orchestrion_world::id::{JobId, ModelId, PoolId, SessionId, TaskId};
use orchestrion_world::job::{Action, JobRefusal};
use orchestrion_world::payload::{Bias, CallForm, Grammar, Output, Payload, Sampling};
use orchestrion_world::prefix::PrefixKey;
use orchestrion_world::protocol::{CancelReason, Intent, Order, Refusal, Report};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Sha256;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A client's submission on its way to the pulse. The lane is bounded; full means 429 at the door.
#[derive(Debug)]
pub struct Envelope {
    pub intent: Intent,
    /// Answered once the step that took the intent stands in the journal.
    pub reply: oneshot::Sender<Verdict>,
}

/// What the core made of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted { position: u32, predicted_start: Ticks, left: Left },
    Refused(Refusal),
}

/// What travels in the priority lane: it is sized by slots and never dropped.
#[derive(Debug)]
pub enum Urgent {
    Report(Report),
    /// `reply` is answered once the cancel stands in the journal and the stream's gate is closed.
    Cancel {
        task: TaskId,
        reason: CancelReason,
        reply: Option<oneshot::Sender<()>>,
    },
    /// `reply` is answered once the end of the session stands in the journal.
    Close {
        session: SessionId,
        reply: oneshot::Sender<()>,
    },
    /// Changes nothing: it is answered from the state of the last step, and is in no journal.
    Look {
        session: SessionId,
        reply: oneshot::Sender<Option<SessionView>>,
    },
    /// `reply` is answered once the job stands in the journal, or with why it was not begun.
    Operate {
        job: JobId,
        pool: PoolId,
        action: Action,
        reply: oneshot::Sender<Result<(), JobRefusal>>,
    },
    /// How the pools are, between two steps.
    Pools {
        reply: oneshot::Sender<Vec<PoolView>>,
    },
}

/// Takes orders to the stations. Called on the pulse thread: must not block.
pub trait Stations: Send + Sync + 'static {
    /// `payload` comes with `Order::Start` and only with it.
    fn order(&self, order: Order, payload: Option<Payload>);
}

/// Turns a request's words into tokens. Called on a blocking pool.
pub trait Prepare: Send + Sync + 'static {
    /// The models clients may name, in `ModelId` order.
    fn models(&self) -> Vec<ModelCard>;
    /// How the model writes that it calls a tool; an error where it does not know how.
    fn call_form(&self, model: &str) -> Result<CallForm, PrepareError>;
    /// Renders the template and tokenises.
    fn prepare(&self, words: Words) -> Result<Prepared, PrepareError>;
}

/// What `GET /v1/models` and `GET /v1/capabilities` tell of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCard {
    pub name: String,
    /// Seconds since 1970 of the model file.
    pub created: u64,
    /// Workloads of tasks that it does; `None` before it was loaded once.
    pub workloads: Option<&'static [&'static str]>,
}

impl ModelCard {
    /// Whether it is known to answer prompts, or known not to.
    pub(crate) fn answers(&self) -> Option<bool> {
        self.workloads.map(|workloads| workloads.contains(&"completion"))
    }
}

/// A request's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub model: String,
    pub content: Content,
    /// Without one, what the context leaves, at most the server's default.
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub sampling: Sampling,
    pub bias: Vec<Bias>,
    pub logprobs: Option<u8>,
    pub shape: Option<Shape>,
    pub output: Output,
    /// Of an embedding, so many of its numbers are wanted.
    pub dimensions: Option<u32>,
    /// What the model may call, as OpenAI writes it.
    pub tools: Vec<Value>,
    /// What the answer begins with, as a part of the prompt.
    pub opening: &'static str,
    pub truncation: Truncation,
}

impl Words {
    /// That ask for nothing but `output`.
    pub fn new(model: String, content: Content, sampling: Sampling, output: Output) -> Words {
        Words {
            model,
            content,
            max_tokens: None,
            stop: Vec::new(),
            sampling,
            bias: Vec::new(),
            logprobs: None,
            shape: None,
            output,
            dimensions: None,
            tools: Vec::new(),
            opening: "",
            truncation: Truncation::Disabled,
        }
    }
}

/// What becomes of a prompt that the context has no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// It is refused.
    #[default]
    Disabled,
    /// Its oldest part is left out, and the answer says so: of a chat turns, of a prompt tokens. Of a document, its
    /// end.
    Auto,
}

/// What was left out of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub messages: u32,
    pub tokens: u32,
}

/// What the answer has to look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub grammar: Grammar,
    /// The request's field that asks for it.
    pub field: &'static str,
}

/// What the model is to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Taken as it stands.
    Prompt(String),
    /// Taken as they stand, and nothing put before them.
    Tokens(Vec<u32>),
    /// Rendered with the model's chat template.
    Messages(Vec<Message>),
    /// Read together, as the model was trained to tell how well the one answers the other.
    Pair { query: Arc<str>, document: String },
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub role: String,
    pub content: String,
    /// Other members that templates read: `tool_calls`, `tool_call_id`, `name`.
    pub more: Vec<(&'static str, Value)>,
}

impl Content {
    /// The request's field that holds it.
    pub fn field(&self) -> &'static str {
        match self {
            Content::Prompt(_) | Content::Tokens(_) => "prompt",
            Content::Messages(_) => "messages",
            Content::Pair { .. } => "documents",
        }
    }
}

/// A request as the core and the stations take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub model: ModelId,
    pub payload: Payload,
    pub prompt_digest: Sha256,
    /// Beginnings of the prompt that an engine may know, whoever asks.
    pub prefix: Box<[PrefixKey]>,
    /// Model digest, engine digest, numerics mode: what the tokens depend on besides the request.
    pub fingerprint: String,
    pub dropped: Dropped,
}

/// Why a request could not be turned into tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    #[error("there is no model `{asked}` here; this server has {known}")]
    UnknownModel { asked: String, known: String },
    #[error("the model `{model}` is not loaded yet; try again in a moment")]
    NotLoaded { model: String },
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    /// More than the model reads at once.
    #[error("{field}: {problem}")]
    TooLong { field: &'static str, problem: String },
}

/// Says why a task went where it went. Called on a blocking pool, one at a time.
pub trait Explain: Send + Sync + 'static {
    /// The decisions about an input of the task, counted from 0, re-executed from the journal, as JSON text. What is no
    /// task of inputs is its own first.
    fn explain(&self, task: TaskId, input: u32) -> Result<String, ExplainError>;
}

/// Why a task could not be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    #[error("the journal holds no decision about this task")]
    Unknown,
    /// It has no input of this number, in words.
    #[error("{0}")]
    NoInput(String),
    #[error("the journal could not be re-executed: {0}")]
    Failed(String),
}
