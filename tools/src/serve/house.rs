//! What tests of a server need: one in this process, with a pulse, a journal, stations that the test puts there, and
//! a door with real HTTP before it.

use super::kitchen::Kitchen;
use super::stations::{Depot, Wires};
use orchestrion_api::auth::Auth;
use orchestrion_api::door::{Door, DoorConfig, DoorParts, FromJournal};
use orchestrion_api::journal::{Fsync, JournalConfig};
use orchestrion_api::pulse::{Pulse, PulseConfig, lanes};
use orchestrion_api::serve::serve;
use orchestrion_api::switchboard::Switchboard;
use orchestrion_api::telemetry::Telemetry;
use orchestrion_world::config::{EvictionRule, PoolRules, Rules};
use reqwest::Client;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

pub(super) struct House {
    url: String,
    pub(super) client: Client,
    pub(super) depot: Arc<Depot>,
    pulse: Pulse,
    journal: tempfile::TempDir,
}

/// What stations stand on.
pub(super) struct Ground {
    pub(super) kitchen: Arc<Kitchen>,
    pub(super) depot: Arc<Depot>,
    pub(super) switchboard: Arc<Switchboard>,
    pub(super) wires: Arc<Wires>,
}

impl House {
    /// With the pool `p` of one model, whose workers `furnish` puts there; waits until so many are up.
    pub(super) async fn open(model: &str, workers: usize, furnish: impl FnOnce(&Ground)) -> House {
        let journal = tempfile::tempdir().unwrap();
        let pools = vec![PoolRules { name: "p".into(), model: model.into() }];
        let rules = Rules { models: vec![model.into()], pools, ..Rules::default() };
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
        let queue = rules.queue.clone();
        let pulse = PulseConfig { rules, seed: 1, build: "test".into(), client_batch: 16, journal: kept };
        let pulse = Pulse::start(pulse, inlets, Arc::clone(&switchboard) as _, Arc::clone(&depot) as _).unwrap();
        let first_words = flume::bounded(0).0;
        let wires = Arc::new(Wires { urgent, switchboard: Arc::clone(&switchboard), first_words });
        let ground = Ground { kitchen, depot, switchboard, wires };
        furnish(&ground);
        let Ground { kitchen, depot, switchboard, .. } = ground;
        let parts = DoorParts {
            lanes,
            health: pulse.health(),
            switchboard,
            prepare: kitchen,
            explain: Arc::new(FromJournal(dir)),
            telemetry,
            auth: Auth::default(),
            queue,
        };
        let door = Door::new(parts, config.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, door.router(), config.limits, std::future::pending(), Duration::ZERO));
        let house = House { url, client: Client::new(), depot, pulse, journal };
        house.until_up(workers).await;
        house
    }

    pub(super) async fn until_up(&self, workers: usize) {
        let up = format!("orchestrion_pool_ready{{pool_id=\"p\"}} {workers}");
        self.until("/metrics", |text| text.contains(&up)).await;
    }

    pub(super) async fn get(&self, path: &str) -> String {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap().text().await.unwrap()
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Value {
        self.client.post(format!("{}{path}", self.url)).json(body).send().await.unwrap().json().await.unwrap()
    }

    /// What is there once it holds.
    pub(super) async fn until(&self, path: &str, holds: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let text = self.get(path).await;
            if holds(&text) {
                return text;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{path} never came to it: {text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn submit(&self, body: &Value) -> String {
        self.post("/v1/tasks", body).await["task_id"].as_str().unwrap().to_owned()
    }

    /// The task's events, and `meanwhile` once so many of its tokens have come.
    pub(super) async fn stream(&self, task: &str, after: usize, meanwhile: impl Fn(&str)) -> Vec<(u64, String, Value)> {
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

    pub(super) async fn close(self) {
        let House { depot, pulse, journal, .. } = self;
        depot.close();
        tokio::task::spawn_blocking(move || pulse.stop()).await.unwrap().unwrap();
        drop(journal);
    }
}

pub(super) fn events(text: &str) -> Vec<(u64, String, Value)> {
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

pub(super) fn said(events: &[(u64, String, Value)]) -> String {
    let tokens = events.iter().filter(|(_, name, _)| name == "token");
    tokens.map(|(.., data)| data["t"].as_str().unwrap()).collect()
}
