//! What is promised on a device. A model that others make way for has what comes free there, and of what is free
//! already as much as it lacks beside that. Nobody else loads into it: who was evicted for it would else be back
//! before it came, to be evicted again.

use super::host;
use crate::memory;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{DeviceId, ModelId};
use orchestrion_world::store::World;
use orchestrion_world::units::{Bytes, Sha256};
use orchestrion_world::vram::Residence;
use orchestrion_world::worker::Worker;
use std::collections::BTreeMap;

/// What another model must leave free on the device; none where its file is what makes way there.
pub(crate) fn promised(
    world: &World,
    rules: &Rules,
    device: DeviceId,
    (model, digest): (ModelId, Sha256),
) -> Option<Bytes> {
    // By whom others make way for: the files that go, and how many of those who hold each.
    let mut ways: BTreeMap<ModelId, BTreeMap<Sha256, u16>> = BTreeMap::new();
    for resident in crew(world, device).flat_map(|worker| &worker.residents) {
        match resident.life {
            Residence::Yielding { to } | Residence::Evicting { to: Some(to) } if to != model => {
                *ways.entry(to).or_default().entry(resident.facts.digest).or_default() += 1;
            }
            Residence::Yielding { .. }
            | Residence::Evicting { .. }
            | Residence::Staging
            | Residence::Sealed
            | Residence::Condemned
            | Residence::Failed { .. } => {}
        }
    }
    let comes = |files: &BTreeMap<Sha256, u16>| -> u64 {
        let shards = files.iter().filter_map(|(file, going)| Some((world.shard(device, *file)?, *going)));
        shards
            .filter(|(shard, going)| shard.holders == *going)
            .map(|(shard, _)| shard.bytes.0)
            .fold(0, u64::saturating_add)
    };
    let mut sum = 0u64;
    for (to, files) in &ways {
        if files.contains_key(&digest) {
            return None;
        }
        let lacks = needed(world, rules, device, *to).saturating_sub(comes(files));
        sum = lacks.saturating_add(sum);
    }
    Some(Bytes(sum))
}

/// What a model takes of the device to serve the first that waits for it.
fn needed(world: &World, rules: &Rules, device: DeviceId, model: ModelId) -> u64 {
    let first = world.queues.head(model).and_then(|id| world.task(id));
    let tokens = first.map_or(0, |task| task.spec.tokens());
    let on = |worker: &Worker| {
        let facts = host(rules, worker, model)?;
        let weights = memory::wanted(world, &worker.facts, facts.digest, facts.weights);
        let mut parts = weights.zip(worker.parts(facts.kv_for(tokens))).filter(|((on, ..), _)| *on == device);
        parts.next().map(|((_, weights, _), (_, context))| weights.0.saturating_add(context.0))
    };
    crew(world, device).filter_map(on).max().unwrap_or_default()
}

fn crew(world: &World, device: DeviceId) -> impl Iterator<Item = &Worker> {
    world.crews.on_device(device).filter_map(|id| world.worker(id))
}
