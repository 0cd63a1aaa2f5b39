//! The routes against the stand-in of `rig`.

use super::openai_tests::{CHAT, chat};
use super::rig::*;
use crate::auth::{Access, Scope};
use crate::door::DoorConfig;
use crate::fixture::token;
use crate::pulse::Condition;
use crate::token_log::Pushed;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use orchestrion_world::id::{Attempt, PoolId};
use orchestrion_world::protocol::{CancelReason, Notice, Outcome};
use orchestrion_world::time::Ticks;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower::ServiceExt;

/// `(id, event, data)` of each frame of the queue surface.
fn names(events: &[(u32, String, Value)]) -> Vec<&str> {
    events.iter().map(|event| event.1.as_str()).collect()
}

#[tokio::test]
async fn a_task_is_admitted_streamed_and_kept() {
    let rig = Rig::new();
    let body = json!({"model_ref": "org/answer", "prompt": "p", "deadline_ms": 5_000, "priority": "batch"});
    let answer = json_of(rig.post("/v1/tasks", body).await, 202).await;
    assert_eq!((answer["queue_position"].as_u64(), answer["predicted_start_ms"].as_u64()), (Some(2), Some(30)));
    assert!(answer["seed"].as_u64().unwrap() < 1 << 53);
    let path = format!("/v1/tasks/{}", answer["task_id"].as_str().unwrap());
    assert_eq!(answer["streams"]["sse"], format!("{path}/stream"));
    assert_eq!(rig.specs.lock().unwrap()[0].deadline, Some(Ticks(4_995)), "less the margin");

    let response = rig.get(&format!("{path}/stream")).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let first = text_of(response).await;
    let seen = events(&first);
    assert_eq!(names(&seen), ["started", "token", "token", "token", "token", "end"]);
    assert_eq!(seen.iter().map(|event| event.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(seen[0].2["worker_id"], "w5");
    assert_eq!(seen[0].2["seed"], answer["seed"]);
    for (i, piece) in PIECES.iter().enumerate() {
        assert_eq!(seen[i + 1].2, json!({"t": piece, "i": i}));
    }
    let end = json!({"tokens_in": 3, "tokens_out": 4, "decode_time_ms": 9, "finish_reason": "stop", "stop": true});
    assert_eq!(seen[5].2, end);
    assert_eq!(text_of(rig.get(&format!("{path}/stream")).await).await, first, "a second reader sees the same");

    let resumed = rig.send("GET", &format!("{path}/stream"), None, &[("last-event-id", "2")]).await;
    assert_eq!(events(&text_of(resumed).await), seen[3..], "no loss, no duplicate");
    let over = rig.send("GET", &format!("{path}/stream"), None, &[("last-event-id", "5")]).await;
    assert_eq!(over.status(), 204);
    let beyond = rig.send("GET", &format!("{path}/stream"), None, &[("last-event-id", "6")]).await;
    assert_eq!(beyond.status(), 400);

    let kept = json_of(rig.get(&path).await, 200).await;
    assert_eq!(kept["state"], "done");
    assert_eq!(kept["result"]["text"], "Hello\n \"you\"");
    assert_eq!(rig.post(&format!("{path}/cancel"), json!({})).await.status(), 204, "too late, and no error");
    assert_eq!(json_of(rig.get(&path).await, 200).await["state"], "done");
}

#[tokio::test]
async fn the_same_id_and_body_is_the_same_task() {
    let rig = Rig::new();
    let id = "0190a5f0-0000-7000-8000-000000000001";
    let body = json!({"task_id": id, "model_ref": "hold", "prompt": "p"});
    let first = json_of(rig.post("/v1/tasks", body.clone()).await, 202).await;
    let again = json_of(rig.post("/v1/tasks", body).await, 202).await;
    assert_eq!(first, again);
    assert_eq!(rig.specs.lock().unwrap().len(), 1, "submitted once");
    let other = json!({"task_id": id, "model_ref": "hold", "prompt": "q"});
    assert_eq!(json_of(rig.post("/v1/tasks", other).await, 409).await["code"], "CONFLICT");
}

#[tokio::test]
async fn after_a_cancel_is_acknowledged_no_token_is_sent() {
    let rig = Rig::new();
    let task = rig.hold(json!({})).await;
    begin(&rig.switchboard, task);
    assert_eq!(push(&rig.switchboard, task, 0), Pushed::Taken);
    let mut body = rig.get(&format!("/v1/tasks/{task}/stream")).await.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(names(&events(std::str::from_utf8(&frame).unwrap())), ["started", "token"], "one write");
    // In the log, not yet taken by the reader.
    assert_eq!(push(&rig.switchboard, task, 1), Pushed::Taken);
    for _ in 0..2 {
        assert_eq!(rig.post(&format!("/v1/tasks/{task}/cancel"), json!({})).await.status(), 204);
    }
    assert_eq!(push(&rig.switchboard, task, 2), Pushed::Closed);
    let rest = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let rest = events(&rest);
    assert_eq!(names(&rest), ["error"]);
    assert_eq!((rest[0].2["code"].as_str(), rest[0].2["retriable"].as_bool()), (Some("CANCELLED"), Some(false)));
    assert_eq!(rig.cancelled.lock().unwrap()[..], [CancelReason::Client], "the second had nothing to do");
}

#[tokio::test]
async fn a_reader_far_behind_gets_its_stream_in_bounded_pieces() {
    let rig = Rig::new();
    let task = rig.hold(json!({"max_tokens": 1_000})).await;
    begin(&rig.switchboard, task);
    let text = "x".repeat(4 * 1024);
    for index in 0..300 {
        assert_eq!(rig.switchboard.token(task, Attempt::of(1, 1), token(index, index, &text)), Pushed::Taken);
    }
    rig.finish(task);
    let mut body = rig.get(&format!("/v1/tasks/{task}/stream")).await.into_body();
    let mut whole = String::new();
    while let Some(frame) = body.frame().await {
        let piece = frame.unwrap().into_data().unwrap();
        assert!(piece.len() < 128 * 1024, "{} bytes at once", piece.len());
        whole += std::str::from_utf8(&piece).unwrap();
    }
    let seen = events(&whole);
    assert_eq!((seen.len(), seen.last().unwrap().1.as_str()), (302, "end"), "nothing is lost of it");
}

#[tokio::test]
async fn started_precedes_a_token_that_raced_ahead() {
    let rig = Rig::new();
    let task = rig.hold(json!({})).await;
    assert_eq!(push(&rig.switchboard, task, 0), Pushed::Taken);
    let mut body = rig.get(&format!("/v1/tasks/{task}/stream")).await.into_body();
    let early = tokio::time::timeout(Duration::from_millis(30), body.frame()).await;
    assert!(early.is_err(), "nothing before the core says so");
    begin(&rig.switchboard, task);
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(names(&events(std::str::from_utf8(&frame).unwrap())), ["started", "token"]);
}

#[tokio::test]
async fn attempts_that_disagree_end_as_internal() {
    let rig = Rig::new();
    let task = rig.hold(json!({})).await;
    begin(&rig.switchboard, task);
    push(&rig.switchboard, task, 0);
    assert_eq!(rig.switchboard.token(task, Attempt::of(1, 2), token(0, 999, "other")), Pushed::Diverged);
    say(&rig.switchboard, Notice::Ended { task, outcome: Outcome::Done(usage()) });
    let seen = events(&text_of(rig.get(&format!("/v1/tasks/{task}/stream")).await).await);
    assert_eq!(seen.last().unwrap().2["code"], "INTERNAL");
}

#[tokio::test]
async fn a_task_nobody_reads_is_cancelled_after_its_grace_but_never_a_batch_task() {
    let rig = Rig::new();
    let batch = rig.hold(json!({"priority": "batch"})).await;
    let task = rig.hold(json!({})).await;
    for id in [batch, task] {
        drop(rig.get(&format!("/v1/tasks/{id}/stream")).await);
    }
    // Somebody comes back in time, and leaves again.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let again = rig.get(&format!("/v1/tasks/{task}/stream")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(rig.cancelled.lock().unwrap().is_empty());
    drop(again);
    rig.until_cancelled(CancelReason::Abandoned).await;
    assert_eq!(json_of(rig.get(&format!("/v1/tasks/{task}")).await, 200).await["state"], "cancelled");
    assert_eq!(json_of(rig.get(&format!("/v1/tasks/{batch}")).await, 200).await["state"], "queued");
}

#[tokio::test]
async fn errors_wear_the_envelope() {
    let rig = Rig::new();
    let wrong = rig.send("DELETE", "/v1/tasks", None, &[]).await;
    assert_eq!(wrong.headers()["allow"], "POST,GET,HEAD");
    let wrong = json_of(wrong, 405).await;
    assert_eq!((wrong["code"].as_str(), wrong["retriable"].as_bool()), (Some("INVALID_PARAMS"), Some(false)));
    assert_eq!(json_of(rig.get("/v1/replicasets").await, 404).await["code"], "NOT_FOUND");
    assert_eq!(json_of(rig.get("/v1/tasks/nonsense").await, 404).await["code"], "NOT_FOUND");
    let unknown = "/v1/tasks/0190a5f0-0000-7000-8000-000000000009";
    for path in ["", "/stream"] {
        assert_eq!(rig.get(&format!("{unknown}{path}")).await.status(), 404);
    }
    assert_eq!(rig.post(&format!("{unknown}/cancel"), json!({})).await.status(), 404);

    for (body, code, status) in [
        (json!({"prompt": "p"}), "INVALID_PARAMS", 400),
        (json!({"model_ref": "hold"}), "INVALID_PARAMS", 400),
        (json!({"model_ref": "hold", "prompt": "p", "deadline_ms": 3}), "DEADLINE_UNMET", 400),
        (json!({"model_ref": "hold", "prompt": "p", "deadline_ms": 604_800_001}), "INVALID_PARAMS", 400),
        (json!({"model_ref": "hold", "prompt": "p", "ctx": 10}), "INVALID_PARAMS", 400),
        (json!({"model_ref": "hf:org/x", "prompt": "p"}), "POOL_UNREADY", 503),
        (json!({"model_ref": "nope", "prompt": "p"}), "NOT_FOUND", 404),
        (json!({"model_ref": "full", "prompt": "p"}), "ADMISSION_REJECT", 429),
        (json!({"model_ref": "hold", "prompt": "p", "workload": "embedding"}), "INVALID_PARAMS", 400),
        (json!([]), "INVALID_PARAMS", 400),
    ] {
        assert_eq!(json_of(rig.post("/v1/tasks", body).await, status).await["code"], code);
    }
    for (field, value) in [
        ("n", json!(2)),
        ("best_of", json!(2)),
        ("stream", json!(true)),
        ("stream_options", json!({"include_usage": true})),
        ("frequency_penalty", json!(1)),
        ("echo", json!(true)),
        ("suffix", json!("s")),
        ("functions", json!([{}])),
        ("max_completion_tokens", json!(3)),
        ("dimensions", json!(3)),
    ] {
        let body = json!({"model_ref": "hold", "prompt": "p", field: value});
        let message = json_of(rig.post("/v1/tasks", body).await, 400).await["message"].to_string();
        assert!(message.starts_with(&format!("\"`{field}`: ")), "{message}");
    }
    rig.hold(json!({"n": 1, "stream": false, "best_of": 1, "echo": false, "frequency_penalty": 0.0})).await;
    let request = Request::post("/v1/tasks").header("host", "localhost").header("content-type", "application/json");
    let cut = rig.door.router().oneshot(request.body(Body::from("{\"a\":")).unwrap()).await.unwrap();
    assert_eq!(json_of(cut, 400).await["code"], "INVALID_PARAMS");
    let large = Request::post(CHAT).header("host", "localhost").header("content-type", "application/json");
    let large = large.header("content-length", "2000000").body(Body::empty()).unwrap();
    let large = json_of(rig.door.router().oneshot(large).await.unwrap(), 413).await;
    assert_eq!(large["error"]["code"], "PAYLOAD_TOO_LARGE");

    rig.health.set(Condition::JournalUnwritable { problem: "no space".into() });
    let full_disk = json_of(rig.post("/v1/tasks", json!({"model_ref": "hold", "prompt": "p"})).await, 503).await;
    assert_eq!(full_disk["code"], "POOL_UNAVAILABLE");
}

#[tokio::test]
async fn a_full_lane_is_a_429_at_once() {
    let rig = Rig::with(DoorConfig::default(), false);
    let body = json!({"task_id": "0190a5f0-0000-7000-8000-000000000001", "model_ref": "hold", "prompt": "p"});
    for _ in 0..2 {
        let refused = json_of(rig.post("/v1/tasks", body.clone()).await, 429).await;
        assert_eq!(
            (refused["code"].as_str(), refused["policy_label"].as_str()),
            (Some("ADMISSION_REJECT"), Some("ingress"))
        );
    }
}

#[tokio::test]
async fn a_full_ingress_refuses_before_any_work_and_never_a_cancel() {
    let rig = Arc::new(Rig::new());
    let task = rig.hold(json!({})).await;
    begin(&rig.switchboard, task);
    let body = json!({"model_ref": "stuck", "prompt": "p"});
    let stuck: Vec<_> = (0..LANE)
        .map(|_| {
            tokio::spawn({
                let (rig, body) = (Arc::clone(&rig), body.clone());
                async move { rig.post("/v1/tasks", body).await }
            })
        })
        .collect();
    while rig.submitted() <= LANE {
        tokio::task::yield_now().await;
    }
    let mut took = Vec::new();
    for _ in 0..51 {
        let began = Instant::now();
        // Not even the name of the model was looked at.
        let refused = rig.post("/v1/tasks", json!({"model_ref": "nobody's", "prompt": "p"})).await;
        took.push(began.elapsed());
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(refused.headers()["x-backoff-ms"], "100");
        let refused = json_of(refused, 429).await;
        assert_eq!(
            (refused["code"].as_str(), refused["policy_label"].as_str()),
            (Some("ADMISSION_REJECT"), Some("ingress"))
        );
    }
    took.sort();
    assert!(took[25] < Duration::from_millis(10), "{:?}", took[25]);
    let metrics = text_of(rig.get("/metrics").await).await;
    assert!(metrics.contains("admission_backpressure_events_total{policy=\"ingress\"} 51"), "{metrics}");
    assert!(metrics.contains("tasks_rejected_total{reason=\"ingress\"} 51"), "{metrics}");

    assert_eq!(rig.post(&format!("/v1/tasks/{task}/cancel"), json!({})).await.status(), 204);
    assert_eq!(json_of(rig.get(&format!("/v1/tasks/{task}")).await, 200).await["state"], "cancelled");
    // Whoever gives up makes room.
    stuck.into_iter().for_each(|request| request.abort());
    while rig.post("/v1/tasks", json!({"model_ref": "hold", "prompt": "p"})).await.status() != 202 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_response_has_a_correlation_id() {
    let rig = Rig::new();
    let echoed = rig.send("GET", "/nowhere", None, &[("x-correlation-id", "abc-1")]).await;
    assert_eq!(echoed.headers()["x-correlation-id"], "abc-1");
    assert_eq!(echoed.headers()["x-request-id"], "abc-1", "the name that OpenAI's clients read");
    assert_eq!(echoed.headers()["x-should-retry"], "false");
    assert_eq!(json_of(echoed, 404).await["correlation_id"], "abc-1");
    let made = rig.send("GET", "/version", None, &[("x-correlation-id", "not this one")]).await;
    assert_eq!(made.headers()["x-correlation-id"].len(), 36);
}

#[test]
fn the_documentation_lists_the_routes_that_there_are() {
    let scopes = |access| match access {
        Access::Open | Access::Health | Access::Metrics => "open".to_owned(),
        Access::Work => Scope::Infer.name().to_owned(),
        Access::Scopes(Scope::ALL) => "any".to_owned(),
        Access::Scopes(scopes) => scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(" or "),
    };
    let routes = super::routes().into_iter();
    let there_are: Vec<String> =
        routes.map(|route| format!("| `{}` | `{}` | {} ", route.method, route.path, scopes(route.access))).collect();
    let rows = include_str!("../../../docs/http.md").lines().filter(|line| line.contains("` | `/"));
    let told: Vec<String> = rows.map(|row| row.split_inclusive('|').take(4).collect()).collect();
    assert_eq!(told, there_are.into_iter().map(|row| row + "|").collect::<Vec<_>>());
}

#[tokio::test]
async fn hosts_are_checked() {
    let rig = Rig::new();
    for (hosts, status) in [
        (&["localhost"][..], 200),
        (&["127.0.0.1:8080"], 200),
        (&["evil.example"], 403),
        (&[], 400),
        (&["localhost", "localhost"], 400),
    ] {
        let mut request = Request::get("/health/live");
        for host in hosts {
            request = request.header("host", *host);
        }
        let response = rig.door.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{hosts:?}");
    }
}

#[tokio::test]
async fn the_platform_routes_answer() {
    let rig = Rig::new();
    assert_eq!(rig.get("/health/live").await.status(), 200);
    assert_eq!(json_of(rig.get("/health/ready").await, 503).await["status"], "unready");
    say(&rig.switchboard, Notice::PoolChanged { pool: PoolId(0), ready: 2 });
    assert_eq!(rig.get("/health/ready").await.status(), 200);
    let models = json_of(rig.get("/v1/models").await, 200).await;
    assert_eq!(models["data"][0]["id"], "org/answer");
    assert_eq!(json_of(rig.get("/v1/models/org/answer").await, 200).await["owned_by"], "orchestrion");
    assert_eq!(json_of(rig.get("/v1/models/none").await, 404).await["error"]["code"], "model_not_found");

    let done = json_of(rig.post(CHAT, chat("org/answer", json!({}))).await, 200).await;
    let id = done["id"].as_str().unwrap().trim_start_matches("chatcmpl-").to_owned();
    assert_eq!(rig.get(&format!("/v1/tasks/{id}")).await.status(), 404, "it went with its connection");
    assert_eq!(json_of(rig.get(&format!("/v1/tasks/{id}/explain")).await, 200).await["task"], id);
    let of = |prefix: &str| format!("/v1/tasks/{prefix}{id}/explain");
    for answer in ["chatcmpl-", "cmpl-", "rerank-"].map(of) {
        assert_eq!(json_of(rig.get(&answer).await, 200).await["task"], id);
    }
    let third = json_of(rig.get(&format!("/v1/tasks/{id}/explain?input=2")).await, 200).await;
    assert_eq!(third["input"], 2);
    json_of(rig.get(&format!("/v1/tasks/{id}/explain?input=3")).await, 404).await;
    json_of(rig.get(&format!("/v1/tasks/{id}/explain?input=last")).await, 400).await;
    let nil = "/v1/tasks/00000000-0000-0000-0000-000000000000/explain";
    assert_eq!(rig.get(nil).await.status(), 404);

    let metrics = text_of(rig.get("/metrics").await).await;
    for line in [
        "orchestrion_tasks_enqueued_total 1",
        "orchestrion_tasks_finished_total{outcome=\"done\"} 1",
        "orchestrion_tokens_in_total 3",
        "orchestrion_tokens_out_total 4",
        "orchestrion_pool_ready{pool_id=\"pool-a\"} 2",
        "orchestrion_latency_first_token_ms_count 1",
        "orchestrion_latency_queue_ms_count 1",
        "orchestrion_latency_decode_ms_bucket{le=\"250.0\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(!metrics.contains(&id), "no id is a label");
    let status = json_of(rig.get("/status").await, 200).await;
    assert_eq!(status["totals"]["tasks_done"], 1);
    // Who makes vectors and no text is not offered for prompts, nor who was never loaded.
    assert_eq!(status["models"], json!(MODELS));
    assert_eq!(status["answering"], json!(["org/answer", "hold", "full"]));
    assert_eq!(json_of(rig.get("/version").await, 200).await["api"], "v1");
    let page = rig.get("/").await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'self'"));
    let page = text_of(page).await;
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("style="));
    for path in ["/ui", "/ui/app.js", "/ui/style.css"] {
        assert_eq!(rig.get(path).await.status(), 200);
    }
}
