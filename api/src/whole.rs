//! The whole crate at once: real sockets, the real pulse over a real journal, and a station of one thread
//! that makes a token every few microseconds.

use crate::auth::Auth;
use crate::door::{Door, DoorConfig, DoorParts, FromJournal};
use crate::fixture::{config, rules, token, up};
use crate::http::rig::Words2Tokens;
use crate::port::{Stations, Urgent};
use crate::pulse::{Audience, Lanes, Pulse, PulseConfig, lanes};
use crate::serve::{Limits, serve};
use crate::switchboard::Switchboard;
use crate::telemetry::Telemetry;
use crate::token_log::Pushed;
use orchestrion_world::config::EvictionRule;
use orchestrion_world::id::TaskId;
use orchestrion_world::payload::Payload;
use orchestrion_world::protocol::{Finish, Input, Order, Report, Usage};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Runs each task on a thread of its own, as fast as it may, and says that it lives when it is asked.
struct Toy(flume::Sender<(Order, Option<Payload>)>);

impl Stations for Toy {
    fn order(&self, order: Order, payload: Option<Payload>) {
        let _ = self.0.try_send((order, payload));
    }
}

impl Toy {
    fn start(board: Arc<Switchboard>, lanes: Lanes) -> Arc<Toy> {
        let (orders, end) = flume::bounded::<(Order, Option<Payload>)>(64);
        std::thread::spawn(move || {
            for (order, payload) in end.iter() {
                match (order, payload) {
                    (order @ Order::Start { .. }, Some(payload)) => {
                        let (board, lanes) = (Arc::clone(&board), lanes.clone());
                        std::thread::spawn(move || run(&board, &lanes, &order, payload.max_tokens));
                    }
                    (Order::Probe { worker, epoch }, _) => {
                        // An error means that the pulse has ended.
                        let _ = lanes.urgent.send(Urgent::Report(Report::Beat { worker, epoch }));
                    }
                    _ => {}
                }
            }
        });
        Arc::new(Toy(orders))
    }
}

fn run(board: &Switchboard, lanes: &Lanes, order: &Order, tokens: u32) {
    let Order::Start { worker, epoch, task, attempt, .. } = *order else { return };
    let report = |report| lanes.urgent.send(Urgent::Report(report)).unwrap();
    report(Report::Started { worker, epoch, task, attempt });
    report(Report::Progress { worker, epoch, made: vec![(task, attempt, 1)] });
    let made = (0..tokens).find(|&index| {
        if index % 64 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        board.token(task, attempt, token(index, index, "tok ")) != Pushed::Taken
    });
    let finish = if made.is_some() { Finish::Cancelled } else { Finish::Length };
    let tokens_out = made.unwrap_or(tokens);
    let usage = Usage { finish, tokens_in: 3, tokens_cached: 0, tokens_out, prefill_us: 100, decode_us: 1_000 };
    report(Report::Finished { worker, epoch, task, attempt, usage });
}

/// Fewer than the worker has slots, and than a list goes in at a time.
const PLACES: u32 = 2;

struct House {
    address: SocketAddr,
    _dir: tempfile::TempDir,
    _pulse: Pulse,
}

impl House {
    async fn open() -> House {
        let dir = tempfile::tempdir().unwrap();
        let (lanes, inlets) = lanes(64, 64);
        let telemetry = Arc::new(Telemetry::new(&["left".to_owned(), "right".to_owned()], EvictionRule::Lru));
        let config_door = DoorConfig::default();
        let switchboard = Arc::new(Switchboard::new(config_door.keep(), Arc::clone(&telemetry)));
        let toy = Toy::start(Arc::clone(&switchboard), lanes.clone());
        let mut rules = rules();
        rules.queue.interactive_max = PLACES;
        let queue = rules.queue.clone();
        let pulse_config =
            PulseConfig { rules, seed: 4, build: "test".into(), client_batch: 32, journal: config(dir.path()) };
        let audience: Arc<dyn Audience> = Arc::clone(&switchboard) as Arc<dyn Audience>;
        let pulse = Pulse::start(pulse_config, inlets, audience, toy).unwrap();
        let Input::Report(report) = up(1, 0, 4, 1_000_000_000) else { panic!() };
        lanes.urgent.send(Urgent::Report(report)).unwrap();
        let parts = DoorParts {
            lanes,
            health: pulse.health(),
            switchboard,
            prepare: Arc::new(Words2Tokens),
            explain: Arc::new(FromJournal(dir.path().to_path_buf())),
            telemetry,
            auth: Auth::default(),
            queue,
        };
        let router = Door::new(parts, config_door).router();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, router, Limits::default(), std::future::pending(), Duration::ZERO));
        let house = House { address, _dir: dir, _pulse: pulse };
        while !house.get("/health/ready").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        house
    }

    async fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn ask(&self, head: &str, body: &str) -> String {
        let mut answer = String::new();
        self.send(head, body).await.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path}"), "").await
    }

    async fn submit(&self, max_tokens: u32) -> String {
        let body = format!(r#"{{"model_ref":"org/answer","prompt":"p","max_tokens":{max_tokens}}}"#);
        let answer = self.ask("POST /v1/tasks", &body).await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        answer.split("\"task_id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_goes_in_and_its_tokens_and_its_story_come_out() {
    let house = House::open().await;
    let task = house.submit(300).await;
    let stream = house.get(&format!("/v1/tasks/{task}/stream")).await;
    assert_eq!(stream.matches("event: started").count(), 1);
    assert_eq!(stream.matches("event: token").count(), 300);
    assert_eq!(stream.matches("event: end").count(), 1);
    let body = r#"{"model":"org/answer","max_tokens":20,"messages":[{"role":"user","content":"hi"}]}"#;
    let chat = house.ask("POST /v1/chat/completions", body).await;
    assert!(chat.contains(&"tok ".repeat(20)) && chat.contains(r#""finish_reason":"length""#), "{chat}");
    let story = house.get(&format!("/v1/tasks/{task}/explain")).await;
    assert!(story.starts_with("HTTP/1.1 200") && story.contains(&task), "{story}");
    let unknown = TaskId(7).to_string();
    assert!(house.get(&format!("/v1/tasks/{unknown}/explain")).await.starts_with("HTTP/1.1 404"));
    let metrics = house.get("/metrics").await;
    assert!(metrics.contains("orchestrion_tokens_out_total 320"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_many_fits_the_queue_or_is_told_that_it_never_will() {
    let house = House::open().await;
    let list = serde_json::json!(vec!["a"; 20]);
    let (embeddings, completions) = ("POST /v1/embeddings", "POST /v1/completions");
    let model = r#""model":"org/answer""#;
    for (head, body, told) in [
        (embeddings, format!(r#"{{{model},"input":{list}}}"#), "HTTP/1.1 200"),
        (completions, format!(r#"{{{model},"prompt":"p","n":2}}"#), "HTTP/1.1 200"),
        (completions, format!(r#"{{{model},"prompt":"p","n":3}}"#), r#"`n`: comes to 3 answers"#),
        (completions, format!(r#"{{{model},"prompt":["a","b","c"]}}"#), r#"`prompt`: comes to 3 answers"#),
        (
            "POST /v1/tasks",
            r#"{"model_ref":"org/answer","workload":"embedding","inputs":["a","b","c"]}"#.to_owned(),
            "`inputs`: must be 1 to 2 inputs",
        ),
    ] {
        let answer = house.ask(head, &body).await;
        assert!(answer.contains(told) && answer.starts_with("HTTP/1.1 400") == told.starts_with('`'), "{answer}");
    }
}

/// What was sent before the acknowledgement lies in this host's socket when the 204 is there; what comes
/// later may hold the end, but no token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_follows_an_acknowledged_cancel_over_the_wire() {
    let house = House::open().await;
    let mut cut = 0;
    for round in 0..60u64 {
        let task = house.submit(3_000).await;
        let mut stream = house.send(&format!("GET /v1/tasks/{task}/stream"), "").await;
        stream.readable().await.unwrap();
        tokio::time::sleep(Duration::from_micros(round * 100)).await;
        let ack = house.ask(&format!("POST /v1/tasks/{task}/cancel"), "").await;
        assert!(ack.starts_with("HTTP/1.1 204"), "{ack}");
        let mut before = Vec::new();
        // A tokio socket knows what has come only after its driver looked.
        while let Ok(Ok(read)) = tokio::time::timeout(Duration::ZERO, stream.read_buf(&mut before)).await {
            if read == 0 {
                break;
            }
        }
        let mut after = String::new();
        stream.read_to_string(&mut after).await.unwrap();
        let before = String::from_utf8(before).unwrap();
        assert!(!after.contains("event: token"), "round {round}: {after}");
        let whole = before + &after;
        let (ends, errors) = (whole.matches("event: end").count(), whole.matches("event: error").count());
        assert_eq!(ends + errors, 1, "round {round}");
        cut += errors;
    }
    assert!(cut > 10, "most cancels should hit a running task: {cut}");
}
