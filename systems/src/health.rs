//! Health: workers come, beat, go and fall silent. Writes workers, shards, devices and pools; hands the
//! attempts that a lost worker held to release in the same step, and says nothing of tasks itself.

use crate::release::stir_device;
use bevy_ecs::prelude::World;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{Epoch, PoolId, WorkerId};
use orchestrion_world::ledger::Core;
use orchestrion_world::mail::{Mail, Word};
use orchestrion_world::protocol::{Notice, Order, WorkerFacts, WorkerRefusal};
use orchestrion_world::store::{Key, Store};
use orchestrion_world::units::Bytes;
use orchestrion_world::vram::{Device, Shard};
use orchestrion_world::wheel::{Alarm, TimerKey};
use orchestrion_world::worker::{Drain, Worker, WorkerState};
use std::sync::Arc;

pub(crate) fn watch_workers(world: &mut World) {
    let Some(rules) = world.resource::<Core>().rules.clone() else {
        world.resource_mut::<Mail>().words.clear();
        return;
    };
    for word in std::mem::take(&mut world.resource_mut::<Mail>().words) {
        match word {
            Word::Up(id, epoch, facts) => match welcome(world, &rules, id, epoch, facts) {
                Ok(()) => {}
                Err(reason) => world.resource_mut::<Mail>().notice(Notice::WorkerRefused { worker: id, reason }),
            },
            Word::Down(id, epoch) if is_live(world, id, epoch) => lose(world, &rules, id),
            Word::Alive(id, epoch) if is_live(world, id, epoch) => hear(world, id),
            // An older life has nothing to say.
            Word::Down(..) | Word::Alive(..) => {}
        }
    }
    let due = std::mem::take(&mut world.resource_mut::<Mail>().due);
    let (beats, rest): (Vec<_>, Vec<_>) = due.into_iter().partition(|key| matches!(key, TimerKey::Beat(_)));
    world.resource_mut::<Mail>().due = rest;
    for key in beats {
        if let TimerKey::Beat(id) = key {
            check_beat(world, &rules, id);
        }
    }
}

fn is_live(world: &World, id: WorkerId, epoch: Epoch) -> bool {
    world.worker(id).is_some_and(|w| w.state == WorkerState::Ready && w.epoch == epoch)
}

fn hear(world: &mut World, id: WorkerId) {
    let now = world.resource::<Core>().now;
    if let Some(mut worker) = world.worker_mut(id) {
        worker.heard = now;
    }
}

/// The alarm rings once for many beats: it is set anew from what was heard since.
fn check_beat(world: &mut World, rules: &Arc<Rules>, id: WorkerId) {
    let now = world.resource::<Core>().now;
    let Some(worker) = world.worker(id) else { return };
    let Some(due) = worker.alarm_at(Some(rules)) else { return };
    let epoch = worker.epoch;
    if due > now {
        world.set_alarm(Key::Worker(id), Some((due, TimerKey::Beat(id))));
    } else {
        lose(world, rules, id);
        // It may live on behind a stall: it is to drop what it has and to come back as another.
        world.resource_mut::<Mail>().order(Order::Reset { worker: id, epoch: Epoch(epoch.0 + 1) });
    }
}

fn welcome(
    world: &mut World,
    rules: &Arc<Rules>,
    id: WorkerId,
    epoch: Epoch,
    facts: WorkerFacts,
) -> Result<(), WorkerRefusal> {
    let model = world.pool(facts.pool).ok_or(WorkerRefusal::UnknownPool)?.model;
    match world.worker(id) {
        Some(known) if known.epoch >= epoch => return Ok(()),
        Some(known) if known.state == WorkerState::Ready => lose(world, rules, id),
        Some(_) => {}
        None if world.workers().len() >= rules.health.workers_max as usize => return Err(WorkerRefusal::TooMany),
        None => {}
    }
    if facts.slots == 0 {
        return Err(WorkerRefusal::NoSlots);
    }
    hold_shard(world, &facts)?;
    let now = world.resource::<Core>().now;
    let (prefill, decode) = (facts.prefill, facts.decode);
    let pool = facts.pool;
    let fresh =
        Worker { id, epoch, model, facts, state: WorkerState::Ready, heard: now, leases: vec![], prefill, decode };
    let key = Key::Worker(id);
    match world.worker_mut(id) {
        Some(mut known) => *known = fresh,
        None => world.enlist(key, (fresh, Alarm::default())),
    }
    world.set_alarm(key, Some((now + rules.health.beat_timeout, TimerKey::Beat(id))));
    world.index_worker(id);
    if let Some(mut model) = world.model_mut(model) {
        model.stranded = None;
    }
    world.set_alarm(Key::Model(model), None);
    count_ready(world, pool, 1);
    world.resource_mut::<Mail>().stirred.insert(model);
    Ok(())
}

/// Books a worker's weights on its device, shared with those of the same file.
fn hold_shard(world: &mut World, facts: &WorkerFacts) -> Result<(), WorkerRefusal> {
    let (id, digest, bytes) = (facts.device, facts.model_digest, facts.weights);
    if world.device(id).is_none() {
        let device = Device { id, capacity: facts.device_capacity, weights: Bytes(0), reserved: Bytes(0) };
        world.enlist(Key::Device(id), device);
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

/// Takes a worker out: its leases become orphans, its memory is free.
fn lose(world: &mut World, rules: &Arc<Rules>, id: WorkerId) {
    let (leaks, counted) = (planted!(world, SlotLeakOnCrash), !planted!(world, ReadyMiscounted));
    let Some(mut worker) = world.worker_mut(id) else { return };
    worker.state = WorkerState::Lost;
    let leases = if leaks { worker.leases.clone() } else { std::mem::take(&mut worker.leases) };
    let (model, facts) = (worker.model, worker.facts.clone());
    if let Some(mut device) = world.device_mut(facts.device) {
        device.reserved.0 -= leases.iter().map(|l| l.kv.0).sum::<u64>();
    }
    let last_holder = world.shard_mut(facts.device, facts.model_digest).map(|mut shard| {
        shard.holders -= 1;
        (shard.holders == 0, shard.bytes)
    });
    if let Some((true, bytes)) = last_holder {
        world.discharge(Key::Shard(facts.device, facts.model_digest));
        if let Some(mut device) = world.device_mut(facts.device) {
            device.weights.0 -= bytes.0;
        }
    }
    let orphans = leases.iter().filter(|l| !l.revoked).map(|l| (l.task, l.attempt));
    world.resource_mut::<Mail>().orphans.extend(orphans);
    world.set_alarm(Key::Worker(id), None);
    world.index_worker(id);
    stir_device(world, facts.device);
    count_ready(world, facts.pool, -i16::from(counted));
    let stranded = world.workers().iter().all(|w| w.model != model || w.state != WorkerState::Ready);
    if stranded {
        let now = world.resource::<Core>().now;
        if let Some(mut model) = world.model_mut(model) {
            model.stranded = Some(now);
        }
        let due = now + rules.health.no_worker_grace;
        world.set_alarm(Key::Model(model), Some((due, TimerKey::Stranded(model))));
    }
}

fn count_ready(world: &mut World, id: PoolId, change: i16) {
    let Some(mut pool) = world.pool_mut(id) else { return };
    pool.ready = pool.ready.saturating_add_signed(change);
    let (ready, model) = (pool.ready, pool.model);
    // With other workers its queue drains at another rate.
    if let Some(mut model) = world.model_mut(model) {
        (model.interactive.drain, model.batch.drain) = (Drain::default(), Drain::default());
    }
    world.resource_mut::<Mail>().notice(Notice::PoolChanged { pool: id, ready });
}
