//! The cold path: nobody who serves the model has room for the head of its line. Weighs whether a worker is to
//! load it, or models that share a device with it are to make way, and orders what is chosen.
//!
//! A line that stays blocked is weighed again every [`WEIGH`], not with every input: what it costs to walk the
//! workers of the model's pools does not grow with the load.

use super::choose::Request;
use super::explain::Asked;
use super::note;
use crate::eviction::promise::promised;
use crate::eviction::room::{Demand, Tenant, make_room, stays};
use crate::eviction::tenants::{tenants, waited};
use crate::{estimate, eviction, memory};
use orchestrion_world::config::{Keep, Rules};
use orchestrion_world::id::{DeviceId, ModelId, WorkerId};
use orchestrion_world::protocol::{Class, ModelFacts};
use orchestrion_world::store::World;
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Bytes;
use orchestrion_world::vram::{Residence, Resident};
use orchestrion_world::wheel::TimerKey;
use orchestrion_world::worker::{Model, Worker};
use std::cmp::Reverse;

/// Short against any load, long against a step.
const WEIGH: Ticks = Ticks(100);

/// A way to get room for the head of the line.
struct Way {
    worker: WorkerId,
    facts: ModelFacts,
    /// Until it could start; nothing but the load.
    ready_in: Ticks,
    /// The model stands there: only memory for the context is lacking.
    stands: bool,
    going: Vec<(WorkerId, ModelId)>,
    /// Smaller is better, term by term: who has to wait for others' tasks, who makes others go, when the task
    /// would end, the load there, then names.
    terms: (bool, usize, Ticks, u64, WorkerId),
}

/// Whether loads are weighed for those of a line that are blocked in this step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weighs {
    Now,
    NotYet,
}

/// It is time for that, or there is news.
pub(crate) fn weighs(world: &World, rules: &Rules, model: ModelId) -> Weighs {
    let due = !rules.loadable.is_empty()
        && (world.mail.hopeful.contains(&model) || world.model(model).is_some_and(|m| m.weigh_at.is_none()));
    if due { Weighs::Now } else { Weighs::NotYet }
}

/// Orders what gives a blocked task a place, if anything is worth it and nothing is on its way.
pub(crate) fn provide(world: &mut World, rules: &Rules, request: &Request) {
    let model = request.spec.model;
    let Some(known) = world.model(model).filter(|m| m.coming == 0) else { return };
    let now = world.core.now;
    let waited = waited(world, model, now).unwrap_or_default();
    let expected = expected_wait(world, rules, known, request, waited);
    let hosts = eviction::hosts(world, rules, model).filter(|(worker, _)| request.may_have(worker));
    let ways = hosts.filter_map(|(worker, facts)| way(world, rules, request, worker, facts, waited));
    let best = ways.filter(|way| expected.is_none_or(|wait| wait > way.ready_in)).min_by_key(|way| way.terms);
    match best {
        Some(way) if way.going.is_empty() && !way.stands => {
            let keep = rules.loadable(model).map_or(Keep::OnDemand, |row| row.keep);
            let (worker, takes) = (way.worker, way.ready_in);
            note(world, request.task, || Asked::Load { worker, takes });
            eviction::order_load(world, worker, model, way.facts, keep);
        }
        Some(way) => way.going.into_iter().for_each(|(worker, gone)| {
            let name = || rules.models.get(usize::from(gone.0)).cloned().unwrap_or_default();
            note(world, request.task, || Asked::MakeWay { worker, model: name() });
            eviction::make_way(world, worker, gone, model);
        }),
        None => {}
    }
    wait(world, model, now);
}

/// Arms the next weighing.
fn wait(world: &mut World, id: ModelId, now: Tick) {
    let Some(mut model) = world.model_mut(id).filter(|model| model.weigh_at.is_none()) else { return };
    model.weigh_at = Some(now + WEIGH);
    world.wheel.arm(now + WEIGH, TimerKey::Weigh(id));
}

/// How long the line would wait without a load: as it drains, and no less than its head has waited. None where
/// nobody serves the model: for ever.
fn expected_wait(world: &World, rules: &Rules, model: &Model, request: &Request, waited: Ticks) -> Option<Ticks> {
    let serves = |worker: &Worker| worker.serving(model.id).is_some() && request.may_have(worker);
    let served = eviction::hosts(world, rules, model.id).any(|(worker, _)| serves(worker));
    let queues = &world.queues;
    let drains = [Class::Interactive, Class::Batch].map(|class| {
        estimate::drains_in(model.line(class).drain, queues.len(model.id, class) as u64).unwrap_or_default()
    });
    served.then(|| drains.into_iter().fold(waited, Ticks::max))
}

/// What it would take to run the head on a worker.
fn way(
    world: &World,
    rules: &Rules,
    request: &Request,
    worker: &Worker,
    facts: ModelFacts,
    waited: Ticks,
) -> Option<Way> {
    let now = world.core.now;
    let stands = match worker.resident(request.spec.model) {
        None => false,
        Some(resident) if eviction::may_try(resident, now) => false,
        Some(Resident { life: Residence::Sealed, .. })
            if worker.room(request.spec.class, rules.placement.batch_share) > 0 =>
        {
            true
        }
        Some(_) => return None,
    };
    // Where it stands others make way, and nothing has to be loaded.
    let ready_in = match (stands, &worker.facts.loader) {
        (true, _) => Ticks(0),
        (false, loader) => loader.as_ref()?.load_time(facts.weights),
    };
    if request.tokens() > u64::from(facts.ctx_max)
        || request.fingerprint.is_some_and(|shown| shown != facts.fingerprint)
    {
        return None;
    }
    let kv = facts.kv_for(request.tokens());
    let weights = if stands { Bytes(0) } else { facts.weights };
    let booked = memory::wanted(world, &worker.facts, facts.digest, weights);
    let demand = |((device, needed, free), (_, kv)): ((DeviceId, Bytes, Bytes), (DeviceId, Bytes))| {
        let (needed, file) = (Bytes(needed.0.saturating_add(kv.0)), (request.spec.model, facts.digest));
        // Where it stands, its tasks take whatever is free anyway.
        let promised = if stands { Bytes(0) } else { promised(world, rules, device, file)? };
        Some(Demand { device, needed, free: Bytes(free.0.saturating_sub(promised.0)) })
    };
    let demands = booked.zip(worker.parts(kv)).map(demand).collect::<Option<Vec<Demand>>>()?;
    let rival = (waited, Reverse(request.spec.model));
    let tenants: Vec<Tenant> = tenants(world, rules, worker.facts.devices.iter().map(|part| part.device), now)
        .into_iter()
        .filter(|tenant| {
            tenant.model != request.spec.model && stays(rules.eviction, now, tenant, Some(rival)).is_none()
        })
        .collect();
    let going = make_room(rules.eviction.policy, &demands, &tenants)?;
    let run = estimate::run(&request.spec, &facts, worker.leases.len() as u64 + 1);
    let end = Ticks(ready_in.0.saturating_add(run.0));
    let terms = (going.iter().any(|t| t.leases > 0), going.len(), end, worker.load().0.into(), worker.id);
    let going = going.into_iter().map(|tenant| (tenant.worker, tenant.model)).collect();
    Some(Way { worker: worker.id, facts, ready_in, stands, going, terms })
}

/// Loads a model that is to be warm where there is room for it, unless some worker has it or is about to.
pub(crate) fn keep_warm(world: &mut World, rules: &Rules, model: ModelId, keep: Keep) {
    let now = world.core.now;
    let there = |worker: &Worker| worker.resident(model).is_some_and(|resident| resident.life.takes_memory());
    if world.model(model).is_none_or(|m| m.coming > 0) || eviction::hosts(world, rules, model).any(|(w, _)| there(w)) {
        return;
    }
    let fits = |(worker, facts): &(&Worker, ModelFacts)| {
        let may = worker.resident(model).is_none_or(|resident| eviction::may_try(resident, now));
        let mut parts = memory::wanted(world, &worker.facts, facts.digest, facts.weights);
        let leaves = |device| promised(world, rules, device, (model, facts.digest));
        let room = |(device, needed, free): (DeviceId, Bytes, Bytes)| {
            leaves(device).is_some_and(|promised| needed.0.saturating_add(promised.0) <= free.0)
        };
        may && worker.facts.loader.is_some() && parts.all(room)
    };
    let soonest = |(worker, facts): &(&Worker, ModelFacts)| {
        let takes = worker.facts.loader.as_ref().map(|loader| loader.load_time(facts.weights));
        (takes, worker.load(), worker.id)
    };
    let best = eviction::hosts(world, rules, model).filter(fits).min_by_key(soonest);
    if let Some((worker, facts)) = best.map(|(worker, facts)| (worker.id, facts)) {
        eviction::order_load(world, worker, model, facts, keep);
    }
}
