//! Eviction: the lives of models on workers. Takes in what became of orders to load and free, and lets models go
//! that make way. Which model goes is decided by the pure [`room`]; what workers could do for a model is in
//! [`reach`].

pub(crate) mod promise;
mod reach;
pub(crate) mod room;
pub(crate) mod tenants;

pub(crate) use reach::{could_load, effective_ctx, host, hosts, may_try, pools, survey};

use crate::{memory, prefixes};
use bevy_ecs::prelude::ResMut;
use orchestrion_world::config::{Keep, Rules};
use orchestrion_world::id::{Epoch, ModelId, ShardOrder, WorkerId};
use orchestrion_world::mail::{Answers, ShardWord};
use orchestrion_world::protocol::{EvictionReason, ModelFacts, Notice, Order, ShardChange, ShardFault};
use orchestrion_world::store::World;
use orchestrion_world::time::Ticks;
use orchestrion_world::vram::{Residence, Resident};
use room::{Tenant, stays};
use tenants::tenants;

/// A worker that failed so often to load a model is not asked again in this life.
const LOADS_MAX: u8 = 3;
/// Before a load is tried again; doubles with each failure.
const LOAD_BACKOFF: Ticks = Ticks(1_000);

pub(crate) fn evict(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    for (answers, word) in std::mem::take(&mut world.mail.shards) {
        hear(world, answers, word);
    }
}

/// What an older life of the worker says, what answers an order before the last and what nobody asked for changes
/// nothing.
fn hear(world: &mut World, answers: Answers, word: ShardWord) {
    let Answers { worker: id, epoch, model, order } = answers;
    let live = world.worker(id).filter(|w| w.state.is_up() && w.epoch == epoch);
    let asked = live.and_then(|w| w.resident(model)).filter(|resident| resident.order == Some(order));
    let Some(resident) = asked.copied() else { return };
    match (word, resident.life) {
        (ShardWord::Loaded(facts), Residence::Staging) if facts.digest != resident.facts.digest => {
            turn(world, id, model, Residence::Condemned);
            comes_no_more(world, model);
            let reason = EvictionReason::Corrupt;
            tell(world, id, model, ShardChange::Evicting { reason });
            send_free(world, id, model);
        }
        (ShardWord::Loaded(facts), Residence::Staging) => seal(world, id, model, facts),
        (ShardWord::Failed(fault), Residence::Staging) => {
            comes_no_more(world, model);
            fail(world, id, &resident, fault);
        }
        (ShardWord::Freed, Residence::Evicting { .. }) => {
            tell(world, id, model, ShardChange::Gone);
            take_off(world, id, &resident);
        }
        (ShardWord::Freed, Residence::Condemned) => fail(world, id, &resident, ShardFault::Corrupt),
        (ShardWord::Failed(fault), Residence::Evicting { to }) => {
            tell(world, id, model, ShardChange::Failed { fault });
            to.into_iter().for_each(|to| comes_no_more(world, to));
            turn(world, id, model, Residence::Sealed);
            with(world, id, model, |resident| resident.pinned = true);
            survey(world, id);
        }
        (ShardWord::Loaded(_) | ShardWord::Failed(_) | ShardWord::Freed, _) => {}
    }
}

/// The one way in which a resident's life moves.
fn turn(world: &mut World, id: WorkerId, model: ModelId, to: Residence) {
    with(world, id, model, |resident| {
        let legal = resident.life.advance(to);
        assert!(legal.is_ok(), "audit `a resident's life`: {id}, {model:?}: {legal:?}");
    });
}

fn with(world: &mut World, id: WorkerId, model: ModelId, change: impl FnOnce(&mut Resident)) {
    if let Some(mut worker) = world.worker_mut(id)
        && let Some(resident) = worker.resident_mut(model)
    {
        change(resident);
    }
}

fn tell(world: &mut World, worker: WorkerId, model: ModelId, change: ShardChange) {
    world.mail.notice(Notice::ShardChanged { worker, model, change });
}

/// It serves from here on. What was booked for it stays booked; the worker measured the rest.
fn seal(world: &mut World, id: WorkerId, model: ModelId, measured: ModelFacts) {
    let now = world.core.now;
    turn(world, id, model, Residence::Sealed);
    with(world, id, model, |resident| {
        let ModelFacts { digest, weights, .. } = resident.facts;
        resident.facts = ModelFacts { digest, weights, ..measured };
        (resident.since, resident.used, resident.failures) = (now, now, 0);
    });
    comes_no_more(world, model);
    tell(world, id, model, ShardChange::Loaded);
    if world.worker(id).and_then(|w| w.resident(model)).is_some_and(|r| r.pinned) {
        survey(world, id);
    }
}

/// Its memory is free, and it is tried again later or, after too many failures, not at all.
fn fail(world: &mut World, id: WorkerId, resident: &Resident, fault: ShardFault) {
    let Some(facts) = world.worker(id).map(|w| w.facts.clone()) else { return };
    let now = world.core.now;
    memory::let_go(world, &facts, resident.facts.digest);
    let failures = match fault {
        ShardFault::Transient | ShardFault::Missing | ShardFault::NoMemory => resident.failures.saturating_add(1),
        ShardFault::Fixed | ShardFault::Corrupt => LOADS_MAX,
    };
    let until = now + Ticks(LOAD_BACKOFF.0 << failures.min(LOADS_MAX).saturating_sub(1));
    turn(world, id, resident.model, Residence::Failed { until });
    with(world, id, resident.model, |resident| resident.failures = failures);
    tell(world, id, resident.model, ShardChange::Failed { fault });
    survey(world, id);
}

/// Orders a load. Its memory is reserved from here on.
pub(crate) fn order_load(world: &mut World, id: WorkerId, model: ModelId, expects: ModelFacts, keep: Keep) {
    let Some(facts) = world.worker(id).map(|w| w.facts.clone()) else { return };
    let Some(loader) = &facts.loader else { return };
    if memory::hold(world, &facts, expects.digest, expects.weights).is_err() {
        return;
    }
    let now = world.core.now;
    let takes = loader.load_time(expects.weights);
    let fresh = Resident {
        model,
        life: Residence::Staging,
        order: None,
        facts: expects,
        pinned: keep == Keep::Pinned,
        since: now,
        used: now,
        uses: 0,
        failures: 0,
    };
    if world.worker(id).is_some_and(|w| w.resident(model).is_some()) {
        turn(world, id, model, Residence::Staging);
        with(world, id, model, |known| *known = Resident { failures: known.failures, ..fresh });
    } else if let Some(mut worker) = world.worker_mut(id) {
        let place = worker.residents.partition_point(|r| r.model < model);
        worker.residents.insert(place, fresh);
    }
    if let Some(mut model) = world.model_mut(model) {
        model.coming += 1;
    }
    tell(world, id, model, ShardChange::Loading { takes });
    if let Some((epoch, order)) = number(world, id, model) {
        world.mail.order(Order::LoadShard { worker: id, epoch, model, order, expects });
    }
}

fn send_free(world: &mut World, id: WorkerId, model: ModelId) {
    if let Some((epoch, order)) = number(world, id, model) {
        world.mail.order(Order::FreeShard { worker: id, epoch, model, order });
    }
}

/// The number of the next order about a resident. Answers to those before it are no answers any more.
fn number(world: &mut World, id: WorkerId, model: ModelId) -> Option<(Epoch, ShardOrder)> {
    let mut worker = world.worker_mut(id)?;
    let order = ShardOrder(worker.ordered.0.wrapping_add(1));
    worker.ordered = order;
    worker.resident_mut(model)?.order = Some(order);
    Some((worker.epoch, order))
}

/// A model makes way for another: at once where nobody uses it, else when its tasks have ended.
pub(crate) fn make_way(world: &mut World, id: WorkerId, model: ModelId, to: ModelId) {
    if let Some(mut to) = world.model_mut(to) {
        to.coming += 1;
    }
    if world.worker(id).is_some_and(|w| w.leases_of(model) > 0) && !planted!(world, EvictsLeased) {
        turn(world, id, model, Residence::Yielding { to });
        tell(world, id, model, ShardChange::Yielding { to });
    } else {
        order_free(world, id, model, Some(to));
    }
}

fn order_free(world: &mut World, id: WorkerId, model: ModelId, to: Option<ModelId>) {
    turn(world, id, model, Residence::Evicting { to });
    let reason = to.map_or(EvictionReason::Pressure, |by| EvictionReason::Demand { by });
    tell(world, id, model, ShardChange::Evicting { reason });
    send_free(world, id, model);
}

/// Where a device is fuller than the rules like, models go that nobody uses, waits for or wants warm, in the
/// order of the policy and never the last one. Looked at when memory was taken.
pub(crate) fn relieve(world: &mut World, rules: &Rules) {
    let now = world.core.now;
    for id in std::mem::take(&mut world.mail.pressed) {
        let Some(device) = world.device(id).filter(|_| !rules.loadable.is_empty()) else { continue };
        let most = device.capacity.share(rules.eviction.pressure).0;
        let taken = device.weights.0 + device.reserved.0;
        if taken <= most {
            continue;
        }
        let all = tenants(world, rules, [id].into_iter(), now);
        let idle = |t: &&Tenant| t.leases == 0 && t.keep == Keep::OnDemand && t.waiting.is_none();
        let free_to_go = |t: &&Tenant| stays(rules.eviction, now, t, None).is_none();
        let mut line: Vec<&Tenant> = all.iter().filter(idle).filter(free_to_go).collect();
        line.sort_by_key(|t| (room::order(rules.eviction.policy)(t), t.worker, t.model));
        let mut going: Vec<&Tenant> = vec![];
        for tenant in line.into_iter().take(all.len().saturating_sub(1)) {
            if taken.saturating_sub(room::freed(&going, id).0) <= most {
                break;
            }
            going.push(tenant);
        }
        going.into_iter().for_each(|tenant| order_free(world, tenant.worker, tenant.model, None));
    }
}

/// A task came to a model on a worker.
pub(crate) fn came(world: &mut World, id: WorkerId, model: ModelId) {
    let now = world.core.now;
    with(world, id, model, |resident| {
        (resident.used, resident.uses) = (now, resident.uses.saturating_add(1));
    });
}

/// A task left it. The last one opens the way for who waits for the place.
pub(crate) fn left(world: &mut World, id: WorkerId, model: ModelId) {
    let now = world.core.now;
    let Some(mut worker) = world.worker_mut(id) else { return };
    let last = worker.leases_of(model) == 0;
    let Some(resident) = worker.resident_mut(model) else { return };
    resident.used = now;
    let Residence::Yielding { to } = resident.life else { return };
    if !last {
        return;
    }
    if world.queues.head(to).is_some() {
        order_free(world, id, model, Some(to));
    } else {
        comes_no_more(world, to);
        turn(world, id, model, Residence::Sealed);
        tell(world, id, model, ShardChange::Stays);
    }
}

/// A model is on a worker no more, whatever it was there.
pub(crate) fn take_off(world: &mut World, id: WorkerId, resident: &Resident) {
    let Some(facts) = world.worker(id).map(|w| w.facts.clone()) else { return };
    if resident.life.takes_memory() {
        memory::let_go(world, &facts, resident.facts.digest);
    }
    match resident.life {
        Residence::Staging => comes_no_more(world, resident.model),
        Residence::Yielding { to } | Residence::Evicting { to: Some(to) } => {
            comes_no_more(world, to);
            world.mail.cleared.insert(to);
        }
        Residence::Sealed | Residence::Evicting { to: None } | Residence::Condemned | Residence::Failed { .. } => {}
    }
    world.remove_resident(id, resident.model);
    if !planted!(world, PrefixOutlivesModel) {
        prefixes::forget(world, id, resident.model);
    }
    hope(world, resident.model);
}

/// One thing less that a model waits for: it came, it failed, or its place is free.
fn comes_no_more(world: &mut World, id: ModelId) {
    if let Some(mut model) = world.model_mut(id) {
        model.coming -= 1;
    }
    hope(world, id);
}

/// The model's line is looked at in this step, and loading is weighed.
fn hope(world: &mut World, model: ModelId) {
    let mail = &mut world.mail;
    mail.stirred.insert(model);
    mail.hopeful.insert(model);
}
