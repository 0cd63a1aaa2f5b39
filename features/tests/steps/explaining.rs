//! Explanations and replays, of the server's own and by the tool.

use super::{Session, task};
use crate::server::orch;
use cucumber::{then, when};
use serde_json::{Value, json};

async fn submit_and_wait(session: &mut Session, tokens: u32) {
    session.submit(task(tokens)).await;
    let events = session.open(None).await.rest().await;
    assert_eq!(events.last().unwrap().name, "end", "{events:?}");
}

#[when(regex = r"^I submit a task of (\d+) tokens and wait for its end$")]
async fn one(session: &mut Session, tokens: u32) {
    submit_and_wait(session, tokens).await;
}

#[when(regex = r"^I submit (\d+) tasks of (\d+) tokens and wait for their ends$")]
async fn many(session: &mut Session, count: u32, tokens: u32) {
    let mut tasks = vec![];
    for _ in 0..count {
        session.submit(task(tokens)).await;
        tasks.push(session.task.clone());
    }
    for id in tasks {
        session.task = id;
        session.open(None).await.rest().await;
    }
}

#[then("asking the server to explain it names both workers and the one that was chosen")]
async fn explain(session: &mut Session) {
    let path = format!("/v1/tasks/{}/explain", session.task);
    let told = session.get(&path).await.text().await.unwrap();
    assert!(told.contains("\"w1\"") || told.contains("\"worker\""), "{told}");
    for word in ["candidates", "chosen", "predicted_run", "proof"] {
        assert!(told.contains(word), "`{word}` is not in {told}");
    }
}

#[when(regex = r"^I send the same prompt of (\d+) tokens twice$")]
async fn alike(session: &mut Session, tokens: usize) {
    for _ in 0..2 {
        let body = json!({ "model": "tiny", "prompt": vec![5; tokens], "max_tokens": 3 });
        let response = session.post("/v1/completions", &body).await;
        let answer = (response.status(), response.json().await.unwrap());
        session.answers.push(answer);
    }
    session.task = session.answer().1["id"].as_str().unwrap().trim_start_matches("cmpl-").to_owned();
}

#[then(regex = r"^(\d+) of them were looked up the second time$")]
fn looked_up(session: &mut Session, tokens: u64) {
    let cached = |(_, answer): &(_, Value)| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert_eq!(session.answers.iter().filter_map(cached).collect::<Vec<_>>(), [0, tokens], "{:?}", session.answers);
}

#[then(regex = r"^the explanation says who knew (\d+) of them and that it was chosen$")]
async fn who_knew(session: &mut Session, tokens: u64) {
    let told: Value = session.get(&format!("/v1/tasks/{}/explain", session.task)).await.json().await.unwrap();
    let moments = told["timeline"].as_array().unwrap();
    let log = moments.iter().map(|moment| &moment["decision"]).find(|log| log.is_object()).unwrap();
    let known = |n: usize| log["candidates"][n]["known_tokens"].as_u64();
    assert_eq!([known(0), known(1)], [Some(tokens), Some(0)], "{told}");
    assert_eq!(log["candidates"][0]["worker"], log["chosen"], "{told}");
}

#[when("the server goes down")]
fn goes_down(session: &mut Session) {
    let status = session.server.as_mut().unwrap().stop();
    assert!(status.success(), "a clean drain ends with 0, not {status}");
}

/// Simulated work that takes a little longer than it did still ends before the day does.
#[when("the server goes down a second later")]
fn goes_down_later(session: &mut Session) {
    std::thread::sleep(std::time::Duration::from_secs(1));
    goes_down(session);
}

fn journal(session: &Session) -> String {
    session.server.as_ref().unwrap().journal().to_str().unwrap().to_owned()
}

#[then("after the server went down, orch explain tells the same and proves it")]
fn explain_by_tool(session: &mut Session) {
    goes_down(session);
    let (well, told, errors) = orch(&["explain", &session.task, "--journal", &journal(session)]);
    assert!(well, "{errors}");
    for word in ["w1 of pool a", "w2 of pool b", "was chosen", "predicted to take"] {
        assert!(told.contains(word), "`{word}` is not in:\n{told}");
    }
}

#[then("orch replay finds every step equal")]
fn replay(session: &mut Session) {
    let (well, told, errors) = orch(&["replay", &journal(session)]);
    assert!(well, "{errors}");
    assert!(told.contains("Every decision and every state is as recorded."), "{told}");
}

#[then("orch replay with another placement policy names the first decision that differs")]
fn what_if(session: &mut Session) {
    let (well, told, errors) = orch(&["replay", &journal(session), "--set", "placement.policy=pack"]);
    assert!(well, "{errors}");
    assert!(told.contains("first decision"), "{told}");
}
