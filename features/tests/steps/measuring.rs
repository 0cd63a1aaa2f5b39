//! Documents that are scored.

use super::{Session, question};
use crate::server::{Server, Setup, orch};
use crate::sse::Events;
use cucumber::{given, then, when};
use serde_json::{Value, json};

const RERANKER: &str = "reranker.gguf";
/// All texts end before it.
const CONTEXT: usize = 64;

fn reranker() -> Vec<u8> {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = dir.join(format!("{}-{RERANKER}", env!("CARGO_CRATE_NAME")));
    let context = CONTEXT.to_string();
    let (well, _, errors) = orch(&["gen", path.to_str().unwrap(), "--arch", "bert", "--rank", "--context", &context]);
    assert!(well, "{errors}");
    std::fs::read(path).unwrap()
}

/// Different ones, each shorter than the context.
fn documents(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{} cats and {} dogs", "the ".repeat(i), (b'a' + i as u8) as char)).collect()
}

async fn rerank(session: &mut Session, documents: &[String], more: Value) {
    let mut body = json!({"model": "reranker", "query": "who ran?", "documents": documents});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let response = session.post("/v1/rerank", &body).await;
    let status = response.status();
    session.answers.push((status, response.json().await.unwrap()));
}

/// Places and scores, in the order of the last answer.
fn results(session: &Session) -> Vec<(usize, f64)> {
    let (status, answer) = session.answer();
    assert_eq!(status.as_u16(), 200, "{answer}");
    let read =
        |result: &Value| (result["index"].as_u64().unwrap() as usize, result["relevance_score"].as_f64().unwrap());
    answer["results"].as_array().unwrap().iter().map(read).collect()
}

#[given("a server with a tiny reranker")]
fn a_server(session: &mut Session) {
    let more =
        format!("[[pools]]\nid = \"r\"\nmodel = \"{RERANKER}\"\nmodel_name = \"reranker\"\nslots = 4\nthreads = 1\n");
    session.server =
        Some(Server::start(&Setup { pools: 0, more, files: vec![(RERANKER, reranker())], ..Setup::default() }));
}

#[when(regex = r"^I rerank (\d+) documents$")]
async fn all(session: &mut Session, count: usize) {
    rerank(session, &documents(count), json!({})).await;
}

#[when(regex = r"^I rerank (\d+) documents for the best (\d+)$")]
async fn the_best(session: &mut Session, count: usize, best: usize) {
    rerank(session, &documents(count), json!({"top_n": best, "return_documents": true})).await;
}

fn with_a_long_one(count: usize) -> Vec<String> {
    let mut documents = documents(count);
    documents[4] = "cat ".repeat(2 * CONTEXT);
    documents
}

#[when(regex = r"^I rerank (\d+) documents, of which the fifth is too long$")]
async fn too_long(session: &mut Session, count: usize) {
    rerank(session, &with_a_long_one(count), json!({})).await;
}

#[when("I allow it to be cut")]
async fn cut(session: &mut Session) {
    rerank(session, &with_a_long_one(12), json!({"truncation": "auto"})).await;
}

#[when(regex = r"^I ask the reranker for (a chat|an embedding)$")]
async fn other(session: &mut Session, what: String) {
    let (path, body) = match what.as_str() {
        "a chat" => ("/v1/chat/completions", json!({"model": "reranker", "messages": question()})),
        _ => ("/v1/embeddings", json!({"model": "reranker", "input": "a cat"})),
    };
    let response = session.post(path, &body).await;
    let status = response.status();
    session.answers.push((status, response.json().await.unwrap()));
}

#[then("each is there once, best first, with a score between 0 and 1")]
fn best_first(session: &mut Session) {
    let results = results(session);
    assert!(results.is_sorted_by(|(_, a), (_, b)| a >= b), "{results:?}");
    assert!(results.iter().all(|(_, score)| (0.0..=1.0).contains(score)), "{results:?}");
    let mut places: Vec<usize> = results.iter().map(|(index, _)| *index).collect();
    places.sort_unstable();
    assert!(places.into_iter().eq(0..12));
}

#[then("each alone has the score that it has among the others")]
async fn alone(session: &mut Session) {
    for (index, score) in results(session) {
        rerank(session, &documents(12)[index..=index], json!({})).await;
        assert_eq!(results(session), [(0, score)], "document {index}");
    }
}

#[then(regex = r"^the best (\d+) are there with their texts$")]
async fn with_texts(session: &mut Session, best: usize) {
    let (told, results_told) = (session.answer().1.clone(), results(session));
    for (result, (index, _)) in told["results"].as_array().unwrap().iter().zip(&results_told) {
        assert_eq!(result["document"]["text"], documents(12)[*index]);
    }
    rerank(session, &documents(12), json!({})).await;
    assert_eq!(results_told, results(session)[..best]);
}

#[when(regex = r"^I leave (\d+) documents to be reranked as a task$")]
async fn leave(session: &mut Session, count: usize) {
    let body = json!({
        "model_ref": "reranker", "workload": "rerank", "query": "who ran?", "inputs": documents(count),
        "priority": "batch",
    });
    let response = session.post("/v1/tasks", &body).await;
    let status = response.status();
    session.answers.push((status, response.json().await.unwrap()));
}

#[then(regex = r"^its stream tells (\d+) scores in the order of the documents and ends$")]
async fn scores_in_order(session: &mut Session, count: usize) {
    let (_, accepted) = session.answer();
    let stream = session.get(accepted["streams"]["sse"].as_str().unwrap()).await;
    let events = Events::of(stream).await.rest().await;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, [&["started"][..], &vec!["score"; count], &["end"]].concat());
    for (index, event) in events[1..=count].iter().enumerate() {
        assert_eq!(event.data["index"], index);
    }
}

#[then("its result is what I am told when I wait")]
async fn the_same(session: &mut Session) {
    let id = session.answer().1["task_id"].as_str().unwrap().to_owned();
    let shown: Value = session.get(&format!("/v1/tasks/{id}")).await.json().await.unwrap();
    rerank(session, &documents(12), json!({})).await;
    let (_, waited) = session.answer();
    assert_eq!(shown["state"], "done");
    for member in ["results", "usage", "model", "object"] {
        assert_eq!(shown["result"][member], waited[member]);
    }
}

#[then("its end is left out and the answer says so")]
fn end_left_out(session: &mut Session) {
    let told = session.answer().1["results"].as_array().unwrap().clone();
    let dropped = |result: &Value| (result["index"].as_u64().unwrap(), result["truncation"]["dropped_tokens"].as_u64());
    for (index, tokens) in told.iter().map(dropped) {
        assert_eq!(tokens.is_some_and(|tokens| tokens >= CONTEXT as u64), index == 4, "{told:?}");
    }
}
