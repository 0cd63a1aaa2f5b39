//! The steps of all features, over one session: a server, what was asked of it, what it answered.

mod answering;
mod auth;
mod budgets;
mod cancelling;
mod clients;
mod commands;
mod explaining;
mod loading;
mod measuring;
mod operating;
mod pulling;
mod recorded;
mod refusing;
mod shaping;

use crate::server::{Server, Setup};
use crate::sse::{Event, Events};
use cucumber::{World, given};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use std::process::Child;
use std::time::Instant;

/// What a scenario remembers.
#[derive(Debug, Default, World)]
pub(crate) struct Session {
    server: Option<Server>,
    client: Client,
    /// The last task's id, and what its stream said so far.
    task: String,
    /// The last operator's job.
    job: String,
    seen: Vec<Event>,
    stream: Option<Events>,
    /// The last answers, with their status.
    answers: Vec<(StatusCode, Value)>,
    /// Answers by question, of a first and a second time of asking.
    first: Vec<String>,
    second: Vec<String>,
    /// Headers of the last refusal.
    hints: Option<(String, String)>,
    /// What the last command said on stdout and stderr, and whether it ended well.
    said: (bool, String, String),
    /// A model hub, and the cache that is filled from it.
    hub: Option<pulling::Hub>,
    /// A process that was told to end, and when.
    ending: Option<(Child, Instant)>,
    /// The last prompt, as it was written.
    prompt: String,
}

impl Session {
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.as_ref().expect("a server was given").url)
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// Submits a task and remembers its id.
    async fn submit(&mut self, body: Value) {
        let response = self.post("/v1/tasks", &body).await;
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        if let Some(id) = answer["task_id"].as_str() {
            self.task = id.to_owned();
        }
        self.answers.push((status, answer));
    }

    /// Opens the stream of the last task, from an event on.
    async fn open(&self, last_event_id: Option<&str>) -> Events {
        let mut request = self.client.get(self.url(&format!("/v1/tasks/{}/stream", self.task)));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        Events::of(request.send().await.unwrap()).await
    }

    fn answer(&self) -> &(StatusCode, Value) {
        self.answers.last().expect("something was asked")
    }
}

/// What chats begin with, where it does not matter.
fn question() -> Value {
    json!([{ "role": "user", "content": "Name three colours." }])
}

/// A task that the tiny model answers with exactly so many tokens: greedily it never comes to an end.
fn task(tokens: u32) -> Value {
    json!({ "model_ref": "tiny", "prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0 })
}

/// The numbers of a stream's tokens.
fn token_numbers(events: &[Event]) -> Vec<u64> {
    events.iter().filter(|e| e.name == "token").map(|e| e.data["i"].as_u64().unwrap()).collect()
}

#[given("a server with the tiny model")]
fn a_server(session: &mut Session) {
    session.server = Some(Server::start(&Setup::default()));
}

#[given("a server with the tiny model in two pools")]
fn two_pools(session: &mut Session) {
    session.server = Some(Server::start(&Setup { pools: 2, slots: 2, ..Setup::default() }));
}

#[given("a server with the tiny model, one slot and a queue of one")]
fn a_small_server(session: &mut Session) {
    let more = "[queue]\ninteractive_max = 1\n".into();
    session.server = Some(Server::start(&Setup { slots: 1, more, ..Setup::default() }));
}

#[given(regex = r"^a server with the tiny model, one slot, one place to wait and the policy ([a-z-]+)$")]
fn a_server_with_policy(session: &mut Session, policy: String) {
    let more = format!("[queue]\ninteractive_max = 0\nbatch_max = 1\npolicy = \"{policy}\"\n");
    session.server = Some(Server::start(&Setup { slots: 1, simd: "scalar", more, ..Setup::default() }));
}

/// The definition itself computes: slow enough that a client comes in time to interrupt it.
#[given("a slow server with the tiny model")]
fn a_slow_server(session: &mut Session) {
    session.server = Some(Server::start(&Setup { simd: "scalar", ..Setup::default() }));
}

#[given("a slow server with the tiny model in two pools that evens out their load")]
fn two_even_pools(session: &mut Session) {
    let more = "[placement]\npolicy = \"least-loaded\"\n".into();
    let setup = Setup { pools: 2, slots: 2, simd: "scalar", more, ..Setup::default() };
    session.server = Some(Server::start(&setup));
}
