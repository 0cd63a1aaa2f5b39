//! `POST /v1/tasks`: a task that outlives its connection. 202 once its admission stands in the journal.
//!
//! The same `task_id` with the same body is the same task: a client that lost the answer asks again.

use super::fields::{Fields, Unsupported, dropped, is_false, is_nothing};
use super::keeper::Caller;
use super::session::session_id;
use super::shape::shape;
use super::tools::tools;
use super::vectors::Source;
use super::{body, budget, deadline, embeddings, logprobs, openai, placement, rerank};
use crate::door::{Admitted, Door, Ticket, Wish, short_digest};
use crate::port::{Content, Words};
use crate::problem::{ErrorCode, Problem};
use crate::task_entry::Surface;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use orchestrion_world::id::{TaskId, TenantId};
use orchestrion_world::payload::Output;
use orchestrion_world::protocol::{Class, Determinism};
use serde_json::json;
use std::sync::Arc;

/// A week: longer deadlines are none.
const DEADLINE_MOST_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// Each is a task of the scheduler and takes a place in the queue.
const INPUTS: Source = Source { field: "inputs", most: 128 };

/// In no task.
const UNSUPPORTED: [Unsupported; 7] = [
    Unsupported { name: "engine", harmless: |_| false, problem: "engines cannot be chosen; leave it out" },
    Unsupported {
        name: "n",
        harmless: |v| *v == 1,
        problem: "a task has one answer; send another for each further one",
    },
    Unsupported { name: "best_of", harmless: |v| *v == 1, problem: "only 1 is supported" },
    Unsupported {
        name: "stream",
        harmless: is_false,
        problem: "every task has a stream, which is `GET /v1/tasks/{id}/stream`; leave it out",
    },
    Unsupported { name: "max_completion_tokens", harmless: |_| false, problem: "is `max_tokens` here" },
    Unsupported { name: "stream_options", harmless: is_nothing, problem: "is for the routes that answer at once" },
    Unsupported {
        name: "parallel_tool_calls",
        harmless: |v| *v == true,
        problem: "an answer stands here as the model wrote it, with all its calls; read its first",
    },
];

const NUMBERS_ONLY: [&str; 8] =
    ["inputs", "query", "dimensions", "encoding_format", "truncate", "top_n", "raw_scores", "return_documents"];

const TEXT_ONLY: [&str; 21] = [
    "prompt",
    "messages",
    "max_tokens",
    "stop",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "tools",
    "tool_choice",
];

const fn of_numbers(name: &'static str) -> Unsupported {
    Unsupported { name, harmless: is_nothing, problem: "is for the workloads `embedding` and `rerank`" }
}

const fn of_text(name: &'static str) -> Unsupported {
    Unsupported { name, harmless: is_nothing, problem: "is for the workload `completion`" }
}

pub(crate) async fn submit(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let (fields, taken) = body::take(&door, &headers, content, door.config.limits.task_body_bytes).await?;
    let Admitted { entry, position, predicted_start, left, .. } =
        admit(&door, fields, &headers, taken.digest(), caller.tenant)
            .await
            .map_err(|problem| problem.renamed("model", "model_ref"))?;
    let id = entry.task.to_string();
    let answer = json!({
        "task_id": id,
        "queue_position": position,
        "predicted_start_ms": predicted_start.0,
        "backoff_ms": 0,
        "seed": entry.seed,
        "inputs": entry.part.as_ref().map(|part| part.count),
        "truncation": dropped(entry.dropped),
        "streams": {"sse": format!("/v1/tasks/{id}/stream")},
    });
    let location = [(header::LOCATION, format!("/v1/tasks/{id}"))];
    Ok((StatusCode::ACCEPTED, location, budget::headers(&left), Json(answer)).into_response())
}

async fn admit(
    door: &Arc<Door>,
    mut fields: Fields,
    headers: &HeaderMap,
    body: [u8; 32],
    tenant: TenantId,
) -> Result<Admitted, Problem> {
    let ticket = ticket(door, &mut fields, headers, body, tenant)?;
    let model = model_ref(fields.string("model_ref")?)?;
    fields.unsupported(&UNSUPPORTED)?;
    fields.unsupported(&openai::UNSUPPORTED)?;
    let ctx = fields.small("ctx", 1..=u32::MAX)?;
    let read = match fields.string("workload")?.as_deref() {
        None | Some("completion") => {
            let words = completion(door, &mut fields, model, ticket.task)?;
            return door.admit(tenant, Wish { ticket, ctx, words }).await;
        }
        Some("embedding") => embeddings::read,
        Some("rerank") => rerank::read,
        Some(_) => return Err(Problem::invalid("workload", "must be `completion`, `embedding` or `rerank`")),
    };
    fields.unsupported(&TEXT_ONLY.map(of_text))?;
    if ticket.session.is_some() {
        return Err(Problem::invalid("session_id", "is for the workload `completion`"));
    }
    // As many as may be on their way at a time, and in the queue.
    let most = INPUTS.most.min(door.parts.lanes.client.capacity().unwrap_or(usize::MAX)).min(door.places(ticket.class));
    let request = read(&mut fields, model, Source { most, ..INPUTS })?;
    let place = request.place;
    let wishes = request.wishes(&ticket, ctx)?;
    door.admit_parts(tenant, wishes).await.map_err(|(index, problem)| place.of(index, problem))
}

/// Whose the task is, and what the core is to know of it.
fn ticket(
    door: &Door,
    fields: &mut Fields,
    headers: &HeaderMap,
    body: [u8; 32],
    tenant: TenantId,
) -> Result<Ticket, Problem> {
    let task = match fields.string("task_id")? {
        None => TaskId(uuid::Uuid::now_v7().as_u128()),
        Some(text) => uuid::Uuid::parse_str(&text)
            .map(|id| TaskId(id.as_u128()))
            .map_err(|_| Problem::invalid("task_id", "must be a UUID"))?,
    };
    let class = match fields.string("priority")?.as_deref() {
        None | Some("interactive") => Class::Interactive,
        Some("batch") => Class::Batch,
        Some(_) => return Err(Problem::invalid("priority", "must be `interactive` or `batch`")),
    };
    let determinism = match fields.string("determinism")?.as_deref() {
        None | Some("best_effort") => Determinism::BestEffort,
        Some("strict") => Determinism::Strict,
        Some(_) => return Err(Problem::invalid("determinism", "must be `strict` or `best_effort`")),
    };
    let relative = fields.integer("deadline_ms", 1..=DEADLINE_MOST_MS)?;
    let deadline = deadline::left(headers, relative, deadline::wall_ms(), door.config.deadline_margin_ms)?;
    let session = fields.string("session_id")?.map(|name| session_id(tenant, &name)).transpose()?;
    let placement = placement::placement(fields, door.parts.telemetry.pools())?;
    let (surface, part) = (Surface::Queue, None);
    Ok(Ticket { task, body, surface, class, session, deadline, determinism, placement, part })
}

fn completion(door: &Door, fields: &mut Fields, model: String, task: TaskId) -> Result<Words, Problem> {
    fields.unsupported(&NUMBERS_ONLY.map(of_numbers))?;
    let content = match (fields.string("prompt")?, fields.messages()?) {
        (Some(prompt), None) => Content::Prompt(prompt),
        (None, Some(messages)) => messages,
        (Some(_), Some(_)) => return Err(Problem::invalid("prompt", "give either `prompt` or `messages`, not both")),
        (None, None) => return Err(Problem::invalid("prompt", "a `prompt` or `messages` is needed")),
    };
    let tools = tools(fields)?;
    let sampling = fields.sampling(seed_of(task))?;
    let mut words = Words {
        max_tokens: fields.small("max_tokens", 1..=u32::MAX)?,
        stop: fields.stop()?,
        bias: logprobs::bias(fields)?,
        logprobs: logprobs::of_chat(fields)?,
        shape: shape(fields)?,
        truncation: fields.truncation()?,
        ..Words::new(model, content, sampling, Output::Text)
    };
    // This surface gives an answer as the model writes it, its calls too.
    tools.map(|tools| tools.offer(&*door.parts.prepare, &mut words)).transpose()?;
    Ok(words)
}

/// Nothing is fetched on request yet, so a ref that names a place is refused at once, never a hang.
fn model_ref(given: Option<String>) -> Result<String, Problem> {
    let Some(name) = given else { return Err(Problem::invalid("model_ref", "is needed; see `GET /v1/models`")) };
    if ["file:", "/", "hf:", "https://", "s3://", "oci://"].iter().any(|scheme| name.starts_with(scheme)) {
        let message =
            "this model is not present and the server does not fetch on request; name one of `GET /v1/models`";
        return Err(Problem::new(ErrorCode::PoolUnready, message));
    }
    Ok(name)
}

/// The seed of a request that names none: derived, so that the answer can be asked for again.
pub(crate) fn seed_of(task: TaskId) -> u64 {
    short_digest(&task.0.to_be_bytes())
}
