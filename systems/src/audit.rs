//! The invariants that a state can be checked for, each by name. Run after every step in tests and
//! simulation; the ones that take constant time are asserted where they could break, in production too.
//!
//! What only a history can show (a task ends exactly once, no token after a cancel) is audited over the
//! effects by the scenario stage.

use crate::placement;
use bevy_ecs::prelude::World;
use orchestrion_world::config::{OverloadPolicy, QueueRules};
use orchestrion_world::crew::Crews;
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::TaskId;
use orchestrion_world::ledger::{Ledger, digest, full_digest};
use orchestrion_world::protocol::Class;
use orchestrion_world::queues::Queues;
use orchestrion_world::store::FreeIndex;
use orchestrion_world::task::{Life, Task};
use orchestrion_world::time::Ticks;
use orchestrion_world::wheel::{TimerKey, Wheel};
use orchestrion_world::worker::{Model, Pool, Worker};
use std::collections::BTreeMap;

/// A broken invariant: its name in [`AUDITS`], and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit `{name}`: {found}")]
pub struct Broken {
    pub name: &'static str,
    pub found: String,
}

type Audit = fn(&World, &Ledger) -> Result<(), String>;

/// Every audit of a state. The number is that of the design's list of invariants, where it has one.
pub const AUDITS: &[(&str, Audit)] = &[
    ("3 a queue never exceeds its bound", queues_within_bounds),
    ("6 leases are the used slots, and a live task has its one", leases_match_tasks),
    ("batch tasks never hold more than their share of a worker's slots", batch_keeps_to_its_share),
    ("7 memory in use is what shards and leases take, within capacity", memory_adds_up),
    ("8 no lease on a worker that is not up", leases_only_where_up),
    ("8 nothing runs on a device in quarantine", quarantine_holds),
    ("pools and models count the workers that take tasks, and crews are who they are", crews_match),
    ("12 attempts within the limit", attempts_within_limit),
    ("13 no attempt after a token was shown, but in strict sameness", repeats_are_strict),
    ("an attempt ends in the first step at or after its time is over", patience_kept),
    ("14 a task ends in the first step at or after its deadline", deadlines_kept),
    ("19 restarts within the storm limit", restarts_within_limit),
    ("20 armed timers are those the entities call for", timers_match),
    ("nobody waits who could start", nobody_waits_in_vain),
    ("a pool counts its ready workers", pools_count_ready),
    ("queues hold exactly the queued tasks", queues_match_tasks),
    ("the index of free workers is what the workers say", index_matches),
    ("22 the incremental digest is that of the whole ledger", digest_matches),
];

/// Runs them all on a world and its ledger.
pub(crate) fn audit(world: &World, ledger: &Ledger) -> Result<(), Broken> {
    AUDITS.iter().try_for_each(|&(name, check)| check(world, ledger).map_err(|found| Broken { name, found }))
}

fn check(holds: bool, found: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(found()) }
}

fn queues_within_bounds(world: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    let QueueRules { interactive_max, batch_max, policy } = rules.queue;
    let queues = world.resource::<Queues>();
    ledger.models.iter().try_for_each(|model| {
        // Retried tasks come back to a queue that may have filled up behind them.
        let fresh = |id: &TaskId| task(ledger, *id).is_some_and(|t| t.attempts == 0);
        let waiting = |class| queues.tenants(model.id, class).flat_map(move |(t, _)| queues.tasks(model.id, class, t));
        let count = |class| waiting(class).filter(|(_, id)| fresh(id)).count() as u64;
        let (interactive, batch) = (count(Class::Interactive), count(Class::Batch));
        // Under the other policies interactive work may take the places of batch work.
        let most = match policy {
            OverloadPolicy::Reject => interactive_max.into(),
            OverloadPolicy::DropLru | OverloadPolicy::ShedLowPriority => {
                u64::from(interactive_max) + u64::from(batch_max).saturating_sub(batch)
            }
        };
        check(interactive <= most, || format!("{interactive} interactive tasks wait in {:?}, bound {most}", model.id))?;
        check(batch <= batch_max.into(), || format!("{batch} batch tasks wait in {:?}, bound {batch_max}", model.id))
    })
}

fn task(ledger: &Ledger, id: TaskId) -> Option<&Task> {
    ledger.tasks.binary_search_by_key(&id, |t| t.id).ok().map(|at| &ledger.tasks[at])
}

fn leases_match_tasks(_: &World, ledger: &Ledger) -> Result<(), String> {
    for worker in &ledger.workers {
        check(worker.leases.len() <= usize::from(worker.facts.slots), || format!("{} has too many leases", worker.id))?;
        check(worker.leases.is_sorted_by_key(|l| l.task), || format!("{}'s leases are not sorted", worker.id))?;
        for lease in worker.leases.iter().filter(|l| !l.revoked) {
            let holder =
                task(ledger, lease.task).filter(|t| t.attempts == lease.attempt.0 && t.spec.class == lease.class);
            let held = holder.is_some_and(|t| t.life.worker() == Some(worker.id));
            check(held, || format!("{} leases a slot to {} which is not there", worker.id, lease.task))?;
        }
    }
    ledger.tasks.iter().filter_map(|t| t.life.worker().map(|w| (t, w))).try_for_each(|(task, id)| {
        let worker = ledger.workers.binary_search_by_key(&id, |w| w.id).ok().map(|at| &ledger.workers[at]);
        let lease = worker.and_then(|w| w.leases.iter().find(|l| l.task == task.id && !l.revoked));
        check(lease.is_some_and(|l| l.attempt.0 == task.attempts), || format!("{} has no lease on {id}", task.id))
    })
}

fn batch_keeps_to_its_share(_: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    ledger.workers.iter().try_for_each(|worker| {
        let (held, may) = (worker.batch_leases(), worker.batch_slots(rules.placement.batch_share));
        check(held <= may, || format!("batch tasks hold {held} slots of {}, and may hold {may}", worker.id))
    })
}

fn memory_adds_up(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.devices.iter().try_for_each(|device| {
        let weights: u64 = ledger.shards.iter().filter(|s| s.device == device.id).map(|s| s.bytes.0).sum();
        let on_device = |w: &&Worker| w.facts.device == device.id;
        let leases = ledger.workers.iter().filter(on_device).flat_map(|w| &w.leases);
        let reserved: u64 = leases.map(|l| l.kv.0).sum();
        check(device.weights.0 == weights && device.reserved.0 == reserved, || format!("{device:?} is off its books"))?;
        check(weights + reserved <= device.capacity.0, || format!("{device:?} holds more than it can"))
    })?;
    ledger.shards.iter().try_for_each(|shard| {
        let of_shard = |w: &&Worker| w.facts.device == shard.device && w.facts.model_digest == shard.digest;
        let holders = ledger.workers.iter().filter(of_shard).filter(|w| w.state.is_up()).count();
        check(holders == usize::from(shard.holders), || format!("{shard:?} has {holders} holders"))
    })
}

fn leases_only_where_up(_: &World, ledger: &Ledger) -> Result<(), String> {
    let down = |w: &&Worker| !w.state.is_up() && !w.leases.is_empty();
    ledger.workers.iter().find(down).map_or(Ok(()), |w| Err(format!("{} is {:?} and has leases", w.id, w.state)))
}

fn quarantine_holds(_: &World, ledger: &Ledger) -> Result<(), String> {
    let shut = |id| ledger.devices.iter().any(|device| device.id == id && device.quarantined);
    let at_large = |w: &&Worker| w.state != WorkerState::Stopped && shut(w.facts.device);
    ledger.workers.iter().find(at_large).map_or(Ok(()), |w| Err(format!("{} is {:?} in quarantine", w.id, w.state)))
}

fn crews_match(world: &World, ledger: &Ledger) -> Result<(), String> {
    let mut crews = Crews::default();
    let (mut pools, mut models) = (BTreeMap::new(), BTreeMap::new());
    for worker in &ledger.workers {
        crews.join(worker.id, &worker.facts);
        *pools.entry(worker.facts.pool).or_insert(0) += u16::from(worker.takes());
        *models.entry(worker.model).or_insert(0) += u32::from(worker.takes());
    }
    check(&crews == world.resource::<Crews>(), || format!("{:?} are kept, {crews:?} are", world.resource::<Crews>()))?;
    let of = |pool: &&Pool| pool.ready != pools.get(&pool.id).copied().unwrap_or_default();
    ledger.pools.iter().find(of).map_or(Ok(()), |pool| Err(format!("{pool:?}: {pools:?} are ready")))?;
    let of = |model: &&Model| model.ready != models.get(&model.id).copied().unwrap_or_default();
    ledger.models.iter().find(of).map_or(Ok(()), |model| Err(format!("{model:?}: {models:?} are ready")))
}

fn restarts_within_limit(_: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    let over = ledger.pools.iter().find(|pool| pool.restarts.len() > rules.health.restart.storm_max as usize);
    over.map_or(Ok(()), |pool| Err(format!("{pool:?} was restarted too often")))
}

fn attempts_within_limit(_: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    let over = ledger.tasks.iter().find(|t| t.attempts > rules.retry.attempts_max);
    over.map_or(Ok(()), |t| Err(format!("{} was tried {} times", t.id, t.attempts)))
}

fn repeats_are_strict(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.tasks.iter().filter(|t| t.tokens_out > t.made).try_for_each(|task| {
        let shown = || format!("{} may be told two stories: {} tokens were shown", task.id, task.tokens_out);
        check(task.is_repeatable() && task.fingerprint.is_some(), shown)?;
        let worker = task.life.worker().and_then(|id| ledger.workers.iter().find(|w| w.id == id));
        let same = worker.is_none_or(|w| task.fingerprint == Some(w.facts.fingerprint));
        check(same, || format!("{} runs where its tokens may be others", task.id))
    })
}

fn patience_kept(_: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    let over = |t: &&Task| t.patience(&rules.timeouts).is_some_and(|(due, _)| due <= ledger.core.now);
    let over = ledger.tasks.iter().find(over);
    over.map_or(Ok(()), |t| Err(format!("{} holds a slot at {:?}, past its time", t.id, ledger.core.now)))
}

fn deadlines_kept(_: &World, ledger: &Ledger) -> Result<(), String> {
    let late = ledger.tasks.iter().find(|t| t.deadline.is_some_and(|due| due <= ledger.core.now));
    late.map_or(Ok(()), |t| Err(format!("{} lives at {:?}, past {:?}", t.id, ledger.core.now, t.deadline)))
}

fn timers_match(world: &World, ledger: &Ledger) -> Result<(), String> {
    let rules = ledger.core.rules.as_deref();
    let deadlines = ledger.tasks.iter().filter_map(|t| Some((t.deadline?, TimerKey::Deadline(t.id))));
    let retries = ledger.tasks.iter().filter_map(|t| match t.life {
        Life::Backoff { until } => Some((until, TimerKey::Retry(t.id))),
        Life::Queued | Life::Placed { .. } | Life::Running { .. } | Life::Ended(_) => None,
    });
    let breakers = ledger.workers.iter().filter_map(|w| Some((w.fuse_at()?, TimerKey::Breaker(w.id))));
    let mut called_for: Vec<_> = deadlines.chain(retries).chain(breakers).collect();
    called_for.sort_unstable();
    // Alarms of workers are set anew only when they ring, so they may stand earlier than called for, never later.
    let (mut alarms, mut exact) = (BTreeMap::new(), vec![]);
    for (due, key) in world.resource::<Wheel>().armed() {
        match key {
            TimerKey::Beat(_) | TimerKey::Stranded(_) | TimerKey::Patience(_) => drop(alarms.insert(key, due)),
            TimerKey::Deadline(_) | TimerKey::Retry(_) | TimerKey::Breaker(_) => exact.push((due, key)),
        }
    }
    check(exact == called_for, || format!("armed {exact:?}, called for {called_for:?}"))?;
    for worker in &ledger.workers {
        // One that is overdue by new rules rings with the next tick.
        let due = worker.alarm_at(rules).map(|due| due.max(ledger.core.now + Ticks(1)));
        let armed = alarms.remove(&TimerKey::Beat(worker.id));
        check(armed.is_some() == due.is_some() && armed <= due, || format!("{}: alarm {armed:?}, {due:?}", worker.id))?;
    }
    for model in &ledger.models {
        let armed = alarms.remove(&TimerKey::Stranded(model.id));
        let due = model.alarm_at(rules).map(|due| due.max(ledger.core.now + Ticks(1)));
        check(armed == due, || format!("{model:?}: alarm {armed:?}, {due:?}"))?;
    }
    for task in &ledger.tasks {
        let due = rules.and_then(|rules| task.patience(&rules.timeouts)).map(|(due, _)| due);
        let armed = alarms.remove(&TimerKey::Patience(task.id));
        check(armed.is_some() == due.is_some() && armed <= due, || format!("{}: {armed:?}, {due:?}", task.id))?;
    }
    check(alarms.is_empty(), || format!("nobody's alarms: {alarms:?}"))
}

/// A wakeup that got lost shows here in the step that lost it.
fn nobody_waits_in_vain(world: &World, ledger: &Ledger) -> Result<(), String> {
    let could = ledger.models.iter().find_map(|model| placement::startable(world, model.id));
    could.map_or(Ok(()), |(task, worker)| Err(format!("{task} waits, and {worker} has room for it")))
}

fn pools_count_ready(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.pools.iter().try_for_each(|pool| {
        let of_pool = |w: &&Worker| w.facts.pool == pool.id && w.takes();
        let ready = ledger.workers.iter().filter(of_pool).count();
        check(ready == usize::from(pool.ready), || format!("{pool:?} has {ready} ready workers"))
    })
}

fn queues_match_tasks(world: &World, ledger: &Ledger) -> Result<(), String> {
    let mut fresh = Queues::default();
    let classes = [Class::Interactive, Class::Batch];
    let lines = || ledger.models.iter().flat_map(|model| classes.map(|class| (model, class)));
    lines().for_each(|(model, class)| fresh.restore(model.id, class, model.line(class).shares.clone()));
    ledger.tasks.iter().filter(|t| t.life == Life::Queued).for_each(|t| fresh.push(t));
    let held = world.resource::<Queues>();
    lines().map(|(model, class)| (model.id, class)).try_for_each(|(id, class)| {
        let all = |queues: &Queues| -> Vec<_> {
            let tenants = queues.tenants(id, class);
            tenants
                .map(|(tenant, count)| (tenant, count, queues.tasks(id, class, tenant).collect::<Vec<_>>()))
                .collect()
        };
        let (waiting, called_for) = (all(held), all(&fresh));
        check(waiting == called_for, || format!("{waiting:?} wait in {id:?} {class:?}, {called_for:?} should"))?;
        check(held.len(id, class) == fresh.len(id, class), || format!("{id:?} {class:?} is miscounted"))?;
        check(held.order(id, class).eq(fresh.order(id, class)), || format!("{id:?} {class:?} is out of order"))
    })
}

fn index_matches(world: &World, ledger: &Ledger) -> Result<(), String> {
    let free = |w: &&Worker| w.takes() && w.free_slots() > 0;
    let mut called_for: Vec<_> = ledger.workers.iter().filter(free).map(|w| (w.model, w.id)).collect();
    called_for.sort_unstable();
    let index = world.resource::<FreeIndex>();
    let held: Vec<_> = index.by_model.iter().flat_map(|(&m, ids)| ids.iter().map(move |&id| (m, id))).collect();
    check(held == called_for, || format!("{held:?} are indexed, {called_for:?} are free"))?;
    let mut called_for: Vec<_> = ledger.workers.iter().filter(free).map(|w| (w.facts.device, w.model, w.id)).collect();
    called_for.sort_unstable();
    let held = index.by_device.iter().flat_map(|(&d, ids)| ids.iter().map(move |&(m, id)| (d, m, id)));
    check(held.eq(called_for.iter().copied()), || format!("the devices' free workers are {called_for:?}"))
}

fn digest_matches(world: &World, ledger: &Ledger) -> Result<(), String> {
    let (running, whole) = (digest(world), full_digest(ledger));
    check(running == whole, || format!("{running} was kept up, {whole} is computed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_audit_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = AUDITS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), AUDITS.len());
    }
}
