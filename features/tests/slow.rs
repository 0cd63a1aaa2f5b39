//! A thousand clients that hold what they do not use: half a head, a body byte by byte, a connection without
//! a request. The others are served as before, and those are gone in time.

use super::overload::{quantile, rss_mib};
use crate::server::{Server, Setup};
use reqwest::Client;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HOLDERS: usize = 1_000;
/// Every limit in time of the server; ten times shorter than what it has by default, or more.
const PATIENCE: Duration = Duration::from_secs(3);

/// Holds a connection until the server ends it; how long that took.
async fn hold(address: String, number: usize) -> Duration {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    let said: &[u8] = match number % 4 {
        0 => b"GET /version HTTP/1.1\r\nHost: local",
        1 => b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{",
        2 => b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n",
        _ => b"",
    };
    stream.write_all(said).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    // One byte now and then is no progress. Where the server has closed it fails, which the reader sees too.
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_millis(400)).await;
            if number % 4 < 2 && writer.write_all(b" ").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        // Reset or closed: it is over.
        _ = reader.read_to_end(&mut answer) => {}
        () = trickle => {}
        // Far too long: the test says so by the time it took.
        () = tokio::time::sleep(8 * PATIENCE) => {}
    }
    begun.elapsed()
}

/// How long requests take that are served: a small task and the wait for its result.
async fn ask(client: &Client, url: &str, times: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    let body = json!({ "model": "tiny", "max_tokens": 4, "prompt": "Once upon a time" });
    for _ in 0..times {
        let begun = Instant::now();
        let answer = client.post(format!("{url}/v1/completions")).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        took.push(begun.elapsed());
    }
    took
}

pub(super) async fn those_who_hold_disturb_nobody() {
    let ms = PATIENCE.as_millis();
    let more = format!(
        "[server.limits]\nconnections_per_address = 4096\nheader_read_ms = {ms}\nbody_grace_ms = {ms}\nkeep_alive_ms = {ms}\n"
    );
    let mut server = Server::start(&Setup { more, ..Setup::default() });
    let (client, url) = (Client::new(), server.url.clone());
    let before = ask(&client, &url, 100).await;
    let memory = rss_mib(&server);

    let address = url.strip_prefix("http://").unwrap().to_owned();
    let holders: Vec<_> = (0..HOLDERS).map(|n| tokio::spawn(hold(address.clone(), n))).collect();
    let mut during = Vec::new();
    let mut most = memory;
    while !holders.iter().all(|holder| holder.is_finished()) {
        during.extend(ask(&client, &url, 10).await);
        most = most.max(rss_mib(&server));
    }
    let mut held = Vec::new();
    for holder in holders {
        held.push(holder.await.unwrap());
    }
    for (name, times) in [("before", &before), ("meanwhile", &during), ("held", &held)] {
        let [p50, p99] = [500, 990].map(|permille| quantile(times, permille));
        println!("{name}: p50 {p50:.1?}, p99 {p99:.1?}, most {:.1?} of {}", quantile(times, 999), times.len());
    }
    println!("memory {memory} MiB before, {most} MiB at most");
    assert!(during.len() >= 20, "nobody else was served: {}", during.len());
    assert!(quantile(&held, 999) < 4 * PATIENCE, "some are held for {:?}", quantile(&held, 999));
    assert!(quantile(&during, 500) < 4 * quantile(&before, 500) + Duration::from_millis(100), "others wait");
    assert!(most <= memory + 128, "memory grew from {memory} to {most} MiB");
    assert!(server.stop().success());
}
