//! Answers: chat completions, tasks, streams, resumed streams, and that they do not depend on the crowd.

use super::{Session, task, token_numbers};
use crate::server::{Server, Setup};
use crate::sse::Events;
use cucumber::{then, when};
use reqwest::Client;
use serde_json::{Value, json};

fn chat(tokens: u32, seed: u64, content: &str) -> Value {
    json!({
        "model": "tiny", "max_tokens": tokens, "seed": seed, "temperature": 0.9,
        "messages": [{ "role": "user", "content": content }],
    })
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[when(regex = r"^I ask for a chat completion of (\d+) tokens(?: with seed (\d+))?$")]
async fn ask(session: &mut Session, tokens: u32, seed: String) {
    let response = session.post("/v1/chat/completions", &chat(tokens, seed.parse().unwrap_or(1), "Hello")).await;
    let answer = (response.status(), response.json().await.unwrap());
    session.answers.push(answer);
}

#[then("the answer has text and says that it stopped for length")]
fn has_text(session: &mut Session) {
    let (status, answer) = session.answer();
    assert_eq!(status.as_u16(), 200, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert!(!text(answer).is_empty());
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[then(regex = r"^its usage counts (\d+) completion tokens$")]
fn usage(session: &mut Session, tokens: u64) {
    let usage = &session.answer().1["usage"];
    assert_eq!(usage["completion_tokens"], tokens);
    assert_eq!(usage["total_tokens"].as_u64().unwrap(), usage["prompt_tokens"].as_u64().unwrap() + tokens);
}

#[when("I ask for the same as a stream with usage")]
async fn ask_streamed(session: &mut Session) {
    let mut body = chat(12, 7, "Hello");
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    session.seen = Events::of(session.post("/v1/chat/completions", &body).await).await.rest().await;
}

#[then("both answers are the same text")]
fn same_text(session: &mut Session) {
    let pieces = session.seen.iter().filter_map(|e| e.data["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text(&session.answer().1));
}

#[then("the stream ends with its usage and then DONE")]
fn ends_with_usage(session: &mut Session) {
    let [.., last, usage, done] = session.seen.as_slice() else { panic!("{:?}", session.seen) };
    assert_eq!(last.data["choices"][0]["finish_reason"], "length");
    assert_eq!(usage.data["usage"]["completion_tokens"], 12);
    assert_eq!(usage.data["choices"], json!([]));
    assert_eq!(done.data, "[DONE]");
}

#[when(regex = r"^I submit a task of (\d+) tokens$")]
async fn submit(session: &mut Session, tokens: u32) {
    session.submit(task(tokens)).await;
}

#[then("it is accepted with a queue position and a seed")]
fn accepted(session: &mut Session) {
    let (status, answer) = session.answer();
    assert_eq!(status.as_u16(), 202, "{answer}");
    assert_eq!(answer["queue_position"], 0);
    assert!(answer["seed"].is_u64() && answer["predicted_start_ms"].is_u64(), "{answer}");
}

#[then(regex = r"^its stream tells started, then tokens 0 to (\d+), then one end$")]
async fn streams(session: &mut Session, last: u64) {
    session.seen = session.open(None).await.rest().await;
    assert_eq!(token_numbers(&session.seen), (0..=last).collect::<Vec<_>>());
    let names: Vec<&str> = session.seen.iter().map(|e| e.name.as_str()).collect();
    let told: Vec<&str> = names.iter().filter(|n| !matches!(**n, "metrics" | "narration" | "token")).copied().collect();
    assert_eq!(told, ["started", "end"]);
    assert_eq!(names.last(), Some(&"end"), "nothing after the end");
    assert_eq!(session.seen.last().unwrap().data["tokens_out"], last + 1);
    assert!(session.seen.iter().all(|e| e.id.is_some()), "each event can be resumed from");
}

#[then("a second reader gets the very same stream")]
async fn second_reader(session: &mut Session) {
    let again = session.open(None).await.rest().await;
    assert_eq!(again, session.seen);
}

#[then("its result can be fetched afterwards")]
async fn result(session: &mut Session) {
    let answer: Value = session.get(&format!("/v1/tasks/{}", session.task)).await.json().await.unwrap();
    let streamed = session.seen.iter().filter(|e| e.name == "token").map(|e| e.data["t"].as_str().unwrap());
    assert_eq!(answer["result"]["text"].as_str().unwrap(), streamed.collect::<String>(), "{answer}");
}

#[then("it lists the tiny model")]
async fn lists(session: &mut Session) {
    let list: Value = session.get("/v1/models").await.json().await.unwrap();
    assert_eq!(list["data"][0]["id"], "tiny");
    let version: Value = session.get("/version").await.json().await.unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[then("its metrics count a finished task after one was answered")]
async fn metrics(session: &mut Session) {
    ask(session, 5, "1".into()).await;
    let metrics = session.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("orchestrion_tasks_finished_total{outcome=\"done\"} 1"), "{metrics}");
    assert!(metrics.contains("orchestrion_tokens_out_total 5"), "{metrics}");
    assert!(metrics.contains("orchestrion_kv_cache_usage_ratio{worker_id="), "{metrics}");
}

#[when(regex = r"^I read (\d+) tokens of its stream(?: and lose the connection)?$")]
async fn read_some(session: &mut Session, tokens: usize) {
    let mut stream = session.open(None).await;
    while token_numbers(&session.seen).len() < tokens {
        session.seen.push(stream.next().await.expect("it goes on"));
    }
    session.stream = Some(stream);
}

#[when("I come back with the last event id")]
async fn come_back(session: &mut Session) {
    session.stream = None;
    let last = session.seen.last().and_then(|e| e.id.clone());
    let rest = session.open(last.as_deref()).await.rest().await;
    session.seen.extend(rest);
}

#[then(regex = r"^together I have seen tokens 0 to (\d+), each once$")]
fn each_once(session: &mut Session, last: u64) {
    assert_eq!(token_numbers(&session.seen), (0..=last).collect::<Vec<_>>());
    assert_eq!(session.seen.last().unwrap().name, "end");
}

async fn question(client: Client, url: String, number: u64) -> String {
    let body = chat(40, number, &format!("Question number {number}"));
    let answer: Value = client.post(url).json(&body).send().await.unwrap().json().await.unwrap();
    text(&answer).to_owned()
}

#[when(regex = r"^I ask (\d+) questions one after the other$")]
async fn one_by_one(session: &mut Session, count: u64) {
    for number in 0..count {
        let answer = question(session.client.clone(), session.url("/v1/chat/completions"), number).await;
        session.first.push(answer);
    }
}

#[when(regex = r"^I ask the same (\d+) questions all at once among (\d+) others$")]
async fn all_at_once(session: &mut Session, count: u64, others: u64) {
    let url = session.url("/v1/chat/completions");
    let asked: Vec<_> =
        (0..count + others).map(|n| tokio::spawn(question(session.client.clone(), url.clone(), n))).collect();
    for answer in asked.into_iter().take(count as usize) {
        session.second.push(answer.await.unwrap());
    }
}

#[when("a server on scalar kernels is asked the same")]
async fn scalar(session: &mut Session) {
    let scalar = Server::start(&Setup { simd: "scalar", ..Setup::default() });
    for number in 0..session.first.len() as u64 {
        let url = format!("{}/v1/chat/completions", scalar.url);
        session.second.push(question(session.client.clone(), url, number).await);
    }
}

#[then("each question has the same answer both times")]
fn same_answers(session: &mut Session) {
    assert!(!session.first.is_empty() && session.first[0] != session.first[1], "different questions differ");
    assert_eq!(session.first, session.second);
}
