//! Refusals, conflicts and full queues.

use super::{Session, task};
use cucumber::{then, when};
use reqwest::Response;
use serde_json::{Value, json};

const OWN_ID: &str = "01234567-89ab-4cde-8f01-23456789abcd";

impl Session {
    async fn remember(&mut self, response: Response) {
        let status = response.status();
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        assert!(!header("x-correlation-id").is_empty(), "every response has a correlation id");
        self.hints = Some((header("retry-after"), header("x-backoff-ms")));
        let answer = response.json().await.unwrap_or_default();
        self.answers.push((status, answer));
    }
}

#[when(regex = r"^I send (a task .+|a question .+|an answer .+)$")]
async fn send(session: &mut Session, what: String) {
    let response = match what.as_str() {
        "a task without a model" => session.post("/v1/tasks", &json!({ "prompt": "x" })).await,
        "a task with a negative length" => {
            session.post("/v1/tasks", &json!({ "model_ref": "tiny", "prompt": "x", "max_tokens": -3 })).await
        }
        "a task for an unknown model" => {
            session.post("/v1/tasks", &json!({ "model_ref": "huge", "prompt": "x" })).await
        }
        "a task that is not JSON" => {
            let request = session.client.post(session.url("/v1/tasks")).header("content-type", "application/json");
            request.body("{\"model_ref\": ").send().await.unwrap()
        }
        "a question about no task" => session.get(&format!("/v1/tasks/{OWN_ID}")).await,
        "an answer longer than context" => session.post("/v1/tasks", &task(1_000_000)).await,
        other => panic!("nobody knows how to send {other}"),
    };
    session.remember(response).await;
}

#[then(regex = r"^I am refused with (\d+) and (\w+)$")]
fn refused(session: &mut Session, status: u16, code: String) {
    let (found, answer) = session.answer();
    assert_eq!((found.as_u16(), answer["code"].as_str()), (status, Some(code.as_str())), "{answer}");
    assert!(answer["message"].as_str().is_some_and(|m| m.len() > 10), "{answer}");
    assert!(answer["retriable"].is_boolean() && answer["correlation_id"].is_string(), "{answer}");
}

fn own_task(tokens: u32) -> Value {
    let mut body = task(tokens);
    body["task_id"] = json!(OWN_ID);
    body
}

#[when("I submit a task with an id of my own")]
#[when("I submit the very same task again")]
async fn submit_own(session: &mut Session) {
    session.submit(own_task(5)).await;
}

#[then("I get the first admission again")]
fn first_admission(session: &mut Session) {
    let [first, second] = session.answers.as_slice() else { panic!("{:?}", session.answers) };
    assert_eq!(first.0.as_u16(), 202, "{first:?}");
    assert_eq!(first, second);
}

#[then("another task under that id is a conflict")]
async fn conflict(session: &mut Session) {
    let response = session.post("/v1/tasks", &own_task(6)).await;
    session.remember(response).await;
    refused(session, 409, "CONFLICT".into());
}

#[when("I submit tasks until one is refused")]
async fn until_refused(session: &mut Session) {
    for _ in 0..10 {
        let response = session.post("/v1/tasks", &task(1500)).await;
        session.remember(response).await;
        if session.answer().0.as_u16() != 202 {
            return;
        }
    }
    panic!("ten tasks were taken by a queue of one");
}

#[then("I am told when to come back")]
fn when_to_come_back(session: &mut Session) {
    let (retry_after, backoff) = session.hints.as_ref().unwrap();
    let seconds: u64 = retry_after.parse().expect("whole seconds");
    let millis: u64 = backoff.parse().expect("milliseconds");
    assert!(seconds >= 1 && millis > 0);
    assert_eq!(session.answer().1["policy_label"], "reject");
}
