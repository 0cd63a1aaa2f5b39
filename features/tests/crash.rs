//! A server that is killed at any moment, again and again, and what its clients find when it is back.

use crate::draw;
use crate::quota::limit_files;
use crate::server::{Server, Setup, launch, orch};
use crate::sse::{Event, Events};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What the server is doing when it is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Any,
    /// A snapshot lies there half written.
    InsideSnapshot,
    /// Nothing can be written any more.
    FullDisk,
}

use Moment::{Any, FullDisk, InsideSnapshot};
const KILLS: [Moment; 7] = [Any, Any, InsideSnapshot, Any, FullDisk, Any, Any];
/// A snapshot is written in a moment, which can be missed.
const MISSES_MAX: usize = 10;
const PATIENCE: Duration = Duration::from_secs(300);

/// What a client was told of a task that it was given a 202 for.
#[derive(Clone, Debug, Default)]
struct Told {
    body: Value,
    /// The events it read before it left or the server was killed.
    events: Vec<Event>,
    cancelled: bool,
}

type Book = Arc<Mutex<BTreeMap<String, Told>>>;

fn ends(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|e| e.name == "end" || e.name == "error").collect()
}

async fn stream(client: &Client, url: &str, id: &str) -> Option<Events> {
    Some(Events::of(client.get(format!("{url}/v1/tasks/{id}/stream")).send().await.ok()?).await)
}

/// A client of the queue; what fails because the server is gone, fails.
async fn ask(
    client: Client,
    url: String,
    (number, within): (u64, u64),
    book: Book,
    mut doomed: watch::Receiver<bool>,
) -> Option<()> {
    let dice = |n: u64| draw(number * 16 + n);
    let id = uuid_of(number);
    let mut body = json!({
        "task_id": id, "model_ref": "tiny", "prompt": format!("Client {number} says"),
        "max_tokens": 1 + dice(0) % 150, "temperature": 0.8,
        "priority": if dice(1) % 4 == 0 { "batch" } else { "interactive" },
    });
    if dice(2) % 6 == 0 {
        body["deadline_ms"] = json!(500 + dice(3) % 3_000);
    }
    tokio::time::sleep(Duration::from_millis(dice(4) % within)).await;
    let response = client.post(format!("{url}/v1/tasks")).json(&body).send().await.ok()?;
    if response.status() != StatusCode::ACCEPTED {
        return None;
    }
    book.lock().unwrap().insert(id.clone(), Told { body, ..Told::default() });
    match dice(5) % 4 {
        0 => {
            tokio::time::sleep(Duration::from_millis(dice(6) % 300)).await;
            let cancel = client.post(format!("{url}/v1/tasks/{id}/cancel")).send().await.ok()?;
            if cancel.status() == StatusCode::NO_CONTENT {
                book.lock().unwrap().get_mut(&id)?.cancelled = true;
            }
        }
        1 | 2 => {
            let mut reader = stream(&client, &url, &id).await?;
            let most = if dice(7) % 2 == 0 { dice(8) % 12 } else { u64::MAX };
            for _ in 0..most {
                let event = tokio::select! {
                    biased;
                    _ = doomed.wait_for(|doomed| *doomed) => break,
                    event = reader.next() => event,
                };
                let Some(event) = event else { break };
                book.lock().unwrap().get_mut(&id)?.events.push(event);
            }
            // Who hung up in the middle comes back, if it can, and asks on from what it has.
            drop(reader);
            let last = book.lock().unwrap().get(&id)?.events.last().and_then(|event| event.id.clone());
            if dice(9) % 2 == 0 && !*doomed.borrow() {
                let again = client.get(format!("{url}/v1/tasks/{id}/stream"));
                let again = again.header("last-event-id", last.unwrap_or_default()).send().await.ok()?;
                if again.status() == StatusCode::OK {
                    let mut reader = Events::of(again).await;
                    loop {
                        let event = tokio::select! {
                            biased;
                            _ = doomed.wait_for(|doomed| *doomed) => break,
                            event = reader.next() => event,
                        };
                        let Some(event) = event else { break };
                        book.lock().unwrap().get_mut(&id)?.events.push(event);
                    }
                }
            }
        }
        _ => {}
    }
    Some(())
}

/// A client of the OpenAI surface: its task lives with its connection.
async fn chat(client: Client, url: String, (number, within): (u64, u64)) -> Option<()> {
    let body = json!({
        "model": "tiny", "stream": true, "max_tokens": 100,
        "messages": [{"role": "user", "content": format!("Guest {number}")}],
    });
    tokio::time::sleep(Duration::from_millis(draw(number) % within)).await;
    let mut response = client.post(format!("{url}/v1/chat/completions")).json(&body).send().await.ok()?;
    while response.chunk().await.ok()?.is_some() {}
    Some(())
}

fn uuid_of(number: u64) -> String {
    let hex = format!("{:016x}{:016x}", draw(number), draw(number + 1_000_000));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// In all; a run before a release has 2,000.
fn tasks() -> u64 {
    std::env::var("ORCH_CRASH_TASKS").map_or(420, |tasks| tasks.parse().unwrap())
}

/// SIGKILL.
fn kill(server: &mut Server) {
    server.child.kill().unwrap();
    server.child.wait().unwrap();
}

async fn ended(client: &Client, url: &str, id: &str) -> Value {
    let began = Instant::now();
    loop {
        let response = client.get(format!("{url}/v1/tasks/{id}")).send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "an acknowledged task is lost: {id}: {answer}");
        if ["done", "cancelled", "failed"].contains(&answer["state"].as_str().unwrap()) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "it does not end: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_it_acknowledged() {
    let _alone = crate::ALONE.lock().await;
    let more = "[queue]\ninteractive_max = 2000\nbatch_max = 1000\n[journal]\nsegment_records = 50\n".into();
    let mut server = Server::start(&Setup { pools: 2, slots: 2, simd: "scalar", more, ..Setup::default() });
    let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let book = Book::default();
    let clients = tasks() / KILLS.len() as u64;
    let mut kills = KILLS.to_vec();
    let (mut round, mut misses) = (0, 0);
    while round < kills.len() {
        let (doom, doomed) = watch::channel(false);
        let moment = 200 + draw(round as u64 + 77) % (tasks() * 3);
        let mut crowd = vec![];
        for n in 0..clients {
            let who = (round as u64 * clients + n, moment);
            let (client, url) = (client.clone(), server.url.clone());
            crowd.push(match n % 10 {
                0 => tokio::spawn(chat(client, url, who)),
                _ => tokio::spawn(ask(client, url, who, Arc::clone(&book), doomed.clone())),
            });
        }
        tokio::time::sleep(Duration::from_millis(moment)).await;
        if kills[round] == FullDisk {
            limit_files(&server, 0);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        doom.send(true).unwrap();
        // Who reads puts down what it has.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let half = server.journal().join("snapshot.new");
        if kills[round] == InsideSnapshot {
            let began = Instant::now();
            while !half.exists() && began.elapsed() < Duration::from_secs(2) {
                std::hint::spin_loop();
            }
        }
        kill(&mut server);
        if kills[round] == InsideSnapshot && !half.exists() && misses < MISSES_MAX {
            misses += 1;
            kills.insert(round + 1, InsideSnapshot);
        }
        assert!(misses < MISSES_MAX, "no snapshot was caught half written");
        (server.child, server.url) = launch(&server.dir, "127.0.0.1:0", None);
        for member in crowd {
            member.await.unwrap();
        }
        round += 1;
    }
    let told = book.lock().unwrap().clone();
    let mut states = BTreeMap::<String, u64>::new();
    for (id, told) in &told {
        let answer = ended(&client, &server.url, id).await;
        let code = answer["error"]["code"].as_str().or(answer["error"]["error"]["code"].as_str());
        *states.entry(format!("{} {}", answer["state"], code.unwrap_or(""))).or_default() += 1;
        check(&client, &server.url, id, told, &answer).await;
    }
    println!("{} of {} tasks acknowledged: {states:?}", told.len(), tasks());
    println!("killed at {kills:?}");
    assert!(told.len() as u64 > tasks() / 2, "{}", told.len());
    assert!(server.stop().success());

    let path = server.journal();
    let (well, report, errors) = orch(&["replay", path.to_str().unwrap()]);
    assert!(well, "{errors}");
    println!("{report}");
    assert!(report.starts_with(&format!("{} runs replayed", kills.len() + 1)), "{report}");
    let line = report.lines().find(|line| line.contains("admitted")).unwrap();
    let numbers: Vec<u64> = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    assert!(numbers[0] >= told.len() as u64 && numbers[0] == numbers[1], "each admitted task ends once: {line}");
    snapshots_are_on_the_way(&path, &report);
    let log = std::fs::read_to_string(server.dir.join("log")).unwrap();
    let recovered = |line: &&str| line.contains("recovered ") && line.contains(" records in ");
    log.lines().filter(recovered).for_each(|line| println!("{line}"));
    for id in told.keys().step_by(told.len() / 8) {
        let (well, story, errors) = orch(&["explain", id, "--journal", path.to_str().unwrap()]);
        assert!(well && !story.contains("has not ended"), "{story}{errors}");
    }
}

/// What recovery came to is what a replay from the first record comes to, and each snapshot is on the way.
fn snapshots_are_on_the_way(journal: &Path, report: &str) {
    let last = |report: &str| report.lines().find(|line| line.starts_with("Final state")).unwrap().to_owned();
    let files = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let snapshots: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|e| e == "ors")).collect();
    assert!(snapshots.len() >= 5, "{snapshots:?}");
    for snapshot in &snapshots {
        let (well, _, errors) = orch(&["replay", snapshot.with_extension("orj").to_str().unwrap()]);
        assert!(well, "{errors}");
    }
    snapshots.iter().for_each(|snapshot| std::fs::remove_file(snapshot).unwrap());
    let (well, without, errors) = orch(&["replay", journal.to_str().unwrap()]);
    assert!(well, "{errors}");
    assert_eq!(last(&without), last(report));
    println!("{} snapshots", snapshots.len());
}

/// One end, the same that was told before; tokens without a gap, and none that contradicts.
async fn check(client: &Client, url: &str, id: &str, told: &Told, answer: &Value) {
    let events = stream(client, url, id).await.unwrap().rest().await;
    let end = ends(&events);
    assert!(end.len() == 1 && events.last() == Some(end[0]), "{id}: {events:?}");
    let tokens = |events: &[Event]| -> Vec<Value> {
        events.iter().filter(|e| e.name == "token").map(|e| e.data.clone()).collect()
    };
    let (before, now) = (tokens(&told.events), tokens(&events));
    for (n, token) in before.iter().enumerate().chain(now.iter().enumerate()) {
        assert_eq!(token["i"], json!(n), "{id}: no gap, no repetition");
    }
    let success = end[0].name == "end";
    assert_eq!(success, answer["state"] == "done");
    if success {
        assert_eq!(&now[..before.len()], &before[..], "{id}: what was read is what there is");
    }
    if let [first] = ends(&told.events)[..] {
        assert_eq!((&first.name, &first.id), (&end[0].name, &end[0].id), "{id}: an end is told once and for all");
        assert_eq!(first.data["code"], end[0].data["code"], "{id}");
    }
    if told.cancelled {
        assert_ne!(end[0].data["code"], "WORKER_RESET", "{id}: an acknowledged cancel, or an end before it, holds");
    }
    // Who was cut off in the middle asks on from what it had.
    if let Some(last) = told.events.last().and_then(|event| event.id.clone()) {
        let on = client.get(format!("{url}/v1/tasks/{id}/stream")).header("last-event-id", &last);
        let response = on.send().await.unwrap();
        if ends(&told.events).is_empty() {
            let rest = Events::of(response).await.rest().await;
            assert_eq!(rest.last().map(|e| (&e.name, &e.id)), Some((&end[0].name, &end[0].id)), "{id}");
            if success {
                assert_eq!([before, tokens(&rest)].concat(), now, "{id}");
            }
        } else {
            assert_eq!(response.status(), StatusCode::NO_CONTENT, "{id}: it has all of it");
        }
    }
    // The same request is the same task.
    let again = client.post(format!("{url}/v1/tasks")).json(&told.body).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::ACCEPTED, "{id}");
}
