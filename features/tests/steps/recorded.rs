//! What a recorded day can tell, by the tool.

use super::Session;
use crate::server::orch;
use cucumber::then;
use serde_json::Value;

fn json(args: &[&str]) -> Value {
    let (well, told, errors) = orch(&[args, &["-o", "json"]].concat());
    assert!(well, "{errors}");
    serde_json::from_str(&told).unwrap()
}

/// The journal's folder, and a file beside it.
fn places(session: &Session, file: &str) -> (String, String) {
    let server = session.server.as_ref().unwrap();
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    (text(server.journal()), text(server.dir.join(file)))
}

#[then("orch calibrate writes what the work cost and says how far off that is")]
fn calibrate(session: &mut Session) {
    let (journal, cost) = places(session, "cost.toml");
    let told = json(&["calibrate", &journal, "--out", &cost]);
    assert_eq!(told["residuals"][0]["attempts"], 12, "{told}");
    assert_eq!(told["predicted_start"]["tasks"], 12, "{told}");
    let step = told.pointer("/costs/pools/a/step_ns").and_then(Value::as_u64).unwrap();
    assert!(std::fs::read_to_string(&cost).unwrap().contains(&format!("step_ns = {step}\n")));
    let (_, text, _) = orch(&["calibrate", &journal]);
    assert!(text.contains("# pool a: 12 attempts; reading prompts is off by"), "{text}");
}

#[then("orch whatif puts the recorded day beside one with a queue of no places")]
fn whatif(session: &mut Session) {
    let (journal, cost) = places(session, "cost.toml");
    let told = json(&["whatif", &journal, "--cost", &cost, "--set", "queue.interactive_max=0"]);
    let done = |side: &str| told[side]["classes"][0]["done"].as_u64().unwrap();
    assert_eq!((done("recorded"), done("simulated")), (12, 12), "{told}");
    assert!(done("changed") < 12, "{told}");
    let (_, text, _) = orch(&["whatif", &journal, "--cost", &cost]);
    assert!(text.contains("recorded  simulated"), "{text}");
}

#[then("the bundle of the last task replays, explains it as the journal does, and names nothing")]
fn bundle(session: &mut Session) {
    let (journal, file) = places(session, "bundle.orj");
    let manifest = json(&["bundle", &journal, "--around", &session.task, "--out", &file]);
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(4).any(|window| window == b"tiny"), "the model's name");
    let replayed = json(&["replay", &file]);
    assert_eq!(replayed["final_state"], manifest["last_state"]);
    let was = json(&["explain", &session.task, "--journal", &journal]);
    let is = json(&["explain", manifest["task"].as_str().unwrap(), "--journal", &file]);
    assert_eq!(is["summary"], was["summary"]);
    let ticks =
        |told: &Value| told["timeline"].as_array().unwrap().iter().map(|m| m["tick"].clone()).collect::<Vec<_>>();
    assert_eq!(ticks(&is), ticks(&was));
}
