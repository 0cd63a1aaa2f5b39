//! A worker's breaker: what its attempts came to opens and closes it, and so does time.

use super::{change, loss};
use orchestrion_world::config::Rules;
use orchestrion_world::health::{Breaker, Loss};
use orchestrion_world::id::WorkerId;
use orchestrion_world::protocol::{FaultClass, Notice, Order};
use orchestrion_world::store::{Key, World};
use orchestrion_world::wheel::TimerKey;

/// An attempt on the worker ended as it should.
pub(crate) fn went_well(world: &mut World, id: WorkerId) {
    let Some(breaker) = world.worker(id).map(|worker| worker.breaker).filter(|b| *b != Breaker::CLOSED) else { return };
    let core = &world.core;
    let Some(next) = core.rules.as_ref().map(|rules| breaker.succeeded(core.now, &rules.health.breaker)) else {
        return;
    };
    set(world, id, next);
}

/// An attempt on the worker failed by no fault of its request.
pub(crate) fn went_wrong(world: &mut World, id: WorkerId, class: FaultClass) {
    let Some(rules) = world.core.rules.clone() else { return };
    match class {
        FaultClass::InvalidInput | FaultClass::Retryable => {}
        FaultClass::Transient => failed(world, &rules, id),
        // What it makes cannot be trusted.
        FaultClass::Fatal | FaultClass::Diverged => {
            let Some(epoch) = world.worker(id).map(|worker| worker.epoch) else { return };
            // It lives, and is not to be trusted: what it holds goes before it begins again.
            world.mail.order(Order::StopWorker { worker: id, epoch });
            loss::lose_fatally(world, &rules, id, Loss::Fault);
        }
    }
}

/// Counts a failure of the worker.
pub(super) fn failed(world: &mut World, rules: &Rules, id: WorkerId) {
    let now = world.core.now;
    let Some(breaker) = world.worker(id).map(|worker| worker.breaker) else { return };
    set(world, id, breaker.failed(now, &rules.health.breaker));
}

/// Its time is over.
pub(super) fn rang(world: &mut World, id: WorkerId) {
    let now = world.core.now;
    let Some(worker) = world.worker(id) else { return };
    // A timer that fired in the step that changed what it was for.
    if worker.fuse_at().is_some_and(|due| due <= now) {
        let next = worker.breaker.rang();
        set(world, id, next);
    }
}

/// The breaker as it is from here on, with its timer; told where it is another than before.
pub(super) fn set(world: &mut World, id: WorkerId, breaker: Breaker) {
    let Some(before) = world.worker(id).map(|worker| worker.breaker).filter(|before| *before != breaker) else {
        return;
    };
    let kept = if planted!(world, BreakerIgnored) { before } else { breaker };
    change(world, id, |worker| worker.breaker = kept);
    world.set_fuse(Key::Worker(id), breaker.due().map(|due| (due, TimerKey::Breaker(id))));
    if before.label() != breaker.label() {
        world.mail.notice(Notice::BreakerChanged { worker: id, breaker });
    }
    // Half open it has a slot that it had not, although it is counted as before.
    let takes = world.worker(id).filter(|worker| worker.takes());
    let models: Vec<_> = takes.into_iter().flat_map(|worker| &worker.residents).map(|r| r.model).collect();
    world.mail.stirred.extend(models);
}
