//! Tasks of the queue whose answer is numbers.

use super::*;
use crate::door::DoorConfig;
use crate::http::rig::{LANE, Rig, begin, events, json_of, push, say, text_of};
use crate::http::task_id;
use orchestrion_world::id::TaskId;
use orchestrion_world::protocol::{CancelReason, Failure, Notice};

const TASKS: &str = "/v1/tasks";
const ID: &str = "0190a5f0-0000-7000-8000-000000000001";

fn embedding(model: &str, more: Value) -> Value {
    let mut body = json!({"task_id": ID, "model_ref": model, "workload": "embedding", "inputs": ["a", "b", [7, 8]]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn rerank(more: Value) -> Value {
    let scores = json!({"workload": "rerank", "query": "q", "inputs": ["a", {"text": "bbb", "n": 1}, "cc"]});
    let mut body = embedding("org/answer", scores);
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn shown(rig: &Rig) -> Value {
    json_of(rig.get(&format!("{TASKS}/{ID}")).await, 200).await
}

fn names(events: &[(u32, String, Value)]) -> Vec<(u32, &str)> {
    events.iter().map(|(id, name, _)| (*id, name.as_str())).collect()
}

fn part(index: u32) -> TaskId {
    Part::id(task_id(ID).unwrap(), index)
}

#[tokio::test]
async fn a_task_gives_what_the_route_gives_to_who_waits() {
    for (task, route, mut body) in [
        (embedding("org/answer", json!({"dimensions": 1, "encoding_format": "base64"})), "/v1/embeddings", json!({})),
        (rerank(json!({"top_n": 2, "return_documents": true, "truncation": "auto"})), "/v1/rerank", json!({})),
    ] {
        let rig = Rig::new();
        let accepted = json_of(rig.post(TASKS, task.clone()).await, 202).await;
        assert_eq!((&accepted["task_id"], &accepted["inputs"]), (&json!(ID), &json!(3)));
        let again = json_of(rig.post(TASKS, task.clone()).await, 202).await;
        assert_eq!(again["queue_position"], accepted["queue_position"]);
        assert_eq!(rig.submitted(), 3, "the same request is the same task");

        // The same fields by the names of the route.
        for (name, value) in task.as_object().unwrap() {
            let name = match (name.as_str(), route) {
                ("task_id" | "workload", _) => continue,
                ("model_ref", _) => "model",
                ("inputs", "/v1/rerank") => "documents",
                ("inputs", _) => "input",
                (other, _) => other,
            };
            body[name] = value.clone();
        }
        let mut waited = json_of(rig.post(route, body).await, 200).await;
        let mut result = shown(&rig).await;
        assert_eq!((&result["state"], &result["workload"]), (&json!("done"), &task["workload"]));
        assert_eq!((&result["tokens"], &result["inputs"]), (&json!(3), &json!(3)));
        if route == "/v1/rerank" {
            assert_eq!(result["result"]["id"], format!("rerank-{ID}"));
            (waited["id"], result["result"]["id"]) = (Value::Null, Value::Null);
        }
        assert_eq!(result["result"], waited);
    }
}

#[tokio::test]
async fn its_stream_tells_the_inputs_in_their_order_and_goes_on_where_a_reader_was() {
    let rig = Rig::new();
    json_of(rig.post(TASKS, embedding("hold", json!({}))).await, 202).await;
    let stream = format!("{TASKS}/{ID}/stream");
    let reading = tokio::spawn(text_of(rig.get(&stream).await));
    // The last is done first, and is told last.
    for index in [2, 0, 1] {
        begin(&rig.switchboard, part(index));
        push(&rig.switchboard, part(index), 0);
        rig.finish(part(index));
        tokio::task::yield_now().await;
    }
    let told = |text: String| events(&text);
    let whole = told(reading.await.unwrap());
    assert_eq!(names(&whole), [(0, "started"), (1, "embedding"), (2, "embedding"), (3, "embedding"), (4, "end")]);
    for (index, (.., data)) in whole[1..4].iter().enumerate() {
        assert_eq!(*data, json!({"object": "embedding", "index": index, "embedding": [0.6f32, 0.8f32]}));
    }
    assert_eq!((&whole[4].2["tokens_in"], &whole[4].2["tokens_out"]), (&json!(9), &json!(12)));
    for after in 0..4usize {
        let resumed = rig.send("GET", &stream, None, &[("last-event-id", &after.to_string())]).await;
        assert_eq!(told(text_of(resumed).await), whole[after + 1..], "behind {after}");
    }
    assert_eq!(rig.send("GET", &stream, None, &[("last-event-id", "4")]).await.status(), 204);
    assert_eq!(rig.send("GET", &stream, None, &[("last-event-id", "5")]).await.status(), 400);
}

#[tokio::test]
async fn a_task_fails_with_the_first_of_its_parts_and_the_rest_is_not_run() {
    let rig = Rig::new();
    json_of(rig.post(TASKS, embedding("hold", json!({}))).await, 202).await;
    begin(&rig.switchboard, part(0));
    assert_eq!(shown(&rig).await["state"], "running");
    let failed = Outcome::Failed { failure: Failure::WorkerLost, tokens_out: 0 };
    say(&rig.switchboard, Notice::Ended { task: part(1), outcome: failed });
    assert_eq!(shown(&rig).await["state"], "running", "what stands before it is not done");
    push(&rig.switchboard, part(0), 0);
    rig.finish(part(0));
    let ended = shown(&rig).await;
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("failed"), &json!("WORKER_RESET")));
    assert!(ended["result"].is_null());
    let stream = events(&text_of(rig.get(&format!("{TASKS}/{ID}/stream")).await).await);
    assert_eq!(names(&stream), [(0, "started"), (1, "embedding"), (4, "error")]);
    let housekeeping = tokio::spawn(Arc::clone(&rig.door).housekeeping());
    rig.until_cancelled(CancelReason::Disconnect).await;
    housekeeping.abort();
    assert_eq!(rig.cancelled.lock().unwrap().len(), 1, "only what stood behind it ran");
    assert_eq!(shown(&rig).await["error"]["code"], "WORKER_RESET", "and the task ended as it had");
}

#[tokio::test]
async fn a_cancel_is_for_all_its_parts_and_nothing_is_told_after_it() {
    let rig = Rig::new();
    json_of(rig.post(TASKS, embedding("hold", json!({}))).await, 202).await;
    begin(&rig.switchboard, part(0));
    push(&rig.switchboard, part(0), 0);
    rig.finish(part(0));
    let reader = rig.get(&format!("{TASKS}/{ID}/stream")).await;
    assert_eq!(rig.post(&format!("{TASKS}/{ID}/cancel"), json!({})).await.status(), 204);
    let told = events(&text_of(reader).await);
    assert_eq!(names(&told), [(4, "error")]);
    assert_eq!(told[0].2["code"], "CANCELLED");
    assert_eq!(*rig.cancelled.lock().unwrap(), [CancelReason::Client; 2]);
    assert_eq!(shown(&rig).await["state"], "cancelled");
}

#[tokio::test]
async fn it_is_one_task_in_the_list_and_its_parts_are_nobodys() {
    let rig = Rig::new();
    json_of(rig.post(TASKS, embedding("hold", json!({}))).await, 202).await;
    let list = json_of(rig.get(TASKS).await, 200).await;
    assert_eq!(list["tasks"].as_array().unwrap().len(), 1);
    assert_eq!((&list["tasks"][0]["task_id"], &list["tasks"][0]["state"]), (&json!(ID), &json!("queued")));
    assert_eq!(rig.get(&format!("{TASKS}/{}", part(1))).await.status(), 404);
    let other = embedding("hold", json!({"inputs": "a"}));
    assert_eq!(json_of(rig.post(TASKS, other).await, 409).await["code"], "CONFLICT");
}

#[tokio::test]
async fn a_refused_part_refuses_the_task_and_leaves_nothing_of_it() {
    let rig = Rig::new();
    let body = embedding("org/answer", json!({"inputs": ["a", "full", "b"]}));
    for _ in 0..2 {
        let refused = json_of(rig.post(TASKS, body.clone()).await, 429).await;
        assert_eq!(refused["code"], "ADMISSION_REJECT");
        for index in 0..3 {
            assert!(rig.switchboard.find(part(index)).is_none(), "part {index}");
        }
    }
    assert_eq!(rig.submitted(), 6, "each time all were asked for");
}

#[tokio::test]
async fn what_cannot_be_read_is_named_as_the_task_has_it() {
    let rig = Rig::new();
    for (body, param) in [
        (embedding("hold", json!({"workload": "both"})), "workload"),
        (embedding("hold", json!({"inputs": null})), "inputs"),
        (embedding("hold", json!({"inputs": []})), "inputs"),
        (embedding("hold", json!({"inputs": ["a", []]})), "inputs[1]"),
        (embedding("hold", json!({"inputs": ["a", "too long"]})), "inputs[1]"),
        (embedding("hold", json!({"inputs": vec!["a"; LANE + 1]})), "inputs"),
        (embedding("hold", json!({"dimensions": 3})), "dimensions"),
        (embedding("hold", json!({"prompt": "p"})), "prompt"),
        (embedding("hold", json!({"session_id": "s"})), "session_id"),
        (embedding("hold", json!({"max_tokens": 3})), "max_tokens"),
        (embedding("hold", json!({"seed": 7})), "seed"),
        (embedding("hold", json!({"guided_regex": "a"})), "guided_regex"),
        (embedding("hold", json!({"n": 2})), "n"),
        (embedding("hold", json!({"workload": "completion", "prompt": "p"})), "inputs"),
        (rerank(json!({"query": null})), "query"),
        (rerank(json!({"inputs": ["a", {"title": "b"}]})), "inputs[1]"),
        (rerank(json!({"inputs": ["too long"]})), "inputs[0]"),
        (rerank(json!({"model_ref": "stuck"})), "model_ref"),
    ] {
        let refused = json_of(rig.post(TASKS, body).await, 400).await;
        let message = refused["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("`{param}`")), "{param}: {message}");
        assert_eq!(refused["code"], "INVALID_PARAMS");
    }
    assert_eq!(rig.submitted(), 0);
    let harmless = json!({"n": 1, "stream": false, "logprobs": false, "tools": [], "temperature": 0});
    json_of(rig.post(TASKS, embedding("hold", harmless)).await, 202).await;
}

#[tokio::test]
async fn results_of_a_task_are_kept_and_go_together() {
    let config = DoorConfig { result_bytes: 8_000, ..DoorConfig::default() };
    let rig = Rig::with(config, true);
    json_of(rig.post(TASKS, embedding("org/answer", json!({}))).await, 202).await;
    assert!((0..3).all(|index| rig.switchboard.find(part(index)).is_some()));
    for _ in 0..20 {
        json_of(rig.post(TASKS, json!({"model_ref": "org/answer", "prompt": "p"})).await, 202).await;
    }
    assert!((0..3).all(|index| rig.switchboard.find(part(index)).is_none()));
}
