//! Cancels, hang-ups and deadlines.

use super::{Session, task};
use crate::sse::Events;
use cucumber::{then, when};
use serde_json::{Value, json};

#[when("I cancel it")]
async fn cancel(session: &mut Session) {
    let response = session.client.post(session.url(&format!("/v1/tasks/{}/cancel", session.task))).send();
    let status = response.await.unwrap().status();
    session.answers.push((status, Value::Null));
}

#[then("the cancel is acknowledged")]
fn acknowledged(session: &mut Session) {
    assert_eq!(session.answer().0.as_u16(), 204);
}

#[then("cancelling it again is acknowledged too")]
async fn again(session: &mut Session) {
    cancel(session).await;
    acknowledged(session);
}

/// A reader that comes after the acknowledgement is the sharpest witness: it gets the verdict and nothing
/// else. The reader that was there before may still find tokens that were on their way.
#[then("its stream ends with the error CANCELLED and no token after the acknowledgement")]
async fn ends_cancelled(session: &mut Session) {
    let late = session.open(None).await.rest().await;
    assert_eq!(late.last().unwrap().data["code"], "CANCELLED", "{late:?}");
    assert!(late.iter().all(|event| event.name != "token"), "{late:?}");
    let early = session.stream.take().unwrap().rest().await;
    assert_eq!(early.last().unwrap().data["code"], "CANCELLED", "{early:?}");
}

#[when(regex = r"^I start (\d+) chat streams of (\d+) tokens and hang up on all of them$")]
async fn hang_up(session: &mut Session, streams: u32, tokens: u32) {
    let body = json!({
        "model": "tiny", "stream": true, "max_tokens": tokens, "temperature": 0, "messages": [{ "role": "user", "content": "Hi" }],
    });
    let mut open = vec![];
    for _ in 0..streams {
        let mut events = Events::of(session.post("/v1/chat/completions", &body).await).await;
        events.next().await.expect("a first event");
        open.push(events);
    }
}

#[then(regex = r"^a task of (\d+) tokens still gets its answer$")]
async fn still_answers(session: &mut Session, tokens: u32) {
    session.submit(task(tokens)).await;
    let events = session.open(None).await.rest().await;
    assert_eq!(events.last().unwrap().data["tokens_out"], tokens, "{events:?}");
    let metrics = session.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("orchestrion_tasks_canceled_total{reason=\"disconnect\"} 4"), "{metrics}");
}

#[when(regex = r"^I submit a task of (\d+) tokens with a deadline of (\d+) ms$")]
async fn with_deadline(session: &mut Session, tokens: u32, deadline: u64) {
    let mut body = task(tokens);
    body["deadline_ms"] = json!(deadline);
    session.submit(body).await;
    assert_eq!(session.answer().0.as_u16(), 202, "{}", session.answer().1);
}

#[then(regex = r"^its stream ends with the error (\w+)$")]
async fn ends_with(session: &mut Session, code: String) {
    let events = session.open(None).await.rest().await;
    assert_eq!(events.last().unwrap().data["code"], code, "{events:?}");
}
