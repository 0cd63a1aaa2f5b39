//! The two completion routes against the stand-in of `rig`.

use super::rig::*;
use crate::pulse::Condition;
use orchestrion_world::budget::Left;
use orchestrion_world::protocol::{CancelReason, Notice};
use orchestrion_world::time::Ticks;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) fn chat(model: &str, more: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "unknown_field": 1});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub(super) const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn chat_answers_in_one_piece() {
    let rig = Rig::new();
    let response = rig.post(CHAT, chat("org/answer", json!({"seed": 7, "max_tokens": 5, "top_k": 3}))).await;
    assert!(response.headers().contains_key("x-request-id"));
    let answer = json_of(response, 200).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((answer["object"].as_str(), answer["model"].as_str()), (Some("chat.completion"), Some("org/answer")));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let message = json!({"role": "assistant", "content": "Hello\n \"you\"", "refusal": null});
    assert_eq!(answer["choices"][0]["message"], message);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["total_tokens"], 7);
    let spec = rig.specs.lock().unwrap()[0].clone();
    assert_eq!((spec.seed, spec.max_tokens), (7, 5));
}

#[tokio::test]
async fn what_is_left_out_of_a_prompt_is_said() {
    let rig = Rig::new();
    let said = json!({"dropped_messages": 2, "dropped_tokens": 30});
    let answer = json_of(rig.post(CHAT, chat("org/answer", json!({"truncation": "auto"}))).await, 200).await;
    assert_eq!(answer["truncation"], said);
    let answer = json_of(rig.post(CHAT, chat("org/answer", json!({"truncation": "disabled"}))).await, 200).await;
    assert!(answer.get("truncation").is_none());
    let streamed = chat("org/answer", json!({"truncation": "auto", "stream": true}));
    let (chunks, done) = chunks(&text_of(rig.post(CHAT, streamed).await).await);
    assert!(done && chunks.iter().all(|chunk| chunk["truncation"] == said));
    let task = json!({"model_ref": "org/answer", "prompt": "hi", "truncation": "auto"});
    assert_eq!(json_of(rig.post("/v1/tasks", task).await, 202).await["truncation"], said);
    let refused = json_of(rig.post(CHAT, chat("org/answer", json!({"truncation": "middle"}))).await, 400).await;
    assert_eq!(refused["error"]["param"], "truncation");
}

#[tokio::test]
async fn chat_streams_chunks() {
    let rig = Rig::new();
    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let text = text_of(rig.post(CHAT, chat("org/answer", more)).await).await;
    let frames: Vec<&str> = text.split_terminator("\n\n").map(|frame| frame.strip_prefix("data: ").unwrap()).collect();
    let (done, chunks) = frames.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
    }
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(*deltas[0], json!({"role": "assistant", "content": ""}));
    assert_eq!(*deltas[1], json!({"content": "Hel"}));
    assert_eq!(*deltas[2], json!({"content": "lo\n"}), "a token without text makes no chunk");
    assert_eq!(*deltas[4], json!({}));
    assert_eq!(chunks[4]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[1].as_object().unwrap()["usage"], Value::Null);
    assert_eq!(chunks[5]["choices"], json!([]));
    assert_eq!(chunks[5]["usage"]["completion_tokens"], 4);

    let plain = text_of(rig.post(CHAT, chat("org/answer", json!({"stream": true}))).await).await;
    assert!(!plain.contains("usage"));
    let failed = text_of(rig.post(CHAT, chat("fail", json!({"stream": true}))).await).await;
    assert!(failed.contains("WORKER_RESET") && !failed.contains("[DONE]"), "{failed}");
    assert_eq!(json_of(rig.post(CHAT, chat("fail", json!({}))).await, 503).await["error"]["code"], "WORKER_RESET");
}

/// The chunks of a stream, and whether it ended with `[DONE]`.
fn chunks(text: &str) -> (Vec<Value>, bool) {
    let frames: Vec<&str> = text.split_terminator("\n\n").map(|frame| frame.strip_prefix("data: ").unwrap()).collect();
    let chunks = frames.iter().filter(|frame| **frame != "[DONE]").map(|frame| serde_json::from_str(frame).unwrap());
    (chunks.collect(), frames.last() == Some(&"[DONE]"))
}

#[tokio::test]
async fn several_choices_are_several_tasks_in_one_answer() {
    let rig = Rig::new();
    let answer = json_of(rig.post(CHAT, chat("org/answer", json!({"n": 3, "seed": 7}))).await, 200).await;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(choices.iter().all(|choice| choice["message"]["content"] == "Hello\n \"you\""));
    assert_eq!(answer["usage"]["prompt_tokens"], 3, "they share it");
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    assert_eq!((&answer["usage"]["completion_tokens"], &answer["usage"]["total_tokens"]), (&json!(12), &json!(15)));
    let seeds = |rig: &Rig| rig.specs.lock().unwrap().drain(..).map(|spec| spec.seed).collect::<Vec<_>>();
    let first = seeds(&rig);
    assert_eq!(first[0], 7, "the first is as if it were asked for alone");
    assert!(first[1] != first[2] && first[1] != 7 && first.iter().all(|seed| *seed < 1 << 53), "{first:?}");
    rig.post(CHAT, chat("org/answer", json!({"n": 3, "seed": 7}))).await;
    assert_eq!(seeds(&rig), first, "and can be asked for again");

    let more = json!({"n": 3, "stream": true, "stream_options": {"include_usage": true}});
    let (chunks, done) = chunks(&text_of(rig.post(CHAT, chat("org/answer", more)).await).await);
    assert!(done);
    let mut texts = vec![String::new(); 3];
    let mut ends = vec![0; 3];
    for chunk in &chunks[..chunks.len() - 1] {
        assert_eq!(chunk["id"], chunks[0]["id"]);
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index] += choice["delta"]["content"].as_str().unwrap_or_default();
        ends[index] += i32::from(choice["finish_reason"] == "stop");
    }
    assert!(texts.iter().all(|text| text == "Hello\n \"you\"") && ends == [1, 1, 1], "{texts:?} {ends:?}");
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 12);

    let failed = text_of(rig.post(CHAT, chat("fail", json!({"n": 2, "stream": true}))).await).await;
    assert_eq!((failed.matches("WORKER_RESET").count(), failed.matches("[DONE]").count()), (1, 0), "{failed}");
    assert_eq!(json_of(rig.post(CHAT, chat("full", json!({"n": 2}))).await, 429).await["error"]["param"], Value::Null);
}

#[tokio::test]
async fn all_choices_are_cancelled_with_their_client() {
    let rig = Rig::new();
    drop(rig.post(CHAT, chat("hold", json!({"n": 3, "stream": true}))).await);
    for _ in 0..400 {
        if rig.cancelled.lock().unwrap().len() == 3 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("three tasks, {} cancels", rig.cancelled.lock().unwrap().len());
}

#[tokio::test]
async fn a_bare_prompt_is_continued() {
    let rig = Rig::new();
    let body = |more: Value| {
        let mut body = json!({"model": "org/answer", "prompt": "Once"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let response = rig.post("/v1/completions", body(json!({"seed": 7, "stop": "x"}))).await;
    assert!(response.headers().contains_key("openai-processing-ms"));
    let answer = json_of(response, 200).await;
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["object"], "text_completion");
    let choice = json!({"index": 0, "text": "Hello\n \"you\"", "logprobs": null, "finish_reason": "stop"});
    assert_eq!(answer["choices"], json!([choice]));
    assert_eq!(answer["usage"]["total_tokens"], 7);
    assert_eq!(rig.specs.lock().unwrap()[0].max_tokens, 16, "OpenAI's default");

    let more = json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 5, "n": 1});
    let (chunks, done) = chunks(&text_of(rig.post("/v1/completions", body(more)).await).await);
    let texts: Vec<_> = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap_or("-")).collect();
    assert_eq!((texts, done), (vec!["Hel", "lo\n", " \"you\"", "", "-"], true));
    assert!(chunks.iter().all(|chunk| chunk["object"] == "text_completion"));
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[4]["usage"]["completion_tokens"], 4);

    for (more, param) in [
        (json!({"echo": true}), "echo"),
        (json!({"suffix": "end"}), "suffix"),
        (json!({"logprobs": 6}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"frequency_penalty": 1}), "frequency_penalty"),
        (json!({"prompt": ["a", 1]}), "prompt"),
        (json!({"prompt": vec!["a"; 32], "n": 3}), "n"),
        (json!({"prompt": null}), "prompt"),
        (json!({"stream": true, "stream_options": {"include_usage": "x"}}), "stream_options.include_usage"),
        (json!({"max_completion_tokens": 3}), "max_completion_tokens"),
        (json!({"tools": [{}]}), "tools"),
        (json!({"functions": [{}]}), "functions"),
    ] {
        let answer = json_of(rig.post("/v1/completions", body(more.clone())).await, 400).await;
        assert_eq!(answer["error"]["param"], param, "{more}");
    }
    let long = json_of(rig.post("/v1/completions", body(json!({"prompt": "too long"}))).await, 400).await;
    assert_eq!(
        (&long["error"]["code"], &long["error"]["param"]),
        (&json!("context_length_exceeded"), &json!("prompt"))
    );
    let none = json_of(rig.post("/v1/moderations", json!({})).await, 404).await;
    assert_eq!(none["error"]["code"], "NOT_FOUND", "a client of OpenAI's asks");
}

#[tokio::test]
async fn what_only_tasks_may_say_is_refused_where_a_client_waits() {
    let rig = Rig::new();
    let fields = ["deadline_ms", "ctx", "priority", "session_id", "task_id", "determinism", "placement"];
    let harmless = json!({"priority": 0, "determinism": "best_effort", "placement": {}, "session_id": null,
        "best_of": 1, "echo": false, "suffix": ""});
    for (path, asked) in [
        (CHAT, json!({"messages": [{"role": "user", "content": "hi"}]})),
        ("/v1/completions", json!({"prompt": "p"})),
        ("/v1/embeddings", json!({"input": "p"})),
        ("/v1/rerank", json!({"query": "q", "documents": ["p"]})),
    ] {
        let with = |more: Value| {
            let mut body = json!({"model": "org/answer"});
            let parts = [&asked, &more].into_iter().flat_map(|part| part.as_object().unwrap().clone());
            body.as_object_mut().unwrap().extend(parts);
            body
        };
        for field in fields {
            let answer = json_of(rig.post(path, with(json!({field: 9}))).await, 400).await;
            assert_eq!(answer["error"]["param"], field, "{path}");
            assert!(answer["error"]["message"].as_str().unwrap().contains("`POST /v1/tasks`"), "{answer}");
        }
        json_of(rig.post(path, with(harmless.clone())).await, 200).await;
    }
    let both = chat("org/answer", json!({"prompt": "p"}));
    assert_eq!(json_of(rig.post(CHAT, both).await, 400).await["error"]["param"], "prompt");
}

#[tokio::test]
async fn several_prompts_are_answered_side_by_side() {
    let rig = Rig::new();
    let body = |more: Value| {
        let mut body = json!({"model": "org/answer", "prompt": ["Once", [4, 5]], "n": 2, "seed": 7});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let answer = json_of(rig.post("/v1/completions", body(json!({}))).await, 200).await;
    let indices: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    let usage = json!([answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]]);
    assert_eq!(usage, json!([6, 16]), "each prompt counts once");
    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let (chunks, done) = chunks(&text_of(rig.post("/v1/completions", body(more)).await).await);
    assert!(done);
    assert_eq!(chunks.last().unwrap()["usage"]["prompt_tokens"], 6);
    let seeds: Vec<u64> = rig.specs.lock().unwrap().iter().map(|spec| spec.seed).collect();
    assert_eq!(seeds[..4], seeds[4..]);
    assert!(seeds[0] == 7 && (1..4).all(|i| !seeds[..i].contains(&seeds[i])));
}

#[tokio::test]
async fn log_probabilities_come_in_each_routes_form() {
    let rig = Rig::new();
    let likely = |token: &str, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let mut entry = likely("a", -0.25);
    entry["top_logprobs"] = json!([likely("a", -0.25), likely("b", -0.5)]);
    let asked = json!({"logprobs": true, "top_logprobs": 2});
    let answer = json_of(rig.post(CHAT, chat("org/answer", asked.clone())).await, 200).await;
    let content = vec![entry.clone(); 4];
    assert_eq!(answer["choices"][0]["logprobs"], json!({"content": content, "refusal": null}));
    let mut streamed = asked.clone();
    streamed["stream"] = true.into();
    let (chunks, _) = chunks(&text_of(rig.post(CHAT, chat("org/answer", streamed)).await).await);
    let told = chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(told.flatten().cloned().collect::<Vec<_>>(), content, "also of tokens whose text is held back");

    let body = json!({"model": "org/answer", "prompt": "p", "logprobs": 1});
    let answer = json_of(rig.post("/v1/completions", body).await, 200).await;
    let told = json!({"tokens": ["a", "a", "a", "a"], "token_logprobs": [-0.25, -0.25, -0.25, -0.25],
        "top_logprobs": vec![json!({"a": -0.25}); 4], "text_offset": [0, 1, 2, 3]});
    assert_eq!(answer["choices"][0]["logprobs"], told);

    let mut task = json!({"model_ref": "org/answer", "prompt": "p"});
    task.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
    let id = json_of(rig.post("/v1/tasks", task).await, 202).await["task_id"].as_str().unwrap().to_owned();
    let stream = text_of(rig.get(&format!("/v1/tasks/{id}/stream")).await).await;
    assert_eq!(stream.matches(&format!("\"logprobs\":{entry}")).count(), 4, "{stream}");
    let shown = json_of(rig.get(&format!("/v1/tasks/{id}")).await, 200).await;
    assert_eq!(shown["result"]["logprobs"], json!(content));
}

#[tokio::test]
async fn whoever_leaves_the_openai_surface_cancels() {
    let rig = Rig::new();
    drop(rig.post(CHAT, chat("hold", json!({"stream": true}))).await);
    rig.until_cancelled(CancelReason::Disconnect).await;
    rig.cancelled.lock().unwrap().clear();
    let waiting = rig.post(CHAT, chat("hold", json!({})));
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    rig.until_cancelled(CancelReason::Disconnect).await;
}

#[tokio::test]
async fn whoever_leaves_while_the_disk_is_full_cancels_once_there_is_room() {
    let rig = Rig::new();
    let waiting = rig.post(CHAT, chat("stuck", json!({})));
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    rig.health.set(Condition::JournalUnwritable { problem: "no space".into() });
    // Longer than who still waits for it is patient.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(rig.cancelled.lock().unwrap().is_empty());
    rig.health.set(Condition::Well);
    let (task, position, predicted_start) = (rig.last_task(), 0, Ticks(0));
    say(&rig.switchboard, Notice::Accepted { task, position, predicted_start, left: Left::default() });
    rig.until_cancelled(CancelReason::Disconnect).await;
}

#[tokio::test]
async fn a_submission_left_at_a_full_disk_is_withdrawn_where_it_never_reached_the_core() {
    let rig = Rig::new();
    let id = "0190a5f0-0000-7000-8000-000000000001";
    let waiting = rig.post("/v1/tasks", json!({"task_id": id, "model_ref": "stuck", "prompt": "p"}));
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    assert!(rig.switchboard.find(rig.last_task()).is_some());
    for _ in 0..400 {
        rig.refuse_stuck();
        if rig.switchboard.find(rig.last_task()).is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nobody would ever answer this id again");
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}})
}

#[tokio::test]
async fn tools_that_nobody_calls_change_no_answer() {
    let rig = Rig::new();
    let more = json!({"tools": [tool()], "logprobs": true});
    let answer = json_of(rig.post(CHAT, chat("org/answer", more.clone())).await, 200).await;
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("Hello\n \"you\""), &json!("stop")));
    assert!(choice["message"].get("tool_calls").is_none());
    let mut more = more;
    more["stream"] = json!(true);
    let text = text_of(rig.post(CHAT, chat("org/answer", more)).await).await;
    let chunks =
        text.split("\n\n").filter_map(|frame| serde_json::from_str::<Value>(frame.strip_prefix("data: ")?).ok());
    let choices: Vec<Value> = chunks.map(|chunk| chunk["choices"][0].clone()).collect();
    let said: String = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    assert_eq!(said, "Hello\n \"you\"");
    let told = choices.iter().filter(|choice| !choice["logprobs"].is_null()).count();
    assert_eq!(told, answer["choices"][0]["logprobs"]["content"].as_array().unwrap().len());
}

#[tokio::test]
async fn chat_refuses_what_it_cannot_honour_by_name() {
    let rig = Rig::new();
    for (more, param) in [
        (json!({"n": 9}), "n"),
        (json!({"n": 0}), "n"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias"),
        (json!({"presence_penalty": 0.5}), "presence_penalty"),
        (json!({"response_format": {"type": "xml"}}), "response_format"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function.name"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"model": "hold", "tools": [tool()]}), "tools"),
        (json!({"tools": [tool()], "response_format": {"type": "json_object"}}), "response_format"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"messages": []}), "messages"),
        (json!({"model": null}), "model"),
    ] {
        let answer = json_of(rig.post(CHAT, chat("org/answer", more.clone())).await, 400).await;
        assert_eq!(answer["error"]["param"], param, "{more}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    let harmless = json!({"n": 1, "logprobs": false, "tools": [], "tool_choice": "none", "presence_penalty": 0,
        "response_format": {"type": "text"}, "logit_bias": {}, "user": "u", "store": true, "stop": null});
    assert_eq!(rig.post(CHAT, chat("org/answer", harmless)).await.status(), 200);
    let unknown = json_of(rig.post(CHAT, chat("gpt-9", json!({}))).await, 404).await;
    assert_eq!(unknown["error"]["code"], "model_not_found");
    let full = rig.post(CHAT, chat("full", json!({}))).await;
    assert_eq!(full.headers()["x-should-retry"], "true");
    assert_eq!(
        (full.headers()["retry-after"].clone(), full.headers()["x-backoff-ms"].clone()),
        ("2".parse().unwrap(), "1500".parse().unwrap())
    );
    assert_eq!(json_of(full, 429).await["error"]["type"], "rate_limit_exceeded");
}
