//! A bit of the weights flips behind the engine's back.

use super::*;
use crate::station::rig::{EPOCH, MODEL, SETUP, Setup, model, payload, spec, task};
use orchestrion_world::id::{JobId, WorkerId};
use std::sync::Mutex;

#[derive(Default)]
struct Ear(Mutex<(Vec<Report>, usize)>);

impl Outlet for Ear {
    fn report(&self, report: Report) {
        self.0.lock().unwrap().0.push(report);
    }

    fn token(&self, _: TaskId, _: Attempt, _: Token<'_>) -> Reception {
        self.0.lock().unwrap().1 += 1;
        Reception::Taken
    }

    fn contexts(&self, _: WorkerId, _: Bytes, _: Bytes) {}

    fn verifying(&self, _: WorkerId, _: ModelId, _: Option<(Bytes, Bytes)>) {}
}

#[test]
fn flipped_weights_are_found_within_a_round_and_never_served_from_again() {
    let (epoch, ear) = (AtomicU32::new(EPOCH.0), Arc::new(Ear::default()));
    let spec = spec(Setup { prefill_chunk: 16, ..SETUP });
    let mut runner = Runner::new(spec, model(SETUP), None, ear.clone(), &epoch).unwrap();
    let round = runner.spec.verify_round;
    // A prompt of more than four chunks is being read: nobody saw a token.
    runner.start(task(1), Attempt::of(1, 1), MODEL, payload(3));
    runner.step(0).unwrap();
    (0..9).for_each(|_| runner.verify(round / 3));
    assert_eq!(runner.benches.len(), 1, "what is sound stays");
    let digest = runner.benches[0].model.digest;
    runner.benches[0].model.engine.tamper();
    (0..3).for_each(|_| runner.verify(round / 3 + Duration::from_secs(1)));
    assert!(runner.benches.is_empty() && runner.is_idle());
    runner.start(task(2), Attempt::of(1, 1), MODEL, payload(1));
    let told = ear.0.lock().unwrap();
    let (worker, epoch) = (runner.spec.worker, EPOCH);
    let expected = [
        Report::Started { worker, epoch, task: task(1), attempt: Attempt::of(1, 1) },
        Report::ShardCorrupt { worker, epoch, digest },
        Report::Faulted { worker, epoch, task: task(2), attempt: Attempt::of(1, 1), class: FaultClass::Retryable },
    ];
    assert_eq!((told.0.as_slice(), told.1), (&expected[..], 0));
}

/// Turns of the loop until nothing is looked at.
fn look_through(runner: &mut Runner<'_>) -> usize {
    let mut turns = 0;
    while runner.is_looking() {
        runner.look_on();
        turns += 1;
    }
    turns
}

#[test]
fn whoever_asks_hears_of_all_weights_from_wherever_the_round_is() {
    let (epoch, ear) = (AtomicU32::new(EPOCH.0), Arc::new(Ear::default()));
    let mut runner = Runner::new(spec(SETUP), model(SETUP), None, ear.clone(), &epoch).unwrap();
    let (worker, epoch, round) = (runner.spec.worker, EPOCH, runner.spec.verify_round);
    let ask = |runner: &mut Runner<'_>, job, of: ModelId| {
        runner.obey(Order::Verify { epoch, model: of, job: JobId(job) });
        look_through(runner)
    };
    runner.verify(round / 3);
    assert!(ask(&mut runner, 1, MODEL) > 0);
    let seal = Some(runner.benches[0].seal.root());
    // Of a life before, and of a model that is not there.
    runner.obey(Order::Verify { epoch: Epoch(EPOCH.0 - 1), model: MODEL, job: JobId(2) });
    assert_eq!(ask(&mut runner, 3, ModelId(99)), 0);
    // Drops the look with the life; the next one has its own.
    runner.obey(Order::Verify { epoch, model: MODEL, job: JobId(4) });
    runner.reset(epoch);
    assert!(!runner.is_looking());
    // The bit that flips stands where the round has been already.
    runner.verify(round / 3 * 2);
    runner.obey(Order::Tamper);
    ask(&mut runner, 5, MODEL);
    assert!(runner.benches.is_empty());
    let told = ear.0.lock().unwrap();
    let verified = |model, job, seal| Report::ShardVerified { worker, epoch, model, job: JobId(job), seal };
    let [first, missing, _, last] = &told.0[..] else { panic!("{:?}", told.0) };
    assert_eq!([first, missing], [&verified(MODEL, 1, seal), &verified(ModelId(99), 3, None)]);
    assert!(matches!(last, Report::ShardCorrupt { .. }), "{last:?}");
}
