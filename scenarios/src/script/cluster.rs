//! What a cluster is made of: workers, the models they come with, the models they can load.

use super::{Words, number};
use orchestrion_world::config::{Keep, Loadable, Rules};
use orchestrion_world::id::{DeviceId, ModelId, PoolId};
use orchestrion_world::protocol::{DeviceShare, Loader, ModelFacts, WorkerFacts};
use orchestrion_world::units::{Bytes, MilliRate, Permille, Sha256};
use std::collections::BTreeSet;

/// A model that the workers of `pools=a+b` may load: `needs=q4+lora`, `compute=86`, `warm` or `pinned`.
pub(super) fn loadable(words: &mut Words<'_>) -> Result<Loadable, String> {
    Ok(Loadable {
        model: words.name()?.to_owned(),
        pools: list(words.optional("pools")),
        digest: Sha256::default(),
        weights: mib(words.or("weights", 100)?),
        kv_per_token: Bytes(words.or("kv", 1024)?),
        ctx_max: words.or("ctx", 4096)?,
        compute: words.or("compute", 0)?,
        needs: list(words.optional("needs")),
        keep: match (words.flag("warm"), words.flag("pinned")) {
            (_, true) => Keep::Pinned,
            (true, false) => Keep::Warm,
            (false, false) => Keep::OnDemand,
        },
    })
}

/// Ids are places in sorted lists, so these come before whatever names one.
pub(super) fn sort(rules: &mut Rules) {
    rules.pools.sort_by(|a, b| a.name.cmp(&b.name));
    let named = rules.pools.iter().map(|p| &p.model).chain(rules.loadable.iter().map(|row| &row.model));
    let models: BTreeSet<String> = named.cloned().collect();
    rules.models = models.into_iter().collect();
    rules.loadable.sort_by(|a, b| a.model.cmp(&b.model));
    for n in 0..rules.loadable.len() {
        rules.loadable[n].digest = digest(rules, &rules.loadable[n].model);
    }
}

/// Files differ as models do.
fn digest(rules: &Rules, model: &String) -> Sha256 {
    let mut digest = Sha256::default();
    digest.0[0] = rules.models.binary_search(model).unwrap_or_default() as u8;
    digest
}

/// `device=0` or, split, `device=0:600+1:400`; `capacity` likewise, or one for all. `load=100` is one that can
/// load others, `empty` one that came with none.
pub(super) fn worker(rules: &Rules, words: &mut Words<'_>) -> Result<WorkerFacts, String> {
    let pool: String = words.take("pool")?;
    let pool = rules.pools.binary_search_by(|p| p.name.cmp(&pool)).map_err(|_| format!("no pool `{pool}`"))?;
    let loader = words.optional("load").map(|mib| loader(words, mib)).transpose()?;
    let came_with = if words.flag("empty") { None } else { Some(came_with(rules, words, pool)?) };
    let (device, capacity) = (words.optional("device").unwrap_or("0"), words.optional("capacity"));
    Ok(WorkerFacts {
        pool: PoolId(pool as u16),
        devices: devices(device, capacity.unwrap_or("1048576"))?,
        slots: words.or("slots", 1)?,
        came_with,
        loader,
    })
}

fn came_with(rules: &Rules, words: &mut Words<'_>, pool: usize) -> Result<(ModelId, ModelFacts), String> {
    let name = &rules.pools[pool].model;
    let model = rules.models.binary_search(name).map_err(|_| format!("no model `{name}`"))?;
    let digest = digest(rules, name);
    let mut fingerprint = digest;
    fingerprint.0[1] = words.or("engine", 0)?;
    let facts = ModelFacts {
        digest,
        fingerprint,
        weights: mib(words.or("weights", 100)?),
        kv_per_token: Bytes(words.or("kv", 1024)?),
        ctx_max: words.or("ctx", 4096)?,
        prefill: MilliRate(words.or("prefill", 1_000u64)?.saturating_mul(1_000)),
        decode: MilliRate(words.or("decode", 50u64)?.saturating_mul(1_000)),
    };
    Ok((ModelId(model as u16), facts))
}

/// Rates are MiB of weights in a second: `load` and, for prompts and answers, `prompt` and `answer`.
fn loader(words: &mut Words<'_>, load: &str) -> Result<Loader, String> {
    Ok(Loader {
        load: mib(number(load)?),
        prompt: mib(words.or("prompt", 100_000)?),
        answer: mib(words.or("answer", 5_000)?),
        compute: words.or("compute", 86)?,
        abilities: list(words.optional("has")),
    })
}

fn devices(shares: &str, capacities: &str) -> Result<Vec<DeviceShare>, String> {
    let sizes: Vec<&str> = capacities.split('+').collect();
    let part = |(n, part): (usize, &str)| {
        let (device, share) = part.split_once(':').unwrap_or((part, "1000"));
        let capacity = mib(number(sizes.get(n).or(sizes.last()).unwrap_or(&""))?);
        Ok(DeviceShare { device: DeviceId(number(device)?), capacity, share: Permille(number(share)?) })
    };
    shares.split('+').enumerate().map(part).collect()
}

/// `a+b`, sorted.
fn list(text: Option<&str>) -> Vec<String> {
    let mut list: Vec<String> = text.into_iter().flat_map(|text| text.split('+')).map(str::to_owned).collect();
    list.sort();
    list
}

fn mib(n: u64) -> Bytes {
    Bytes(n.saturating_mul(1 << 20))
}
