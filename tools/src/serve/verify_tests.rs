//! Weights that flip while a server works: over real HTTP, with a real worker that is loaded again from its file.

use super::house::{Ground, House, said};
use super::load::Loader;
use crate::configuration::{Pool, Simd};
use crate::failure::Failure;
use orchestrion_gpu::generate::{GenSpec, generate};
use orchestrion_gpu::station::Outlet;
use orchestrion_gpu::supply;
use orchestrion_world::id::{Epoch, WorkerId};
use orchestrion_world::units::Bytes;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

const WORKER: WorkerId = WorkerId(1);
const TOKENS: usize = 12;

fn furnish(dir: &Path, Ground { kitchen, depot, switchboard, wires }: &Ground) {
    let file = dir.join("m.gguf");
    std::fs::write(&file, generate(&GenSpec { layers: 8, ..GenSpec::default() }).unwrap()).unwrap();
    let model = file.display().to_string();
    let pool = Pool { model, threads: Some(1), slots: 1, simd: Simd::Scalar, ..Pool::default() };
    let loader = Arc::new(Loader {
        options: supply::Options::from_env(dir.join("cache")),
        device_capacity: Bytes(1 << 30),
        verify_round_s: 3_600,
        kitchen: Arc::clone(kitchen),
        pools: vec![pool],
        loadable: vec![],
        switchboard: Arc::clone(switchboard),
        outlet: Arc::clone(wires) as Arc<dyn Outlet>,
    });
    let loaded = loader.load(WORKER, None).map_err(Failure::from).unwrap();
    depot.add(WORKER, loader.station(WORKER, Epoch(1), loaded.model).unwrap());
    depot.reload_by(loader);
}

/// One whose prompt is read for long enough to do something meanwhile.
fn task() -> Value {
    let prompt: String = (0..150).map(|n| format!("{n} salt ")).collect();
    json!({"model_ref": "m", "prompt": prompt, "max_tokens": TOKENS, "seed": 7, "temperature": 0.8})
}

/// The job as it ended.
async fn verify(house: &House) -> Value {
    let job = house.post("/v1/pools/p/verify", &json!({})).await["job_id"].as_str().unwrap().to_owned();
    let ended = house.until(&format!("/v1/jobs/{job}"), |job| !job.contains("\"state\":\"running\"")).await;
    serde_json::from_str(&ended).unwrap()
}

/// The root of the hashes over weights that are sound.
fn seal(job: &Value) -> String {
    let step = &job["steps"][0];
    assert_eq!((&job["state"], &job["kind"], &job["steps"][1]), (&json!("done"), &json!("verify"), &Value::Null));
    assert_eq!(
        (&step["worker_id"], &step["model"], &step["result"]),
        (&json!("w1"), &json!("m"), &json!("ok")),
        "{job}"
    );
    assert!(step["bytes"].as_u64().unwrap() > 0 && step["digest"].as_str().unwrap().len() == 64, "{job}");
    step["seal"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flipped_is_found_on_demand_and_the_task_that_ran_there_answers_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open("m", 1, |ground| furnish(dir.path(), ground)).await;
    let sound = seal(&verify(&house).await);

    let running = house.submit(&task()).await;
    house.until(&format!("/v1/tasks/{running}"), |task| task.contains("\"running\"")).await;
    house.depot.tamper(WORKER);
    let found = verify(&house).await;
    assert_eq!((&found["state"], &found["steps"][0]["status"]), (&json!("failed"), &json!("failed")), "{found}");
    assert_eq!((&found["steps"][0]["result"], &found["steps"][0]["seal"]), (&json!("corrupt"), &Value::Null));
    assert!(
        found["error"].as_str().unwrap().starts_with("the weights on worker w1 were not what was loaded"),
        "{found}"
    );

    // The worker loads its file again, and the task is tried again there.
    let retried = house.stream(&running, 0, |_| ()).await;
    assert_eq!(retried.last().unwrap().1, "end", "{retried:?}");
    let story = house.get(&format!("/v1/tasks/{running}/explain")).await;
    assert!(story.contains("lost attempt 1, because its worker was lost") && story.contains("(attempt 2)"), "{story}");
    let status: Value = serde_json::from_str(&house.get("/v1/pools/p/status").await).unwrap();
    let worker = &status["workers"][0];
    assert_eq!(
        [&worker["life"], &worker["last_loss"], &worker["state"]],
        [&json!(2), &json!("corrupt"), &json!("ready")]
    );

    // What is asked now is answered, and with the same tokens where it is the same.
    let undisturbed = house.stream(&house.submit(&task()).await, 0, |_| ()).await;
    assert_eq!(retried.iter().filter(|(_, name, _)| name == "token").count(), TOKENS);
    assert_eq!(said(&retried), said(&undisturbed));
    assert_eq!(seal(&verify(&house).await), sound, "the weights are those that they were");
    house.close().await;
}
