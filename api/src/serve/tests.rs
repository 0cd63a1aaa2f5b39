//! The accept loop over real loopback sockets, with the limits shortened.

use super::*;
use crate::door::DoorConfig;
use crate::fixture::token;
use crate::http::rig::{Rig, begin};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use orchestrion_world::id::{Attempt, TaskId};
use orchestrion_world::protocol::CancelReason;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

fn brief() -> Limits {
    Limits {
        header_read_ms: 150,
        keep_alive_ms: 500,
        body_grace_ms: 150,
        write_stall_ms: 300,
        connections_per_address: 16,
        ..Limits::default()
    }
}

struct Served {
    rig: Rig,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
}

impl Served {
    async fn with(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rig = Rig::with(DoorConfig { limits: limits.clone(), heartbeat_ms: 50, ..DoorConfig::default() }, true);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let ended = tokio::spawn(serve(listener, rig.door.router(), limits, shutdown, Duration::from_millis(400)));
        Served { rig, address, stop: Some(stop), ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn talk(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may refuse before it has read all.
        let _ = stream.write_all(bytes.as_ref()).await;
        until_closed(&mut stream).await
    }
}

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut read)).await;
    assert!(closed.is_ok(), "still open: {}", String::from_utf8_lossy(&read));
    String::from_utf8_lossy(&read).into_owned()
}

/// Reads until `text` has come.
async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        let got = tokio::time::timeout(Duration::from_secs(5), stream.read_buf(&mut read)).await;
        assert_ne!(got.expect("in time").unwrap(), 0, "closed: {}", String::from_utf8_lossy(&read));
    }
    String::from_utf8_lossy(&read).into_owned()
}

const GET: &str = "GET /version HTTP/1.1\r\nHost: localhost\r\n";

fn chat_head(length: usize) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

fn chat(model: &str) -> String {
    let body = json!({"model": model, "stream": true, "max_tokens": 100_000,
        "messages": [{"role": "user", "content": "hi"}]});
    let body = body.to_string();
    format!("{}{body}", chat_head(body.len()))
}

/// The id of the one task that was opened, from a streamed chat's first chunk.
fn task_of(chunk: &str) -> TaskId {
    let id = chunk.split("chatcmpl-").nth(1).unwrap().split('"').next().unwrap();
    TaskId(uuid::Uuid::parse_str(id).unwrap().as_u128())
}

#[tokio::test]
async fn slow_and_silent_heads_are_cut_in_time() {
    let served = Served::with(brief()).await;
    for bytes in ["", "GET /version HT", "GET /version HTTP/1.1\r\nHost: loc", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let begun = Instant::now();
        served.talk(bytes).await;
        let took = begun.elapsed();
        assert!((100..1_000).contains(&took.as_millis()), "{bytes:?} took {took:?}");
    }
    // One byte at a time buys no time.
    let mut stream = served.connect().await;
    let begun = Instant::now();
    while stream.write_all(b"X").await.is_ok() && begun.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn idle_connections_live_longer_than_heads_and_then_go() {
    let served = Served::with(brief()).await;
    let mut stream = served.connect().await;
    for _ in 0..2 {
        stream.write_all(format!("{GET}\r\n").as_bytes()).await.unwrap();
        assert!(until(&mut stream, "\"api\"").await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    stream.write_all(b"GET /ver").await.unwrap();
    let begun = Instant::now();
    until_closed(&mut stream).await;
    assert!(begun.elapsed() < Duration::from_millis(450), "a begun head has the shorter time");
}

#[tokio::test]
async fn a_connection_that_waited_for_its_answer_goes_when_it_is_idle_too() {
    let served = Served::with(brief()).await;
    let mut stream = served.connect().await;
    // The socket is silent while the answer is made, and asked nothing when it is done.
    stream.write_all(chat("hold").as_bytes()).await.unwrap();
    until(&mut stream, ": ping").await;
    let task = served.rig.last_task();
    begin(&served.rig.switchboard, task);
    // Longer than an idle connection lives.
    tokio::time::sleep(Duration::from_millis(700)).await;
    served.rig.finish(task);
    until(&mut stream, "0\r\n\r\n").await;
    let begun = Instant::now();
    until_closed(&mut stream).await;
    let took = begun.elapsed().as_millis();
    assert!((400..1_500).contains(&took), "closed after {took} ms");
}

#[tokio::test]
async fn heads_and_bodies_have_sizes() {
    let served = Served::with(brief()).await;
    let line = format!("{GET}X-Long: {}\r\nConnection: close\r\n\r\n", "a".repeat(9_000));
    let answer = served.talk(line).await;
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("INVALID_PARAMS"), "{answer}");
    // Beside `Host` and `Connection`.
    for (count, status) in [(62, "HTTP/1.1 200"), (63, "HTTP/1.1 431")] {
        let many: String = (0..count).map(|i| format!("X-{i}: 1\r\n")).collect();
        let answer = served.talk(format!("{GET}Connection: close\r\n{many}\r\n")).await;
        assert!(answer.starts_with(status), "{answer}");
        // Refused below the routes, which name their answers.
        assert_eq!(answer.contains("x-correlation-id"), count == 62, "{answer}");
    }
    let whole: String = (0..40).map(|i| format!("X-{i}: {}\r\n", "a".repeat(1_000))).collect();
    let answer = served.talk(format!("{GET}{whole}\r\n")).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

    // Refused by the length alone: not a byte of the body was sent.
    let answer = served.talk(chat_head(2_000_000)).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
    let task_head = |length| chat_head(length).replace("/v1/chat/completions", "/v1/tasks");
    let answer = served.talk(task_head(8 * 1024 * 1024 + 1)).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Tasks carry batch prompts: its pace is what is wrong with this one.
    let answer = served.talk(task_head(2_000_000)).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let answer = served.talk(format!("{}{{\"mod", chat_head(100))).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn ambiguous_framing_and_missing_hosts_are_refused() {
    let served = Served::with(brief()).await;
    let (te, cl) = ("Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n");
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    for both in [format!("{te}{cl}"), format!("{cl}{te}")] {
        let answer = served.talk(format!("{head}{both}\r\n0\r\n\r\n{GET}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("ambiguous"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "nothing rides behind: {answer}");
    }
    let answer = served.talk("GET /version HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("Host"), "{answer}");
    let answer = served.talk(format!("{GET}Host: localhost\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = served.talk("GET /version HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = served.talk(format!("{head}{te}\r\n2\r\n{{}}\r\n0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("`model`"), "chunked alone is fine: {answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_reader_that_stalls_is_cut_and_its_task_cancelled() {
    let served = Served::with(brief()).await;
    let mut stream = served.connect().await;
    stream.write_all(chat("hold").as_bytes()).await.unwrap();
    until(&mut stream, ": ping").await;
    let task = served.rig.last_task();
    begin(&served.rig.switchboard, task);
    assert_eq!(task_of(&until(&mut stream, "chatcmpl-").await), task);
    let text = "x".repeat(16 * 1024);
    for index in 0..2_000 {
        served.rig.switchboard.token(task, Attempt::of(1, 1), token(index, index, &text));
    }
    let begun = Instant::now();
    served.rig.until_cancelled(CancelReason::Disconnect).await;
    assert!(begun.elapsed() >= Duration::from_millis(200), "not before the stall limit");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_within_a_quarter_second() {
    let served = Served::with(brief()).await;
    for model in ["hold", "hold\",\"stream\":false,\"x\":\""] {
        let mut stream = served.connect().await;
        let request = chat("hold").replace("\"model\":\"hold\"", &format!("\"model\":\"{model}\""));
        let body = request.split("\r\n\r\n").nth(1).unwrap().to_owned();
        stream.write_all(format!("{}{body}", chat_head(body.len())).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        served.rig.cancelled.lock().unwrap().clear();
        let begun = Instant::now();
        drop(stream);
        served.rig.until_cancelled(CancelReason::Disconnect).await;
        assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn connections_are_bounded_per_address() {
    let served = Served::with(Limits { connections_per_address: 2, ..brief() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = served.connect().await;
        stream.write_all(format!("{GET}\r\n").as_bytes()).await.unwrap();
        until(&mut stream, "\"api\"").await;
        held.push(stream);
    }
    let mut third = served.connect().await;
    let mut answer = Vec::new();
    let _ = third.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 503"));
    drop(held);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut stream = served.connect().await;
    stream.write_all(format!("{GET}\r\n").as_bytes()).await.unwrap();
    until(&mut stream, "\"api\"").await;
}

#[tokio::test]
async fn connections_are_bounded_in_all() {
    let served = Served::with(Limits { connections: 1, ..brief() }).await;
    let mut first = served.connect().await;
    first.write_all(format!("{GET}\r\n").as_bytes()).await.unwrap();
    until(&mut first, "\"api\"").await;
    let answer = until_closed(&mut served.connect().await).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    drop(first);
    // It has its place until the server has seen it go.
    let again = async {
        loop {
            let mut stream = served.connect().await;
            stream.write_all(format!("{GET}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
            if until_closed(&mut stream).await.starts_with("HTTP/1.1 200") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.unwrap();
}

#[tokio::test]
async fn json_is_bounded_in_depth() {
    let served = Served::with(brief()).await;
    let nested = format!("{{\"model\":{}1{}}}", "[".repeat(64), "]".repeat(64));
    let request = chat_head(nested.len()).replace("Host: localhost", "Host: localhost\r\nConnection: close");
    let answer = served.talk(format!("{request}{nested}")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("deeper than 64"), "{answer}");
}

#[tokio::test]
async fn shutdown_lets_streams_finish_and_cuts_what_does_not() {
    for finishes in [true, false] {
        let mut served = Served::with(brief()).await;
        let mut stream = served.connect().await;
        stream.write_all(chat("hold").as_bytes()).await.unwrap();
        until(&mut stream, ": ping").await;
        let task = served.rig.last_task();
        begin(&served.rig.switchboard, task);
        served.stop.take().unwrap().send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(served.address).await.is_err(), "nothing new is taken");
        let begun = Instant::now();
        if finishes {
            served.rig.finish(task);
        }
        let rest = until_closed(&mut stream).await;
        assert_eq!(rest.contains("[DONE]"), finishes);
        served.ended.await.unwrap();
        let took = begun.elapsed().as_millis();
        assert_eq!(took < 250, finishes, "took {took} ms");
    }
}

type H2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn h2(served: &Served, window: u32) -> (H2, JoinHandle<()>) {
    let io = TokioIo::new(served.connect().await);
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.initial_stream_window_size(window).handshake(io).await.unwrap();
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, driver)
}

fn h2_chat(served: &Served, model: &str) -> Request<Full<Bytes>> {
    let body = json!({"model": model, "stream": true, "max_tokens": 100_000,
        "messages": [{"role": "user", "content": "hi"}]});
    let uri = format!("http://{}/v1/chat/completions", served.address);
    let request = Request::post(uri).header("content-type", "application/json");
    request.body(Full::from(body.to_string())).unwrap()
}

#[tokio::test]
async fn http2_streams_and_stalls_are_cut_by_stream() {
    let served = Served::with(brief()).await;
    let (mut sender, driver) = h2(&served, 64 * 1024).await;
    let answer = sender.send_request(h2_chat(&served, "org/answer")).await.unwrap();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(text.ends_with(b"data: [DONE]\n\n"));

    // The connection is read all the time; only this stream's window stands still.
    let answer = sender.send_request(h2_chat(&served, "hold")).await.unwrap();
    let task = served.rig.last_task();
    begin(&served.rig.switchboard, task);
    for index in 0..100 {
        served.rig.switchboard.token(task, Attempt::of(1, 1), token(index, index, &"x".repeat(16 * 1024)));
    }
    served.rig.until_cancelled(CancelReason::Disconnect).await;
    let _ = driver.await;
    drop(answer);
}

#[tokio::test]
async fn idle_http2_connections_go_too() {
    let served = Served::with(brief()).await;
    let (mut sender, driver) = h2(&served, 64 * 1024).await;
    let answer = sender.send_request(h2_chat(&served, "hold")).await.unwrap();
    let task = served.rig.last_task();
    begin(&served.rig.switchboard, task);
    // Longer than an idle connection lives: it is not idle.
    tokio::time::sleep(Duration::from_millis(700)).await;
    served.rig.finish(task);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().ends_with(b"data: [DONE]\n\n"));
    let begun = Instant::now();
    tokio::time::timeout(Duration::from_secs(3), driver).await.expect("the server closed it").unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(400), "closed after {:?}", begun.elapsed());
    drop(sender);
}

#[tokio::test]
async fn http2_clients_that_reset_too_much_are_expelled() {
    let served = Served::with(Limits { h2_resets: 5, ..brief() }).await;
    let (mut sender, driver) = h2(&served, 64 * 1024).await;
    for _ in 0..10 {
        let Ok(answer) = sender.send_request(h2_chat(&served, "hold")).await else { break };
        drop(answer);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::timeout(Duration::from_secs(3), driver).await.expect("the server closed it").unwrap();
}

/// The frames of an HTTP/2 connection up to one of this kind: kind, stream and payload.
async fn frames(stream: &mut TcpStream, last: u8) -> Vec<(u8, u32, Vec<u8>)> {
    let mut frames: Vec<(u8, u32, Vec<u8>)> = Vec::new();
    while frames.last().is_none_or(|(kind, ..)| *kind != last) {
        let mut head = [0; 9];
        tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut head)).await.expect("in time").unwrap();
        let [a, b, c, kind, _, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        frames.push((kind, u32::from_be_bytes(id), payload));
    }
    frames
}

/// What an HTTP/2 client begins with: the preface and no settings of its own.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn http2_streams_that_are_reset_at_once_end_the_connection() {
    const GOAWAY: u8 = 7;
    let served = Served::with(brief()).await;
    let mut stream = served.connect().await;
    let mut attack = PREFACE.to_vec();
    for id in (1u32..).step_by(2).take(100) {
        // GET / of localhost, whole in one HEADERS frame; then RST_STREAM.
        let head = [&b"\x82\x86\x84\x41\x09"[..], b"localhost"].concat();
        attack.extend([&[0, 0, head.len() as u8, 1, 5][..], &id.to_be_bytes(), &head].concat());
        attack.extend([&[0, 0, 4, 3, 0][..], &id.to_be_bytes(), &8u32.to_be_bytes()].concat());
    }
    stream.write_all(&attack).await.unwrap();
    let (_, _, goaway) = frames(&mut stream, GOAWAY).await.pop().unwrap();
    assert_eq!(goaway[4..8], 11u32.to_be_bytes(), "enhance your calm");
}

#[tokio::test]
async fn http2_announces_its_bounds() {
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    let served = Served::with(brief()).await;
    let mut stream = served.connect().await;
    stream.write_all(PREFACE).await.unwrap();
    let frames = frames(&mut stream, WINDOW_UPDATE).await;
    let (_, _, settings) = frames.iter().find(|(kind, ..)| *kind == SETTINGS).unwrap();
    let setting = |id: u16| {
        let found = settings.chunks(6).find(|entry| entry[..2] == id.to_be_bytes());
        found.map(|entry| u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
    };
    // Streams at a time; a stream's window, unless it is the protocol's 65,535; the head.
    assert_eq!([setting(3), setting(4), setting(6)], [Some(100), Some(64 * 1024), Some(32 * 1024)]);
    let (_, id, more) = frames.last().unwrap();
    let more = u32::from_be_bytes([more[0], more[1], more[2], more[3]]);
    assert_eq!((*id, 65_535 + more), (0, 1024 * 1024), "the connection's window");
}

#[tokio::test]
async fn http2_heads_have_the_same_bounds() {
    let served = Served::with(brief()).await;
    let (mut sender, _driver) = h2(&served, 64 * 1024).await;
    let mut ask = async |path: &str, fields: &[(&str, &str)]| {
        let mut request = Request::get(format!("http://{}{path}", served.address));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
        (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
    };
    let many = |n| vec![("x-many", "1"); n];
    assert_eq!(ask("/version", &many(64)).await.0, 200);
    let (status, text) = ask("/version", &many(65)).await;
    assert!(status == 431 && text.windows(15).any(|part| part == b"too many fields"), "{text:?}");
    let long = "a".repeat(8 * 1024);
    assert_eq!(ask("/version", &[("x-long", &long)]).await.0, 431);
    assert_eq!(ask(&format!("/version?{long}"), &[]).await.0, 431);
    assert_eq!(ask("/version", &[("x-long", &long[..8_000])]).await.0, 200, "the connection goes on");
}
