//! Tokens: who may ask for what, and what a server without them refuses.

use super::{Session, question};
use crate::server::{Server, Setup, binary, orch};
use cucumber::{given, then, when};
use serde_json::{Value, json};
use std::process::Command;

const INFER: &str = "infer-0123456789abcdef0123456789abcdef";
const READ: &str = "read-0123456789abcdef0123456789abcdef";
const TOKENS: &str =
    "app infer infer-0123456789abcdef0123456789abcdef; eyes read read-0123456789abcdef0123456789abcdef";

fn with_tokens(more: &str) -> Server {
    Server::start(&Setup { tokens: Some(TOKENS), more: more.into(), ..Setup::default() })
}

#[given("a server with the tiny model and tokens")]
fn tokens(session: &mut Session) {
    session.server = Some(with_tokens("[log]\nfilter = \"debug\"\n"));
}

#[given("a server with the tiny model and tokens that are optional here")]
fn optional_tokens(session: &mut Session) {
    session.server = Some(with_tokens("[auth]\noptional = true\n"));
}

#[when(regex = r"^I ask for (an answer|the models|the status|its health|its metrics) with (.+)$")]
async fn ask_with(session: &mut Session, what: String, token: String) {
    let request = match what.as_str() {
        "an answer" => {
            let body = json!({ "model": "tiny", "max_tokens": 3, "messages": question() });
            session.client.post(session.url("/v1/chat/completions")).json(&body)
        }
        "the models" => session.client.get(session.url("/v1/models")),
        "the status" => session.client.get(session.url("/status")),
        "its health" => session.client.get(session.url("/health/ready")),
        _ => session.client.get(session.url("/metrics")),
    };
    let request = match token.as_str() {
        "no token" => request,
        "an unknown token" => request.bearer_auth("unknown-0123456789abcdef0123456789abcdef"),
        "the read token" => request.bearer_auth(READ),
        "the infer token" => request.bearer_auth(INFER),
        other => panic!("nobody has {other}"),
    };
    let response = request.send().await.unwrap();
    let status = response.status();
    session.answers.push((status, response.json::<Value>().await.unwrap_or_default()));
}

#[then(regex = r"^the status is (\d+)$")]
fn status(session: &mut Session, expected: u16) {
    let (found, answer) = session.answer();
    assert_eq!(found.as_u16(), expected, "{answer}");
}

#[then("its log names the caller by its token's digest and holds no token")]
fn log(session: &mut Session) {
    let log = std::fs::read_to_string(session.server.as_ref().unwrap().dir.join("log")).unwrap();
    assert!(log.contains("token:") && log.contains("request answered"), "{log}");
    assert!(!log.contains(INFER) && !log.contains(READ) && !log.contains("0123456789abcdef"), "{log}");
}

fn refuses(bind: &str, tokens: Option<&str>) -> String {
    let mut command = Command::new(binary());
    if let Some(tokens) = tokens {
        command.env("ORCHESTRION_AUTH__TOKENS", tokens);
    }
    let dir = std::env::temp_dir();
    let command = command.args(["serve", "--bind", bind]).current_dir(dir);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[then("a server on all addresses without a token refuses to start with 40301")]
fn open_to_all(_session: &mut Session) {
    let error = refuses("0.0.0.0:0", None);
    assert!(error.contains("40301") && error.contains("auth.tokens_file"), "{error}");
}

#[then("a server whose token has 15 characters refuses to start")]
fn short_token(_session: &mut Session) {
    let error = refuses("127.0.0.1:0", Some("fifteen-letters"));
    assert!(error.contains("15 characters") && !error.contains("fifteen"), "{error}");
}

#[when("I drain the pool with orch and the read token")]
fn drain(session: &mut Session) {
    session.said = orch(&["drain", "--pool", "a", "--url", &session.url(""), "--key", READ]);
}

#[then("orch says that the token does not allow it")]
fn not_allowed(session: &mut Session) {
    let (well, text, errors) = session.said.clone();
    assert!(!well && text.is_empty() && errors.contains("the server answered 403: "), "{text}{errors}");
}
