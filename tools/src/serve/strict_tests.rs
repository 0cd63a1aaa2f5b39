//! A strict task outlives its worker: over real HTTP, with real stations, one of which loses its work in the
//! middle of an answer.

use super::house::{Ground, House, events, said};
use super::kitchen::Recipe;
use orchestrion_api::port::Stations;
use orchestrion_gpu::engine::{Engine, EngineOptions, Level};
use orchestrion_gpu::generate::{GenSpec, generate};
use orchestrion_gpu::gguf::Gguf;
use orchestrion_gpu::grammar::Grammars;
use orchestrion_gpu::station::{Station, StationModel, StationSpec};
use orchestrion_gpu::template::TemplateError;
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_world::id::{DeviceId, Epoch, ModelId, PoolId, WorkerId};
use orchestrion_world::protocol::Order;
use orchestrion_world::units::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const TOKENS: u64 = 400;
const MODEL: &str = "m";

/// Two workers of one pool that say that their tokens are the same; worker n has the weights of `seeds[n]`.
async fn house(seeds: [u64; 2]) -> House {
    House::open(MODEL, 2, |ground| furnish(ground, seeds)).await
}

fn furnish(Ground { kitchen, depot, wires, .. }: &Ground, seeds: [u64; 2]) {
    for (worker, seed) in [WorkerId(1), WorkerId(2)].into_iter().zip(seeds) {
        let spec = GenSpec { seed, layers: 6, ..GenSpec::default() };
        let gguf = Gguf::parse(generate(&spec).unwrap()).unwrap();
        let options = EngineOptions { level: Level::Scalar, threads: 1, ctx_max: 600 };
        let engine = Engine::load(&gguf, options).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let template = Err(TemplateError::Absent { known: String::new() });
        let fingerprint = "the same".to_owned();
        let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
        let (shelved, kept) = (Arc::clone(&tokenizer), Arc::clone(&grammars));
        let recipe = Recipe {
            tokenizer: shelved,
            grammars: kept,
            template,
            ctx_max: 600,
            makes: orchestrion_gpu::engine::Makes::Text,
            width: 0,
            fingerprint,
        };
        let (digest, fingerprint) = (gguf.digest(), recipe.fingerprint.clone());
        let (id, took) = (ModelId(0), Duration::from_millis(1));
        let model = StationModel { id, engine, tokenizer, grammars, digest, fingerprint, took };
        kitchen.put(MODEL, recipe);
        let (pool, device, device_capacity) = (PoolId(0), DeviceId(worker.0), Bytes(1 << 30));
        let spec = StationSpec {
            worker,
            pool,
            device,
            epoch: Epoch(1),
            device_capacity,
            slots: 1,
            prefill_chunk: 64,
            verify_round: Duration::from_secs(3_600),
            draft_tokens: 8,
        };
        depot.add(worker, Station::spawn(spec, model, None, Arc::clone(wires) as _).unwrap());
    }
}

fn body(determinism: &str) -> Value {
    json!({
        "model_ref": MODEL, "prompt": "Salt and", "max_tokens": TOKENS, "seed": 7, "temperature": 0.8,
        "determinism": determinism,
    })
}

/// The task's worker drops all work and comes back as another: what it held is lost.
fn reset(house: &House, text: &str, epoch: Epoch) {
    let worker = events(text)[0].2["worker_id"].as_str().unwrap()[1..].parse().unwrap();
    house.depot.order(Order::Reset { worker: WorkerId(worker), epoch }, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_stream_outlives_its_worker_without_a_gap_or_a_token_twice() {
    let house = house([1, 1]).await;
    let undisturbed = house.stream(&house.submit(&body("best_effort")).await, 1, |_| ()).await;

    let task = house.submit(&body("strict")).await;
    let disturbed = house.stream(&task, 5, |text| reset(&house, text, Epoch(2))).await;
    assert_eq!(said(&disturbed), said(&undisturbed));
    let ids: Vec<u64> = disturbed.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>(), "each event once, none missing");
    assert_eq!(disturbed.iter().filter(|(_, name, _)| name == "started").count(), 1);
    let (_, last, end) = disturbed.last().unwrap();
    assert_eq!((last.as_str(), &end["tokens_out"]), ("end", &json!(TOKENS)));
    let story = house.get(&format!("/v1/tasks/{task}/explain")).await;
    assert!(story.contains("lost attempt 1, because its worker was lost") && story.contains("(attempt 2)"), "{story}");
    // A second reader is told the same, but for the worker, which is the one that made it to the end.
    assert!(house.stream(&task, 1, |_| ()).await[1..] == disturbed[1..]);

    // One that is not strict ends with its worker, and so does its stream.
    house.until_up(2).await;
    let lost = house.submit(&body("best_effort")).await;
    let cut = house.stream(&lost, 5, |text| reset(&house, text, Epoch(3))).await;
    let (_, last, error) = cut.last().unwrap();
    assert_eq!((last.as_str(), &error["code"]), ("error", &json!("WORKER_RESET")));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_contradicts_what_was_shown_ends_the_stream_before_its_token() {
    // The second worker claims the first one's fingerprint and has other weights.
    let house = house([1, 2]).await;
    let one = house.submit(&body("strict")).await;
    let whole = house.stream(&one, 5, |text| reset(&house, text, Epoch(2))).await;
    let (id, last, error) = whole.last().unwrap();
    assert_eq!((last.as_str(), &error["code"]), ("error", &json!("INTERNAL")), "{error}");
    assert_eq!(*id as usize, whole.len() - 1, "nothing came between");
    let tokens = whole.iter().filter(|(_, name, _)| name == "token").count() as u64;
    assert!((5..TOKENS).contains(&tokens), "{tokens}");
    let story = house.get(&format!("/v1/tasks/{one}/explain")).await;
    assert!(story.contains("it made other tokens than readers were shown"), "{story}");
    house.close().await;
}
