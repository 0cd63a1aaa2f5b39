//! What standard clients send and read: text completions, several choices, refusals by name, headers.

use super::{Session, question};
use crate::sse::{Event, Events};
use cucumber::{then, when};
use serde_json::{Value, json};

fn completion(prompt: &Value) -> Value {
    json!({ "model": "tiny", "prompt": prompt, "max_tokens": 12, "temperature": 0, "seed": 7 })
}

fn choices(count: u32) -> Value {
    json!({ "model": "tiny", "messages": question(), "max_tokens": 12, "seed": 7, "n": count })
}

fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().unwrap().iter();
    choices.map(|choice| choice["message"]["content"].as_str().unwrap().to_owned()).collect()
}

impl Session {
    async fn ask(&self, path: &str, body: &Value) -> Value {
        self.post(path, body).await.json().await.unwrap()
    }

    async fn streamed(&self, path: &str, mut body: Value) -> Vec<Event> {
        body["stream"] = json!(true);
        Events::of(self.post(path, &body).await).await.rest().await
    }
}

#[when(regex = r"^I ask for the continuation of (.+)$")]
async fn continuation(session: &mut Session, prompt: String) {
    let response = session.post("/v1/completions", &completion(&serde_json::from_str(&prompt).unwrap())).await;
    session.prompt = prompt;
    let answer = (response.status(), response.json().await.unwrap());
    session.answers.push(answer);
}

#[then(regex = r"^the continuation has text and (\d+) completion tokens$")]
fn has_text(session: &mut Session, tokens: u64) {
    let (status, answer) = session.answer();
    assert_eq!((status.as_u16(), answer["object"].as_str()), (200, Some("text_completion")), "{answer}");
    assert!(!answer["choices"][0]["text"].as_str().unwrap().is_empty());
    assert_eq!(answer["usage"]["completion_tokens"], tokens);
}

#[then("the same as a stream is the same text and ends with DONE")]
async fn same_text(session: &mut Session) {
    let body = completion(&serde_json::from_str(&session.prompt).unwrap());
    let seen = session.streamed("/v1/completions", body).await;
    let pieces = seen.iter().filter_map(|event| event.data["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), session.answer().1["choices"][0]["text"].as_str().unwrap());
    assert_eq!(seen.last().unwrap().data, "[DONE]");
}

#[when("I ask for 3 choices with seed 7")]
async fn three(session: &mut Session) {
    let answer = session.ask("/v1/chat/completions", &choices(3)).await;
    session.first = texts(&answer);
}

#[then("they are numbered, differ, and the first is what seed 7 gives alone")]
async fn differ(session: &mut Session) {
    let alone = session.ask("/v1/chat/completions", &choices(1)).await;
    assert_eq!(session.first.len(), 3);
    assert_eq!(session.first[0], texts(&alone)[0]);
    assert!(session.first[1] != session.first[2] && session.first[0] != session.first[1], "{:?}", session.first);
}

#[then("asking for them again gives them again")]
async fn again(session: &mut Session) {
    let answer = session.ask("/v1/chat/completions", &choices(3)).await;
    assert_eq!(texts(&answer), session.first);
}

#[then("as a stream they are the same, each under its number")]
async fn numbered(session: &mut Session) {
    let mut texts = vec![String::new(); 3];
    for event in session.streamed("/v1/chat/completions", choices(3)).await {
        let choice = &event.data["choices"][0];
        if let Some(index) = choice["index"].as_u64() {
            texts[index as usize] += choice["delta"]["content"].as_str().unwrap_or_default();
        }
    }
    assert_eq!(texts, session.first);
}

#[when(regex = r"^I ask for a chat completion with (\w+) (.+)$")]
async fn with_field(session: &mut Session, field: String, value: String) {
    let mut body = choices(1);
    body[field] = serde_json::from_str(&value).unwrap();
    let response = session.post("/v1/chat/completions", &body).await;
    let answer = (response.status(), response.json().await.unwrap());
    session.answers.push(answer);
}

#[then(regex = r"^I am refused with 400 for (\S+)$")]
fn refused_for(session: &mut Session, field: String) {
    let (status, answer) = session.answer();
    assert_eq!((status.as_u16(), answer["error"]["param"].as_str()), (400, Some(field.as_str())), "{answer}");
    assert_eq!(answer["error"]["type"], "invalid_request_error");
}

#[then("the headers name the request and its milliseconds")]
async fn headers(session: &mut Session) {
    let response = session.post("/v1/chat/completions", &choices(1)).await;
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-request-id"), header("x-correlation-id"));
    assert!(header("openai-processing-ms").parse::<u64>().is_ok());
}

#[then("a request that will not work later says that it is not to be repeated")]
async fn not_repeated(session: &mut Session) {
    let response = session.get("/v1/models/none").await;
    assert_eq!((response.status().as_u16(), &response.headers()["x-should-retry"]), (404, &"false".parse().unwrap()));
}
