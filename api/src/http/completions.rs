//! `POST /v1/completions`: a bare prompt in, its continuation out. The rest is `openai`'s.
//!
//! A prompt is text or the ids of tokens, which are taken as they stand; several prompts are answered as
//! many times as `n` says, each prompt's answers side by side.

use super::fields::{Fields, Unsupported, is_nothing};
use super::keeper::Caller;
use super::logprobs;
use super::openai::{self, Asked, Form, Kind};
use crate::door::{Door, Wish};
use crate::port::Content;
use crate::problem::Problem;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::Value;
use std::sync::Arc;

/// What OpenAI documents for a request that names no length.
const MAX_TOKENS_DEFAULT: u32 = 16;
const PROMPTS_MOST: usize = 32;

/// What only chats have.
const CHATS_ONLY: [&str; 4] = ["messages", "tools", "top_logprobs", "max_completion_tokens"];

const fn of_chats(name: &'static str) -> Unsupported {
    Unsupported { name, harmless: is_nothing, problem: "is for `POST /v1/chat/completions`" }
}

pub(crate) async fn complete(
    State(door): State<Arc<Door>>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    openai::complete(&door, caller, &headers, content, read).await
}

fn read(mut fields: Fields, headers: &HeaderMap, margin_ms: u64) -> Result<(Vec<Wish>, Form), Problem> {
    fields.unsupported(&CHATS_ONLY.map(of_chats))?;
    let model = openai::model(&mut fields)?;
    let contents = prompts(fields.take("prompt"))?;
    let max_tokens = fields.small("max_tokens", 1..=u32::MAX)?.unwrap_or(MAX_TOKENS_DEFAULT);
    let logprobs = logprobs::of_text(&mut fields)?;
    let asked = Asked { model, contents, max_tokens: Some(max_tokens), logprobs, tools: None };
    openai::read(fields, Kind::Text, asked, headers, margin_ms)
}

/// Text, ids, or a list of either.
fn prompts(given: Option<Value>) -> Result<Vec<Content>, Problem> {
    let prompts = match given {
        None => return Err(Problem::invalid("prompt", "is needed")),
        Some(Value::Array(list)) if !list.first().is_some_and(Value::is_number) => list,
        Some(one) => vec![one],
    };
    match prompts.len() {
        1..=PROMPTS_MOST => prompts.into_iter().map(prompt).collect(),
        _ => Err(Problem::invalid("prompt", format!("must be 1 to {PROMPTS_MOST} prompts"))),
    }
}

pub(super) fn prompt(given: Value) -> Result<Content, Problem> {
    match given {
        Value::String(text) => Ok(Content::Prompt(text)),
        Value::Array(list) if !list.is_empty() => {
            let ids = list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
            let ids: Option<Vec<u32>> = ids.collect();
            ids.map(Content::Tokens).ok_or_else(|| Problem::invalid("prompt", "ids of tokens must be whole numbers"))
        }
        _ => Err(Problem::invalid("prompt", "must be a string, a list of token ids, or a list of such prompts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prompts_are_text_or_ids_alone_or_in_a_list() {
        let text = Content::Prompt("a".into());
        let ids = Content::Tokens(vec![1, 2]);
        for (given, read) in [
            (json!("a"), vec![&text]),
            (json!(["a"]), vec![&text]),
            (json!([1, 2]), vec![&ids]),
            (json!([[1, 2]]), vec![&ids]),
            (json!(["a", [1, 2], "a"]), vec![&text, &ids, &text]),
        ] {
            assert_eq!(prompts(Some(given)).unwrap().iter().collect::<Vec<_>>(), read);
        }
        for bad in [
            json!([]),
            json!([1, "a"]),
            json!(["a", 1]),
            json!([-1]),
            json!([1.5]),
            json!([[]]),
            json!([[[1]]]),
            json!({}),
            json!(7),
            vec!["a"; 33].into(),
        ] {
            assert_eq!(prompts(Some(bad.clone())).unwrap_err().param.as_deref(), Some("prompt"), "{bad}");
        }
    }
}
