//! A worker comes up: it is taken in where there is a place and memory for it. What it was before ends.

use super::{change, hear, rearm, take_out, turn};
use crate::memory;
use orchestrion_world::config::{Keep, Rules};
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{DeviceId, Epoch, WorkerId};
use orchestrion_world::protocol::{WorkerFacts, WorkerRefusal};
use orchestrion_world::store::{Key, World};
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
    let closed = world.pool(facts.pool).ok_or(WorkerRefusal::UnknownPool)?.closed;
    let up = if closed { WorkerState::Draining } else { WorkerState::Ready };
    match world.worker(id) {
        Some(known) if known.epoch > epoch || (known.epoch == epoch && !known.state.is_coming()) => return Ok(()),
        // Another life of it that nobody saw end.
        Some(known) if known.state.is_up() => take_out(world, id, WorkerState::Failed),
        Some(_) => {}
        None if world.crews.len() >= rules.health.workers_max as usize => {
            return Err(WorkerRefusal::TooMany);
        }
        None => {}
    }
    let residents = room_for(world, rules, &facts);
    let now = world.core.now;
    let fresh = residents.clone().map(|residents| Worker::new(id, epoch, facts, residents, now));
    begin_life(world, (id, epoch), fresh.ok(), up);
    rearm(world, rules, id);
    residents.map(drop)
}

/// Whether it can be taken in; its weights are booked then.
fn room_for(world: &mut World, rules: &Rules, facts: &WorkerFacts) -> Result<Vec<Resident>, WorkerRefusal> {
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
    came_with(world, rules, facts)
}

/// A known worker keeps what is held against it. One that is not taken in is left stopped; one that was
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
            turn(worker, WorkerState::Stopped);
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

/// The model that a worker came with, entered on its devices.
fn came_with(world: &mut World, rules: &Rules, facts: &WorkerFacts) -> Result<Vec<Resident>, WorkerRefusal> {
    memory::know_devices(world, facts);
    let model = world.pool(facts.pool).ok_or(WorkerRefusal::UnknownPool)?.model;
    let Some(of) = facts.came_with else { return Ok(vec![]) };
    let refusal = |(needed, free)| WorkerRefusal::NoMemory { needed, free };
    memory::hold(world, facts, of.digest, of.weights).map_err(refusal)?;
    let pinned = facts.loader.is_none() || rules.loadable(model).is_none_or(|row| row.keep == Keep::Pinned);
    Ok(vec![Resident::came(model, of, pinned, world.core.now)])
}
