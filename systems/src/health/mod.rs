//! Health: workers come, beat, go and fall silent, and those that were lost are told to begin again. Writes
//! workers, shards, devices and pools; hands the attempts that a lost worker held to release in the same
//! step, and says nothing of tasks itself.
//!
//! `arrival` takes a worker in, `loss` takes it out and says what is done about it, `breaker` keeps tasks from
//! one that fails them. What is done about a fault goes by its class: an attempt is tried again, a worker is
//! told to begin again, a device that breaks worker after worker goes into quarantine.

mod arrival;
mod breaker;
mod loss;

pub(crate) use breaker::{went_well, went_wrong};
pub(crate) use loss::{reset, spawn, stop};

use crate::{eviction, jobs};
use bevy_ecs::prelude::ResMut;
use loss::{lose, take_out};
use orchestrion_world::config::Rules;
use orchestrion_world::health::{Breaker, Loss, Restarts, WorkerState};
use orchestrion_world::id::{Epoch, ModelId, PoolId, WorkerId};
use orchestrion_world::mail::Word;
use orchestrion_world::protocol::{Notice, Order};
use orchestrion_world::store::{Key, World};
use orchestrion_world::time::Tick;
use orchestrion_world::wheel::TimerKey;
use orchestrion_world::worker::{Drain, Pool, Worker};
use std::sync::Arc;

pub(crate) fn watch_workers(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    let Some(rules) = world.core.rules.clone() else {
        let mail = &mut world.mail;
        mail.booted = false;
        mail.words.clear();
        return;
    };
    if std::mem::take(&mut world.mail.booted) {
        begin_anew(world, &rules);
    }
    for word in std::mem::take(&mut world.mail.words) {
        match word {
            Word::Up(id, epoch, facts) => {
                if let Err(reason) = arrival::welcome(world, &rules, id, epoch, facts) {
                    let mail = &mut world.mail;
                    mail.notice(Notice::WorkerRefused { worker: id, reason });
                    // Nobody will give it anything to do: it holds memory for nothing.
                    mail.order(Order::StopWorker { worker: id, epoch });
                }
            }
            Word::Loading(id, epoch) if is_of(world, id, epoch) => arrival::loads(world, &rules, id),
            Word::Down(id, epoch, error) if is_of(world, id, epoch) => loss::ended(world, &rules, id, error),
            Word::Alive(id, epoch) if is_of(world, id, epoch) => hear(world, id),
            Word::Corrupt(id, epoch, digest) if is_of(world, id, epoch) => loss::corrupt(world, &rules, id, digest),
            // An older life has nothing to say.
            Word::Loading(..) | Word::Down(..) | Word::Alive(..) | Word::Corrupt(..) => {}
        }
    }
    let due = std::mem::take(&mut world.mail.due);
    let mut rest = Vec::with_capacity(due.len());
    for key in due {
        match key {
            TimerKey::Beat(id) => alarm(world, &rules, id),
            TimerKey::Breaker(id) => breaker::rang(world, id),
            TimerKey::Deadline(_)
            | TimerKey::Retry(_)
            | TimerKey::Patience(_)
            | TimerKey::Stranded(_)
            | TimerKey::Session(_)
            | TimerKey::Job(_)
            | TimerKey::Weigh(_) => {
                rest.push(key);
            }
        }
    }
    world.mail.due = rest;
}

/// Whether these are words of the worker's present life.
fn is_of(world: &World, id: WorkerId, epoch: Epoch) -> bool {
    world.worker(id).is_some_and(|w| w.epoch == epoch && (w.state.is_up() || w.state.is_coming()))
}

fn hear(world: &mut World, id: WorkerId) {
    let now = world.core.now;
    if let Some(mut worker) = world.worker_mut(id) {
        (worker.heard, worker.probed) = (now, None);
    }
}

/// Whatever lived in the last process is gone with it, and nothing of what was held against it stands. Boots
/// are rare: this walks every worker.
fn begin_anew(world: &mut World, rules: &Rules) {
    for key in world.names() {
        match key {
            Key::Worker(id) => {
                if world.worker(id).is_some_and(|worker| worker.state != WorkerState::Stopped) {
                    take_out(world, id, WorkerState::Stopped);
                }
                let now = world.core.now;
                breaker::set(world, id, Breaker::CLOSED);
                if let Some(mut worker) = world.worker_mut(id) {
                    worker.restarts = Restarts::none(now);
                }
            }
            Key::Pool(id) => {
                let named = rules.pools.get(usize::from(id.0)).map(|pool| &pool.model);
                let model = named.and_then(|name| rules.models.binary_search(name).ok());
                if let Some((mut pool, model)) = world.pool_mut(id).zip(model) {
                    let job = pool.job;
                    *pool = Pool { job, ..Pool::new(id, ModelId(model as u16)) };
                }
            }
            Key::Device(id) => {
                if let Some(mut device) = world.device_mut(id) {
                    (device.fatals, device.corruptions) = (vec![], 0);
                    device.quarantined = false;
                }
            }
            Key::Task(_) | Key::Model(_) | Key::Shard(..) | Key::Tenant(_) | Key::Session(_) | Key::Prefix(_) => {}
            Key::Job(id) => jobs::outlive(world, rules, id),
        }
    }
}

/// The alarm rings once for many beats: it is set anew from what was heard since.
fn alarm(world: &mut World, rules: &Arc<Rules>, id: WorkerId) {
    let now = world.core.now;
    let Some(worker) = world.worker(id) else { return };
    let Some(due) = worker.alarm_at(Some(rules)) else { return };
    let (state, probed, epoch) = (worker.state, worker.probed, worker.epoch);
    if due > now {
        return arm(world, id, due);
    }
    match state {
        WorkerState::Ready | WorkerState::Draining if probed.is_none() => {
            if let Some(mut worker) = world.worker_mut(id) {
                worker.probed = Some(now);
            }
            world.mail.order(Order::Probe { worker: id, epoch });
            rearm(world, rules, id);
        }
        WorkerState::Ready | WorkerState::Draining => lose(world, rules, id, Loss::Silence),
        WorkerState::Starting | WorkerState::Loading => lose(world, rules, id, Loss::NoStart),
        WorkerState::Failed => loss::restart(world, rules, id),
        WorkerState::Stopped => {}
    }
}

fn arm(world: &mut World, id: WorkerId, due: Tick) {
    world.set_alarm(Key::Worker(id), Some((due, TimerKey::Beat(id))));
}

/// Sets the alarm that the worker's state calls for.
fn rearm(world: &mut World, rules: &Rules, id: WorkerId) {
    let due = world.worker(id).and_then(|worker| worker.alarm_at(Some(rules)));
    world.set_alarm(Key::Worker(id), due.map(|due| (due, TimerKey::Beat(id))));
}

/// Changes what decides whether a worker takes tasks, and brings up to date what is counted of it.
fn change(world: &mut World, id: WorkerId, change: impl FnOnce(&mut Worker)) {
    let Some(mut worker) = world.worker_mut(id) else { return };
    let before = worker.takes();
    change(&mut worker);
    let (after, pool) = (worker.takes(), worker.facts.pool);
    world.mail.moved.push(id);
    match (before, after) {
        (false, true) => count_ready(world, pool, 1),
        (true, false) => count_ready(world, pool, -1),
        (false, false) | (true, true) => return,
    }
    eviction::survey(world, id);
}

/// The worker takes no new tasks.
pub(crate) fn drain(world: &mut World, id: WorkerId) {
    if world.worker(id).is_some_and(|worker| worker.state == WorkerState::Ready) && !planted!(world, DrainStillPlaces) {
        change(world, id, |worker| turn(worker, WorkerState::Draining));
    }
}

/// Forgets what is held against a worker and its device, and lets it take tasks again; whether it has to come up
/// first. Whoever else was stopped with the device begins anew, if its pool is open.
pub(crate) fn pardon(world: &mut World, rules: &Rules, id: WorkerId) -> bool {
    let Some(worker) = world.worker(id) else { return false };
    let (state, devices) = (worker.state, worker.facts.devices.clone());
    for part in devices {
        let Some(mut device) = world.device_mut(part.device) else { continue };
        let was_shut = device.quarantined;
        (device.fatals, device.corruptions, device.quarantined) = (vec![], 0, false);
        let neighbours = world.crews.on_device(part.device).filter(|other| was_shut && *other != id);
        for other in neighbours.collect::<Vec<_>>() {
            let stopped = world.worker(other).filter(|worker| worker.state == WorkerState::Stopped);
            let pool = stopped.and_then(|worker| world.pool(worker.facts.pool));
            if pool.is_some_and(|pool| !pool.closed) {
                spawn(world, rules, other);
            }
        }
    }
    breaker::set(world, id, Breaker::CLOSED);
    if let Some(mut worker) = world.worker_mut(id) {
        worker.restarts.losses = 0;
    }
    match state {
        WorkerState::Draining => change(world, id, |worker| turn(worker, WorkerState::Ready)),
        WorkerState::Stopped | WorkerState::Failed => return spawn(world, rules, id),
        WorkerState::Ready | WorkerState::Starting | WorkerState::Loading => {}
    }
    !state.is_up()
}

/// The one writer of a worker's lifecycle.
fn turn(worker: &mut Worker, to: WorkerState) {
    let legal = worker.state.advance(to);
    assert!(legal.is_ok(), "audit `a worker's states follow their table`: {}: {legal:?}", worker.id);
}

fn count_ready(world: &mut World, id: PoolId, change: i16) {
    if change < 0 && planted!(world, ReadyMiscounted) {
        return;
    }
    let Some(mut pool) = world.pool_mut(id) else { return };
    pool.ready = pool.ready.saturating_add_signed(change);
    let (ready, model) = (pool.ready, pool.model);
    world.mail.notice(Notice::PoolChanged { pool: id, ready });
    let Some(mut of) = world.model_mut(model) else { return };
    of.ready = of.ready.saturating_add_signed(change.into());
    // With other workers its queue drains at another rate.
    (of.interactive.drain, of.batch.drain) = (Drain::default(), Drain::default());
}
