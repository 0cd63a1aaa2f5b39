//! Tasks that come and are cancelled, ten thousand times: nothing of them stays.

use super::*;
use crate::engine::Level;
use crate::station::rig::{EPOCH, MODEL, SETUP, Setup, model, payload, spec, task};
use orchestrion_world::id::WorkerId;

pub(super) struct Deaf;

impl Outlet for Deaf {
    fn report(&self, _: Report) {}

    fn token(&self, _: TaskId, _: Attempt, _: Token<'_>) -> Reception {
        Reception::Taken
    }

    fn contexts(&self, _: WorkerId, _: Bytes, _: Bytes) {}

    fn verifying(&self, _: WorkerId, _: ModelId, _: Option<(Bytes, Bytes)>) {}
}

#[test]
fn ten_thousand_tasks_that_come_and_go_leave_nothing_behind() {
    let epoch = AtomicU32::new(EPOCH.0);
    let setup = Setup { level: Level::detect(), pages: Some(24), ..SETUP };
    let mut runner = Runner::new(spec(setup), model(setup), None, Arc::new(Deaf), &epoch).unwrap();
    let threads = runner.benches[0].model.engine.threads();
    let attempt = Attempt::of(1, 1);
    let mut began = 0;
    for n in 0..10_000u64 {
        let payload = Payload { salt: (n % 3 > 0).then_some(n % 3), ..payload(n % 3) };
        runner.obey(Order::Start { task: task(n), attempt, epoch: EPOCH, model: MODEL, payload });
        // Every fourth is cancelled before it began; two are in the making at any time.
        if !n.is_multiple_of(4) {
            runner.step(0).unwrap();
            began += 1;
        }
        let before = task(n.saturating_sub(1));
        runner.obey(Order::Cancel { task: before, attempt });
        assert!(runner.benches[0].tasks.len() <= 1);
    }
    runner.obey(Order::Cancel { task: task(9_999), attempt });
    assert_eq!(began, 7_500);
    let pages = runner.benches[0].model.engine.pages();
    assert_eq!((runner.benches[0].tasks.len(), pages.held, pages.bound, pages.available()), (0, 0, 24, 24));
    assert!(pages.idle <= 24 && runner.rows.capacity() < 16 && runner.made.capacity() < 64);
    assert_eq!(runner.benches[0].model.engine.threads(), threads);
}
