//! Audits of what is kept beside the entities and could be made anew of them: indices, queues, timers, sums, digests.

use super::check;
use crate::placement;
use orchestrion_world::crew::Crews;
use orchestrion_world::field::{Best, Field, Offer, Slots, Speed, Totals, residual};
use orchestrion_world::ledger::{Ledger, digest, full_digest};
use orchestrion_world::protocol::Class;
use orchestrion_world::queues::Queues;
use orchestrion_world::session::SessionState;
use orchestrion_world::store::World;
use orchestrion_world::task::Life;
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;
use orchestrion_world::victims::Victims;
use orchestrion_world::wheel::TimerKey;
use orchestrion_world::worker::{Pool, Worker};
use std::collections::BTreeMap;

pub(super) fn crews_match(world: &World, ledger: &Ledger) -> Result<(), String> {
    let mut crews = Crews::default();
    let mut ready = BTreeMap::new();
    for worker in &ledger.workers {
        crews.join(worker.id, &worker.facts);
        *ready.entry(worker.facts.pool).or_insert(0) += u16::from(worker.takes());
    }
    check(crews == world.crews, || format!("{:?} are kept, {crews:?} are", world.crews))?;
    let of = |pool: &&Pool| pool.ready != ready.get(&pool.id).copied().unwrap_or_default();
    ledger.pools.iter().find(of).map_or(Ok(()), |pool| Err(format!("{pool:?}: {ready:?} are ready")))?;
    ledger.models.iter().try_for_each(|model| {
        let own = ledger.pools.iter().filter(|pool| pool.model == model.id);
        let count = own.map(|pool| u32::from(pool.ready)).sum::<u32>();
        check(count == model.ready, || format!("{model:?}: {count} are ready"))
    })
}

pub(super) fn timers_match(world: &World, ledger: &Ledger) -> Result<(), String> {
    let rules = ledger.core.rules.as_deref();
    let deadlines = ledger.tasks.iter().filter_map(|t| Some((t.deadline?, TimerKey::Deadline(t.id))));
    let retries = ledger.tasks.iter().filter_map(|t| match t.life {
        Life::Backoff { until } => Some((until, TimerKey::Retry(t.id))),
        Life::Queued | Life::Placed { .. } | Life::Running { .. } | Life::Ended(_) => None,
    });
    let open = ledger.sessions.iter().filter(|s| s.state == SessionState::Open);
    let sessions = open.map(|s| (s.expires, TimerKey::Session(s.id)));
    let breakers = ledger.workers.iter().filter_map(|w| Some((w.fuse_at()?, TimerKey::Breaker(w.id))));
    let weighings = ledger.models.iter().filter_map(|m| Some((m.weigh_at?, TimerKey::Weigh(m.id))));
    let jobs = ledger.jobs.iter().map(|j| (j.due, TimerKey::Job(j.id)));
    let workers = breakers.chain(weighings).chain(jobs);
    let mut called_for: Vec<_> = deadlines.chain(retries).chain(sessions).chain(workers).collect();
    called_for.sort_unstable();
    // Alarms of workers are set anew only when they ring, so they may stand earlier than called for, never later.
    let (mut alarms, mut exact) = (BTreeMap::new(), vec![]);
    for (due, key) in world.wheel.armed() {
        match key {
            TimerKey::Beat(_) | TimerKey::Stranded(_) | TimerKey::Patience(_) => drop(alarms.insert(key, due)),
            TimerKey::Deadline(_)
            | TimerKey::Retry(_)
            | TimerKey::Session(_)
            | TimerKey::Breaker(_)
            | TimerKey::Weigh(_)
            | TimerKey::Job(_) => {
                exact.push((due, key));
            }
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
pub(super) fn nobody_waits_in_vain(world: &World, ledger: &Ledger) -> Result<(), String> {
    let could = ledger.models.iter().find_map(|model| placement::startable(world, model.id));
    could.map_or(Ok(()), |(task, worker)| Err(format!("{task} waits, and {worker} has room for it")))
}

pub(super) fn pools_count_ready(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.pools.iter().try_for_each(|pool| {
        let of_pool = |w: &&Worker| w.facts.pool == pool.id && w.takes();
        let ready = ledger.workers.iter().filter(of_pool).count();
        check(ready == usize::from(pool.ready), || format!("{pool:?} has {ready} ready workers"))
    })
}

pub(super) fn queues_match_tasks(world: &World, ledger: &Ledger) -> Result<(), String> {
    let mut fresh = Queues::default();
    let classes = [Class::Interactive, Class::Batch];
    let lines = || ledger.models.iter().flat_map(|model| classes.map(|class| (model, class)));
    lines().for_each(|(model, class)| fresh.restore(model.id, class, model.line(class).shares.clone()));
    ledger.tasks.iter().filter(|t| t.life == Life::Queued).for_each(|t| fresh.push(t));
    let held = &world.queues;
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

pub(super) fn field_matches(world: &World, ledger: &Ledger) -> Result<(), String> {
    let field = &world.field;
    let share = ledger.core.rules.as_ref().map_or(Permille(0), |rules| rules.placement.batch_share);
    for model in &ledger.models {
        let mut slots = Slots::default();
        for worker in &ledger.workers {
            let serving = worker.serves(model.id);
            slots.all += serving.map_or(0, |_| worker.offered().into());
            slots.batch += serving.map_or(0, |_| worker.batch_slots(share).into());
            let of = |s| (Offer::of(worker, s, residual(world, worker), share), Speed::of(worker, s));
            let leaf = serving.map_or((Offer::NONE, Speed::NONE), of);
            let held = Field::leaf(world, model.id, worker.id).unwrap_or((Offer::NONE, Speed::NONE));
            check(held == leaf, || format!("{} stands there with {held:?} and has {leaf:?}", worker.id))?;
        }
        let standing = field.model(model.id);
        let held = standing.map_or(Slots::default(), |standing| standing.slots);
        check(held == slots, || format!("{held:?} are counted for {:?}, there are {slots:?}", model.id))?;
        check(standing.is_none_or(|s| s.tree.adds_up() && s.speeds.adds_up()), || {
            format!("a node of {:?} is not its best", model.id)
        })?;
    }
    let up = ledger.workers.iter().filter(|w| w.takes());
    let totals = Totals {
        leases: ledger.workers.iter().map(|w| w.leases.len() as u64).sum(),
        slots: up.map(|w| u64::from(w.offered())).sum(),
        reserved: ledger.devices.iter().map(|d| d.reserved.0).sum(),
        used: ledger.devices.iter().map(|d| d.reserved.0 + d.weights.0).sum(),
    };
    check(field.totals == totals, || format!("{:?} are counted, there are {totals:?}", field.totals))
}

pub(super) fn victims_match(world: &World, ledger: &Ledger) -> Result<(), String> {
    let lost = ledger.workers.iter().flat_map(|w| &w.leases).find(|l| l.called_back && !l.revoked);
    check(lost.is_none(), || format!("{lost:?} is called back and not revoked"))?;
    let called_for = Victims::of_all(ledger.tasks.iter(), ledger.workers.iter(), ledger.core.rules.as_deref());
    let held = &world.victims;
    check(*held == called_for, || format!("{held:?}, {called_for:?} is called for"))
}

pub(super) fn digest_matches(world: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(running) = digest(world) else { return Ok(()) };
    let whole = full_digest(ledger);
    check(running == whole, || format!("{running} was kept up, {whole} is computed"))
}
