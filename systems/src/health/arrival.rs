//! A worker comes up: it is taken in where there is a place and memory for it. What it was before ends.

use super::{change, hear, lose, loss, rearm, spawn, take_out, turn};
use crate::{eviction, memory};
use orchestrion_world::config::{Keep, Rules};
use orchestrion_world::health::{Loss, WorkerState};
use orchestrion_world::id::{DeviceId, Epoch, ModelId, WorkerId};
use orchestrion_world::protocol::{ModelFacts, Order, WorkerFacts, WorkerRefusal};
use orchestrion_world::store::{Key, World};
use orchestrion_world::time::Tick;
use orchestrion_world::vram::Resident;
use orchestrion_world::wheel::{Alarm, Fuse};
use orchestrion_world::worker::Worker;
use std::sync::Arc;

pub(super) fn welcome(
    world: &mut World,
    rules: &Arc<Rules>,
    id: WorkerId,
    epoch: Epoch,
    facts: WorkerFacts,
) -> Result<(), WorkerRefusal> {
    let pool = world.pool(facts.pool).ok_or(WorkerRefusal::UnknownPool)?;
    let closed = pool.closed;
    let up = if closed { WorkerState::Draining } else { WorkerState::Ready };
    let other = facts.came_with.is_some_and(|(model, _)| model != pool.model);
    match world.worker(id) {
        Some(known) if known.epoch > epoch || (known.epoch == epoch && !known.state.is_coming()) => return Ok(()),
        // Not what it was told to load.
        Some(known) if known.epoch == epoch && other => {
            world.mail.order(Order::StopWorker { worker: id, epoch });
            lose(world, rules, id, Loss::NoStart);
            return Ok(());
        }
        // Another life of it that nobody saw end.
        Some(known) if known.state.is_up() => take_out(world, id, WorkerState::Failed),
        // What was kept for it makes place for what it came with.
        Some(_) => loss::empty(world, id),
        None if world.crews.len() >= rules.health.workers_max as usize => {
            return Err(WorkerRefusal::TooMany);
        }
        None => {}
    }
    let fit = may_stand(world, &facts);
    let residents = if other { fit.map(|()| vec![]) } else { fit.and_then(|()| came_with(world, rules, &facts)) };
    let now = world.core.now;
    let fresh = residents.clone().map(|residents| Worker::new(id, epoch, facts, residents, now));
    let is_known = world.worker(id).is_some();
    begin_life(world, (id, epoch), fresh.ok(), if other { WorkerState::Stopped } else { up });
    match residents {
        // Others took its place meanwhile. They may let go of it: it begins again after its backoff.
        Err(WorkerRefusal::NoMemory { .. }) if is_known => lose(world, rules, id, Loss::NoStart),
        Err(_) if is_known => change(world, id, |worker| turn(worker, WorkerState::Stopped)),
        Err(_) | Ok(_) => {}
    }
    if other && residents.is_ok() {
        // It came unasked with what its pool served before: it is told what that serves now.
        spawn(world, rules, id);
    } else if closed && residents.is_ok() {
        // It takes no tasks, and what it came with takes memory all the same.
        eviction::survey(world, id);
    }
    rearm(world, rules, id);
    residents.map(drop)
}

/// Whether a worker like it can be taken in, whatever it came with.
fn may_stand(world: &mut World, facts: &WorkerFacts) -> Result<(), WorkerRefusal> {
    if facts.slots == 0 {
        return Err(WorkerRefusal::NoSlots);
    }
    if !memory::devices_add_up(facts) {
        return Err(WorkerRefusal::Devices);
    }
    let shut = |id: &DeviceId| world.device(*id).is_some_and(|device| device.quarantined);
    if let Some(device) = facts.devices.iter().map(|part| part.device).find(shut) {
        return Err(WorkerRefusal::Quarantined { device });
    }
    memory::know_devices(world, facts);
    Ok(())
}

/// A known worker keeps what is held against it. One that is not taken in is left on its way; one that was
/// never taken in is nobody.
fn begin_life(world: &mut World, (id, epoch): (WorkerId, Epoch), fresh: Option<Worker>, up: WorkerState) {
    let key = Key::Worker(id);
    let Some(known) = world.worker(id) else {
        if let Some(fresh) = fresh {
            world.crews.join(id, &fresh.facts);
            world.enlist(key, (fresh, Alarm::default(), Fuse::default()));
            change(world, id, |worker| turn(worker, up));
        }
        return;
    };
    let (breaker, restarts, mut state, facts) = (known.breaker, known.restarts, known.state, known.facts.clone());
    if !state.is_coming() {
        let legal = state.advance(WorkerState::Starting);
        assert!(legal.is_ok(), "audit `a worker's states follow their table`: {id}: {legal:?}");
    }
    let Some(fresh) = fresh else {
        return change(world, id, |worker| {
            (worker.state, worker.epoch, worker.restarts.due) = (state, epoch, None);
        });
    };
    let crews = &mut world.crews;
    crews.leave(id, &facts);
    crews.join(id, &fresh.facts);
    change(world, id, |worker| {
        let up_since = fresh.heard;
        *worker = Worker { breaker, restarts, state, ..fresh };
        (worker.restarts.up_since, worker.restarts.due) = (up_since, None);
        turn(worker, up);
    });
}

/// It was told to begin and has begun.
pub(super) fn loads(world: &mut World, rules: &Rules, id: WorkerId) {
    hear(world, id);
    if world.worker(id).is_some_and(|worker| worker.state == WorkerState::Starting) {
        change(world, id, |worker| turn(worker, WorkerState::Loading));
        rearm(world, rules, id);
    }
}

/// The model that a worker came with, entered on its devices: its weights are booked.
fn came_with(world: &mut World, rules: &Rules, facts: &WorkerFacts) -> Result<Vec<Resident>, WorkerRefusal> {
    let Some((model, of)) = facts.came_with else { return Ok(vec![]) };
    let refusal = |(needed, free)| WorkerRefusal::NoMemory { needed, free };
    memory::hold(world, facts, of.digest, of.weights).map_err(refusal)?;
    Ok(vec![as_it_comes(rules, facts, (model, of), world.core.now)])
}

/// A model as a worker comes with it. Whoever could not load it again keeps it.
pub(super) fn as_it_comes(
    rules: &Rules,
    facts: &WorkerFacts,
    (model, of): (ModelId, ModelFacts),
    now: Tick,
) -> Resident {
    let row = rules.loadable(model).filter(|row| eviction::could_load(rules, facts, row));
    let pinned = row.is_none_or(|row| row.keep == Keep::Pinned);
    Resident::came(model, of, pinned, now)
}
