//! `POST /v1/tasks`: a task that outlives its connection. 202 once its admission stands in the journal.
//!
//! The same `task_id` with the same body is the same task: a client that lost the answer asks again.

use super::fields::{Fields, Unsupported, dropped, is_empty};
use super::keeper::Caller;
use super::session::session_id;
use super::shape::shape;
use super::tools::tools;
use super::{body, budget, deadline, logprobs, placement};
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

const UNSUPPORTED: [Unsupported; 4] = [
    Unsupported { name: "inputs", harmless: is_empty, problem: "only `prompt` and `messages` are supported" },
    Unsupported { name: "workload", harmless: |v| v == "completion", problem: "only `completion` is supported" },
    Unsupported {
        name: "parallel_tool_calls",
        harmless: |v| *v == true,
        problem: "an answer stands here as the model wrote it, with all its calls; read its first",
    },
    Unsupported { name: "engine", harmless: |_| false, problem: "engines cannot be chosen; leave it out" },
];

pub(crate) async fn submit(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let (fields, taken) = body::take(&door, &headers, content, door.config.limits.task_body_bytes).await?;
    let wish = read(&door, fields, &headers, taken.digest(), caller.tenant)?;
    // Not `?` on the future itself: an admission holds what the client asked for only through its entry.
    let Admitted { entry, position, predicted_start, left, .. } = door.admit(caller.tenant, wish).await?;
    let id = entry.task.to_string();
    let answer = json!({
        "task_id": id,
        "queue_position": position,
        "predicted_start_ms": predicted_start.0,
        "backoff_ms": 0,
        "seed": entry.seed,
        "truncation": dropped(entry.dropped),
        "streams": {"sse": format!("/v1/tasks/{id}/stream")},
    });
    let location = [(header::LOCATION, format!("/v1/tasks/{id}"))];
    Ok((StatusCode::ACCEPTED, location, budget::headers(&left), Json(answer)).into_response())
}

fn read(
    door: &Door,
    mut fields: Fields,
    headers: &HeaderMap,
    body: [u8; 32],
    tenant: TenantId,
) -> Result<Wish, Problem> {
    fields.unsupported(&UNSUPPORTED)?;
    let task = match fields.string("task_id")? {
        None => TaskId(uuid::Uuid::now_v7().as_u128()),
        Some(text) => uuid::Uuid::parse_str(&text)
            .map(|id| TaskId(id.as_u128()))
            .map_err(|_| Problem::invalid("task_id", "must be a UUID"))?,
    };
    let model = model_ref(fields.string("model_ref")?)?;
    let content = match (fields.string("prompt")?, fields.messages()?) {
        (Some(prompt), None) => Content::Prompt(prompt),
        (None, Some(messages)) => messages,
        (Some(_), Some(_)) => return Err(Problem::invalid("prompt", "give either `prompt` or `messages`, not both")),
        (None, None) => return Err(Problem::invalid("prompt", "a `prompt` or `messages` is needed")),
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
    let placement = placement::placement(&mut fields, door.parts.telemetry.pools())?;
    let tools = tools(&mut fields)?;
    let sampling = fields.sampling(seed_of(task))?;
    let mut wish = Wish {
        ticket: Ticket { task, body, surface: Surface::Queue, class, session, deadline, determinism, placement },
        ctx: fields.small("ctx", 1..=u32::MAX)?,
        words: Words {
            max_tokens: fields.small("max_tokens", 1..=u32::MAX)?,
            stop: fields.stop()?,
            bias: logprobs::bias(&mut fields)?,
            logprobs: logprobs::of_chat(&mut fields)?,
            shape: shape(&mut fields)?,
            truncation: fields.truncation()?,
            ..Words::new(model, content, sampling, Output::Text)
        },
    };
    // This surface gives an answer as the model writes it, its calls too.
    tools.map(|tools| tools.offer(&*door.parts.prepare, &mut wish.words)).transpose()?;
    Ok(wish)
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
