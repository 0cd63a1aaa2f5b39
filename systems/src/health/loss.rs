//! A worker is lost: what it held is given back, and by why it was lost it is told to begin again, left
//! down, or its device goes into quarantine.

use super::{arrival, breaker, change, rearm, turn};
use crate::{eviction, memory};
use orchestrion_world::config::Rules;
use orchestrion_world::dice;
use orchestrion_world::health::{Loss, WorkerState};
use orchestrion_world::id::{DeviceId, Epoch, WorkerId};
use orchestrion_world::protocol::{FaultClass, Notice, Order};
use orchestrion_world::store::{Key, World};
use orchestrion_world::units::Sha256;
use orchestrion_world::vram::{Residence, Resident};
use orchestrion_world::worker::Worker;
use std::sync::Arc;

/// It said that it ended.
pub(super) fn ended(world: &mut World, rules: &Arc<Rules>, id: WorkerId, error: Option<FaultClass>) {
    let was_up = world.worker(id).is_some_and(|worker| worker.state.is_up());
    let loss = if was_up { Loss::Crash } else { Loss::NoStart };
    match error {
        None => take_out(world, id, WorkerState::Stopped),
        Some(FaultClass::Retryable | FaultClass::Transient | FaultClass::InvalidInput) => {
            lose(world, rules, id, loss);
        }
        Some(FaultClass::Fatal | FaultClass::Diverged) => lose_fatally(world, rules, id, loss),
    }
}

/// The weights on a device are not what was loaded: none of their workers goes on, and each loads them anew.
pub(super) fn corrupt(world: &mut World, rules: &Arc<Rules>, finder: WorkerId, digest: Sha256) {
    for device in devices_of(world, finder) {
        corrupt_on(world, rules, device, digest);
    }
}

fn corrupt_on(world: &mut World, rules: &Arc<Rules>, device: DeviceId, digest: Sha256) {
    let crew: Vec<WorkerId> = world.crews.on_device(device).collect();
    for id in crew {
        let has = |worker: &&Worker| worker.residents.iter().any(|resident| resident.facts.digest == digest);
        let holder = world.worker(id).filter(|worker| worker.state.is_up()).filter(has);
        let Some(epoch) = holder.map(|worker| worker.epoch) else { continue };
        world.mail.order(Order::StopWorker { worker: id, epoch });
        world.mail.corrupted.push((id, digest));
        lose(world, rules, id, Loss::Corrupt);
    }
    // Once for the shard, however many workers share it. Memory that does it again is not used again.
    let Some(mut of) = world.device_mut(device) else { return };
    of.corruptions += 1;
    if of.corruptions >= rules.health.corrupt_max {
        quarantine(world, device);
    }
}

/// The same with a mark against the device.
pub(super) fn lose_fatally(world: &mut World, rules: &Arc<Rules>, id: WorkerId, loss: Loss) {
    lose(world, rules, id, loss);
    devices_of(world, id).into_iter().for_each(|device| blame(world, rules, device));
}

fn devices_of(world: &World, id: WorkerId) -> Vec<DeviceId> {
    let parts = world.worker(id).map(|worker| worker.facts.devices.as_slice()).unwrap_or_default();
    parts.iter().map(|part| part.device).collect()
}

/// Takes it out as failed. One that may live on behind a stall is to drop what it has and to come back as
/// another at once; the others begin again after their backoff.
pub(super) fn lose(world: &mut World, rules: &Arc<Rules>, id: WorkerId, loss: Loss) {
    let core = &world.core;
    let (now, seed) = (core.now, core.seed);
    let Some(worker) = world.worker(id) else { return };
    let (epoch, was_up) = (worker.epoch, worker.state.is_up());
    let (mut restarts, wait) = worker.restarts.lost(now, was_up, loss, &rules.health.restart);
    let kept = own(worker);
    take_out(world, id, WorkerState::Failed);
    if was_up {
        breaker::failed(world, rules, id);
    }
    let wait = dice::restart_jitter(seed, id, epoch, wait, rules.health.restart.jitter);
    let halted = world.worker(id).and_then(|worker| world.pool(worker.facts.pool)).is_some_and(|pool| pool.halted);
    restarts.due = (!halted && loss != Loss::Silence).then(|| now + wait);
    if let Some(mut worker) = world.worker_mut(id) {
        worker.restarts = restarts;
    }
    match loss {
        Loss::Silence => {
            restart(world, rules, id);
            keep(world, id, kept);
        }
        Loss::Crash | Loss::NoStart | Loss::Fault | Loss::Corrupt => rearm(world, rules, id),
    }
    if !was_up {
        // Who waits for this worker alone may wait in vain from here on.
        eviction::survey(world, id);
    }
}

/// Tells a worker that was lost to begin again, unless its pool's workers were lost too often.
pub(super) fn restart(world: &mut World, rules: &Rules, id: WorkerId) {
    let now = world.core.now;
    let Some(worker) = world.worker(id) else { return };
    let (pool, Some(loss)) = (worker.facts.pool, worker.restarts.loss) else { return };
    let limits = &rules.health.restart;
    let unlimited = planted!(world, RestartsUnlimited);
    let Some(mut of) = world.pool_mut(pool) else { return };
    let model = of.model;
    of.restarts.retain(|at| now.since(*at) < limits.storm_window);
    let storm = !unlimited && !of.halted && of.restarts.len() >= limits.storm_max as usize;
    of.halted |= storm;
    let halted = of.halted;
    if !halted {
        of.restarts.push(now);
    }
    if storm {
        world.mail.notice(Notice::RestartsStopped { pool });
    }
    if halted {
        if let Some(mut worker) = world.worker_mut(id) {
            worker.restarts.due = None;
        }
        eviction::survey(world, id);
        return rearm(world, rules, id);
    }
    let epoch = begin(world, rules, id);
    let mail = &mut world.mail;
    mail.notice(Notice::Restarted { worker: id, pool, loss });
    mail.order(match loss {
        Loss::Silence => Order::Reset { worker: id, epoch },
        Loss::Crash | Loss::NoStart | Loss::Fault | Loss::Corrupt => Order::SpawnWorker { worker: id, epoch, model },
    });
    if loss != Loss::Silence {
        let expected = expected(world, rules, id);
        keep(world, id, expected);
    }
}

/// The next life of a worker begins; whoever calls says how.
fn begin(world: &mut World, rules: &Rules, id: WorkerId) -> Epoch {
    let now = world.core.now;
    change(world, id, |worker| {
        turn(worker, WorkerState::Starting);
        worker.epoch.0 += 1;
        (worker.heard, worker.probed, worker.restarts.due) = (now, None, None);
    });
    rearm(world, rules, id);
    world.worker(id).map_or(Epoch(0), |worker| worker.epoch)
}

/// Ends whatever the worker does and tells it to load the pool's model in a new life; false where nothing may run
/// on its devices.
pub(crate) fn spawn(world: &mut World, rules: &Rules, id: WorkerId) -> bool {
    let shut = |device| world.device(device).is_some_and(|device| device.quarantined);
    if devices_of(world, id).into_iter().any(shut) {
        return false;
    }
    stop(world, id);
    let model = world.worker(id).and_then(|worker| world.pool(worker.facts.pool)).map(|pool| pool.model);
    let Some(model) = model else { return false };
    let epoch = begin(world, rules, id);
    world.mail.order(Order::SpawnWorker { worker: id, epoch, model });
    let expected = expected(world, rules, id);
    keep(world, id, expected);
    true
}

/// A worker that is up drops what it has and comes back as another; its model stays loaded.
pub(crate) fn reset(world: &mut World, rules: &Rules, id: WorkerId) {
    let Some(worker) = world.worker(id).filter(|worker| worker.state.is_up()) else { return };
    let kept = own(worker);
    take_out(world, id, WorkerState::Stopped);
    let epoch = begin(world, rules, id);
    world.mail.order(Order::Reset { worker: id, epoch });
    keep(world, id, kept);
}

/// What a worker that is told to drop its work comes back with: the model that it came with, if it has it still.
fn own(worker: &Worker) -> Option<Resident> {
    let (model, _) = worker.facts.came_with?;
    let resident = worker.resident(model)?;
    match resident.life {
        Residence::Sealed | Residence::Yielding { .. } => {
            Some(Resident { life: Residence::Sealed, order: None, ..*resident })
        }
        Residence::Staging | Residence::Evicting { .. } | Residence::Condemned | Residence::Failed { .. } => None,
    }
}

/// What a worker that is told to load its pool's model comes with, if it came with that before.
fn expected(world: &World, rules: &Rules, id: WorkerId) -> Option<Resident> {
    let facts = &world.worker(id)?.facts;
    let came_with =
        facts.came_with.filter(|(model, _)| world.pool(facts.pool).is_some_and(|pool| pool.model == *model));
    Some(arrival::as_it_comes(rules, facts, came_with?, world.core.now))
}

/// While a worker is on its way, nobody else is given the place of its weights. Where others have it already, it is
/// seen when it comes whether they have let go.
fn keep(world: &mut World, id: WorkerId, kept: Option<Resident>) {
    let coming = world.worker(id).filter(|worker| worker.state.is_coming());
    let Some((facts, kept)) = coming.map(|worker| worker.facts.clone()).zip(kept) else { return };
    if memory::hold(world, &facts, kept.facts.digest, kept.facts.weights).is_ok()
        && let Some(mut worker) = world.worker_mut(id)
    {
        worker.residents.push(kept);
    }
    eviction::survey(world, id);
}

/// One more mark against a device; too many of them stop what runs on it.
fn blame(world: &mut World, rules: &Rules, id: DeviceId) {
    let now = world.core.now;
    let Some(mut device) = world.device_mut(id) else { return };
    device.fatals.retain(|at| now.since(*at) < rules.health.fatal_window);
    device.fatals.push(now);
    if device.fatals.len() >= rules.health.fatal_max as usize {
        quarantine(world, id);
    }
}

/// Ends what runs on a device and lets nothing onto it.
fn quarantine(world: &mut World, id: DeviceId) {
    let Some(mut device) = world.device_mut(id) else { return };
    if std::mem::replace(&mut device.quarantined, true) {
        return;
    }
    world.mail.notice(Notice::Quarantined { device: id });
    let crew: Vec<WorkerId> = world.crews.on_device(id).collect();
    for id in crew {
        stop(world, id);
    }
}

/// Ends a worker, whatever it does.
pub(crate) fn stop(world: &mut World, id: WorkerId) {
    let Some((state, epoch)) = world.worker(id).map(|worker| (worker.state, worker.epoch)) else { return };
    if state.is_up() || state.is_coming() {
        world.mail.order(Order::StopWorker { worker: id, epoch });
    }
    if state != WorkerState::Stopped {
        take_out(world, id, WorkerState::Stopped);
    }
}

/// Takes a worker out: its leases become orphans, its memory is free, nothing is due.
pub(super) fn take_out(world: &mut World, id: WorkerId, to: WorkerState) {
    let mut leases = vec![];
    let leaks = planted!(world, SlotLeakOnCrash);
    change(world, id, |worker| {
        turn(worker, to);
        leases = if leaks { worker.leases.clone() } else { std::mem::take(&mut worker.leases) };
        (worker.probed, worker.restarts.due, worker.reading.since) = (None, None, None);
    });
    world.set_alarm(Key::Worker(id), None);
    for lease in &leases {
        memory::unreserve(world, id, lease);
    }
    empty(world, id);
    // What it held for good may let others on its devices reach farther.
    eviction::survey(world, id);
    for lease in leases.iter().filter(|l| l.called_back) {
        world.victims.let_go(lease.model);
    }
    let orphans = leases.iter().filter(|l| !l.revoked).map(|l| (l.task, l.attempt));
    world.mail.orphans.extend(orphans);
}

/// No model is on it any more.
pub(super) fn empty(world: &mut World, id: WorkerId) {
    for resident in world.worker(id).map(|worker| worker.residents.clone()).unwrap_or_default() {
        eviction::take_off(world, id, &resident);
    }
}
