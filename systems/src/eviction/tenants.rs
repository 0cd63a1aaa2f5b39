//! Gathers the figures that [`super::room`] decides by: what stands on a device, who uses it, who waits for it.

use super::room::{Part, Tenant};
use orchestrion_world::config::{Keep, Rules};
use orchestrion_world::id::{DeviceId, ModelId, WorkerId};
use orchestrion_world::store::World;
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::vram::{Residence, Resident, Shard};
use orchestrion_world::worker::Worker;

/// How long the first of a model's queue has waited.
pub(crate) fn waited(world: &World, model: ModelId, now: Tick) -> Option<Ticks> {
    let first = world.queues.head(model).and_then(|id| world.task(id))?;
    Some(now.since(first.admitted))
}

/// The models that stand on any of these devices and could be let go.
pub(crate) fn tenants(world: &World, rules: &Rules, devices: impl Iterator<Item = DeviceId>, now: Tick) -> Vec<Tenant> {
    let crews = &world.crews;
    let mut ids: Vec<WorkerId> = devices.flat_map(|device| crews.on_device(device)).collect();
    ids.sort_unstable();
    ids.dedup();
    let neighbours = ids.into_iter().filter_map(|id| world.worker(id));
    neighbours.flat_map(|w| w.residents.iter().filter_map(move |r| tenant(world, rules, w, r, now))).collect()
}

fn tenant(world: &World, rules: &Rules, worker: &Worker, resident: &Resident, now: Tick) -> Option<Tenant> {
    let goes = resident.life == Residence::Sealed && worker.state.is_up();
    let loader = worker.facts.loader.as_ref().filter(|_| goes)?;
    let Resident { model, facts, pinned, since, used, uses, .. } = *resident;
    let shards = worker.facts.devices.iter().filter_map(|part| world.shard(part.device, facts.digest));
    let part = |&Shard { device, digest, bytes, holders }: &Shard| Part { device, digest, bytes, holders };
    Some(Tenant {
        worker: worker.id,
        model,
        parts: shards.map(part).collect(),
        pinned: pinned && !planted!(world, EvictsPinned),
        keep: rules.loadable(model).map_or(Keep::OnDemand, |row| row.keep),
        since,
        used,
        uses,
        leases: worker.leases_of(model),
        waiting: waited(world, model, now),
        reload: loader.load_time(facts.weights),
    })
}
