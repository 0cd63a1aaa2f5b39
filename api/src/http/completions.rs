//! `POST /v1/completions`: a bare prompt in, its continuation out. The rest is `openai`'s.
//!
//! A prompt is text or the ids of tokens, which are taken as they stand. One prompt a request: several
//! answers to it are `n`.

use super::fields::{Fields, Unsupported, is_false};
use super::openai::{self, Form, Kind};
use crate::door::{Door, Wish};
use crate::port::Content;
use crate::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::Value;
use std::sync::Arc;

/// What OpenAI documents for a request that names no length.
const MAX_TOKENS_DEFAULT: u32 = 16;

const UNSUPPORTED: [Unsupported; 4] = [
    Unsupported { name: "echo", harmless: is_false, problem: "the prompt is not repeated in the answer" },
    Unsupported { name: "suffix", harmless: |v| v == "", problem: "text after the answer is not supported" },
    Unsupported { name: "logprobs", harmless: |_| false, problem: "log probabilities are not supported" },
    Unsupported { name: "best_of", harmless: |v| *v == 1, problem: "only 1 is supported; `n` gives several answers" },
];

pub(crate) async fn complete(
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    openai::complete(&door, &headers, content, read).await
}

fn read(mut fields: Fields, headers: &HeaderMap, margin_ms: u64) -> Result<(Wish, Form), Problem> {
    fields.unsupported(&UNSUPPORTED)?;
    let model = openai::model(&mut fields)?;
    let content = prompt(fields.take("prompt"))?;
    let max_tokens = fields.small("max_tokens", 1..=u32::MAX)?.unwrap_or(MAX_TOKENS_DEFAULT);
    openai::read(fields, Kind::Text, (model, content, Some(max_tokens)), headers, margin_ms)
}

/// Text, ids, or a list of one of either.
fn prompt(given: Option<Value>) -> Result<Content, Problem> {
    let bad = |problem| Err(Problem::invalid("prompt", problem));
    match given {
        None => bad("is needed"),
        Some(Value::String(text)) => Ok(Content::Prompt(text)),
        Some(Value::Array(mut list)) => match list.first() {
            Some(Value::Number(_)) => {
                let ids = list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
                let ids: Option<Vec<u32>> = ids.collect();
                ids.map_or_else(|| bad("ids of tokens must be whole numbers"), |ids| Ok(Content::Tokens(ids)))
            }
            Some(Value::String(_) | Value::Array(_)) if list.len() > 1 => {
                bad("only one prompt a request is supported; send a request for each")
            }
            Some(Value::Array(inner)) if !inner.first().is_some_and(Value::is_number) => {
                bad("must be a string, a list of one string, or a list of token ids")
            }
            // One prompt in a list, of either kind.
            Some(Value::String(_) | Value::Array(_)) => prompt(list.pop()),
            _ => bad("must be a string, a list of one string, or a list of token ids"),
        },
        Some(_) => bad("must be a string, a list of one string, or a list of token ids"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_prompt_is_text_or_ids_alone_or_in_a_list_of_one() {
        let text = Content::Prompt("a".into());
        let ids = Content::Tokens(vec![1, 2]);
        for (given, read) in
            [(json!("a"), &text), (json!(["a"]), &text), (json!([1, 2]), &ids), (json!([[1, 2]]), &ids)]
        {
            assert_eq!(prompt(Some(given)).unwrap(), *read);
        }
        for bad in [
            json!([]),
            json!(["a", "b"]),
            json!([[1], [2]]),
            json!([1, "a"]),
            json!([-1]),
            json!([1.5]),
            json!([[]]),
            json!([[[1]]]),
            json!({}),
            json!(7),
        ] {
            assert_eq!(prompt(Some(bad.clone())).unwrap_err().param.as_deref(), Some("prompt"), "{bad}");
        }
    }
}
