//! A client that leaves while the engine reads its long prompt: how soon its slot is another's.

use crate::server::{Server, Setup, orch};
use crate::sse::Events;
use reqwest::Client;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// The engine reads so many tokens of a prompt in a step at most; fewer where they would take it too long.
const CHUNK: u64 = 64;

/// A prompt of one word: with another word nothing of it is known from the last one.
fn long(word: &str) -> String {
    format!("{word} ").repeat(400)
}

async fn submit(client: &Client, url: &str, prompt: &str) -> (String, Events) {
    let body = json!({"model_ref": "tiny", "prompt": prompt, "max_tokens": 1});
    let told = client.post(format!("{url}/v1/tasks")).json(&body).send().await.unwrap();
    let id = told.json::<Value>().await.unwrap()["task_id"].as_str().unwrap().to_owned();
    let stream = client.get(format!("{url}/v1/tasks/{id}/stream")).send().await.unwrap();
    (id, Events::of(stream).await)
}

/// When a short task is taken up.
async fn taken_up(client: Client, url: String) -> Instant {
    let (_, mut events) = submit(&client, &url, "salt").await;
    assert_eq!(events.next().await.unwrap().name, "started");
    Instant::now()
}

/// When it happened by the server's clock, milliseconds since 1970, as the journal tells it.
fn moment(journal: &Path, task: &str, what: &str) -> u64 {
    let (well, story, errors) = orch(&["explain", task, "--journal", journal.to_str().unwrap(), "-o", "json"]);
    assert!(well, "{errors}");
    let story: Value = serde_json::from_str(&story).unwrap();
    let moments = story["timeline"].as_array().unwrap();
    let found = moments.iter().find(|moment| moment["what"].as_str().unwrap().contains(what));
    let found = found.unwrap_or_else(|| panic!("nothing of it {what}: {story:#}"));
    story["submitted_unix_ms"].as_u64().unwrap() + found["after_ms"].as_u64().unwrap()
}

async fn metric(client: &Client, url: &str, line: &str) -> bool {
    let text = client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    text.lines().any(|found| found == line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_stream_frees_its_slot_within_a_step_of_the_engine() {
    let _alone = crate::ALONE.lock().await;
    let mut server = Server::start(&Setup { slots: 1, simd: "scalar", ..Setup::default() });
    let (client, url) = (Client::builder().pool_max_idle_per_host(0).build().unwrap(), server.url.clone());
    let (undisturbed, events) = submit(&client, &url, &long("salt")).await;
    let end = events.rest().await.pop().unwrap();
    let (tokens, journal) = (end.data["tokens_in"].as_u64().unwrap(), server.journal());
    let (began, ended) = (moment(&journal, &undisturbed, "was taken up"), moment(&journal, &undisturbed, "ended"));
    let (whole, steps) = (Duration::from_millis(ended - began), tokens.div_ceil(CHUNK) as u32);

    // The guest's prompt is read, for two steps by now; a task waits for the only slot; the guest leaves.
    let body = json!({"model": "tiny", "stream": true, "max_tokens": 9, "prompt": long("last")});
    let guest = client.post(format!("{url}/v1/completions")).json(&body).send().await.unwrap();
    let waiting = tokio::spawn(taken_up(client.clone(), url.clone()));
    tokio::time::sleep(2 * whole / steps).await;
    while !metric(&client, &url, "orchestrion_queue_depth{priority=\"interactive\"} 1").await {
        assert!(!waiting.is_finished(), "it does not wait");
    }
    let left = Instant::now();
    drop(guest);
    let freed = waiting.await.unwrap() - left;
    println!("{tokens} tokens in {steps} steps took {whole:?}; {freed:?} after the client left its slot was another's");
    // A step, and what a loaded machine may add: less than the rest of the prompt, but where that is quick.
    let bound = 2 * whole / steps + Duration::from_millis(300);
    assert!(freed < bound, "{freed:?} of {bound:?}");
    assert!(metric(&client, &url, "orchestrion_tasks_canceled_total{reason=\"disconnect\"} 1").await);
    assert!(server.stop().success());
}
