//! `POST /v1/rerank`: a query and documents in, the documents by how well they answer it out, best first.
//!
//! The shape is that of Cohere's and Jina's clients. Query and document are read together; each document is a task of
//! its own (`vectors`). A score is the model's own between 0 and 1, or with `raw_scores` what its head gives; the order is
//! by the latter, which stays apart where the former is rounded to 1, and equal ones keep their places.

use super::fields::{Fields, Unsupported, dropped};
use super::keeper::Caller;
use super::vectors::{Measured, Place, Request, Source};
use super::{body, budget, deadline, openai};
use crate::door::{Door, Ticket};
use crate::port::{Content, Dropped};
use crate::problem::Problem;
use crate::spool::Form;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::sync::Arc;

/// As many as Cohere takes.
const DOCUMENTS: Source = Source { field: "documents", most: 1_000 };

const UNSUPPORTED: [Unsupported; 2] = [
    Unsupported {
        name: "max_tokens_per_doc",
        harmless: |_| false,
        problem: "documents are cut at the model's context only; send `truncation: \"auto\"` for that",
    },
    Unsupported {
        name: "rank_fields",
        harmless: |fields| *fields == json!(["text"]),
        problem: "of a document only `text` is read",
    },
];

pub(crate) async fn rerank(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let (mut fields, taken) = body::take(&door, &headers, content, door.config.limits.body_bytes).await?;
    fields.unsupported(&openai::OF_TASKS)?;
    let model = openai::model(&mut fields)?;
    let left = deadline::left(&headers, None, deadline::wall_ms(), door.config.deadline_margin_ms)?;
    let request = read(&mut fields, model, DOCUMENTS)?;
    drop((fields, taken));
    let (answer, left) = request.answer(&door, caller.tenant, &Ticket::of_connection(left)).await?;
    let mut answer = Json(answer).into_response();
    answer.headers_mut().extend(budget::headers(&left));
    Ok(answer)
}

/// The fields of a request for scores.
pub(super) fn read(fields: &mut Fields, model: String, source: Source) -> Result<Request, Problem> {
    fields.unsupported(&UNSUPPORTED)?;
    let Source { field, most } = source;
    let truncation = fields.truncation()?;
    let query: Arc<str> = match fields.string("query")? {
        Some(query) if !query.trim().is_empty() => query.into(),
        Some(_) => return Err(Problem::invalid("query", "is empty")),
        None => return Err(Problem::invalid("query", "is needed")),
    };
    let documents = match fields.take(field) {
        Some(Value::Array(list)) if (1..=most).contains(&list.len()) => list,
        Some(_) => return Err(Problem::invalid(field, format!("must be a list of 1 to {most} texts"))),
        None => return Err(Problem::invalid(field, "is needed")),
    };
    let top_n = fields.small("top_n", 1..=u32::MAX)?.unwrap_or(u32::MAX);
    let raw_scores = fields.boolean("raw_scores")?.unwrap_or(false);
    let told = fields.boolean("return_documents")?.unwrap_or(false);
    let pair = |(i, document): (usize, Value)| {
        let text = document.as_str().or_else(|| document.get("text").and_then(Value::as_str)).map(str::to_owned);
        let problem = "must be a string or an object with a `text`";
        let text = text.ok_or_else(|| Problem::invalid(format!("{field}[{i}]"), problem))?;
        let shown = told.then(|| if document.is_string() { json!({"text": document}) } else { document }.to_string());
        Ok((Content::Pair { query: Arc::clone(&query), document: text }, shown))
    };
    let inputs = documents.into_iter().enumerate().map(pair).collect::<Result<_, Problem>>()?;
    let form = Form::Rerank { top_n, raw_scores };
    Ok(Request { model, form, truncation, inputs, place: Place { field, is_list: true } })
}

/// One result of the answer.
pub(super) fn item(measured: &Measured<'_>, raw_scores: bool) -> Value {
    let Measured { part, vector, dropped: cut } = measured;
    // As its head gives it, and as a share of one.
    let score = if raw_scores { vector.first() } else { vector.last() };
    let mut item = json!({"index": part.index, "relevance_score": score});
    // It was written by this server.
    if let Some(document) = part.document.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        item["document"] = document;
    }
    if *cut != Dropped::default() {
        item["truncation"] = dropped(*cut);
    }
    item
}

/// The results, best first.
pub(super) fn best(all: &[Measured<'_>], top_n: u32) -> Vec<Value> {
    let mut best: Vec<&Measured<'_>> = all.iter().collect();
    let raw = |measured: &Measured<'_>| measured.vector.first().copied().unwrap_or(f32::NEG_INFINITY);
    best.sort_by(|a, b| raw(b).total_cmp(&raw(a)));
    best.into_iter().take(top_n as usize).map(Measured::json).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::rig::{Rig, json_of};

    const RERANK: &str = "/v1/rerank";

    fn body(more: Value) -> Value {
        let mut body = json!({"model": "org/answer", "query": "q", "documents": ["a", {"text": "bbb"}, "cc"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    #[tokio::test]
    async fn documents_come_best_first_and_equal_ones_keep_their_places() {
        let rig = Rig::new();
        let answer = json_of(rig.post(RERANK, body(json!({}))).await, 200).await;
        assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("rerank-")), "{answer}");
        // The rig scores a document by its length.
        let scored = |index: usize, score: f32| json!({"index": index, "relevance_score": score});
        assert_eq!(answer["results"], json!([scored(1, 0.75), scored(2, 0.5), scored(0, 0.25)]));
        assert_eq!(answer["usage"], json!({"prompt_tokens": 9, "total_tokens": 9}));
        let more = json!({"top_n": 2, "raw_scores": true, "return_documents": true});
        let answer = json_of(rig.post(RERANK, body(more)).await, 200).await;
        let told = |index: usize, score: f32, text: &str| json!({"index": index, "relevance_score": score, "document": {"text": text}});
        assert_eq!(answer["results"], json!([told(1, 3.0, "bbb"), told(2, 2.0, "cc")]));
        let many = vec!["d"; 2 * super::super::vectors::TASKS_AT_ONCE + 1];
        let answer = json_of(rig.post(RERANK, body(json!({"documents": many, "truncation": "auto"}))).await, 200).await;
        let results = answer["results"].as_array().unwrap();
        assert!(results.iter().map(|result| result["index"].as_u64().unwrap() as usize).eq(0..many.len()));
        assert_eq!(results[0]["truncation"]["dropped_tokens"], 30);
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_answered_says_where() {
        let rig = Rig::new();
        for (more, param) in [
            (json!({"query": null}), "query"),
            (json!({"query": " "}), "query"),
            (json!({"documents": null}), "documents"),
            (json!({"documents": []}), "documents"),
            (json!({"documents": "a"}), "documents"),
            (json!({"documents": ["a", {"title": "b"}]}), "documents[1]"),
            (json!({"documents": vec!["d"; DOCUMENTS.most + 1]}), "documents"),
            (json!({"top_n": 0}), "top_n"),
            (json!({"raw_scores": 1}), "raw_scores"),
            (json!({"max_tokens_per_doc": 9}), "max_tokens_per_doc"),
            (json!({"rank_fields": ["title"]}), "rank_fields"),
            (json!({"truncation": "end"}), "truncation"),
        ] {
            let refused = json_of(rig.post(RERANK, body(more)).await, 400).await;
            assert_eq!(refused["error"]["param"], param, "{refused}");
        }
        let many: Vec<String> = (0..20).map(|i| if i == 11 { "too long".to_owned() } else { "d".to_owned() }).collect();
        let refused = json_of(rig.post(RERANK, body(json!({"documents": many}))).await, 400).await;
        assert_eq!(refused["error"]["param"], "documents[11]", "{refused}");
        assert!(refused["error"]["message"].as_str().unwrap().starts_with("`documents[11]`: "), "{refused}");
        let failed = json_of(rig.post(RERANK, body(json!({"model": "fail"}))).await, 503).await;
        assert_eq!(failed["error"]["code"], "WORKER_RESET");
    }
}
