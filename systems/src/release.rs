//! Release: what ends gives back what it held. Attempts end, workers' orphans are retried or given up,
//! cancels and deadlines end tasks in any phase, backoffs run out. Nothing is placed here.

use crate::admission::tenants;
use crate::{estimate, sessions};
use bevy_ecs::prelude::World;
use orchestrion_world::dice;
use orchestrion_world::id::{Attempt, ModelId, TaskId, WorkerId};
use orchestrion_world::ledger::Core;
use orchestrion_world::mail::{AttemptEnd, Mail};
use orchestrion_world::protocol::{CancelReason, Failure, FaultClass, Finish, Notice, Order, Outcome, Usage};
use orchestrion_world::queues::Queues;
use orchestrion_world::store::{Key, Store};
use orchestrion_world::task::{Life, TaskTimers};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::MilliRate;
use orchestrion_world::wheel::{TimerKey, Wheel};
use orchestrion_world::worker::WorkerState;

/// What a retry costs of the retry budget.
const ONE_RETRY: u64 = 1_000;

pub(crate) fn release(world: &mut World) {
    let mut mail = world.resource_mut::<Mail>();
    let ends = std::mem::take(&mut mail.ends);
    let orphans = std::mem::take(&mut mail.orphans);
    let cancels = std::mem::take(&mut mail.cancels);
    let due = std::mem::take(&mut mail.due);
    for end in ends {
        end_attempt(world, end);
    }
    for (task, attempt) in orphans {
        retry_or_fail(world, task, attempt);
    }
    for (task, reason) in cancels {
        match world.task(task).map(|t| t.tokens_out) {
            Some(tokens_out) => end_task(world, task, Outcome::Cancelled { reason, tokens_out }),
            None => world.resource_mut::<Mail>().early_cancels.push((task, reason)),
        }
    }
    for key in due {
        match key {
            TimerKey::Deadline(task) => fail(world, task, Failure::DeadlinePassed),
            TimerKey::Retry(task) => requeue(world, task),
            TimerKey::Stranded(model) => give_up_on(world, model),
            TimerKey::Beat(_) | TimerKey::Session(_) => {}
        }
    }
}

/// Takes the lease back, and ends or retries the task unless it ended before.
fn end_attempt(world: &mut World, end: AttemptEnd) {
    let AttemptEnd { worker: id, epoch, task, attempt, result } = end;
    let Some(worker) = world.worker(id) else { return };
    if worker.epoch != epoch || worker.state != WorkerState::Ready {
        return;
    }
    let Some(at) = worker.lease_at(task, attempt) else { return };
    let Some(mut worker) = world.worker_mut(id) else { return };
    let sharers = worker.leases.len() as u64;
    let lease = worker.leases.remove(at);
    let (model, device) = (worker.model, worker.facts.device);
    if let Some(mut device) = world.device_mut(device) {
        device.reserved.0 -= lease.kv.0;
    }
    world.index_worker(id);
    world.resource_mut::<Mail>().stirred.insert(model);
    if lease.revoked {
        return;
    }
    match result {
        Ok(usage) => {
            learn(world, id, task, &usage, sharers);
            let outcome = match usage.finish {
                Finish::Stop | Finish::Length => Outcome::Done(usage),
                // Nobody asked the core: the station is going down.
                Finish::Cancelled => {
                    Outcome::Cancelled { reason: CancelReason::Shutdown, tokens_out: usage.tokens_out }
                }
            };
            end_task(world, task, outcome);
        }
        Err(FaultClass::InvalidInput) => fail(world, task, Failure::InvalidInput),
        Err(FaultClass::Transient | FaultClass::Fatal) => retry_or_fail(world, task, attempt),
    }
}

/// Rates are of the worker as a whole: what one task saw, times those it shared with.
fn learn(world: &mut World, id: WorkerId, task: TaskId, usage: &Usage, sharers: u64) {
    let now = world.resource::<Core>().now;
    let placed = world.task(task).map(|t| (t.placed, t.spec.model, t.spec.class));
    if let Some(mut worker) = world.worker_mut(id) {
        let better = |old: MilliRate, tokens: u32, us: u64| {
            let sample = estimate::rate(u64::from(tokens).saturating_mul(sharers), us);
            sample.map_or(old, |new| MilliRate(estimate::learn(old.0, new.0)))
        };
        worker.prefill = better(worker.prefill, usage.tokens_in, usage.prefill_us);
        // The first token ends the prefill: n tokens are n - 1 steps of decode.
        worker.decode = better(worker.decode, usage.tokens_out.saturating_sub(1), usage.decode_us);
    }
    if let Some((placed, model, class)) = placed
        && let Some(mut model) = world.model_mut(model)
    {
        let held = now.since(placed).0;
        let line = model.line_mut(class);
        line.service = Some(Ticks(line.service.map_or(held, |mean| estimate::learn(mean.0, held))));
    }
}

fn fail(world: &mut World, task: TaskId, failure: Failure) {
    if let Some(tokens_out) = world.task(task).map(|t| t.tokens_out) {
        end_task(world, task, Outcome::Failed { failure, tokens_out });
    }
}

/// The one place where tasks end. A lease it still holds is revoked: the slot is free when the worker
/// lets go, not before.
pub(crate) fn end_task(world: &mut World, id: TaskId, outcome: Outcome) {
    let Some(mut task) = world.task_mut(id) else { return };
    let before = task.life;
    let legal = task.life.advance(Life::Ended(outcome));
    assert!(legal.is_ok(), "audit `an admitted task ends exactly once`: {id}: {legal:?}");
    let (attempt, ended) = (Attempt(task.attempts), task.clone());
    world.resource_mut::<Mail>().notice(Notice::Ended { task: id, outcome });
    if before == Life::Queued {
        world.resource_mut::<Queues>().remove(&ended);
    }
    if let Some(worker) = before.worker()
        && let Some(mut worker) = world.worker_mut(worker)
        && let Some(at) = worker.lease_at(id, attempt)
    {
        worker.leases[at].revoked = true;
        let order = Order::Cancel { worker: worker.id, epoch: worker.epoch, task: id, attempt };
        world.resource_mut::<Mail>().order(order);
    }
    disarm(world, id);
    let used = tenants::used(world, &ended, before, &outcome);
    tenants::settle(world, &ended, &used);
    if let Some(session) = ended.spec.session {
        sessions::end_turn(world, session, &ended, &used);
    }
    world.resource_mut::<Mail>().stirred.insert(ended.spec.model);
    world.discharge(Key::Task(id));
}

fn disarm(world: &mut World, id: TaskId) {
    let Some(entity) = world.whereabouts(Key::Task(id)) else { return };
    let timers = world.get::<TaskTimers>(entity).copied().unwrap_or_default();
    let mut wheel = world.resource_mut::<Wheel>();
    timers.deadline.into_iter().chain(timers.retry).for_each(|timer| wheel.disarm(timer));
}

/// An attempt was lost. Before its first token the task may be tried again, if the budget has it.
fn retry_or_fail(world: &mut World, id: TaskId, lost: Attempt) {
    let core = world.resource::<Core>();
    let (now, seed, budget) = (core.now, core.seed, core.retry_budget);
    let Some(retry) = core.rules.as_ref().map(|r| r.retry.clone()) else { return };
    let Some(task) = world.task(id) else { return };
    if task.tokens_out > 0 || task.attempts >= retry.attempts_max || budget < ONE_RETRY {
        return fail(world, id, Failure::WorkerLost);
    }
    let doubled = retry.backoff.0.checked_shl(task.attempts - 1).unwrap_or(u64::MAX);
    let backoff = Ticks(doubled.min(retry.backoff_max.0));
    let until = now + dice::jitter(seed, id, lost, backoff, retry.jitter);
    world.resource_mut::<Core>().retry_budget -= ONE_RETRY;
    if let Some(mut task) = world.task_mut(id) {
        let legal = task.life.advance(Life::Backoff { until });
        assert!(legal.is_ok(), "audit `at most one live attempt`: {id}: {legal:?}");
    }
    let timer = world.resource_mut::<Wheel>().arm(until, TimerKey::Retry(id));
    if let Some(entity) = world.whereabouts(Key::Task(id))
        && let Some(mut timers) = world.get_mut::<TaskTimers>(entity)
    {
        timers.retry = Some(timer);
    }
    world.resource_mut::<Mail>().notice(Notice::Retrying { task: id, lost, until });
}

fn requeue(world: &mut World, id: TaskId) {
    let Some(mut task) = world.task_mut(id) else { return };
    if task.life.advance(Life::Queued).is_err() {
        return;
    }
    let queued = task.clone();
    world.resource_mut::<Queues>().push(&queued);
    world.resource_mut::<Mail>().stirred.insert(queued.spec.model);
}

/// No worker came back in time: what waits for one ends. Tasks in backoff may still come, so the alarm
/// is set again.
fn give_up_on(world: &mut World, id: ModelId) {
    let core = world.resource::<Core>();
    let Some(due) = core.rules.as_ref().map(|r| core.now + r.health.no_worker_grace) else { return };
    if world.model(id).is_none_or(|m| m.stranded.is_none()) {
        return;
    }
    while let Some(task) = world.resource::<Queues>().head(id) {
        fail(world, task, Failure::NoWorker);
    }
    world.set_alarm(Key::Model(id), Some((due, TimerKey::Stranded(id))));
}
