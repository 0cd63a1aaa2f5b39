//! A server whose disk is full: what it refuses, what it keeps, and how it goes on when there is room.

use crate::quota::limit_files;
use crate::server::{Server, Setup, binary, orch};
use crate::sse::Events;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

async fn submit(client: &Client, url: &str, task: u32, tokens: u32) -> Response {
    let body = json!({
        "task_id": format!("00000000-0000-4000-8000-{task:012}"), "model_ref": "tiny", "prompt": "Once",
        "max_tokens": tokens,
    });
    client.post(format!("{url}/v1/tasks")).json(&body).send().await.unwrap()
}

async fn refused(response: Response) {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let problem: Value = response.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["retriable"]), (&json!("POOL_UNAVAILABLE"), &json!(true)), "{problem}");
    assert!(problem["message"].as_str().unwrap().contains("the journal cannot be written"), "{problem}");
}

async fn text(client: &Client, url: &str, path: &str) -> (StatusCode, String) {
    let response = client.get(format!("{url}{path}")).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

async fn until_ready(client: &Client, url: &str, status: StatusCode) -> String {
    let began = Instant::now();
    loop {
        let (found, text) = text(client, url, "/health/ready").await;
        if found == status {
            return text;
        }
        assert!(began.elapsed() < PATIENCE, "it stays at {found}: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_work_with_a_reason_and_loses_nothing() {
    let _alone = crate::ALONE.lock().await;
    let more = "[journal]\nsegment_records = 20\n".into();
    let mut server = Server::start(&Setup { slots: 2, simd: "scalar", more, ..Setup::default() });
    let (client, url) = (Client::new(), server.url.clone());
    assert_eq!(submit(&client, &url, 1, 250).await.status(), StatusCode::ACCEPTED);
    let stream = |task: u32| format!("{url}/v1/tasks/00000000-0000-4000-8000-{task:012}/stream");
    let mut reader = Events::of(client.get(stream(1)).send().await.unwrap()).await;
    while reader.next().await.unwrap().name != "token" {}

    limit_files(&server, 0);
    // The first one finds it out; the core has it, and nobody was told that.
    refused(submit(&client, &url, 2, 5).await).await;
    refused(submit(&client, &url, 3, 5).await).await;
    refused(submit(&client, &url, 2, 5).await).await;
    let reason = until_ready(&client, &url, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(reason.contains("the journal cannot be written"), "{reason}");
    let (_, metrics) = text(&client, &url, "/metrics").await;
    assert!(metrics.contains("\norchestrion_journal_writable 0\n"), "{metrics}");
    assert!(metrics.contains("reason=\"journal_unwritable\""), "{metrics}");
    let (live, _) = text(&client, &url, "/health/live").await;
    assert_eq!(live, StatusCode::OK);
    let cancel = client.post(stream(1).replace("/stream", "/cancel")).send().await.unwrap();
    refused(cancel).await;

    limit_files(&server, u64::MAX);
    until_ready(&client, &url, StatusCode::OK).await;
    let events = reader.rest().await;
    let ends = events.iter().filter(|event| event.name == "end" || event.name == "error").count();
    assert!(ends == 1 && ["end", "error"].contains(&events.last().unwrap().name.as_str()), "{events:?}");
    for task in [2, 3] {
        assert_eq!(submit(&client, &url, task, 5).await.status(), StatusCode::ACCEPTED, "the same request again");
        let events = Events::of(client.get(stream(task)).send().await.unwrap()).await.rest().await;
        assert_eq!(events.last().unwrap().name, "end", "{events:?}");
    }
    assert!(server.stop().success());
    let (well, report, errors) = orch(&["replay", server.journal().to_str().unwrap()]);
    assert!(well && report.contains("Of 3 admitted tasks, 3 ended"), "{report}{errors}");
}

#[test]
fn a_server_without_room_for_its_journal_does_not_start_and_says_which_file() {
    let _alone = crate::ALONE.blocking_lock();
    let mut server = Server::start(&Setup { simd: "scalar", ..Setup::default() });
    assert!(server.stop().success());
    let start = r#"trap '' XFSZ; ulimit -S -f 0; exec "$0" serve --bind 127.0.0.1:0 --journal journal"#;
    let started = Command::new("sh").args(["-c", start, &binary()]).current_dir(&server.dir).output().unwrap();
    let errors = String::from_utf8_lossy(&started.stderr);
    assert!(!started.status.success() && errors.contains("cannot write anew journal/spool"), "{errors}");
    // What was there is as it was.
    let (well, report, errors) = orch(&["replay", server.journal().to_str().unwrap()]);
    assert!(well && report.starts_with("1 run replayed"), "{report}{errors}");
}
