//! What drafts are for: the same answer in fewer steps.

use super::churn::Deaf;
use super::*;
use crate::engine::Level;
use crate::station::rig::{EPOCH, MODEL, SETUP, Setup, model, payload, spec, task};
use orchestrion_world::payload::Bias;

/// Steps that an answer took.
fn steps(draft_tokens: u32, payload: &Payload) -> u32 {
    let epoch = AtomicU32::new(EPOCH.0);
    let setup = Setup { level: Level::detect(), draft_tokens, ..SETUP };
    let mut runner = Runner::new(spec(setup), model(setup), None, Arc::new(Deaf), &epoch).unwrap();
    runner.start(task(1), Attempt::of(1, 1), MODEL, payload.clone());
    let mut steps = 0;
    while !runner.is_idle() {
        runner.step(0).unwrap();
        steps += 1;
    }
    steps
}

#[test]
fn an_answer_that_repeats_itself_takes_fewer_steps() {
    let same = Arc::new([Bias { token: 77, by: 100_000 }]);
    let payload = Payload { max_tokens: 200, grammar: None, bias: same, ..payload(12) };
    let (without, with) = (steps(0, &payload), steps(8, &payload));
    assert_eq!(without, 200);
    // Nine tokens a step but at the ends of pages, where there is less room.
    assert!((200 / 9..40).contains(&with), "{with} steps");
}
