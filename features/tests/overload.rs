//! Ten times the work that a server can do: what it takes it serves, whom somebody waits for goes first, the
//! rest is told when to come back, and when it is over it is over.
//!
//! Interactive work is half of what the server could do alone, batch work the other nine and a half. Batch work
//! holds one slot of four: interactive work that finds fewer than three of its kind there starts in the step that
//! lets it in, however much batch work waits.
//! Clients do as they are told: they wait for the time given and try again, three times. Asserted are
//! counts, and times only where being wrong is off by far; the figures are printed. `ORCH_OVERLOAD_S` is
//! the length of the load in seconds.

use crate::server::{Server, Setup, orch};
use crate::sse::Events;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SLOTS: u16 = 4;
/// Of these slots batch work holds one, and leaves:
const KEPT: usize = 3;
const TOKENS: u32 = 100;
const RETRIES: u32 = 3;
/// Tasks whose story is read from the journal.
const SAMPLE: usize = 8;
/// Many times what the queue takes to drain: what is let in meets it.
const DEADLINE_MS: u64 = 20_000;

/// What happened, from the clients' side.
#[derive(Debug, Default)]
struct Log {
    /// How long each refusal took.
    refused: Vec<Duration>,
    /// Requests that gave up after their last try, by class: interactive, batch.
    gave_up: [u32; 2],
    /// Admitted tasks with how each ended, by its code.
    ended: Vec<(String, String)>,
    /// When work was done, since the load began.
    done_at: Vec<Duration>,
    /// From the first try to the first token, of interactive work.
    first_token: Vec<Duration>,
    /// Interactive tasks that were let in.
    stays: Vec<Stay>,
    wrong: Vec<String>,
}

/// A task in the server, from its client's side: it came after `sent` and before `admitted`, and it was over
/// before `ended`.
#[derive(Clone, Debug)]
struct Stay {
    id: String,
    sent: Instant,
    admitted: Instant,
    ended: Instant,
    predicted_start_ms: u64,
    /// Since it was sent.
    first_token: Duration,
}

impl Stay {
    /// How many others of them may have been in the server when it came.
    fn others(&self, all: &[Stay]) -> usize {
        let there = |other: &&Stay| other.id != self.id && other.sent <= self.admitted && self.sent <= other.ended;
        all.iter().filter(there).count()
    }
}

/// One client: asks, and while it is told to come back, comes back.
async fn want(client: Client, url: String, class: &'static str, began: Instant, log: Arc<Mutex<Log>>) {
    let asked = Instant::now();
    for attempt in 0..=RETRIES {
        match once(&client, &url, class, asked, began, &log).await {
            None => return,
            Some(_) if attempt == RETRIES => log.lock().unwrap().gave_up[usize::from(class == "batch")] += 1,
            Some(pause) => tokio::time::sleep(pause).await,
        }
    }
}

/// One try; how long to wait for the next, where there is to be one.
async fn once(
    client: &Client,
    url: &str,
    class: &str,
    asked: Instant,
    began: Instant,
    log: &Mutex<Log>,
) -> Option<Duration> {
    let body = json!({ "model_ref": "tiny", "prompt": "Once upon a time", "max_tokens": TOKENS, "temperature": 0,
        "priority": class, "deadline_ms": DEADLINE_MS });
    let sent = Instant::now();
    let response = client.post(format!("{url}/v1/tasks")).json(&body).send().await.unwrap();
    if response.status() != 202 {
        let took = sent.elapsed();
        let (pause, wrong) = refusal(response, class).await;
        let mut log = log.lock().unwrap();
        log.refused.push(took);
        log.wrong.extend(wrong);
        return Some(pause);
    }
    let answer: Value = response.json().await.unwrap();
    let admitted = Instant::now();
    let id = answer["task_id"].as_str().unwrap().to_owned();
    let mut events = Events::of(client.get(format!("{url}/v1/tasks/{id}/stream")).send().await.unwrap()).await;
    let (mut tokens, mut ends, mut first_token) = (0, vec![], Duration::ZERO);
    while let Some(event) = events.next().await {
        if event.name == "token" {
            if tokens == 0 && class == "interactive" {
                first_token = sent.elapsed();
                log.lock().unwrap().first_token.push(asked.elapsed());
            }
            tokens += 1;
        } else if event.name != "started" {
            ends.push(event);
        }
    }
    let mut log = log.lock().unwrap();
    if class == "interactive" {
        let predicted_start_ms = answer["predicted_start_ms"].as_u64().unwrap();
        let id = id.clone();
        log.stays.push(Stay { id, sent, admitted, ended: Instant::now(), predicted_start_ms, first_token });
    }
    let [end] = ends.as_slice() else {
        log.wrong.push(format!("{id} ended {} times: {ends:?}", ends.len()));
        return None;
    };
    let how = end.data["code"].as_str().unwrap_or("done").to_owned();
    log.ended.push((id.clone(), how.clone()));
    match how.as_str() {
        "done" => {
            log.done_at.push(began.elapsed());
            if tokens != TOKENS {
                log.wrong.push(format!("{id} has {tokens} tokens"));
            }
            None
        }
        "SHED_LOW_PRIORITY" if class == "batch" && tokens == 0 => {
            let pause = end.data["retry_after_ms"].as_u64();
            if pause.is_none() || end.data["policy_label"] != "shed-low-priority" {
                log.wrong.push(format!("{end:?}"));
            }
            Some(Duration::from_millis(pause.unwrap_or_default()))
        }
        _ => {
            log.wrong.push(format!("{class} work ended after {tokens} tokens: {end:?}"));
            None
        }
    }
}

/// What a refusal says, and what is wrong with it.
async fn refusal(response: Response, class: &str) -> (Duration, Option<String>) {
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
    let (seconds, millis) = (header("retry-after"), header("x-backoff-ms"));
    let answer: Value = response.json().await.unwrap();
    let told = (answer["code"].as_str().unwrap_or_default(), answer["policy_label"].as_str().unwrap_or_default());
    let known = match class {
        "batch" => matches!(told, ("SHED_LOW_PRIORITY", "shed-low-priority") | ("ADMISSION_REJECT", "ingress")),
        _ => matches!(told, ("ADMISSION_REJECT", "reject" | "ingress")),
    };
    let ms = answer["retry_after_ms"].as_u64().unwrap_or_default();
    let hints = ms > 0 && millis == Some(ms) && seconds == Some(ms.div_ceil(1_000));
    let wrong = status != 429 || !known || !hints || answer["retriable"] != true;
    let wrong = wrong.then(|| format!("{class} work was refused with {status}, {seconds:?}, {millis:?}, {answer}"));
    (Duration::from_millis(ms), wrong)
}

/// The value below which `permille` of them lie.
pub(super) fn quantile(times: &[Duration], permille: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() * permille / 1_000).copied().unwrap_or_default()
}

pub(super) fn rss_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1_024
}

/// Two clients for each slot, so that none waits for the next task: what the server can do. Tasks a second.
async fn peak(client: &Client, url: &str, length: Duration) -> f64 {
    let (began, log) = (Instant::now(), Arc::new(Mutex::new(Log::default())));
    let busy = async || {
        while began.elapsed() < length {
            want(client.clone(), url.to_owned(), "interactive", began, Arc::clone(&log)).await;
        }
    };
    let pair = async || tokio::join!(busy(), busy());
    const { assert!(SLOTS == 4) };
    tokio::join!(pair(), pair(), pair(), pair());
    let log = log.lock().unwrap();
    assert!(log.wrong.is_empty(), "{:#?}", log.wrong);
    log.done_at.len() as f64 / began.elapsed().as_secs_f64()
}

/// One task after the other, with nobody else there if nobody else comes.
async fn alone(client: &Client, url: &str, times: usize) -> Log {
    let log = Arc::new(Mutex::new(Log::default()));
    for _ in 0..times {
        want(client.clone(), url.to_owned(), "interactive", Instant::now(), Arc::clone(&log)).await;
    }
    let log = std::mem::take(&mut *log.lock().unwrap());
    assert!(log.wrong.is_empty(), "{:#?}", log.wrong);
    log
}

/// Whether the step that let a task in also gave it a slot, by the journal.
fn placed_at_once(journal: &str, id: &str) -> bool {
    let (well, told, errors) = orch(&["explain", id, "--journal", journal, "-o", "json"]);
    assert!(well, "{errors}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let step = |began: &str| {
        let mut moments = told["timeline"].as_array().unwrap().iter();
        moments.find(|moment| moment["what"].as_str().unwrap().starts_with(began)).map(|moment| moment["seq"].clone())
    };
    let (accepted, placed) = (step("was accepted"), step("was placed"));
    assert!(accepted.is_some() && placed.is_some(), "{told}");
    accepted == placed
}

pub(super) async fn ten_times_the_load() {
    let length = std::env::var("ORCH_OVERLOAD_S").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let length = Duration::from_secs(length);
    // All clients come from one address here.
    let more = "[server.limits]\nconnections_per_address = 4096\n[queue]\ninteractive_max = 0\nbatch_max = 16\npolicy = \"shed-low-priority\"\n[placement]\nbatch_share_permille = 250\n".into();
    let mut server = Server::start(&Setup { slots: SLOTS, simd: "scalar", more, ..Setup::default() });
    let (client, url) = (Client::builder().pool_max_idle_per_host(32).build().unwrap(), server.url.clone());
    let unloaded = alone(&client, &url, 8).await.first_token;
    let capacity = peak(&client, &url, length / 2).await;
    let before = rss_mib(&server);

    let (began, log) = (Instant::now(), Arc::new(Mutex::new(Log::default())));
    let mut clients = Vec::new();
    let mut due = began;
    let every = Duration::from_secs_f64(1.0 / (10.0 * capacity));
    for n in 0u64.. {
        if due.duration_since(began) >= length {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let class = if n % 20 == 0 { "interactive" } else { "batch" };
        clients.push(tokio::spawn(want(client.clone(), url.clone(), class, began, Arc::clone(&log))));
        due += every;
    }
    let loaded = began.elapsed();
    let asked = clients.len();
    // Those who were told to come back still do: it is over for whoever comes now all the same.
    let recovered = alone(&client, &url, 4).await;
    for client in clients {
        client.await.unwrap();
    }
    let after = rss_mib(&server);

    let log = std::mem::take(&mut *log.lock().unwrap());
    let stays = [log.stays.as_slice(), &recovered.stays].concat();
    let (few, many): (Vec<&Stay>, Vec<_>) = stays.iter().partition(|stay| stay.others(&stays) < KEPT);
    let first_tokens = |stays: &[&Stay]| stays.iter().map(|stay| stay.first_token).collect::<Vec<_>>();
    let done = log.done_at.iter().filter(|at| **at <= loaded).count() as f64 / loaded.as_secs_f64();
    let shed = log.ended.iter().filter(|(_, how)| how == "SHED_LOW_PRIORITY").count();
    println!(
        "capacity {capacity:.1} tasks/s; {asked} asked in {loaded:.1?}, that is {:.1} times",
        asked as f64 / loaded.as_secs_f64() / capacity
    );
    println!(
        "goodput {done:.1} tasks/s, {:.0} % of the capacity; {} done, {shed} shed, {} refusals, gave up {:?}",
        100.0 * done / capacity,
        log.done_at.len(),
        log.refused.len(),
        log.gave_up
    );
    println!("refusals: p50 {:.1?}, p99 {:.1?}", quantile(&log.refused, 500), quantile(&log.refused, 990));
    let told = |name: &str, times: &[Duration]| {
        println!(
            "first token {name}: p50 {:.1?}, p95 {:.1?} of {}",
            quantile(times, 500),
            quantile(times, 950),
            times.len()
        )
    };
    told("alone", &unloaded);
    told("overloaded", &log.first_token);
    told("overloaded, with a slot kept for it", &first_tokens(&few));
    told("overloaded, with none", &first_tokens(&many));
    told("right after", &recovered.first_token);
    println!("memory {before} MiB before, {after} MiB after");

    assert!(log.wrong.is_empty(), "{:#?}", log.wrong);
    assert_eq!(log.gave_up[0], 0, "interactive work is served while batch work can give way");
    assert!(log.refused.len() > asked / 2, "it was no overload: {} refusals of {asked}", log.refused.len());
    for (id, how) in &log.ended {
        let kept: Value = client.get(format!("{url}/v1/tasks/{id}")).send().await.unwrap().json().await.unwrap();
        let state = (kept["state"].as_str().unwrap(), kept["error"]["code"].as_str());
        let expected = if how == "done" { ("done", None) } else { ("failed", Some(how.as_str())) };
        assert_eq!(state, expected, "{kept}");
    }
    let metrics = client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let metric = |name: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("orchestrion_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
    };
    let outcomes = ["done", "cancelled", "failed"].map(|o| metric(&format!("tasks_finished_total{{outcome=\"{o}\"}}")));
    assert_eq!(outcomes.iter().sum::<u64>(), metric("tasks_enqueued_total"), "each ends once: {outcomes:?}");
    assert_eq!(outcomes[2], shed as u64);
    let pressed = ["shed-low-priority", "reject", "ingress"]
        .map(|p| metric(&format!("admission_backpressure_events_total{{policy=\"{p}\"}}")));
    assert_eq!(pressed.iter().sum::<u64>(), (shed + log.refused.len()) as u64, "{pressed:?}");

    assert!(after <= before + 64, "memory grew from {before} to {after} MiB");
    assert!(done > capacity / 3.0, "goodput collapsed");
    // It waits for no batch task, and seldom for one of its kind, which would be a task's length.
    let service = Duration::from_secs_f64(f64::from(SLOTS) / capacity);
    let bound = 4 * quantile(&unloaded, 500) + service;
    assert!(quantile(&log.first_token, 500) < bound, "interactive work waits, bound {bound:?}");
    assert!(quantile(&recovered.first_token, 500) < bound, "it does not recover, bound {bound:?}");
    assert!(server.stop().success());
    let (well, report, errors) = orch(&["replay", server.journal().to_str().unwrap()]);
    assert!(well, "{report}{errors}");
    // The first that come find nobody.
    assert!(few.len() >= KEPT, "a slot was kept for {} of {}", few.len(), stays.len());
    // A step of the engine may be under way, and what was foretold be too much; a batch task would take far longer.
    let behind = |stay: &&&Stay| stay.first_token.min(Duration::from_millis(stay.predicted_start_ms)) > service / 4;
    let waited: Vec<_> = few.iter().filter(behind).collect();
    assert!(waited.is_empty(), "batch work holds all slots: {waited:?}");
    // Each is executed again from the beginning: a few of them are enough.
    for stay in few.iter().step_by(few.len().div_ceil(SAMPLE)) {
        assert!(placed_at_once(server.journal().to_str().unwrap(), &stay.id), "{stay:?} waited for batch work");
    }
}
