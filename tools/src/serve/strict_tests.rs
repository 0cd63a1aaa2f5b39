//! A strict task outlives its worker: over real HTTP, with real stations, one of which loses its work in the
//! middle of an answer.

use super::kitchen::{Kitchen, Recipe};
use super::stations::{Depot, Wires};
use orchestrion_api::auth::Auth;
use orchestrion_api::door::{Door, DoorConfig, DoorParts, FromJournal};
use orchestrion_api::journal::{Fsync, JournalConfig};
use orchestrion_api::port::Stations;
use orchestrion_api::pulse::{Pulse, PulseConfig, lanes};
use orchestrion_api::serve::serve;
use orchestrion_api::switchboard::Switchboard;
use orchestrion_api::telemetry::Telemetry;
use orchestrion_gpu::engine::{Engine, EngineOptions, Level};
use orchestrion_gpu::generate::{GenSpec, generate};
use orchestrion_gpu::gguf::Gguf;
use orchestrion_gpu::grammar::Grammars;
use orchestrion_gpu::station::{Station, StationModel, StationSpec};
use orchestrion_gpu::template::TemplateError;
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_world::config::{EvictionRule, PoolRules, Rules};
use orchestrion_world::id::{DeviceId, Epoch, ModelId, PoolId, WorkerId};
use orchestrion_world::protocol::Order;
use orchestrion_world::units::Bytes;
use reqwest::Client;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

const TOKENS: u64 = 400;
const MODEL: &str = "m";

struct House {
    url: String,
    client: Client,
    depot: Arc<Depot>,
    pulse: Pulse,
    journal: tempfile::TempDir,
}

/// Two workers of one pool that say that their tokens are the same; worker n has the weights of `seeds[n]`.
async fn house(seeds: [u64; 2]) -> House {
    let journal = tempfile::tempdir().unwrap();
    let pools = vec![PoolRules { name: "p".into(), model: MODEL.into() }];
    let rules = Rules { models: vec![MODEL.into()], pools, ..Rules::default() };
    let telemetry = Arc::new(Telemetry::new(&["p".to_owned()], EvictionRule::Lru));
    let config = DoorConfig::default();
    let switchboard = Arc::new(Switchboard::new(config.keep(), Arc::clone(&telemetry)));
    let (kitchen, depot) = (Arc::new(Kitchen::new(rules.models.clone())), Arc::new(Depot::default()));
    let (lanes, inlets) = lanes(1_024, 64);
    let urgent = lanes.urgent.clone();
    let dir = journal.path().to_owned();
    let kept = JournalConfig {
        dir: dir.clone(),
        segment_bytes: 1 << 20,
        segment_records: 1 << 20,
        fsync: Fsync::Never,
        retain_bytes: None,
        retain_age: None,
    };
    let pulse = PulseConfig { rules, seed: 1, build: "test".into(), client_batch: 16, journal: kept };
    let pulse = Pulse::start(pulse, inlets, Arc::clone(&switchboard) as _, Arc::clone(&depot) as _).unwrap();

    let first_words = flume::bounded(0).0;
    let wires = Arc::new(Wires { urgent, switchboard: Arc::clone(&switchboard), first_words });
    for (worker, seed) in [WorkerId(1), WorkerId(2)].into_iter().zip(seeds) {
        let spec = GenSpec { seed, layers: 6, ..GenSpec::default() };
        let gguf = Gguf::parse(generate(&spec).unwrap()).unwrap();
        let options = EngineOptions { level: Level::Scalar, threads: 1, ctx_max: 600 };
        let engine = Engine::load(&gguf, options).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let template = Err(TemplateError::Absent { known: String::new() });
        let fingerprint = "the same".to_owned();
        let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
        let (shelved, kept) = (Arc::clone(&tokenizer), Arc::clone(&grammars));
        let recipe = Recipe {
            tokenizer: shelved,
            grammars: kept,
            template,
            ctx_max: 600,
            makes: orchestrion_gpu::engine::Makes::Text,
            fingerprint,
        };
        let (digest, fingerprint) = (gguf.digest(), recipe.fingerprint.clone());
        let (id, took) = (ModelId(0), Duration::from_millis(1));
        let model = StationModel { id, engine, tokenizer, grammars, digest, fingerprint, took };
        kitchen.put(MODEL, recipe);
        let (pool, device, device_capacity) = (PoolId(0), DeviceId(worker.0), Bytes(1 << 30));
        let spec = StationSpec {
            worker,
            pool,
            device,
            epoch: Epoch(1),
            device_capacity,
            slots: 1,
            prefill_chunk: 64,
            verify_round: Duration::from_secs(3_600),
            draft_tokens: 8,
        };
        depot.add(worker, Station::spawn(spec, model, None, Arc::clone(&wires) as _).unwrap());
    }
    let parts = DoorParts {
        lanes,
        health: pulse.health(),
        switchboard: Arc::clone(&switchboard),
        prepare: kitchen,
        explain: Arc::new(FromJournal(dir)),
        telemetry,
        auth: Auth::default(),
    };
    let door = Door::new(parts, config.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, door.router(), config.limits, std::future::pending(), Duration::ZERO));
    let house = House { url, client: Client::new(), depot, pulse, journal };
    house.until("/metrics", |text| text.contains("orchestrion_pool_ready{pool_id=\"p\"} 2")).await;
    house
}

impl House {
    async fn get(&self, path: &str) -> String {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap().text().await.unwrap()
    }

    async fn until(&self, path: &str, holds: impl Fn(&str) -> bool) {
        let began = Instant::now();
        while !holds(&self.get(path).await) {
            assert!(began.elapsed() < Duration::from_secs(60), "{path} never came to it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn submit(&self, determinism: &str) -> String {
        let body = json!({
            "model_ref": MODEL, "prompt": "Salt and", "max_tokens": TOKENS, "seed": 7, "temperature": 0.8,
            "determinism": determinism,
        });
        let told = self.client.post(format!("{}/v1/tasks", self.url)).json(&body).send().await.unwrap();
        told.json::<Value>().await.unwrap()["task_id"].as_str().unwrap().to_owned()
    }

    /// The task's events, and `meanwhile` once so many of its tokens have come.
    async fn stream(&self, task: &str, after: usize, meanwhile: impl Fn(&str)) -> Vec<(u64, String, Value)> {
        let url = format!("{}/v1/tasks/{task}/stream", self.url);
        let mut response = self.client.get(url).send().await.unwrap();
        let (mut text, mut done) = (String::new(), false);
        while let Some(chunk) = response.chunk().await.unwrap() {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            if !done && text.matches("event: token").count() >= after {
                meanwhile(&text);
                done = true;
            }
        }
        events(&text)
    }

    async fn close(self) {
        let House { depot, pulse, journal, .. } = self;
        depot.close();
        tokio::task::spawn_blocking(move || pulse.stop()).await.unwrap().unwrap();
        drop(journal);
    }
}

fn events(text: &str) -> Vec<(u64, String, Value)> {
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_start_matches(": ").to_owned())
    };
    let whole = text.split("\n\n").filter(|block| block.contains("data: "));
    whole
        .map(|block| {
            let id = field(block, "id").unwrap().parse().unwrap();
            let data = serde_json::from_str(&field(block, "data").unwrap()).unwrap();
            (id, field(block, "event").unwrap(), data)
        })
        .collect()
}

fn said(events: &[(u64, String, Value)]) -> String {
    let tokens = events.iter().filter(|(_, name, _)| name == "token");
    tokens.map(|(.., data)| data["t"].as_str().unwrap()).collect()
}

/// The task's worker drops all work and comes back as another: what it held is lost.
fn reset(house: &House, text: &str, epoch: Epoch) {
    let worker = events(text)[0].2["worker_id"].as_str().unwrap()[1..].parse().unwrap();
    house.depot.order(Order::Reset { worker: WorkerId(worker), epoch }, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_stream_outlives_its_worker_without_a_gap_or_a_token_twice() {
    let house = house([1, 1]).await;
    let undisturbed = house.stream(&house.submit("best_effort").await, 1, |_| ()).await;

    let task = house.submit("strict").await;
    let disturbed = house.stream(&task, 5, |text| reset(&house, text, Epoch(2))).await;
    assert_eq!(said(&disturbed), said(&undisturbed));
    let ids: Vec<u64> = disturbed.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>(), "each event once, none missing");
    assert_eq!(disturbed.iter().filter(|(_, name, _)| name == "started").count(), 1);
    let (_, last, end) = disturbed.last().unwrap();
    assert_eq!((last.as_str(), &end["tokens_out"]), ("end", &json!(TOKENS)));
    let story = house.get(&format!("/v1/tasks/{task}/explain")).await;
    assert!(story.contains("lost attempt 1, because its worker was lost") && story.contains("(attempt 2)"), "{story}");
    // A second reader is told the same, but for the worker, which is the one that made it to the end.
    assert!(house.stream(&task, 1, |_| ()).await[1..] == disturbed[1..]);

    // One that is not strict ends with its worker, and so does its stream.
    house.until("/metrics", |text| text.contains("orchestrion_pool_ready{pool_id=\"p\"} 2")).await;
    let lost = house.submit("best_effort").await;
    let cut = house.stream(&lost, 5, |text| reset(&house, text, Epoch(3))).await;
    let (_, last, error) = cut.last().unwrap();
    assert_eq!((last.as_str(), &error["code"]), ("error", &json!("WORKER_RESET")));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_contradicts_what_was_shown_ends_the_stream_before_its_token() {
    // The second worker claims the first one's fingerprint and has other weights.
    let house = house([1, 2]).await;
    let one = house.submit("strict").await;
    let whole = house.stream(&one, 5, |text| reset(&house, text, Epoch(2))).await;
    let (id, last, error) = whole.last().unwrap();
    assert_eq!((last.as_str(), &error["code"]), ("error", &json!("INTERNAL")), "{error}");
    assert_eq!(*id as usize, whole.len() - 1, "nothing came between");
    let tokens = whole.iter().filter(|(_, name, _)| name == "token").count() as u64;
    assert!((5..TOKENS).contains(&tokens), "{tokens}");
    let story = house.get(&format!("/v1/tasks/{one}/explain")).await;
    assert!(story.contains("it made other tokens than readers were shown"), "{story}");
    house.close().await;
}
