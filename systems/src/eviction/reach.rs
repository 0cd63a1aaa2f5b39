//! What the workers that are up could do for a model: which serve it or may load it, and the longest context that
//! would fit there. Said anew for each model that is touched when a worker comes or goes.

use super::{LOADS_MAX, hope};
use orchestrion_world::config::{Loadable, Rules};
use orchestrion_world::id::{DeviceId, ModelId, PoolId, WorkerId};
use orchestrion_world::protocol::{ModelFacts, WorkerFacts};
use orchestrion_world::store::{Key, World};
use orchestrion_world::time::Tick;
use orchestrion_world::units::Bytes;
use orchestrion_world::vram::{Residence, Resident};
use orchestrion_world::wheel::TimerKey;
use orchestrion_world::worker::Worker;
use std::collections::BTreeSet;

/// A worker came or went, or what it can never let go changed: says anew what each model that this touches can
/// hope for.
pub(crate) fn survey(world: &mut World, id: WorkerId) {
    let Some(rules) = world.core.rules.clone() else { return };
    let rules = &*rules;
    let Some(worker) = world.worker(id) else { return };
    let crews = &world.crews;
    let on = worker.facts.devices.iter().flat_map(|part| crews.on_device(part.device));
    let near: BTreeSet<WorkerId> = on.chain([id]).collect();
    let pools: BTreeSet<PoolId> = near.iter().filter_map(|id| Some(world.worker(*id)?.facts.pool)).collect();
    let mut models = BTreeSet::new();
    for pool in pools {
        models.extend(world.pool(pool).map(|pool| pool.model));
        models.extend(rules.loadable.iter().filter(|row| may_load(rules, row, pool)).filter_map(|row| row.id(rules)));
    }
    for model in models {
        let reach = reach(world, rules, model, &near);
        foresee(world, rules, model, reach);
        hope(world, model);
    }
}

/// The longest context of any host. Only those who are `near` what changed can have got more: the others are walked
/// where none of these reaches as far as anybody did, and only until one does.
fn reach(world: &World, rules: &Rules, model: ModelId, near: &BTreeSet<WorkerId>) -> Option<u32> {
    let before = world.model(model).map(|model| model.reach);
    let of_pools: Vec<PoolId> = pools(world, rules, model).collect();
    let near = near.iter().filter_map(|id| world.worker(*id)).filter(|worker| of_pools.contains(&worker.facts.pool));
    let near = near.filter_map(|worker| effective_ctx(world, worker, &host(rules, worker, model)?)).max();
    if near.is_some() && near >= before {
        return near;
    }
    let mut best = near;
    for (worker, facts) in hosts(world, rules, model) {
        best = best.max(effective_ctx(world, worker, &facts));
        if best.is_some() && best >= before {
            break;
        }
    }
    best
}

fn foresee(world: &mut World, rules: &Rules, id: ModelId, reach: Option<u32>) {
    let now = world.core.now;
    let Some(mut model) = world.model_mut(id) else { return };
    model.reach = reach.unwrap_or_default();
    let stranded = match reach {
        Some(_) => None,
        None => model.stranded.or(Some(now)),
    };
    if stranded != model.stranded {
        model.stranded = stranded;
        let due = now + rules.health.no_worker_grace;
        world.set_alarm(Key::Model(id), stranded.map(|_| (due, TimerKey::Stranded(id))));
    }
}

/// Workers that take tasks and serve the model or could load it, by pool and id, and the model as it stands or would stand
/// there.
pub(crate) fn hosts<'w>(
    world: &'w World,
    rules: &'w Rules,
    model: ModelId,
) -> impl Iterator<Item = (&'w Worker, ModelFacts)> + 'w {
    let crews = &world.crews;
    let workers = pools(world, rules, model).flat_map(|pool| crews.of_pool(pool)).filter_map(|id| world.worker(id));
    workers.filter_map(move |worker| Some((worker, host(rules, worker, model)?)))
}

/// The pools whose workers serve the model or may load it.
pub(crate) fn pools<'w>(world: &'w World, rules: &'w Rules, model: ModelId) -> impl Iterator<Item = PoolId> + 'w {
    let row = rules.loadable(model);
    (0..rules.pools.len()).map(|n| PoolId(n as u16)).filter(move |&pool| {
        world.pool(pool).is_some_and(|p| p.model == model) || row.is_some_and(|row| may_load(rules, row, pool))
    })
}

/// The model as it stands or would stand on a worker, where that takes tasks and serves it or could load it.
pub(crate) fn host(rules: &Rules, worker: &Worker, model: ModelId) -> Option<ModelFacts> {
    let takes = Some(worker).filter(|worker| worker.takes())?;
    match takes.resident(model) {
        Some(resident) => (resident.failures < LOADS_MAX).then_some(resident.facts),
        None => rules.loadable(model).and_then(|row| loads(rules, takes, row)),
    }
}

fn may_load(rules: &Rules, row: &Loadable, pool: PoolId) -> bool {
    let name = rules.pools.get(usize::from(pool.0)).map(|pool| &pool.name);
    name.is_some_and(|name| row.pools.binary_search(name).is_ok())
}

/// The model as it would stand on a worker that may and can load it.
fn loads(rules: &Rules, worker: &Worker, row: &Loadable) -> Option<ModelFacts> {
    let loader = worker.facts.loader.as_ref()?;
    could_load(rules, &worker.facts, row).then(|| loader.expects(row))
}

/// Whether a worker of these facts may load the model and can run it.
pub(crate) fn could_load(rules: &Rules, facts: &WorkerFacts, row: &Loadable) -> bool {
    may_load(rules, row, facts.pool) && facts.loader.as_ref().is_some_and(|loader| loader.can_run(row))
}

/// The longest context that the model could hold on the worker with all else gone from its devices but what is
/// never evicted; none where its weights do not fit.
pub(crate) fn effective_ctx(world: &World, worker: &Worker, facts: &ModelFacts) -> Option<u32> {
    let mut room = vec![];
    for part in &worker.facts.devices {
        let free = world.device(part.device)?.capacity.0.checked_sub(fixed(world, part.device, facts).0)?;
        // Others of the same file may hold a larger part of it.
        let stands = world.shard(part.device, facts.digest).map_or(Bytes(0), |shard| shard.bytes);
        room.push((part.device, Bytes(free.checked_sub(facts.weights.share(part.share).max(stands).0)?)));
    }
    let of = |id: DeviceId| room.iter().find(|(device, _)| *device == id).map(|(_, free)| *free).unwrap_or_default();
    let tokens = facts.tokens_in(worker.least(of));
    Some(facts.ctx_max.min(u32::try_from(tokens).unwrap_or(u32::MAX)))
}

/// What stands on a device for good, but for the model itself.
fn fixed(world: &World, device: DeviceId, but: &ModelFacts) -> Bytes {
    let crew = world.crews.on_device(device);
    let residents = crew.filter_map(|id| world.worker(id)).flat_map(|w| &w.residents);
    let pinned = residents.filter(|r| r.pinned && r.life.takes_memory() && r.facts.digest != but.digest);
    let digests: BTreeSet<_> = pinned.map(|r| r.facts.digest).collect();
    Bytes(digests.into_iter().filter_map(|digest| world.shard(device, digest)).map(|shard| shard.bytes.0).sum())
}

/// When a failed load may be tried again.
pub(crate) fn may_try(resident: &Resident, now: Tick) -> bool {
    matches!(resident.life, Residence::Failed { until } if until <= now) && resident.failures < LOADS_MAX
}
