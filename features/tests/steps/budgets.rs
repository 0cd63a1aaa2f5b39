//! What tenants and sessions may have: tokens of two tenants, a budget, a session's life.

use super::Session;
use crate::server::{Server, Setup, launch};
use cucumber::{given, then, when};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

const APP: &str = "app-0123456789abcdef0123456789abcdef";
const OTHER: &str = "other-0123456789abcdef0123456789abcdef";
const TOKENS: &str =
    "app infer app-0123456789abcdef0123456789abcdef; other infer other-0123456789abcdef0123456789abcdef";

fn start(more: String) -> Option<Server> {
    Some(Server::start(&Setup { tokens: Some(TOKENS), more, ..Setup::default() }))
}

#[given(regex = r"^a server where `app` has a budget of (\d+) tokens$")]
fn budgeted(session: &mut Session, tokens: u32) {
    session.server = start(format!("[[tenants]]\nname = \"app\"\nbudget_tokens = {tokens}\n"));
}

#[given(regex = r"^a server where sessions have (\d+) turns$")]
fn bounded_turns(session: &mut Session, turns: u32) {
    session.server = start(format!("[sessions]\nturns_max = {turns}\n"));
}

impl Session {
    /// Asks for a task as `app`; remembers the answer and how many tokens are left.
    async fn ask_as_app(&mut self, tokens: u32, name: Option<&str>) {
        let mut body = json!({"model_ref": "tiny", "prompt": "Once upon a time", "max_tokens": tokens});
        if let Some(name) = name {
            body["session_id"] = name.into();
        }
        let response = self.client.post(self.url("/v1/tasks")).bearer_auth(APP).json(&body).send().await.unwrap();
        let left = response.headers().get("x-budget-tokens-remaining").map(|left| left.to_str().unwrap().to_owned());
        self.hints = left.map(|left| (left, String::new()));
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        self.task = answer["task_id"].as_str().unwrap_or_default().to_owned();
        self.answers.push((status, answer));
    }

    fn left(&self) -> u64 {
        self.hints.as_ref().expect("it was told").0.parse().unwrap()
    }

    /// What the last task used, once it is done.
    async fn used(&self) -> (u64, u64) {
        loop {
            let task = self.client.get(self.url(&format!("/v1/tasks/{}", self.task))).bearer_auth(APP).send().await;
            let task: Value = task.unwrap().json().await.unwrap();
            if task["state"] == "done" {
                let count = |field: &str| task["result"][field].as_u64().unwrap_or_else(|| panic!("{task}"));
                return (count("tokens_in"), count("tokens_out"));
            }
            assert!(["submitted", "queued", "placed", "running"].contains(&task["state"].as_str().unwrap()), "{task}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    async fn look(&self, name: &str, token: &str) -> Response {
        self.client.get(self.url(&format!("/v1/sessions/{name}"))).bearer_auth(token).send().await.unwrap()
    }
}

#[when(regex = r"^`app` asks for a task of (\d+) tokens$")]
async fn asks(session: &mut Session, tokens: u32) {
    session.ask_as_app(tokens, None).await;
}

#[then("it is told how many tokens are left")]
async fn told(session: &mut Session) {
    let (prompt, _) = session.used().await;
    assert_eq!(session.left(), 120 - prompt - 20, "{:?}", session.answer());
}

#[then("the answer's tokens are off the budget once it is done")]
async fn settled(session: &mut Session) {
    let (prompt, answer) = session.used().await;
    session.ask_as_app(1, None).await;
    assert_eq!(session.left(), 120 - prompt - answer - (prompt + 1));
    session.used().await;
}

#[then("the task is refused with BUDGET_EXHAUSTED, which no waiting helps")]
fn exhausted(session: &mut Session) {
    let (status, answer) = session.answer();
    assert_eq!((status.as_u16(), answer["code"].as_str()), (429, Some("BUDGET_EXHAUSTED")), "{answer}");
    assert_eq!((answer["retriable"].as_bool(), &answer["retry_after_ms"]), (Some(false), &Value::Null), "{answer}");
}

#[then("after a restart as much is left as before")]
async fn outlived(session: &mut Session) {
    session.ask_as_app(1, None).await;
    let (before, (prompt, answer)) = (session.left(), session.used().await);
    let server = session.server.as_mut().unwrap();
    assert!(server.stop().success());
    (server.child, server.url) = launch(&server.dir, "127.0.0.1:0", Some(TOKENS));
    session.ask_as_app(1, None).await;
    assert_eq!(session.left(), before + (1 - answer) - (prompt + 1));
}

#[when(regex = r"^`app` takes (\d+) turns? of the session `(\w+)`$")]
async fn takes(session: &mut Session, turns: u32, name: String) {
    for _ in 0..turns {
        session.ask_as_app(3, Some(&name)).await;
        if session.answer().0 == StatusCode::ACCEPTED {
            session.used().await;
        }
    }
}

#[then(regex = r"^the session `(\w+)` of `app` has had (\d+) turns and holds no memory$")]
async fn has_had(session: &mut Session, name: String, turns: u32) {
    let answer = session.look(&name, APP).await;
    assert_eq!(answer.status(), 200);
    let facts: Value = answer.json().await.unwrap();
    let ttl = facts["ttl_ms_remaining"].as_u64().unwrap();
    assert!((500_000..=600_000).contains(&ttl), "{facts}");
    let rest = json!({"ttl_ms_remaining": ttl, "turns": turns, "kv_bytes": 0, "kv_warmth": false});
    assert_eq!(facts, rest);
}

#[then(regex = r"^`other` has no session `(\w+)`$")]
async fn not_theirs(session: &mut Session, name: String) {
    assert_eq!(session.look(&name, OTHER).await.status(), 404);
}

#[then("the turn is refused with CONFLICT and told to go on in another session")]
fn over(session: &mut Session) {
    let (status, answer) = session.answer();
    assert_eq!((status.as_u16(), answer["code"].as_str()), (409, Some("CONFLICT")), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("go on with another `session_id`"), "{answer}");
}

#[when(regex = r"^`app` deletes the session `(\w+)` twice$")]
async fn deletes(session: &mut Session, name: String) {
    for _ in 0..2 {
        let path = session.url(&format!("/v1/sessions/{name}"));
        let status = session.client.delete(path).bearer_auth(APP).send().await.unwrap().status();
        session.answers.push((status, Value::Null));
    }
}

#[then(regex = r"^both deletions are well and the session `(\w+)` of `app` is gone$")]
async fn gone(session: &mut Session, name: String) {
    let [.., first, second] = session.answers.as_slice() else { panic!("two were asked") };
    assert_eq!((first.0.as_u16(), second.0.as_u16()), (204, 204));
    assert_eq!(session.look(&name, APP).await.status(), 404);
}

#[then(regex = r"^`app` may take a turn of the session `(\w+)` again$")]
async fn again(session: &mut Session, name: String) {
    session.ask_as_app(3, Some(&name)).await;
    assert_eq!(session.answer().0, StatusCode::ACCEPTED, "{:?}", session.answer());
}
