//! Release: what ends gives back what it held. Attempts end, workers' orphans are retried or given up (see
//! `retry`), cancels and deadlines end tasks in any phase, patience and backoffs run out. Nothing is placed here.

pub(crate) mod patience;
mod retry;

use crate::admission::tenants;
use crate::{estimate, eviction, health, memory, placement, sessions};
use bevy_ecs::prelude::ResMut;
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{ModelId, TaskId, WorkerId};
use orchestrion_world::mail::AttemptEnd;
use orchestrion_world::protocol::{CancelReason, Class, Failure, Finish, Notice, Order, Outcome, Setback, Usage};
use orchestrion_world::store::{Key, World};
use orchestrion_world::task::{Life, Task, TaskTimers};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::MilliRate;
use orchestrion_world::victims::reconsider;
use orchestrion_world::wheel::TimerKey;
pub(crate) use retry::put_back;
use retry::{requeue, set_back};

pub(crate) fn release(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    let mail = &mut world.mail;
    let mut ends = std::mem::take(&mut mail.ends);
    let cancels = std::mem::take(&mut mail.cancels);
    let due = std::mem::take(&mut mail.due);
    let cut = std::mem::take(&mut mail.cut);
    for end in ends.drain(..) {
        end_attempt(world, end);
    }
    world.mail.ends = ends;
    for task in cut {
        fail(world, task, Failure::WorkerLost);
    }
    // A fault that broke its worker leaves orphans too.
    settle_orphans(world);
    for (task, reason) in cancels {
        match world.task(task).map(|t| t.tokens_out) {
            Some(tokens_out) => end_task(world, task, Outcome::Cancelled { reason, tokens_out }),
            None => world.mail.early_cancels.push((task, reason)),
        }
    }
    for key in due {
        match key {
            TimerKey::Deadline(task) => fail(world, task, Failure::DeadlinePassed),
            TimerKey::Retry(task) => requeue(world, task),
            TimerKey::Stranded(model) => give_up_on(world, model),
            TimerKey::Weigh(model) => placement::weigh_again(world, model),
            TimerKey::Patience(task) => patience::check(world, task),
            TimerKey::Job(job) => world.mail.jobs_due.push(job),
            TimerKey::Beat(_) | TimerKey::Breaker(_) | TimerKey::Session(_) => {}
        }
    }
}

/// What lost workers held is tried again or ends.
pub(crate) fn settle_orphans(world: &mut World) {
    for (task, attempt) in std::mem::take(&mut world.mail.orphans) {
        set_back(world, task, attempt, Setback::WorkerLost);
    }
}

/// Takes the lease back, and ends or retries the task unless it ended before.
fn end_attempt(world: &mut World, end: AttemptEnd) {
    let AttemptEnd { worker: id, epoch, task, attempt, result } = end;
    let Some(worker) = world.worker(id) else { return };
    if worker.epoch != epoch || !worker.state.is_up() {
        return;
    }
    let Some(at) = worker.lease_at(task, attempt) else { return };
    let now = world.core.now;
    let Some(mut worker) = world.worker_mut(id) else { return };
    let sharers = worker.leases.len() as u64;
    let lease = worker.leases.remove(at);
    if lease.unread > 0 {
        // What it read of that prompt says nothing of the others.
        worker.reading.since = (worker.unread() > 0).then_some(now);
    }
    let rid = worker.state == WorkerState::Draining && worker.leases.is_empty();
    let mail = &mut world.mail;
    mail.stirred.insert(lease.model);
    if rid {
        mail.moved.push(id);
    }
    memory::unreserve(world, id, &lease);
    eviction::left(world, id, lease.model);
    if lease.called_back {
        world.victims.let_go(lease.model);
    }
    if lease.revoked {
        return;
    }
    match result {
        Ok(usage) => {
            learn(world, id, task, &usage, sharers);
            if usage.finish != Finish::Cancelled {
                health::went_well(world, id);
            }
            let outcome = match usage.finish {
                Finish::Stop | Finish::Length => Outcome::Done(usage),
                // Nobody asked the core: the station is going down.
                Finish::Cancelled => {
                    Outcome::Cancelled { reason: CancelReason::Shutdown, tokens_out: usage.tokens_out }
                }
            };
            end_task(world, task, outcome);
        }
        Err(class) => {
            set_back(world, task, attempt, Setback::Fault(class));
            health::went_wrong(world, id, class);
        }
    }
}

/// Rates are of the worker as a whole: what one task saw, times those it shared with.
fn learn(world: &mut World, id: WorkerId, task: TaskId, usage: &Usage, sharers: u64) {
    let now = world.core.now;
    let Some((placed, model, class)) = world.task(task).map(|t| (t.placed, t.spec.model, t.spec.class)) else { return };
    if let Some(mut worker) = world.worker_mut(id)
        && let Some(resident) = worker.resident_mut(model)
    {
        let facts = &mut resident.facts;
        let better = |old: MilliRate, tokens: u32, us: u64| {
            let sample = estimate::rate(u64::from(tokens).saturating_mul(sharers), us);
            sample.map_or(old, |new| MilliRate(estimate::learn(old.0, new.0)))
        };
        // What was looked up says nothing of how fast prompts are read.
        if usage.tokens_cached == 0 {
            facts.prefill = better(facts.prefill, usage.tokens_in, usage.prefill_us);
        }
        // The first token ends the prefill: n tokens are n - 1 steps of decode.
        facts.decode = better(facts.decode, usage.tokens_out.saturating_sub(1), usage.decode_us);
    }
    if let Some(mut model) = world.model_mut(model) {
        let held = now.since(placed).0;
        let line = model.line_mut(class);
        line.service = Some(Ticks(line.service.map_or(held, |mean| estimate::learn(mean.0, held))));
    }
}

pub(crate) fn fail(world: &mut World, task: TaskId, failure: Failure) {
    if let Some(tokens_out) = world.task(task).map(|t| t.tokens_out) {
        end_task(world, task, Outcome::Failed { failure, tokens_out });
    }
}

/// The one place where tasks end.
pub(crate) fn end_task(world: &mut World, id: TaskId, outcome: Outcome) {
    let Some(mut task) = world.task_mut(id) else { return };
    let before = task.clone();
    let legal = task.life.advance(Life::Ended(outcome));
    assert!(legal.is_ok(), "audit `an admitted task ends exactly once`: {id}: {legal:?}");
    world.mail.notice(Notice::Ended { task: id, outcome });
    if before.life == Life::Queued {
        world.queues.remove(&before);
    }
    revoke(world, &before);
    disarm(world, id);
    let used = tenants::used(world, &before, &outcome);
    tenants::settle(world, &before, &used);
    if planted!(world, SettledTwice) {
        tenants::settle(world, &before, &used);
    }
    if let Some(session) = before.spec.session {
        sessions::end_turn(world, session, &before, &used);
    }
    world.mail.stirred.insert(before.spec.model);
    world.discharge(Key::Task(id));
    if before.spec.class == Class::Batch {
        reconsider(world, id);
    }
}

/// Takes the live attempt from its worker, where that still holds it. The slot is free when the worker lets go,
/// not before.
fn revoke(world: &mut World, task: &Task) {
    let (id, attempt) = (task.id, task.attempt());
    if let Some(worker) = task.life.worker()
        && let Some(mut worker) = world.worker_mut(worker)
        && let Some(at) = worker.lease_at(id, attempt)
    {
        worker.leases[at].revoked = true;
        let order = Order::Cancel { worker: worker.id, epoch: worker.epoch, task: id, attempt };
        world.mail.order(order);
    }
}

/// As [`revoke`], of a task that goes on: its time on the slot is over.
pub(crate) fn take_back(world: &mut World, id: TaskId) {
    let Some(task) = world.task(id).cloned() else { return };
    revoke(world, &task);
    let Some(entity) = world.whereabouts(Key::Task(id)) else { return };
    let patience = world.entities.get_mut::<TaskTimers>(entity).and_then(|mut timers| timers.patience.take());
    if let Some(timer) = patience {
        world.wheel.disarm(timer);
    }
}

fn disarm(world: &mut World, id: TaskId) {
    if planted!(world, TimerNotDisarmed) {
        return;
    }
    let Some(entity) = world.whereabouts(Key::Task(id)) else { return };
    let timers = world.entities.get::<TaskTimers>(entity).copied().unwrap_or_default();
    let wheel = &mut world.wheel;
    let TaskTimers { deadline, retry, patience } = timers;
    [deadline, retry, patience].into_iter().flatten().for_each(|timer| wheel.disarm(timer));
}

/// No worker came back in time: what waits for one ends. Tasks in backoff may still come, so the grace
/// begins anew.
fn give_up_on(world: &mut World, id: ModelId) {
    let core = &world.core;
    let now = core.now;
    let Some(due) = core.rules.as_ref().map(|r| now + r.health.no_worker_grace) else { return };
    let Some(mut model) = world.model_mut(id).filter(|model| model.stranded.is_some()) else { return };
    // The alarm of a restored world is set from this.
    model.stranded = Some(now);
    while let Some(task) = world.queues.head(id) {
        fail(world, task, Failure::NoWorker);
    }
    world.set_alarm(Key::Model(id), Some((due, TimerKey::Stranded(id))));
}
