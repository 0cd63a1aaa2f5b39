//! Models that are loaded on demand.

use super::Session;
use crate::server::{Server, Setup, orch};
use cucumber::{given, then, when};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const OTHER: &str = "other.gguf";
/// A tiny model takes 129,280 bytes, a token of its context 512.
const FOR_ONE: u64 = 240_000;
const FOR_BOTH: u64 = 10_000_000;

/// Another model than the tiny one, of the same size.
fn other() -> Vec<u8> {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = dir.join(format!("{}-{OTHER}", env!("CARGO_CRATE_NAME")));
    let (well, _, errors) = orch(&["gen", path.to_str().unwrap(), "--seed", "9"]);
    assert!(well, "{errors}");
    std::fs::read(path).unwrap()
}

fn server(memory: u64) -> Server {
    let more = format!(
        "[health]\nno_worker_grace_ms = 500\n[eviction]\nresidency_min_ms = 0\n[models]\nmemory_bytes = {memory}\n\
         [[models.loadable]]\nmodel = \"{OTHER}\"\n"
    );
    Server::start(&Setup { more, files: vec![(OTHER, other())], ..Setup::default() })
}

/// What both models answer, each as often.
async fn ask(session: &Session, times: usize) -> Vec<String> {
    let mut said = vec![];
    for model in ["tiny", "other"].iter().cycle().take(2 * times) {
        let body = json!({"model": model, "prompt": "Salt and", "max_tokens": 12, "temperature": 0.7, "seed": 3});
        let response = session.post("/v1/completions", &body).await;
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status.as_u16(), 200, "{answer}");
        said.push(answer["choices"][0]["text"].as_str().unwrap().to_owned());
    }
    said
}

#[given("a server that may load another model and has memory for one")]
fn tight(session: &mut Session) {
    session.server = Some(server(FOR_ONE));
}

#[when(regex = r"^I ask both models in turn, (\d+) times$")]
async fn in_turn(session: &mut Session, times: usize) {
    session.first = ask(session, times).await;
}

#[then("each answers as it does where both fit")]
async fn as_ever(session: &mut Session) {
    let tight = session.server.replace(server(FOR_BOTH)).unwrap();
    session.second = ask(session, 3).await;
    assert_eq!(metric(session, "orchestrion_evictions_total").await, 0);
    session.server = Some(tight);
    assert_eq!(session.first, session.second);
    assert!(session.first[0] != session.first[1] && session.first[..2] == session.first[4..]);
}

/// The sum of all lines of a metric.
async fn metric(session: &Session, name: &str) -> u64 {
    let text = session.get("/metrics").await.text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[then(regex = r"^(\d+) models made way, and one stands$")]
async fn made_way(session: &mut Session, count: u64) {
    assert_eq!(metric(session, "orchestrion_evictions_total").await, count);
    let pools: Value = session.get("/v1/pools").await.json().await.unwrap();
    let models = pools["pools"][0]["workers"][0]["models"].clone();
    assert_eq!(models, json!([{"model": "other", "state": "serving", "bytes": 129_280, "leases": 0}]));
}

#[then("the metrics say which")]
async fn which(session: &mut Session) {
    // They are looked at once a second.
    let began = Instant::now();
    let state = |model, count| format!("orchestrion_model_state{{model=\"{model}\",state=\"serving\"}} {count}\n");
    loop {
        let text = session.get("/metrics").await.text().await.unwrap();
        if text.contains(&state("other", 1)) && text.contains(&state("tiny", 0)) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[then("the last one's explanation tells of the load")]
async fn explained(session: &mut Session) {
    let body = json!({"model_ref": "tiny", "prompt": "Salt and", "max_tokens": 3});
    session.submit(body).await;
    assert_eq!(session.open(None).await.rest().await.last().unwrap().name, "end");
    let journal = session.server.as_ref().unwrap().journal();
    let (well, text, errors) = orch(&["explain", &session.task, "--journal", journal.to_str().unwrap()]);
    assert!(well, "{errors}");
    assert!(text.contains("So other makes way on w1.") && text.contains("So the model is loaded on w1"), "{text}");
}

#[when("the other model's file is missing and I ask for it")]
async fn missing(session: &mut Session) {
    std::fs::remove_file(session.server.as_ref().unwrap().dir.join(OTHER)).unwrap();
    let body = json!({"model": "other", "prompt": "Salt and", "max_tokens": 12});
    let response = session.post("/v1/completions", &body).await;
    let status = response.status();
    session.answers = vec![(status, response.json().await.unwrap())];
}

#[then("it is told that no worker serves it")]
fn told(session: &mut Session) {
    let (status, answer) = &session.answers[0];
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (503, &json!("POOL_UNAVAILABLE")), "{answer}");
}
