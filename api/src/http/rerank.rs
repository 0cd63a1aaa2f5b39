//! `POST /v1/rerank`: a query and documents in, the documents by how well they answer it out, best first.
//!
//! The shape is that of Cohere's and Jina's clients. Query and document are read together; each document is a task of
//! its own (`vectors`). A score is the model's own between 0 and 1, or with `raw_scores` what its head gives; the order is
//! by the latter, which stays apart where the former is rounded to 1, and equal ones keep their places.

use super::fields::{Fields, Unsupported, dropped};
use super::keeper::Caller;
use super::vectors::{Asked, Gathered};
use super::{body, budget, deadline, openai};
use crate::door::Door;
use crate::port::{Content, Dropped};
use crate::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use orchestrion_world::payload::Output;
use serde_json::{Value, json};
use std::sync::Arc;

/// As many as Cohere takes.
const DOCUMENTS_MOST: usize = 1_000;

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

/// How the client wants its answer.
#[derive(Debug)]
struct Form {
    top_n: usize,
    raw_scores: bool,
    /// To be told with their scores.
    documents: Option<Vec<Value>>,
}

pub(crate) async fn rerank(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let (fields, taken) = body::take(&door, &headers, content, door.config.limits.body_bytes).await?;
    let (asked, contents, form) = read(fields, &headers, door.config.deadline_margin_ms)?;
    drop(taken);
    let gathered = asked.gather(&door, caller.tenant, contents, located).await?;
    let answer = json!({
        "id": format!("rerank-{}", uuid::Uuid::now_v7()),
        "object": "list",
        "model": asked.model,
        "results": form.results(&gathered)?,
        "usage": gathered.usage(),
    });
    let mut answer = Json(answer).into_response();
    answer.headers_mut().extend(budget::headers(&gathered.left));
    Ok(answer)
}

fn read(mut fields: Fields, headers: &HeaderMap, margin_ms: u64) -> Result<(Asked, Vec<Content>, Form), Problem> {
    fields.unsupported(&UNSUPPORTED)?;
    let asked = Asked {
        model: openai::model(&mut fields)?,
        output: Output::Score,
        deadline: deadline::left(headers, None, deadline::wall_ms(), margin_ms)?,
        truncation: fields.truncation()?,
    };
    let query: Arc<str> = match fields.string("query")? {
        Some(query) if !query.trim().is_empty() => query.into(),
        Some(_) => return Err(Problem::invalid("query", "is empty")),
        None => return Err(Problem::invalid("query", "is needed")),
    };
    let documents = match fields.take("documents") {
        Some(Value::Array(list)) if (1..=DOCUMENTS_MOST).contains(&list.len()) => list,
        Some(_) => return Err(Problem::invalid("documents", format!("must be a list of 1 to {DOCUMENTS_MOST} texts"))),
        None => return Err(Problem::invalid("documents", "is needed")),
    };
    let texts = documents.iter().enumerate().map(text).collect::<Result<Vec<String>, Problem>>()?;
    let top_n = fields.small("top_n", 1..=u32::MAX)?.map_or(usize::MAX, |n| n as usize);
    let raw_scores = fields.boolean("raw_scores")?.unwrap_or(false);
    let documents = fields.boolean("return_documents")?.unwrap_or(false).then_some(documents);
    let pair = |document| Content::Pair { query: Arc::clone(&query), document };
    Ok((asked, texts.into_iter().map(pair).collect(), Form { top_n, raw_scores, documents }))
}

/// A document is text, or an object with it.
fn text((i, document): (usize, &Value)) -> Result<String, Problem> {
    let text = document.as_str().or_else(|| document.get("text").and_then(Value::as_str));
    text.map(str::to_owned)
        .ok_or_else(|| Problem::invalid(format!("documents[{i}]"), "must be a string or an object with a `text`"))
}

/// Names the document that is the problem.
fn located(place: usize, mut problem: Problem) -> Problem {
    if problem.param.as_deref() == Some("documents") {
        let param = format!("documents[{place}]");
        problem.message = problem.message.replacen("documents", &param, 1);
        problem.param = Some(param);
    }
    problem
}

impl Form {
    fn results(&self, gathered: &Gathered) -> Result<Vec<Value>, Problem> {
        let mut scored = Vec::with_capacity(gathered.all.len());
        for (index, measured) in gathered.all.iter().enumerate() {
            let [raw, share] = measured.vector[..] else { return Err(Problem::no_task()) };
            scored.push((index, raw, if self.raw_scores { raw } else { share }, measured.dropped));
        }
        scored.sort_by(|(_, a, ..), (_, b, ..)| b.total_cmp(a));
        let best = scored.into_iter().take(self.top_n);
        Ok(best.map(|(index, _, score, cut)| self.result(index, score, cut)).collect())
    }

    fn result(&self, index: usize, score: f32, cut: Dropped) -> Value {
        let mut result = json!({"index": index, "relevance_score": score});
        match self.documents.as_ref().and_then(|documents| documents.get(index)) {
            Some(Value::String(text)) => result["document"] = json!({ "text": text }),
            Some(document) => result["document"] = document.clone(),
            None => {}
        }
        if cut != Dropped::default() {
            result["truncation"] = dropped(cut);
        }
        result
    }
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
            (json!({"documents": vec!["d"; DOCUMENTS_MOST + 1]}), "documents"),
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
