//! The control plane: drains, resumes, purges, verifications and their jobs.

use super::{Session, task, token_numbers};
use crate::server::{Server, Setup, orch, tiny_model};
use crate::sse::Events;
use cucumber::{given, then, when};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const POOL: &str = "/v1/pools/a";

/// The job's states, from the first to its end.
async fn follow(session: &Session) -> Vec<crate::sse::Event> {
    let request = session.client.get(session.url(&format!("/v1/jobs/{}", session.job)));
    Events::of(request.header("accept", "text/event-stream").send().await.unwrap()).await.rest().await
}

#[when(regex = r"^I (drain|resume|purge) the pool$")]
async fn operate(session: &mut Session, verb: String) {
    let response = session.post(&format!("{POOL}/{verb}"), &json!({})).await;
    let status = response.status().as_u16();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, 202, "{answer}");
    session.job = answer["job_id"].as_str().unwrap().to_owned();
    if verb != "drain" {
        assert_eq!(follow(session).await.last().unwrap().data["state"], "done");
    }
}

#[then("a new task is refused with POOL_UNAVAILABLE and told when to come back")]
async fn refused(session: &mut Session) {
    let response = session.post("/v1/tasks", &task(5)).await;
    let (status, wait) = (response.status().as_u16(), response.headers().get("retry-after").cloned());
    let answer: Value = response.json().await.unwrap();
    assert_eq!((status, &answer["code"]), (503, &json!("POOL_UNAVAILABLE")), "{answer}");
    assert!(wait.is_some_and(|wait| wait.to_str().unwrap().parse::<u64>().unwrap() >= 1));
}

#[then(regex = r"^the stream goes on to token (\d+) and its end$")]
async fn goes_on(session: &mut Session, last: u64) {
    session.seen.extend(session.stream.take().unwrap().rest().await);
    assert_eq!(token_numbers(&session.seen), (0..=last).collect::<Vec<_>>());
    assert_eq!(session.seen.last().unwrap().name, "end");
}

#[then("the job's stream tells its steps and ends once, done")]
async fn steps(session: &mut Session) {
    let told = follow(session).await;
    let names: Vec<&str> = told.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["step", "end"]);
    assert_eq!(told[0].data["steps"], json!([{"name": "drain", "status": "running"}]));
    assert_eq!(told[1].data["state"], "done");
    let fetched: Value = session.get(&format!("/v1/jobs/{}", session.job)).await.json().await.unwrap();
    assert_eq!(fetched, told[1].data);
}

#[then(regex = r"^a task of (\d+) tokens is answered$")]
async fn answered(session: &mut Session, tokens: u32) {
    session.submit(task(tokens)).await;
    let events = session.open(None).await.rest().await;
    assert_eq!(events.last().unwrap().data["tokens_out"], tokens, "{events:?}");
}

#[then("the pool's worker is in its second life")]
async fn second_life(session: &mut Session) {
    let status: Value = session.get(&format!("{POOL}/status")).await.json().await.unwrap();
    assert_eq!((&status["state"], &status["workers"][0]["life"]), (&json!("ready"), &json!(2)), "{status}");
}

#[then("jobs, pools and models that nobody knows are refused")]
async fn unknown(session: &mut Session) {
    for path in ["/v1/jobs/00", "/v1/jobs/none", "/v1/pools/none/health", "/v1/pools/none/status"] {
        assert_eq!(session.get(path).await.status().as_u16(), 404, "{path}");
    }
    for (path, body, status) in [
        ("/v1/pools/none/drain", json!({}), 404),
        ("/v1/pools/a/explode", json!({}), 404),
        ("/v1/pools/a/reload", json!({}), 400),
        ("/v1/pools/a/reload", json!({"new_model_ref": "none"}), 400),
        ("/v1/pools/a/purge", json!({"models": ["none"]}), 400),
        ("/v1/pools/a/purge", json!({"delete_cache": true}), 400),
    ] {
        let response = session.post(path, &body).await;
        assert_eq!(response.status().as_u16(), status, "{path} {body}");
    }
    // The model that it has: nothing is to be done.
    let response = session.post("/v1/pools/a/reload", &json!({"new_model_ref": "tiny"})).await;
    session.job = response.json::<Value>().await.unwrap()["job_id"].as_str().unwrap().to_owned();
    let told = follow(session).await;
    assert_eq!((told.len(), &told[0].data["state"], &told[0].data["steps"]), (1, &json!("done"), &json!([])));
}

/// What the other model's file is called, in the server's own folder.
const OTHER: &str = "other.gguf";

#[given("a server with the tiny model and another")]
fn another(session: &mut Session) {
    // A path from the server's folder, which is there once it starts.
    let more = format!("[[pools]]\nid = \"other\"\nmodel = \"{OTHER}\"\nmodel_name = \"other\"\nthreads = 1\n");
    let files = vec![(OTHER, std::fs::read(tiny_model()).unwrap())];
    session.server = Some(Server::start(&Setup { more, files, ..Setup::default() }));
}

#[when(regex = r"^the other model's file is (broken|missing) and I reload the pool to it with orch$")]
fn reload_to(session: &mut Session, how: String) {
    let file = session.server.as_ref().unwrap().dir.join(OTHER);
    // Another file in its place: who has the old one open goes on with that.
    std::fs::remove_file(&file).unwrap();
    if how == "broken" {
        std::fs::write(&file, b"GGUF and then nothing that makes sense").unwrap();
    }
    session.said = orch(&["reload", "other", "--pool", "a", "--url", &session.url("")]);
}

#[then("orch tells the steps back to the old model, and why")]
fn steps_back(session: &mut Session) {
    let (well, text, errors) = session.said.clone();
    assert!(!well && text.is_empty(), "{text}{errors}");
    let steps = ["drain: done", "stop: done", "load: running", "load: failed", "restore: running", "restore: done"];
    let mut lines = errors.lines().map(str::trim);
    steps.iter().for_each(|step| assert!(lines.any(|line| line == *step), "{step} is not in its place in {errors}"));
    let last = errors.lines().last().unwrap();
    let why = last.contains("reload of pool a failed: worker ") && last.contains(OTHER);
    assert!(why && last.ends_with("; the old model was restored"), "{errors}");
}

#[when(regex = r"^I (drain|resume|purge|verify) the pool with orch$")]
fn with_orch(session: &mut Session, verb: String) {
    session.said = orch(&[&verb, "--url", &session.url("")]);
    assert!(session.said.0, "{}", session.said.2);
}

#[then("orch tells the drain and that it is done")]
fn told_drain(session: &mut Session) {
    let (_, text, errors) = session.said.clone();
    assert_eq!(text, "drain of pool a: done\n");
    let steps: Vec<&str> = errors.lines().skip(1).collect();
    assert!(errors.starts_with("job ") && steps.last() == Some(&"  drain: done"), "{errors}");
}

#[then("orch tells what was verified, and that it is sound")]
fn told_verify(session: &mut Session) {
    let (_, text, errors) = session.said.clone();
    assert_eq!(text, "verify of pool a: done\n");
    assert_eq!(errors.lines().last(), Some("  verify w1 tiny: ok"), "{errors}");
    let (well, text, errors) = orch(&["verify", "--pool", "a", "-o", "json", "--url", &session.url("")]);
    assert!(well, "{errors}");
    let job: Value = serde_json::from_str(&text).unwrap();
    let file = Sha256::digest(std::fs::read(tiny_model()).unwrap());
    let file: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
    let step = &job["steps"][0];
    assert_eq!(
        (&job["state"], &step["digest"], &step["result"]),
        (&json!("done"), &json!(file), &json!("ok")),
        "{job}"
    );
}

#[then("orch shows the pool as closed")]
fn shown(session: &mut Session) {
    let (well, text, errors) = orch(&["pools", "--url", &session.url("")]);
    assert!(well && text.starts_with("a: closed, model tiny\n  worker "), "{text}{errors}");
    let (_, text, _) = orch(&["pools", "-o", "json", "--url", &session.url("")]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["pools"][0]["closed"], true);
}

#[then("orch says that there is no such pool, no such model and no server")]
fn cannot(session: &mut Session) {
    let url = session.url("");
    for (args, says) in [
        (["drain", "--pool", "no/such", "--url", &url], "no such pool here"),
        (["reload", "none", "--pool=a", "--url", &url], "names no model of this server"),
        (["drain", "--pool", "a", "--url", "http://127.0.0.1:9"], "is it running? `orch serve` starts one"),
    ] {
        let (well, text, errors) = orch(&args);
        assert!(!well && text.is_empty() && errors.contains(says), "{args:?}: {text}{errors}");
    }
}
