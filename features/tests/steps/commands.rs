//! The other commands of the binary, as a person at a terminal uses them.

use super::{Session, task};
use crate::server::{binary, launch, orch, scratch};
use cucumber::{then, when};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::Duration;

fn url(session: &Session) -> String {
    session.url("")
}

fn id_in(errors: &str) -> String {
    let line = errors.lines().find_map(|line| line.strip_prefix("task "));
    line.unwrap_or_else(|| panic!("no id in {errors}")).to_owned()
}

#[when(regex = r#"^I submit "(.+)" with orch and seed (\d+)$"#)]
fn submit(session: &mut Session, prompt: String, seed: String) {
    session.said = orch(&["submit", "--url", &url(session), "--seed", &seed, "--max-tokens", "12", &prompt]);
}

#[then("orch streams what the task says, and its id")]
async fn streams(session: &mut Session) {
    let (well, text, errors) = session.said.clone();
    assert!(well, "{errors}");
    session.task = id_in(&errors);
    let shown: Value = session.get(&format!("/v1/tasks/{}", session.task)).await.json().await.unwrap();
    assert_eq!(shown["result"]["text"].as_str().unwrap(), text.trim_end_matches('\n'));
    assert!(!text.trim().is_empty());
}

#[then("following the task again gives the same text")]
fn again(session: &mut Session) {
    let (well, text, errors) = orch(&["submit", "--url", &url(session), "--follow", &session.task]);
    assert!(well, "{errors}");
    assert_eq!(text, session.said.1);
}

#[then("as JSON it is the task's result")]
fn as_json(session: &mut Session) {
    let (well, text, errors) = orch(&["submit", "--url", &url(session), "--follow", &session.task, "-o", "json"]);
    assert!(well, "{errors}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&shown["state"], &shown["result"]["tokens_out"]), (&"done".into(), &12.into()));
}

#[when("I submit a detached batch task with orch")]
fn detached(session: &mut Session) {
    let url = url(session);
    session.said =
        orch(&["submit", "--url", &url, "--detach", "--priority", "batch", "--max-tokens", "5", "A letter."]);
}

#[then("orch prints its id alone, and the task comes to its end")]
async fn comes_to_its_end(session: &mut Session) {
    let (well, text, errors) = session.said.clone();
    assert!(well, "{errors}");
    session.task = text.trim().to_owned();
    let path = format!("/v1/tasks/{}", session.task);
    for _ in 0..600 {
        let shown: Value = session.get(&path).await.json().await.unwrap();
        if shown["state"] == "done" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the task {} does not end", session.task);
}

#[when("I submit a long task with orch and the server is killed and started again")]
async fn over_a_restart(session: &mut Session) {
    // Long ones hold all slots, so that this one waits when the server dies, and runs after it.
    for _ in 0..4 {
        session.submit(task(1_500)).await;
    }
    let url = url(session);
    let child = Command::new(binary())
        .args(["submit", "--url", &url, "--max-tokens", "5", "Once upon a time"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Admitted before the kill: its id is told only then.
    let list = || async { session.get("/v1/tasks").await.json::<Value>().await.unwrap() };
    while list().await["tasks"].as_array().unwrap().len() < 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let server = session.server.as_mut().unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let at = server.url.strip_prefix("http://").unwrap().to_owned();
    (server.child, server.url) = launch(&server.dir.clone(), &at, None);
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    session.said = (output.status.success(), text(&output.stdout), text(&output.stderr));
}

#[then("orch says that it went on, and how the task ended")]
fn went_on(session: &mut Session) {
    let (well, text, errors) = session.said.clone();
    assert!(well, "{errors}");
    assert!(errors.contains("the stream broke off") && !text.trim().is_empty(), "{errors}");
}

#[when("I ask the doctor about that server")]
fn doctor(session: &mut Session) {
    let bind = url(session).strip_prefix("http://").unwrap().to_owned();
    let server = session.server.as_ref().unwrap();
    let (config, journal) = (server.dir.join("orchestrion.toml"), server.journal());
    let (config, journal) = (config.to_str().unwrap(), journal.to_str().unwrap());
    session.said = orch(&["doctor", "-o", "json", "--bind", &bind, "--config", config, "--journal", journal]);
}

#[then("nothing is wrong, and the port is said to be Orchestrion's")]
fn healthy(session: &mut Session) {
    let (well, text, errors) = session.said.clone();
    assert!(well, "{text}{errors}");
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    for what in ["memory", "processor", "configuration", "model", "journal", "disk", "clock", "port"] {
        assert!(findings.iter().any(|finding| finding["what"] == what), "{what} is not in {text}");
    }
    let port = findings.iter().find(|finding| finding["what"] == "port").unwrap();
    assert!(port["found"].as_str().unwrap().contains("in use by Orchestrion"), "{port}");
}

/// Runs a command with a configuration file of this text.
fn configured(session: &mut Session, text: &str, args: &[&str]) {
    let dir = scratch();
    let file = dir.join("orchestrion.toml");
    std::fs::write(&file, text).unwrap();
    let args: Vec<&str> = args.iter().copied().chain(["--config", file.to_str().unwrap()]).collect();
    session.said = orch(&args);
    std::fs::remove_dir_all(dir).unwrap();
}

#[when("I ask the doctor about a pool whose model is not there")]
fn without_a_model(session: &mut Session) {
    configured(
        session,
        "[[pools]]\nid = \"a\"\nmodel = \"/nowhere/model.gguf\"\n",
        &["doctor", "--bind", "127.0.0.1:0"],
    );
}

#[when("I ask the doctor about listening beyond this machine without a token")]
fn beyond(session: &mut Session) {
    configured(session, "", &["doctor", "--bind", "0.0.0.0:0"]);
}

#[then("it fails with 40301")]
fn forbidden(session: &mut Session) {
    let (well, text, _) = session.said.clone();
    let wrong = text.lines().find(|line| line.starts_with("WRONG")).unwrap_or_default();
    assert!(!well && wrong.contains("tokens") && wrong.contains("40301"), "{text}");
}

#[then("it fails, names the file and says what to correct")]
fn names_the_file(session: &mut Session) {
    let (well, text, _) = session.said.clone();
    let wrong = text.lines().find(|line| line.starts_with("WRONG")).unwrap_or_default();
    assert!(!well && wrong.contains("/nowhere/model.gguf") && text.contains("→ correct its `model`"), "{text}");
}

#[when(regex = r#"^I serve with a configuration that says "(.+)"$"#)]
fn slip(session: &mut Session, key: String) {
    configured(session, &format!("[queue]\n{key} = 7\n"), &["serve"]);
}

#[then(regex = r#"^I am asked whether I meant "(.+)"$"#)]
fn meant(session: &mut Session, key: String) {
    let (well, _, errors) = session.said.clone();
    assert!(!well && errors.contains(&format!("Did you mean `{key}`?")), "{errors}");
}

#[when("I serve a model that is not there")]
fn slip_of_the_model(session: &mut Session) {
    let dir = scratch();
    let journal = dir.join("journal");
    let serve = ["serve", "--model", "/nowhere/tinny.gguf", "--bind", "127.0.0.1:0", "--journal"];
    session.said = orch(&[&serve[..], &[journal.to_str().unwrap()]].concat());
    // What is there, in place of what it printed.
    session.said.1 = std::fs::read_dir(&dir).unwrap().map(|entry| format!("{:?}", entry.unwrap().path())).collect();
    std::fs::remove_dir_all(dir).unwrap();
}

#[then("it fails, names the file, and has begun no journal")]
fn no_journal(session: &mut Session) {
    let (well, written, errors) = session.said.clone();
    assert!(!well && errors.contains("/nowhere/tinny.gguf"), "{errors}");
    assert_eq!(written, "");
}

#[when(regex = r"^I ask for the completions of (\w+)$")]
fn completions(session: &mut Session, shell: String) {
    session.said = orch(&["completions", &shell]);
}

#[then(regex = r#"^they know the command "(\w+)"$"#)]
fn know(session: &mut Session, command: String) {
    let (well, text, errors) = session.said.clone();
    assert!(well && text.contains(&command), "{errors}");
}
