//! `POST /v1/chat/completions`: messages in, an answer in the chat's shape out. The rest is `openai`'s.

use super::fields::{Fields, Unsupported, is_nothing};
use super::keeper::Caller;
use super::logprobs;
use super::openai::{self, Asked, Form, Kind};
use super::tools::tools;
use crate::door::{Door, Wish};
use crate::problem::Problem;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use std::sync::Arc;

const UNSUPPORTED: [Unsupported; 1] =
    [Unsupported { name: "prompt", harmless: is_nothing, problem: "is for `POST /v1/completions`; send `messages`" }];

pub(crate) async fn complete(
    State(door): State<Arc<Door>>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    openai::complete(&door, caller, &headers, content, read).await
}

fn read(mut fields: Fields, headers: &HeaderMap, margin_ms: u64) -> Result<(Vec<Wish>, Form), Problem> {
    fields.unsupported(&UNSUPPORTED)?;
    let model = openai::model(&mut fields)?;
    let content = fields.messages()?.ok_or_else(|| Problem::invalid("messages", "is needed"))?;
    // The older name counts only where the newer is absent.
    let older = fields.small("max_tokens", 1..=u32::MAX)?;
    let max_tokens = fields.small("max_completion_tokens", 1..=u32::MAX)?.or(older);
    let logprobs = logprobs::of_chat(&mut fields)?;
    let tools = tools(&mut fields)?;
    let asked = Asked { model, contents: vec![content], max_tokens, logprobs, tools };
    openai::read(fields, Kind::Chat, asked, headers, margin_ms)
}
