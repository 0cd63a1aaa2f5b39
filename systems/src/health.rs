//! Health: workers come, beat, go and fall silent. Writes workers, shards, devices and pools; hands the
//! attempts that a lost worker held to release in the same step, and says nothing of tasks itself.

use crate::{eviction, memory};
use bevy_ecs::prelude::World;
use orchestrion_world::config::{Keep, Rules};
use orchestrion_world::id::{Epoch, ModelId, PoolId, WorkerId};
use orchestrion_world::ledger::Core;
use orchestrion_world::mail::{Mail, Word};
use orchestrion_world::protocol::{Notice, Order, WorkerFacts, WorkerRefusal};
use orchestrion_world::store::{Key, Stands, Store};
use orchestrion_world::time::Tick;
use orchestrion_world::vram::{Residence, Resident};
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
    if !memory::devices_add_up(&facts) {
        return Err(WorkerRefusal::Devices);
    }
    memory::know_devices(world, &facts);
    let now = world.resource::<Core>().now;
    let residents = came_with(world, rules, model, &facts, now)?;
    let pool = facts.pool;
    let fresh = Worker { id, epoch, facts, state: WorkerState::Ready, heard: now, leases: vec![], residents };
    world.resource_mut::<Stands>().add(&fresh);
    let key = Key::Worker(id);
    match world.worker_mut(id) {
        Some(mut known) => *known = fresh,
        None => world.enlist(key, (fresh, Alarm::default())),
    }
    world.set_alarm(key, Some((now + rules.health.beat_timeout, TimerKey::Beat(id))));
    world.index_worker(id);
    count_ready(world, pool, 1);
    eviction::survey(world, rules, id);
    Ok(())
}

/// The model that a worker came with, entered on its devices.
fn came_with(
    world: &mut World,
    rules: &Rules,
    model: ModelId,
    facts: &WorkerFacts,
    now: Tick,
) -> Result<Vec<Resident>, WorkerRefusal> {
    let Some(of) = facts.came_with else { return Ok(vec![]) };
    let refusal = |(needed, free)| WorkerRefusal::NoMemory { needed, free };
    memory::hold(world, facts, of.digest, of.weights).map_err(refusal)?;
    let pinned = facts.loader.is_none() || rules.loadable(model).is_none_or(|row| row.keep == Keep::Pinned);
    Ok(vec![Resident {
        model,
        life: Residence::Sealed,
        facts: of,
        pinned,
        since: now,
        used: now,
        uses: 0,
        failures: 0,
    }])
}

/// Takes a worker out: its leases become orphans, its memory is free.
fn lose(world: &mut World, rules: &Arc<Rules>, id: WorkerId) {
    let Some(worker) = world.worker(id).cloned() else { return };
    for lease in &worker.leases {
        memory::unreserve(world, id, lease);
    }
    for resident in &worker.residents {
        eviction::take_off(world, id, resident);
    }
    world.resource_mut::<Stands>().remove(&worker);
    if let Some(mut worker) = world.worker_mut(id) {
        (worker.state, worker.leases) = (WorkerState::Lost, vec![]);
    }
    let orphans = worker.leases.iter().filter(|l| !l.revoked).map(|l| (l.task, l.attempt));
    world.resource_mut::<Mail>().orphans.extend(orphans);
    world.set_alarm(Key::Worker(id), None);
    count_ready(world, worker.facts.pool, -1);
    eviction::survey(world, rules, id);
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
