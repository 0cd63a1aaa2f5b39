//! What the two completion routes of the OpenAI surface share: the fields both know, and the answer, plain
//! or streamed, of one choice or of several.
//!
//! The tasks live with their connection: whoever leaves, cancels. Unknown fields are ignored, known ones
//! with values this server cannot honour are refused with their name, never answered differently.

use super::calls::{Call, Calls};
use super::choice_frames::{ChoiceFrames, Joint};
use super::deadline;
use super::fields::{Fields, Unsupported, dropped, is_empty, is_false, is_zero};
use super::keeper::Caller;
use super::logprobs;
use super::shape::shape;
use super::task_submit::seed_of;
use super::tools::Tools;
use super::{body, budget};
use crate::door::{Admitted, Door, Ticket, Wish};
use crate::port::{Content, Dropped, Words};
use crate::problem::Problem;
use crate::sse::{EventBody, Order, finish_reason, result};
use crate::task_entry::{Frames, Reader};
use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use orchestrion_world::id::TaskId;
use orchestrion_world::payload::{Likelihood, Output};
use orchestrion_world::protocol::{Class, Finish, Outcome, Usage};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Every choice takes a slot or a place in the queue: this many of a prompt, that many in all.
const CHOICES_MOST: u32 = 8;
const ALL_CHOICES_MOST: u32 = 64;

/// On no route, nor in a task.
pub(super) const UNSUPPORTED: [Unsupported; 9] = [
    Unsupported { name: "presence_penalty", harmless: is_zero, problem: "only 0 is supported" },
    Unsupported { name: "frequency_penalty", harmless: is_zero, problem: "only 0 is supported" },
    Unsupported { name: "echo", harmless: is_false, problem: "the prompt is not repeated in the answer" },
    Unsupported { name: "suffix", harmless: |v| v == "", problem: "text after the answer is not supported" },
    Unsupported { name: "best_of", harmless: |v| *v == 1, problem: "only 1 is supported; `n` gives several answers" },
    Unsupported { name: "functions", harmless: is_empty, problem: "functions are not supported; send `tools`" },
    Unsupported { name: "audio", harmless: |_| false, problem: "audio is not supported" },
    Unsupported { name: "prediction", harmless: |_| false, problem: "predicted outputs are not supported" },
    Unsupported { name: "modalities", harmless: |v| *v == json!(["text"]), problem: "only [\"text\"] is supported" },
];

/// What a task of the queue may say, and a request whose client waits may not.
pub(super) const OF_TASKS: [Unsupported; 7] = [
    Unsupported {
        name: "deadline_ms",
        harmless: |_| false,
        problem: "is for `POST /v1/tasks`; here the header `X-Deadline` says it",
    },
    // 0 is what vLLM's and Cohere's clients send.
    of_tasks("priority", |v| is_zero(v) || v == "interactive"),
    of_tasks("determinism", |v| v == "best_effort"),
    of_tasks("placement", is_empty),
    of_tasks("session_id", |_| false),
    of_tasks("task_id", |_| false),
    of_tasks("ctx", |_| false),
];

const fn of_tasks(name: &'static str, harmless: fn(&Value) -> bool) -> Unsupported {
    Unsupported { name, harmless, problem: "is for `POST /v1/tasks`; leave it out here" }
}

/// Which of the two shapes an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Text,
}

/// How the client wants its answer.
#[derive(Debug)]
pub(crate) struct Form {
    kind: Kind,
    model: String,
    /// Choices of each prompt, and of all.
    each: u32,
    choices: u32,
    stream: bool,
    include_usage: bool,
    tools: Option<Tools>,
}

/// Tokens of all choices; a prompt counts once, with its first choice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    tokens_in: u64,
    tokens_cached: u64,
    tokens_out: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, used: &Usage, is_first: bool) {
        if is_first {
            self.tokens_in += u64::from(used.tokens_in);
            self.tokens_cached += u64::from(used.tokens_cached);
        }
        self.tokens_out += u64::from(used.tokens_out);
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.tokens_in,
            "completion_tokens": self.tokens_out,
            "total_tokens": self.tokens_in + self.tokens_out,
            "prompt_tokens_details": {"cached_tokens": self.tokens_cached},
            "completion_tokens_details": {"reasoning_tokens": 0},
        })
    }
}

impl Kind {
    fn id(self, task: TaskId) -> String {
        match self {
            Kind::Chat => format!("chatcmpl-{task}"),
            Kind::Text => format!("cmpl-{task}"),
        }
    }

    fn object(self, stream: bool) -> &'static str {
        match (self, stream) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Text, _) => "text_completion",
        }
    }

    fn choice(self, index: usize, (text, calls): (&str, Vec<Value>), logprobs: Value, reason: &str) -> Value {
        match self {
            Kind::Chat => {
                let mut message = json!({"role": "assistant", "content": text, "refusal": null});
                if !calls.is_empty() {
                    if text.trim().is_empty() {
                        message["content"] = Value::Null;
                    }
                    message["tool_calls"] = calls.into();
                }
                json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
            }
            Kind::Text => json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}),
        }
    }

    /// Those of a choice, or of a part of it whose tokens begin at `offset`.
    pub(crate) fn logprobs(self, likelihoods: &[Likelihood], offset: &mut usize) -> Value {
        match self {
            Kind::Chat => logprobs::chat(likelihoods),
            Kind::Text => logprobs::text(likelihoods, offset),
        }
    }
}

/// The name of the model that is asked for.
pub(crate) fn model(fields: &mut Fields) -> Result<String, Problem> {
    fields.string("model")?.ok_or_else(|| Problem::invalid("model", "is needed; see `GET /v1/models`"))
}

/// What each route reads in its own way.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) model: String,
    /// At least one.
    pub(crate) contents: Vec<Content>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) logprobs: Option<u8>,
    pub(crate) tools: Option<Tools>,
}

/// The fields that both routes know, once each has taken its own.
pub(crate) fn read(
    mut fields: Fields,
    kind: Kind,
    Asked { model, contents, max_tokens, logprobs, tools }: Asked,
    headers: &HeaderMap,
    margin_ms: u64,
) -> Result<(Vec<Wish>, Form), Problem> {
    fields.unsupported(&OF_TASKS)?;
    fields.unsupported(&UNSUPPORTED)?;
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let include_usage = match fields.take("stream_options") {
        None => false,
        Some(_) if !stream => return Err(Problem::invalid("stream_options", "is only for `stream: true`")),
        Some(Value::Object(options)) => Fields(options)
            .boolean("include_usage")
            .map_err(|problem| problem.renamed("include_usage", "stream_options.include_usage"))?
            .unwrap_or(false),
        Some(_) => return Err(Problem::invalid("stream_options", "must be an object")),
    };
    let each = fields.small("n", 1..=CHOICES_MOST)?.unwrap_or(1);
    let choices = each * contents.len() as u32;
    if choices > ALL_CHOICES_MOST {
        let problem = format!("comes to {choices} answers with these prompts; {ALL_CHOICES_MOST} are the most");
        return Err(Problem::invalid("n", problem));
    }
    let ticket = Ticket::of_connection(deadline::left(headers, None, deadline::wall_ms(), margin_ms)?);
    let (stop, sampling) = (fields.stop()?, fields.sampling(seed_of(ticket.task))?);
    let (bias, shape, truncation) = (logprobs::bias(&mut fields)?, shape(&mut fields)?, fields.truncation()?);
    let words = |content| {
        let (stop, bias, shape) = (stop.clone(), bias.clone(), shape.clone());
        let bare = Words::new(model.clone(), content, sampling, Output::Text);
        Words { max_tokens, stop, bias, logprobs, shape, truncation, ..bare }
    };
    let wishes =
        contents.into_iter().map(|content| Wish { ticket: ticket.clone(), ctx: None, words: words(content) }).collect();
    Ok((wishes, Form { kind, model, each, choices, stream, include_usage, tools }))
}

/// How a route reads its own fields; the number is the margin taken off a deadline, in milliseconds.
type ReadFields = fn(Fields, &HeaderMap, u64) -> Result<(Vec<Wish>, Form), Problem>;

/// A route's whole way, given how it reads its own fields.
pub(crate) async fn complete(
    door: &Arc<Door>,
    Extension(caller): Extension<Caller>,
    headers: &HeaderMap,
    content: Body,
    read: ReadFields,
) -> Result<Response, Problem> {
    let (fields, taken) = body::take(door, headers, content, door.config.limits.body_bytes).await?;
    let (mut wishes, form) = read(fields, headers, door.config.deadline_margin_ms)?;
    let places = door.places(Class::Interactive);
    if form.choices as usize > places {
        let field = if form.each > 1 { "n" } else { "prompt" };
        let problem = format!("comes to {} answers, and the queue has {places} places for them", form.choices);
        return Err(Problem::invalid(field, problem + " (`queue.interactive_max`); ask for fewer at a time"));
    }
    let mut calls = None;
    if let Some(tools) = &form.tools {
        for wish in &mut wishes {
            calls = Some(tools.offer(&*door.parts.prepare, &mut wish.words)?);
        }
    }
    let admitted = door.admit_choices(caller.tenant, wishes, form.each).await.map_err(|(_, problem)| problem)?;
    let left = admitted.last().map(|last| last.left).unwrap_or_default();
    // The answer takes its time and needs neither.
    drop(taken);
    let mut answer = answer(door, admitted, form, calls).await?;
    answer.headers_mut().extend(budget::headers(&left));
    Ok(answer)
}

/// Writes the answer of the tasks that were admitted.
async fn answer(
    door: &Arc<Door>,
    admitted: Vec<Admitted>,
    form: Form,
    calls: Option<Calls>,
) -> Result<Response, Problem> {
    let Some(first) = admitted.first() else { return Err(Problem::no_task()) };
    let fingerprint = Arc::clone(&first.entry.fingerprint);
    let id = form.kind.id(first.entry.task);
    let mut frame = json!({
        "id": id,
        "object": form.kind.object(form.stream),
        "created": deadline::wall_ms() / 1_000,
        "model": form.model,
        "system_fingerprint": &*fingerprint,
    });
    // Of several prompts, what was left out of all of them; a prompt's choices have the same.
    let prompts = admitted.iter().step_by(form.each as usize).map(|admitted| admitted.entry.dropped);
    let sum = |a: Dropped, b: Dropped| Dropped { messages: a.messages + b.messages, tokens: a.tokens + b.tokens };
    let left_out = prompts.fold(Dropped::default(), sum);
    if left_out != Dropped::default() {
        frame["truncation"] = dropped(left_out);
    }
    if form.stream {
        let joint = Joint::new(form.kind, frame, (form.each, form.choices), form.include_usage, calls);
        let (mut readers, mut tethers) = (Vec::new(), Vec::new());
        for (index, admitted) in (0u32..).zip(admitted) {
            let frames: Box<dyn Frames> = Box::new(ChoiceFrames::new(&joint, index));
            readers.push((Reader::new(&admitted.entry, None), frames));
            tethers.extend(admitted.tether);
        }
        let heartbeat = Duration::from_millis(door.config.heartbeat_ms);
        return Ok(EventBody::new(Order::AsTheyCome, readers, heartbeat, tethers).into_response());
    }
    let (mut choices, mut tally) = (Vec::new(), Tally::default());
    for (index, admitted) in admitted.iter().enumerate() {
        let ending = admitted.entry.finished().await;
        result(&ending)?;
        let Outcome::Done(used) = ending.outcome else { return Err(Problem::no_task()) };
        let answer = admitted.entry.answer().unwrap_or_default();
        let logprobs = match admitted.entry.logprobs {
            true => form.kind.logprobs(&answer.likelihoods, &mut 0),
            false => Value::Null,
        };
        let (text, made) = match &calls {
            Some(calls) => calls.split(&answer.text),
            None => (answer.text.clone(), Vec::new()),
        };
        let reason = reason(used.finish, !made.is_empty());
        let made = (0u32..).zip(made).map(|(i, call): (u32, Call)| call.json(&id, index as u32, i)).collect();
        choices.push(form.kind.choice(index, (&text, made), logprobs, reason));
        tally.add(&used, index % form.each as usize == 0);
    }
    frame["choices"] = choices.into();
    frame["usage"] = tally.json();
    Ok(Json(frame).into_response())
}

/// Why a choice ended, as OpenAI says it.
pub(crate) fn reason(finish: Finish, has_calls: bool) -> &'static str {
    match (finish, has_calls) {
        (Finish::Stop, true) => "tool_calls",
        (Finish::Stop | Finish::Length | Finish::Cancelled, _) => finish_reason(finish),
    }
}
