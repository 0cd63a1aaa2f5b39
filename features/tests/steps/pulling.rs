//! A hub that misbehaves, and `orch pull` before it.

use super::Session;
use crate::server::{binary, scratch};
use cucumber::{given, then, when};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the catalog says of the demo model.
const BYTES: usize = 98_362_432;

/// A folder that goes with its value.
#[derive(Debug)]
struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A hub on this machine, and a home to fetch into.
#[derive(Debug)]
pub(crate) struct Hub {
    url: String,
    asked: Arc<AtomicU32>,
    home: Home,
    /// Bytes that a file may have, where the disk is to be small.
    disk: Option<usize>,
}

impl Hub {
    /// Announces a whole model and sends `bytes` of something else; then hangs up, or is silent.
    fn start(bytes: usize, hangs_up: bool) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || send(stream, bytes, hangs_up));
            }
        });
        Hub { url, asked, home: Home(scratch()), disk: None }
    }

    fn orch(&self, args: &[&str]) -> Command {
        let mut command = match self.disk {
            None => Command::new(binary()),
            // Without its signal, a write beyond the limit is an error like that of a full disk.
            Some(bytes) => {
                let mut shell = Command::new("bash");
                shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes / 1024), &binary()]);
                shell
            }
        };
        // Without a Python, the package cannot stand in.
        command
            .args(args)
            .env("HF_ENDPOINT", &self.url)
            .env("XDG_CACHE_HOME", &self.home.0)
            .env("XDG_STATE_HOME", &self.home.0)
            .env("PATH", "/usr/bin/none");
        if self.disk.is_some() {
            command.env("PATH", "/usr/bin:/bin");
        }
        command
    }

    /// Files in the cache, those that are on their way among them.
    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.home.0.join("orchestrion/models")).into_iter().flatten();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn send(mut stream: TcpStream, bytes: usize, hangs_up: bool) {
    BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok).find(String::is_empty);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\nconnection: close\r\n\r\n");
    let mut sent = stream.write_all(head.as_bytes());
    for _ in 0..bytes.div_ceil(1 << 20) {
        let piece = vec![b'x'; (1 << 20).min(bytes)];
        sent = sent.and_then(|()| stream.write_all(&piece));
    }
    if sent.is_ok() && !hangs_up {
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[given("a hub that sends half a model and then nothing")]
fn half(session: &mut Session) {
    session.hub = Some(Hub::start(BYTES / 2, false));
}

#[given(regex = "^a hub that (is not there|sends another file|hangs up half-way|sends more than a disk has)$")]
fn misbehaving(session: &mut Session, does: String) {
    session.hub = Some(match does.as_str() {
        "is not there" => {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            Hub { url: format!("http://{free}"), ..Hub::start(0, true) }
        }
        "sends another file" => Hub::start(BYTES, true),
        "hangs up half-way" => Hub::start(BYTES / 2, true),
        _ => Hub { disk: Some(8 << 20), ..Hub::start(BYTES, true) },
    });
}

fn hub(session: &Session) -> &Hub {
    session.hub.as_ref().expect("a hub was given")
}

/// A process that has fetched a part of its model.
async fn half_way(hub: &Hub, args: &[&str]) -> Child {
    let asked = hub.asked.load(Ordering::SeqCst);
    let child = hub.orch(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let part = || {
        let name = hub.files().into_iter().find(|name| name.ends_with(".part"))?;
        std::fs::metadata(hub.home.0.join("orchestrion/models").join(name)).ok()
    };
    // Once it has asked, the file that a killed one left is gone.
    while hub.asked.load(Ordering::SeqCst) == asked || part().is_none_or(|part| part.len() < (BYTES / 4) as u64) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child
}

#[when("I pull a model and kill it half-way")]
async fn kill(session: &mut Session) {
    let mut child = half_way(hub(session), &["pull"]).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[when("I serve a model and end the server half-way")]
async fn end(session: &mut Session) {
    let child = half_way(hub(session), &["serve", "--bind", "127.0.0.1:0"]).await;
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    session.ending = Some((child, Instant::now()));
}

#[then(regex = r"^it is gone within (\d+) seconds$")]
async fn gone(session: &mut Session, seconds: u64) {
    let (mut child, told) = session.ending.take().expect("it was told to end");
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        if told.elapsed() > Duration::from_secs(seconds) {
            child.kill().unwrap();
            panic!("it goes on after {seconds} s");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[when("I pull a model")]
async fn pull(session: &mut Session) {
    let mut command = hub(session).orch(&["pull"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    session.said = (output.status.success(), text(&output.stdout), text(&output.stderr));
}

#[then("no model is in the cache")]
fn nothing(session: &mut Session) {
    assert!(!hub(session).files().iter().any(|name| name.ends_with(".gguf")));
}

#[then("the next pull begins anew")]
async fn anew(session: &mut Session) {
    let before = hub(session).asked.load(Ordering::SeqCst);
    kill(session).await;
    assert_eq!(hub(session).asked.load(Ordering::SeqCst), before + 1);
    assert_eq!(hub(session).files().iter().filter(|name| name.ends_with(".part")).count(), 1);
}

#[then(regex = r#"^it fails, saying "(.+)" and what to do$"#)]
fn fails(session: &mut Session, what: String) {
    let (well, _, errors) = session.said.clone();
    assert!(!well && errors.contains(&what), "{errors}");
    assert!(errors.contains("Connect this machine, or put the file") || errors.contains("free some"), "{errors}");
    assert!(!hub(session).files().iter().any(|name| name.ends_with(".part")), "{:?}", hub(session).files());
}
