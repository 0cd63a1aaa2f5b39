//! A mixed load for as long as is asked, and what is left of it when it is over: nothing. Clients read to the end,
//! cancel, hang up, want shapes and several answers, share prefixes, go on with sessions, send nonsense. Then every
//! task that came in has ended once, no memory of contexts is held, and the process has the threads, the files and
//! about the memory that it had after a first such load. `ORCH_SOAK_S` is its length in seconds.

use crate::overload::rss_mib;
use crate::server::{Server, Setup, orch};
use crate::sse::Events;
use crate::{ALONE, draw};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CLIENTS: u64 = 12;
/// What was started is over by then, and its workers have told how they are.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the allocator, and of what is kept up to bounds that the first load does not reach.
const GROWTH_MIB: u64 = 32;
const PREFIX: &str = "The scheduler decides, the station runs, the journal keeps what both did. ";

/// A deed and how it ended: `Err` where the server did wrong.
type Done = Result<&'static str, String>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_load_leaves_nothing_behind() {
    let _alone = ALONE.lock().await;
    let seconds = std::env::var("ORCH_SOAK_S").map_or(4, |s| s.parse().unwrap());
    let length = Duration::from_secs(seconds);
    // So few results are kept that the first load reaches the bound.
    let more = "[server]\nresult_bytes = 4194304\n[server.limits]\nconnections_per_address = 256\n[queue]\ninteractive_max = 64\nbatch_max = 32\n".into();
    let mut server = Server::start(&Setup { pools: 2, more, ..Setup::default() });
    let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();

    let mut ends = load(&client, &server.url, 0, length / 4).await;
    let first = settled(&client, &server, usize::MAX).await;
    for (end, count) in load(&client, &server.url, 1 << 32, length).await {
        *ends.entry(end).or_default() += count;
    }
    let after = settled(&client, &server, first.threads).await;
    println!("{ends:?}\n{first:?} after a quarter, {after:?} at the end");
    assert!(after.rss_mib <= first.rss_mib + GROWTH_MIB, "memory grew: {first:?}, {after:?}");
    assert_eq!(after.vram, first.vram);
    // A connection of the last to ask may still be closing.
    assert!(after.files <= first.files + 2, "files stay open: {first:?}, {after:?}");

    assert!(server.stop().success());
    let (well, report, errors) = orch(&["replay", server.journal().to_str().unwrap()]);
    assert!(well, "{report}{errors}");
}

/// What a server at rest holds.
#[derive(Debug)]
struct Held {
    rss_mib: u64,
    threads: usize,
    files: usize,
    vram: u64,
}

/// Waits until nothing runs, the books balance and there are at most so many threads: those that read and write files
/// are kept for a while after the last.
async fn settled(client: &Client, server: &Server, threads_most: usize) -> Held {
    let began = Instant::now();
    loop {
        let metrics = client.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
        // Rounded up, so that only nothing is nothing.
        let of = |name: &str| -> u64 {
            let lines =
                metrics.lines().filter(|line| line.strip_prefix("orchestrion_").is_some_and(|l| l.starts_with(name)));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap().ceil() as u64).sum()
        };
        let live = ["active_leases", "queue_depth", "kv_cache_usage_ratio"].map(of);
        let (came, ended) = (of("tasks_enqueued_total"), of("tasks_finished_total"));
        let proc = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", server.child.id())).unwrap().count();
        let threads = proc("task");
        if live == [0; 3] && came == ended && threads <= threads_most {
            assert!(came > 0, "{metrics}");
            return Held { rss_mib: rss_mib(server), threads, files: proc("fd"), vram: of("vram_used_bytes") };
        }
        assert!(began.elapsed() < PATIENCE, "{live:?} live, {came} came, {ended} ended, {threads} threads");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Deeds by all clients for that long; how often each ended how.
async fn load(client: &Client, url: &str, seed: u64, length: Duration) -> BTreeMap<&'static str, u64> {
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|who| {
        let (client, url) = (client.clone(), url.to_owned());
        tokio::spawn(async move {
            let mut ends = BTreeMap::<_, u64>::new();
            let mut n = seed + (who << 24);
            while began.elapsed() < length {
                n += 1;
                match deed(&client, &url, n).await {
                    Ok(end) => *ends.entry(end).or_default() += 1,
                    Err(wrong) => panic!("deed {n}: {wrong}"),
                }
            }
            ends
        })
    });
    let mut all = BTreeMap::new();
    for client in clients.collect::<Vec<_>>() {
        for (end, count) in client.await.unwrap() {
            *all.entry(end).or_default() += count;
        }
    }
    all
}

async fn deed(client: &Client, url: &str, n: u64) -> Done {
    let dice = |k: u64| draw(n.wrapping_mul(16) + k);
    let prompt = format!("{} Client {n} asks.", PREFIX.repeat(1 + dice(1) as usize % 3));
    let most = 1 + dice(2) % 40;
    let talk = json!([{ "role": "user", "content": prompt }]);
    let mut task = json!({ "model_ref": "tiny", "prompt": prompt, "max_tokens": most, "temperature": 0.8 });
    let post = |path: &str, body: Value| client.post(format!("{url}{path}")).json(&body).send();
    match dice(0) % 10 {
        0 => queued(client, url, task, None).await,
        1 | 2 => queued(client, url, task, Some(Duration::from_millis(dice(3) % 60))).await,
        3 => {
            task["priority"] = "batch".into();
            task["deadline_ms"] = json!(1 + dice(3) % 400);
            queued(client, url, task, None).await
        }
        4 => {
            task["session_id"] = format!("talk {}", dice(3) % 8).into();
            queued(client, url, task, None).await
        }
        5 | 6 => {
            let body = json!({ "model": "tiny", "messages": talk, "max_tokens": most, "stream": true });
            let mut response = post("/v1/chat/completions", body).await.unwrap();
            if refused(&response) {
                return Ok("refused");
            }
            for _ in 0..dice(3) % 8 {
                if response.chunk().await.map_err(|e| e.to_string())?.is_none() {
                    return Ok("chat");
                }
            }
            Ok("hung up")
        }
        7 => {
            let schema = json!({ "type": "object", "properties": { "a": { "type": "boolean" } }, "required": ["a"],
                "additionalProperties": false });
            let form = json!({ "type": "json_schema", "json_schema": { "name": "s", "schema": schema } });
            let body = json!({ "model": "tiny", "messages": talk, "max_tokens": 60, "response_format": form });
            let Some(answer) = answered(post("/v1/chat/completions", body).await.unwrap()).await? else {
                return Ok("refused");
            };
            let choice = &answer["choices"][0];
            let text = choice["message"]["content"].as_str().unwrap_or_default();
            let shaped = serde_json::from_str::<Value>(text).is_ok_and(|value| value["a"].is_boolean());
            if shaped || choice["finish_reason"] != "stop" { Ok("shaped") } else { Err(answer.to_string()) }
        }
        8 => {
            let body = json!({ "model": "tiny", "messages": talk, "max_tokens": most, "n": 3, "logprobs": true,
                "top_logprobs": 2, "stop": ["e"], "seed": n });
            let Some(answer) = answered(post("/v1/chat/completions", body).await.unwrap()).await? else {
                return Ok("refused");
            };
            let choices = answer["choices"].as_array().map_or(0, Vec::len);
            if choices == 3 { Ok("three answers") } else { Err(answer.to_string()) }
        }
        _ => {
            task["temperature"] = json!(-1);
            let status = post("/v1/tasks", task).await.unwrap().status().as_u16();
            if status == 400 { Ok("nonsense") } else { Err(format!("nonsense was answered with {status}")) }
        }
    }
}

fn refused(response: &Response) -> bool {
    response.status() == 429
}

/// The answer, if it was not refused for want of room.
async fn answered(response: Response) -> Result<Option<Value>, String> {
    if refused(&response) {
        return Ok(None);
    }
    let status = response.status();
    let answer: Value = response.json().await.map_err(|e| e.to_string())?;
    if status == 200 { Ok(Some(answer)) } else { Err(format!("{status}: {answer}")) }
}

/// A task of the queue's own surface: read to its end, and cancelled before where a moment is given.
async fn queued(client: &Client, url: &str, body: Value, cancel: Option<Duration>) -> Done {
    let response = client.post(format!("{url}/v1/tasks")).json(&body).send().await.unwrap();
    if refused(&response) {
        return Ok("refused");
    }
    let status = response.status();
    let answer: Value = response.json().await.map_err(|e| e.to_string())?;
    // A session has one turn at a time and so many tokens; a deadline that cannot be met is refused at once.
    let Some(id) = answer["task_id"].as_str().filter(|_| status == 202) else {
        return if status.is_client_error() && answer["code"].is_string() {
            Ok("not taken")
        } else {
            Err(answer.to_string())
        };
    };
    if let Some(after) = cancel {
        tokio::time::sleep(after).await;
        let status = client.post(format!("{url}/v1/tasks/{id}/cancel")).send().await.unwrap().status();
        if status != 204 {
            return Err(format!("a cancel was answered with {status}"));
        }
    }
    let stream = client.get(format!("{url}/v1/tasks/{id}/stream")).send().await.unwrap();
    let events = Events::of(stream).await.rest().await;
    let mut ends = events.iter().filter(|event| event.name == "end" || event.name == "error");
    match (ends.next(), ends.next()) {
        (Some(end), None) => Ok(match end.data["code"].as_str() {
            None => "answered",
            Some("CANCELLED") => "cancelled",
            Some("DEADLINE_UNMET") => "too late",
            Some(_) => return Err(format!("{end:?}")),
        }),
        _ => Err(format!("{events:?}")),
    }
}
