//! Answers in JSON and calls of tools.

use super::{Session, question};
use crate::sse::Events;
use cucumber::{then, when};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn shaped(max_tokens: u32) -> Value {
    let schema = json!({
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["colour", "count"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "paint", "schema": schema, "strict": true}});
    json!({"model": "tiny", "messages": question(), "max_tokens": max_tokens, "seed": 7, "response_format": format})
}

fn tool() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}},
        "required": ["city"],
        "additionalProperties": false,
        "$defs": {"city": {"enum": ["Oslo", "Lima"]}},
    });
    json!({"type": "function", "function": {"name": "weather", "parameters": parameters}})
}

fn calling() -> Value {
    let choice = json!({"type": "function", "function": {"name": "weather"}});
    json!({"model": "tiny", "messages": question(), "max_tokens": 60, "seed": 7, "tools": [tool()], "tool_choice": choice})
}

impl Session {
    async fn chat(&mut self, body: Value) {
        let response = self.post(CHAT, &body).await;
        let answer = (response.status(), response.json().await.unwrap());
        self.answers.push(answer);
    }

    /// The deltas of the same as a stream, and why it ended.
    async fn deltas(&self, mut body: Value) -> (Vec<Value>, Value) {
        body["stream"] = json!(true);
        let events = Events::of(self.post(CHAT, &body).await).await.rest().await;
        let choices: Vec<Value> = events.iter().map(|event| event.data["choices"][0].clone()).collect();
        let end = choices.iter().rev().find(|choice| !choice["finish_reason"].is_null()).unwrap();
        (choices.iter().map(|choice| choice["delta"].clone()).collect(), end["finish_reason"].clone())
    }
}

#[when("I ask for JSON by a schema")]
async fn json_by_schema(session: &mut Session) {
    session.chat(shaped(60)).await;
}

#[when("I ask for JSON by a schema within 3 tokens")]
async fn cut(session: &mut Session) {
    session.chat(shaped(3)).await;
}

#[then("the answer says that it stopped for length")]
fn says_length(session: &mut Session) {
    assert_eq!(session.answer().1["choices"][0]["finish_reason"], "length");
}

#[then("the answer is JSON that the schema allows, and says that it is complete")]
fn allowed(session: &mut Session) {
    let choice = &session.answer().1["choices"][0];
    let paint: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
    assert!(["red", "green"].contains(&paint["colour"].as_str().unwrap()), "{paint}");
    assert!((1..=99).contains(&paint["count"].as_u64().unwrap()) && paint.as_object().unwrap().len() == 2, "{paint}");
    assert_eq!(choice["finish_reason"], "stop");
}

#[then("as a stream it is the same text")]
async fn same_shape(session: &mut Session) {
    let (deltas, reason) = session.deltas(shaped(60)).await;
    let text: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(session.answer().1["choices"][0]["message"]["content"], text);
    assert_eq!(reason, "stop");
}

#[when("I ask for the call of a tool")]
async fn call(session: &mut Session) {
    session.chat(calling()).await;
}

#[then("the answer is a call of it with arguments that it takes")]
fn called(session: &mut Session) {
    let (_, answer) = session.answer();
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null),
        "{answer}"
    );
    let function = &choice["message"]["tool_calls"][0]["function"];
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(function["name"], "weather");
    assert!(["Oslo", "Lima"].contains(&arguments["city"].as_str().unwrap()), "{arguments}");
}

#[then("as a stream it is the same call")]
async fn same_call(session: &mut Session) {
    let (deltas, reason) = session.deltas(calling()).await;
    let calls: Vec<&Value> = deltas.iter().filter_map(|delta| delta.get("tool_calls")).collect();
    assert_eq!((calls.len(), reason), (1, json!("tool_calls")), "{deltas:?}");
    let (of_stream, whole) = (&calls[0][0], &session.answer().1["choices"][0]["message"]["tool_calls"][0]);
    assert_eq!((&of_stream["index"], &of_stream["function"]), (&json!(0), &whole["function"]));
}

#[then("the call and the tool's answer can be part of the next question")]
async fn next(session: &mut Session) {
    let call = session.answer().1["choices"][0]["message"].clone();
    let id = call["tool_calls"][0]["id"].clone();
    let mut body = calling();
    let answered = json!({"role": "tool", "tool_call_id": id, "content": "4 degrees"});
    body["messages"].as_array_mut().unwrap().extend([call, answered]);
    body["tool_choice"] = json!("auto");
    session.chat(body).await;
    let (status, answer) = session.answer();
    assert_eq!(status.as_u16(), 200, "{answer}");
}
