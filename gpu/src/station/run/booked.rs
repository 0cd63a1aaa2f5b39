//! What a station holds of contexts is at most what the core has booked for the tasks that it runs.

use super::churn::Deaf;
use super::*;
use crate::engine::Level;
use crate::numerics::noise::Noise;
use crate::station::rig::{EPOCH, MODEL, SETUP, Setup, model, payload, spec, task};

#[test]
fn random_tasks_hold_at_their_peak_no_more_than_is_booked_for_them() {
    let epoch = AtomicU32::new(EPOCH.0);
    let setup = Setup { level: Level::detect(), draft_tokens: 4, ..SETUP };
    let mut runner = Runner::new(spec(setup), model(setup), None, Arc::new(Deaf), &epoch).unwrap();
    let (mut noise, mut more_than_tokens) = (Noise(35), 0);
    for round in 0..40 {
        let (mut tasks, mut tokens) = (Vec::new(), 0);
        for n in 0..1 + noise.below(8) {
            let salt = (noise.below(3) > 0).then_some(noise.below(2) as u64);
            let max_tokens = 1 + noise.below(90) as u32;
            let payload = Payload { max_tokens, salt, ..payload(noise.below(400) as u64) };
            let longest = payload.prompt.len() as u64 + u64::from(max_tokens);
            tasks.push((task(n as u64), runner.benches[0].facts.kv_for(longest)));
            tokens += longest;
            let attempt = Attempt::of(1, 1);
            runner.obey(Order::Start { task: task(n as u64), attempt, epoch: EPOCH, model: MODEL, payload });
        }
        let booked = |runner: &Runner<'_>| -> u64 {
            let runs = |id: TaskId| runner.benches[0].tasks.iter().any(|task| task.task == id);
            tasks.iter().filter(|(id, _)| runs(*id)).map(|(_, kv)| kv.0).sum()
        };
        // The device has what is booked, and nothing beyond.
        runner.spec.device_capacity = Bytes(runner.benches[0].facts.weights.0 + booked(&runner));
        let mut peak = 0;
        while !runner.benches[0].tasks.is_empty() {
            runner.step(0).unwrap();
            assert!(!runner.plan.turns.contains(&Turn::GiveWay), "round {round}: somebody lacks a page");
            let engine = &runner.benches[0].model.engine;
            let held = engine.pages().held as u64 * engine.page().0;
            assert!(held <= booked(&runner), "round {round}: {held} held, {} booked", booked(&runner));
            assert!(runner.benches[0].takes() <= runner.spec.device_capacity.0, "round {round}");
            peak = peak.max(held);
        }
        more_than_tokens += u32::from(peak > tokens * runner.benches[0].model.engine.kv_per_token().0);
    }
    assert!(more_than_tokens > 0, "booked by the token, some of these would have lacked a page");
}
