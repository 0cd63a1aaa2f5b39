//! A worker comes up: it is taken in where there is a place and memory for it. What it was before ends.

use super::{change, hear, rearm, take_out, turn};
use bevy_ecs::prelude::World;
use orchestrion_world::config::Rules;
use orchestrion_world::crew::Crews;
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{Epoch, WorkerId};
use orchestrion_world::ledger::Core;
use orchestrion_world::protocol::{WorkerFacts, WorkerRefusal};
use orchestrion_world::store::{Key, Store};
use orchestrion_world::vram::{Device, Shard};
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
    let model = world.pool(facts.pool).ok_or(WorkerRefusal::UnknownPool)?.model;
    match world.worker(id) {
        Some(known) if known.epoch > epoch || (known.epoch == epoch && !known.state.is_coming()) => return Ok(()),
        // Another life of it that nobody saw end.
        Some(known) if known.state.is_up() => take_out(world, id, WorkerState::Failed),
        Some(_) => {}
        None if world.resource::<Crews>().len() >= rules.health.workers_max as usize => {
            return Err(WorkerRefusal::TooMany);
        }
        None => {}
    }
    let taken = room_for(world, &facts);
    let now = world.resource::<Core>().now;
    let fresh = Worker::new(id, epoch, model, facts, now);
    begin_life(world, id, epoch, fresh, taken.is_ok());
    rearm(world, rules, id);
    taken
}

/// Whether it can be taken in; its weights are booked then.
fn room_for(world: &mut World, facts: &WorkerFacts) -> Result<(), WorkerRefusal> {
    let device = facts.device;
    if facts.slots == 0 {
        return Err(WorkerRefusal::NoSlots);
    }
    if world.device(device).is_some_and(|device| device.quarantined) {
        return Err(WorkerRefusal::Quarantined { device });
    }
    hold_shard(world, facts)
}

/// A known worker keeps what is held against it. One that is not taken in is left stopped; one that was
/// never taken in is nobody.
fn begin_life(world: &mut World, id: WorkerId, epoch: Epoch, fresh: Worker, taken: bool) {
    let key = Key::Worker(id);
    let Some(known) = world.worker(id) else {
        if taken {
            world.resource_mut::<Crews>().join(id, &fresh.facts);
            world.enlist(key, (fresh, Alarm::default(), Fuse::default()));
            change(world, id, |worker| turn(worker, WorkerState::Ready));
        }
        return;
    };
    let (breaker, restarts, mut state, facts) = (known.breaker, known.restarts, known.state, known.facts.clone());
    if !state.is_coming() {
        let legal = state.advance(WorkerState::Starting);
        assert!(legal.is_ok(), "audit `a worker's states follow their table`: {id}: {legal:?}");
    }
    if !taken {
        return change(world, id, |worker| {
            (worker.state, worker.epoch, worker.restarts.due) = (state, epoch, None);
            turn(worker, WorkerState::Stopped);
        });
    }
    let mut crews = world.resource_mut::<Crews>();
    crews.leave(id, &facts);
    crews.join(id, &fresh.facts);
    change(world, id, |worker| {
        let up_since = fresh.heard;
        *worker = Worker { breaker, restarts, state, ..fresh };
        (worker.restarts.up_since, worker.restarts.due) = (up_since, None);
        turn(worker, WorkerState::Ready);
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

/// Books a worker's weights on its device, shared with those of the same file.
fn hold_shard(world: &mut World, facts: &WorkerFacts) -> Result<(), WorkerRefusal> {
    let (id, digest, bytes) = (facts.device, facts.model_digest, facts.weights);
    if world.device(id).is_none() {
        world.enlist(Key::Device(id), Device::new(id, facts.device_capacity));
    }
    if let Some(mut shard) = world.shard_mut(id, digest) {
        shard.holders += 1;
        return Ok(());
    }
    if let Some(mut device) = world.device_mut(id) {
        let free = device.residual();
        if bytes > free {
            return Err(WorkerRefusal::NoMemory { needed: bytes, free });
        }
        device.weights.0 += bytes.0;
    }
    world.enlist(Key::Shard(id, digest), Shard { device: id, digest, bytes, holders: 1 });
    Ok(())
}
