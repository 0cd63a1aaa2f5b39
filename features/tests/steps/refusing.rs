//! Refusals, conflicts and full queues.

use super::{Session, task, token_numbers};
use crate::sse::Events;
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

/// Submits one that runs and waits until it does, one that waits, and one that comes.
async fn crowd_out(session: &mut Session, waiting: &str) {
    session.submit(task(1500)).await;
    let mut running = session.open(None).await;
    assert_eq!(running.next().await.unwrap().name, "started");
    session.stream = Some(running);
    for (class, tokens) in [(waiting, 3), ("interactive", 4)] {
        let mut body = task(tokens);
        body["priority"] = json!(class);
        session.submit(body).await;
        assert_eq!(session.answer().0.as_u16(), 202, "{:?}", session.answer());
    }
}

#[when("I fill the place and another task comes")]
async fn fill(session: &mut Session) {
    crowd_out(session, "interactive").await;
}

#[when("I fill the place with batch work and an interactive task comes")]
async fn fill_with_batch(session: &mut Session) {
    crowd_out(session, "batch").await;
}

#[then(regex = r"^the task that waited ends with (\w+) by the policy ([a-z-]+)$")]
async fn gave_way(session: &mut Session, code: String, policy: String) {
    let [first, waited, came] = session.answers.as_slice() else { panic!("{:?}", session.answers) };
    let (running, waited, came) = (first.1["task_id"].clone(), waited.1["task_id"].clone(), came.1.clone());
    let waited = waited.as_str().unwrap();
    let events = Events::of(session.get(&format!("/v1/tasks/{waited}/stream")).await).await.rest().await;
    let [end] = events.as_slice() else { panic!("its one event is its end: {events:?}") };
    assert_eq!((end.name.as_str(), end.data["code"].as_str()), ("error", Some(code.as_str())));
    assert_eq!(
        (end.data["policy_label"].as_str(), end.data["retriable"].as_bool()),
        (Some(policy.as_str()), Some(true))
    );
    assert!(end.data["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{end:?}");
    let kept: Value = session.get(&format!("/v1/tasks/{waited}")).await.json().await.unwrap();
    assert_eq!(kept["error"]["code"], code.as_str(), "{kept}");
    let why = session.get(&format!("/v1/tasks/{waited}/explain")).await.text().await.unwrap();
    assert!(why.contains(&policy) && why.contains(came["task_id"].as_str().unwrap()), "{why}");
    let metrics = session.get("/metrics").await.text().await.unwrap();
    let counted = format!("orchestrion_admission_backpressure_events_total{{policy=\"{policy}\"}} 1");
    assert!(metrics.contains(&counted), "{metrics}");
    session.first = vec![running.as_str().unwrap().to_owned()];
}

#[then("the task that came is served")]
async fn came_is_served(session: &mut Session) {
    let running = session.first[0].clone();
    let cancelled = session.post(&format!("/v1/tasks/{running}/cancel"), &json!({})).await;
    assert_eq!(cancelled.status().as_u16(), 204);
    let events = session.open(None).await.rest().await;
    assert_eq!((token_numbers(&events).len(), events.last().unwrap().name.as_str()), (4, "end"), "{events:?}");
}

#[then(regex = r"^batch work that comes while all is taken is refused with (\w+)$")]
async fn batch_refused(session: &mut Session, code: String) {
    session.submit(task(1500)).await;
    let mut running = session.open(None).await;
    assert_eq!(running.next().await.unwrap().name, "started");
    session.submit(task(5)).await;
    assert_eq!(session.answer().0.as_u16(), 202);
    let mut body = task(5);
    body["priority"] = json!("batch");
    let response = session.post("/v1/tasks", &body).await;
    session.remember(response).await;
    refused(session, 429, code);
    let (retry_after, backoff) = session.hints.clone().unwrap();
    assert!(retry_after.parse::<u64>().is_ok_and(|s| s >= 1) && backoff.parse::<u64>().is_ok_and(|ms| ms > 0));
    assert_eq!(session.answer().1["policy_label"], "shed-low-priority");
}
