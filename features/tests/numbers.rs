//! Tasks of vectors and of scores on a server that is killed in the middle of each.

use crate::server::{Server, Setup, launch, orch, scratch};
use crate::sse::Events;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const INPUTS: usize = 96;
const PATIENCE: Duration = Duration::from_secs(120);

/// A task of the queue, and the request of a client that waits for the same.
struct Job {
    id: String,
    task: Value,
    route: &'static str,
    waits: Value,
}

fn jobs() -> Vec<Job> {
    let texts: Vec<String> = (0..INPUTS).map(|i| format!("{}dogs of {i}", "the cat and a ".repeat(i % 30))).collect();
    let job = |n: usize, model: &str, route: &'static str, more: Value| {
        let id = format!("00000000-0000-4000-8000-{n:012}");
        let (workload, inputs) =
            if route.ends_with("rerank") { ("rerank", "documents") } else { ("embedding", "input") };
        let mut task = json!({"task_id": id, "model_ref": model, "workload": workload, "inputs": texts});
        let mut waits = json!({"model": model, inputs: texts});
        for body in [&mut task, &mut waits] {
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        Job { id, task, route, waits }
    };
    vec![
        job(1, "tiny", "/v1/embeddings", json!({})),
        job(2, "encoder", "/v1/embeddings", json!({"encoding_format": "base64", "dimensions": 7})),
        job(3, "reranker", "/v1/rerank", json!({"query": "who ran?", "top_n": 9, "return_documents": true})),
    ]
}

fn encoder(name: &str, more: &[&str]) -> Vec<u8> {
    let dir = scratch();
    let path = dir.join(name);
    let (well, _, errors) = orch(&[&["gen", path.to_str().unwrap(), "--arch", "bert", "--layers", "6"], more].concat());
    assert!(well, "{errors}");
    let bytes = std::fs::read(path).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    bytes
}

async fn shown(client: &Client, url: &str, id: &str) -> Value {
    let response = client.get(format!("{url}/v1/tasks/{id}")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

async fn post(client: &Client, url: &str, path: &str, body: &Value, status: u16) -> Value {
    let response = client.post(format!("{url}{path}")).json(body).send().await.unwrap();
    let (found, answer) = (response.status(), response.json().await.unwrap());
    assert_eq!(found.as_u16(), status, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_numbers_outlives_a_kill_with_the_same_bits() {
    let _alone = crate::ALONE.lock().await;
    let mut more = String::new();
    for (name, file, ctx) in [("encoder", "encoder.gguf", 9_999), ("reranker", "reranker.gguf", 256)] {
        more += &format!("[[pools]]\nid = \"{name}\"\nmodel = \"{file}\"\nmodel_name = \"{name}\"\nslots = 2\n");
        more += &format!("threads = 1\nsimd = \"scalar\"\nctx = {ctx}\n");
    }
    let short = encoder("e.gguf", &["--context", "512"]);
    let files = vec![("encoder.gguf", short), ("reranker.gguf", encoder("r.gguf", &["--rank"]))];
    let mut server = Server::start(&Setup { slots: 2, simd: "scalar", more, files, ..Setup::default() });
    let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let capabilities = client.get(format!("{}/v1/capabilities", server.url)).send().await.unwrap();
    let capabilities: Value = capabilities.json().await.unwrap();
    let workloads: Vec<_> =
        capabilities["pools"].as_array().unwrap().iter().map(|pool| &pool["supported_workloads"]).collect();
    assert_eq!(json!(workloads), json!([["completion", "embedding"], ["embedding"], ["rerank"]]));
    // What an encoder reads is as long as its file or the configuration says, to the token.
    let told: Vec<_> = capabilities["pools"].as_array().unwrap().iter().map(|pool| &pool["ctx_max"]).collect();
    assert_eq!(json!(told), json!([2_048, 512, 256]));
    // The first by name is an encoder: nobody who wants an answer is given it.
    let (well, answer, errors) = orch(&["chat", "--url", &server.url, "--max-tokens", "3", "hello"]);
    assert!(well && !answer.is_empty(), "{errors}");
    let longest: Vec<u32> = (0..513).map(|i| 10 + i % 90).collect();
    let embed = |tokens: &[u32], truncate| json!({"model": "encoder", "input": tokens, "truncate": truncate});
    let route = "/v1/embeddings";
    let whole = post(&client, &server.url, route, &embed(&longest[..512], false), 200).await;
    let refused = post(&client, &server.url, route, &embed(&longest, false), 400).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("513 tokens, and this model reads at most 512"));
    let cut = post(&client, &server.url, route, &embed(&longest, true), 200).await;
    assert_eq!(cut["data"][0]["embedding"], whole["data"][0]["embedding"]);
    assert_eq!(cut["data"][0]["truncation"]["dropped_tokens"], 1);
    let (mut waited, mut asked) = (Vec::new(), Vec::new());
    for job in jobs() {
        waited.push(post(&client, &server.url, job.route, &job.waits, 200).await);
    }
    for (job, mut waited) in jobs().into_iter().zip(waited) {
        let accepted = post(&client, &server.url, "/v1/tasks", &job.task, 202).await;
        assert_eq!(accepted["inputs"], INPUTS);
        let stream = format!("/v1/tasks/{}/stream", job.id);
        let mut reader = Events::of(client.get(format!("{}{stream}", server.url)).send().await.unwrap()).await;
        let mut read = vec![];
        while read.len() < INPUTS / 4 {
            read.push(reader.next().await.unwrap());
        }
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        drop(reader);
        (server.child, server.url) = launch(&server.dir, "127.0.0.1:0", None);
        let found = shown(&client, &server.url, &job.id).await;
        println!("{}: killed after {} events, {} of {INPUTS} told after it", job.route, read.len(), found["tokens"]);
        assert!(found["state"] != "done", "it was killed too late: {found}");
        let again = post(&client, &server.url, "/v1/tasks", &job.task, 202).await;
        assert_eq!(again["queue_position"], accepted["queue_position"], "the same request is the same task");

        // Who was cut off in the middle asks on from what it had.
        let last = read.last().unwrap().id.clone().unwrap();
        let on = client.get(format!("{}{stream}", server.url)).header("last-event-id", last).send().await.unwrap();
        read.extend(Events::of(on).await.rest().await);
        let ids: Vec<usize> = read.iter().filter_map(|event| event.id.as_ref()?.parse().ok()).collect();
        assert_eq!(ids, (0..INPUTS + 2).collect::<Vec<_>>(), "{:?}", read.last());
        assert_eq!((read[0].name.as_str(), read[INPUTS + 1].name.as_str()), ("started", "end"), "{:?}", read.last());

        let began = Instant::now();
        let mut ended = shown(&client, &server.url, &job.id).await;
        while ended["state"] != "done" {
            assert!(began.elapsed() < PATIENCE && ended["error"].is_null(), "{ended}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            ended = shown(&client, &server.url, &job.id).await;
        }
        asked.extend([job.id].into_iter().chain(waited["id"].as_str().map(str::to_owned)));
        // Of the request that waited, not of what it came to.
        (waited["id"], ended["result"]["id"]) = (Value::Null, Value::Null);
        assert_eq!(ended["result"], waited, "{}", job.route);
        let told = |index: usize| read.iter().find(|event| event.data["index"] == index).unwrap().data.clone();
        for item in [&waited["data"], &waited["results"]].into_iter().filter_map(Value::as_array).flatten() {
            assert_eq!(told(item["index"].as_u64().unwrap() as usize), *item);
        }
    }
    assert!(server.stop().success());
    let journal = server.journal();
    let journal = journal.to_str().unwrap();
    let (well, report, errors) = orch(&["replay", journal]);
    assert!(well, "{errors}");
    let line = report.lines().find(|line| line.contains("admitted")).unwrap_or_else(|| panic!("{report}"));
    let numbers: Vec<usize> = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    // With the two of the longest input, and a chat.
    assert_eq!(numbers[..2], [6 * INPUTS + 3; 2], "each part of each, and of each that waited, ended once: {line}");
    for id in asked {
        // Each input's end and one's story, whoever waited for them.
        let (well, story, errors) = orch(&["explain", &id, "--input", "95", "--journal", journal]);
        assert!(well, "{errors}");
        let ends = story.lines().filter(|line| line.starts_with("Input ") && line.contains(") ended, done: "));
        assert_eq!(ends.count(), INPUTS, "{story}");
        assert!(story.contains("Input 95 (task ") && story.contains("told below"), "{story}");
    }
}
