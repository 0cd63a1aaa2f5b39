//! `POST /v1/chat/completions`, plain and streamed: the shapes that OpenAI's clients know.
//!
//! The task lives with its connection: whoever leaves, cancels. Unknown fields are ignored, known ones
//! with values this server cannot honour are refused with their name, never answered differently.

use super::chat_frames::{ChatFrames, usage};
use super::fields::{Fields, Unsupported, is_empty, is_false, is_text_format, is_zero};
use super::task_submit::seed_of;
use super::{body, deadline};
use crate::door::{Door, Wish};
use crate::port::Words;
use crate::problem::Problem;
use crate::sse::{EventBody, finish_reason, result};
use crate::task_entry::{Reader, Surface};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use orchestrion_world::id::TaskId;
use orchestrion_world::protocol::{Class, Outcome};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const UNSUPPORTED: [Unsupported; 15] = [
    Unsupported { name: "n", harmless: |v| v.as_u64() == Some(1), problem: "only 1 is supported" },
    Unsupported { name: "logprobs", harmless: is_false, problem: "log probabilities are not supported" },
    Unsupported { name: "top_logprobs", harmless: is_zero, problem: "log probabilities are not supported" },
    Unsupported { name: "logit_bias", harmless: is_empty, problem: "logit bias is not supported" },
    Unsupported { name: "presence_penalty", harmless: is_zero, problem: "only 0 is supported" },
    Unsupported { name: "frequency_penalty", harmless: is_zero, problem: "only 0 is supported" },
    Unsupported { name: "response_format", harmless: is_text_format, problem: "only `text` is supported" },
    Unsupported { name: "tools", harmless: is_empty, problem: "tools are not supported" },
    Unsupported {
        name: "tool_choice",
        harmless: |v| v == "none" || v == "auto",
        problem: "tools are not supported; only `none` and `auto` are",
    },
    Unsupported { name: "functions", harmless: is_empty, problem: "functions are not supported" },
    Unsupported { name: "audio", harmless: |_| false, problem: "audio is not supported" },
    Unsupported { name: "prediction", harmless: |_| false, problem: "predicted outputs are not supported" },
    Unsupported { name: "modalities", harmless: |v| *v == json!(["text"]), problem: "only [\"text\"] is supported" },
    Unsupported { name: "guided_json", harmless: |_| false, problem: "guided decoding is not supported" },
    Unsupported { name: "guided_regex", harmless: |_| false, problem: "guided decoding is not supported" },
];

/// What only this surface asks for.
struct Form {
    model: String,
    stream: bool,
    include_usage: bool,
}

pub(crate) async fn complete(
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let limits = &door.config.limits;
    let bytes = body::read(&headers, content, limits.body_bytes, limits).await?;
    let (wish, form) = read(body::object(&bytes, limits)?, &headers, door.config.deadline_margin_ms)?;
    let admitted = door.admit(wish).await?;
    let entry = admitted.entry;
    let id = format!("chatcmpl-{}", entry.task);
    let created = deadline::wall_ms() / 1_000;
    if form.stream {
        let reader = Reader::new(&entry, None);
        let frames = ChatFrames::new(&id, created, &form.model, &entry.fingerprint, form.include_usage);
        let heartbeat = Duration::from_millis(door.config.heartbeat_ms);
        return Ok(EventBody::new(reader, Box::new(frames), heartbeat, admitted.tether).into_response());
    }
    let ending = entry.finished().await;
    result(&ending)?;
    let Outcome::Done(used) = ending.outcome else { return Err(Problem::no_task()) };
    let answer = json!({
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": form.model,
        "system_fingerprint": &*entry.fingerprint,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": entry.view().text, "refusal": null},
            "logprobs": null,
            "finish_reason": finish_reason(used.finish),
        }],
        "usage": usage(&used),
    });
    Ok(Json(answer).into_response())
}

fn read(mut fields: Fields, headers: &HeaderMap, margin_ms: u64) -> Result<(Wish, Form), Problem> {
    fields.unsupported(&UNSUPPORTED)?;
    let model = fields.string("model")?.ok_or_else(|| Problem::invalid("model", "is needed; see `GET /v1/models`"))?;
    let content = fields.messages()?.ok_or_else(|| Problem::invalid("messages", "is needed"))?;
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let include_usage = match fields.take("stream_options") {
        None => false,
        Some(_) if !stream => return Err(Problem::invalid("stream_options", "is only for `stream: true`")),
        Some(Value::Object(options)) => Fields(options).boolean("include_usage")?.unwrap_or(false),
        Some(_) => return Err(Problem::invalid("stream_options", "must be an object")),
    };
    // The older name counts only where the newer is absent.
    let older = fields.small("max_tokens", 1..=u32::MAX)?;
    let max_tokens = fields.small("max_completion_tokens", 1..=u32::MAX)?.or(older);
    let task = TaskId(uuid::Uuid::now_v7().as_u128());
    let wish = Wish {
        task,
        // Nobody can send this id again: it has just been made.
        body: [0; 32],
        surface: Surface::OpenAi,
        class: Class::Interactive,
        deadline: deadline::left(headers, None, deadline::wall_ms(), margin_ms)?,
        ctx: None,
        words: Words {
            model: model.clone(),
            content,
            max_tokens,
            stop: fields.stop()?,
            sampling: fields.sampling(seed_of(task))?,
        },
    };
    Ok((wish, Form { model, stream, include_usage }))
}
