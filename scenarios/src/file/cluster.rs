//! `[[models]]` and `[cluster]`: devices, and the workers that pools put on them.

use super::{File, FileError, NAME_MAX, Reading};
use crate::cost::Cost;
use crate::station::{Build, Offer};
use orchestrion_world::config::{Keep, Loadable, PoolRules, Rules};
use orchestrion_world::id::{DeviceId, ModelId, PoolId, WorkerId};
use orchestrion_world::ledger::digest_of;
use orchestrion_world::protocol::{DeviceShare, Loader, ModelFacts, WorkerFacts};
use orchestrion_world::units::{Bytes, MilliRate, Permille, Sha256};
use serde::Deserialize;
use std::sync::Arc;
use toml::Spanned;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: String,
    pub weights_mib: u64,
    /// What a token of context takes.
    pub kv_token_kib: u64,
    /// Prompt and answer together, at most.
    pub context: u32,
    /// Of a station with it, on a device of full pace.
    pub cost: Cost,
    /// Whether workers that loaded it keep it when nobody asks for it.
    #[serde(default = "on_demand")]
    pub keep: Keep,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub devices: Vec<Device>,
    pub pools: Vec<Pool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub name: String,
    #[serde(default = "super::one")]
    pub count: u64,
    /// What workers may use.
    pub memory_mib: u64,
    /// In thousandths of what the models' costs say.
    #[serde(default = "whole")]
    pub pace_permille: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub name: String,
    /// What its workers come up with.
    pub model: Spanned<String>,
    /// What else they may load on order; with any, they may let go of the first one too.
    #[serde(default)]
    pub loads: Vec<Spanned<String>>,
    pub device: Spanned<String>,
    /// On each of those devices.
    #[serde(default = "super::one")]
    pub workers: u64,
    /// Tasks at a time on each worker.
    pub slots: u16,
}

fn whole() -> u32 {
    1_000
}

fn on_demand() -> Keep {
    Keep::OnDemand
}

const WORKERS_MAX: u64 = 16_384;
const SLOTS_MAX: u64 = 4_096;
/// A petabyte, in MiB.
const MEMORY_MAX: u64 = 1 << 30;

/// The workers, and which pool each is of.
pub(super) struct Resolved {
    pub(super) workers: Vec<(WorkerId, Build)>,
    pub(super) pools: Vec<String>,
}

impl Resolved {
    /// What the core would not take in.
    pub(super) fn check(&self, rules: &Rules) -> Result<(), FileError> {
        let (found, most) = (self.workers.len(), rules.health.workers_max);
        if found <= most as usize {
            return Ok(());
        }
        let problem = format!("{found} workers are more than `rules.health.workers_max`, which is {most}");
        Err(FileError::Key { key: "cluster.pools".to_owned(), problem })
    }
}

/// Numbers devices and workers in the order of the file, and names models and pools in the rules.
pub(super) fn resolve(read: &Reading<'_>, file: &File, rules: &mut Rules) -> Result<Resolved, FileError> {
    let (models, Cluster { devices, pools }) = (&file.models, &file.cluster);
    check(read, models, devices)?;
    rules.models = names("models", models.iter().map(|model| &model.name))?;
    let pool_names = names("cluster.pools", pools.iter().map(|pool| &pool.name))?;
    names("cluster.devices", devices.iter().map(|device| &device.name))?;
    let of = |pool: &Pool| PoolRules { name: pool.name.clone(), model: pool.model.get_ref().clone() };
    rules.pools = pools.iter().map(of).collect();
    rules.pools.sort_by(|a, b| a.name.cmp(&b.name));
    let model_names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    let device_names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    let mut workers = vec![];
    for pool in pools {
        let serves = std::iter::once(&pool.model).chain(&pool.loads);
        let serves = serves.map(|name| Ok(&models[read.find("model", name, &model_names)?]));
        let serves: Vec<&Model> = serves.collect::<Result<_, FileError>>()?;
        let at = read.find("device", &pool.device, &device_names)?;
        let device = &devices[at];
        let first: u64 = devices[..at].iter().map(|device| device.count).sum();
        let key = |key: &str| format!("cluster.pools.{}.{key}", pool.name);
        names(&key("loads"), serves.iter().map(|model| &model.name))?;
        read.within(&key("slots"), pool.slots.into(), 1, SLOTS_MAX)?;
        let all = pool.workers.saturating_mul(device.count).saturating_add(workers.len() as u64);
        read.within(&key("workers"), pool.workers, 1, WORKERS_MAX)?;
        read.within("workers in all", all, 1, WORKERS_MAX)?;
        let place = pool_names.iter().position(|name| *name == pool.name).unwrap_or_default();
        let offers: Vec<Offer> = serves.iter().map(|model| offer(rules, model, device)).collect();
        let loader = (!pool.loads.is_empty()).then(|| loader(&offers));
        let range: Arc<[Offer]> = offers.into();
        for n in 0..device.count * pool.workers {
            let id = WorkerId(1 + workers.len() as u32);
            let on = DeviceId((first + n / pool.workers) as u32);
            let capacity = Bytes(device.memory_mib << 20);
            let devices = vec![DeviceShare { device: on, capacity, share: Permille(1000) }];
            let came_with = range.first().map(|offer| (offer.model, offer.facts));
            let facts = WorkerFacts {
                pool: PoolId(place as u16),
                devices,
                slots: pool.slots,
                came_with,
                loader: loader.clone(),
            };
            workers.push((id, Build { facts, range: Arc::clone(&range) }));
        }
    }
    rules.loadable = loadable(models, pools);
    Ok(Resolved { workers, pools: pools_of(pools, devices) })
}

/// Models that some pool loads, or comes with and may let go.
fn loadable(models: &[Model], pools: &[Pool]) -> Vec<Loadable> {
    let may = |pool: &&Pool, model: &Model| {
        let known = std::iter::once(&pool.model).chain(&pool.loads).any(|name| *name.get_ref() == model.name);
        known && !pool.loads.is_empty()
    };
    let row = |model: &Model| {
        let mut who: Vec<String> = pools.iter().filter(|pool| may(pool, model)).map(|pool| pool.name.clone()).collect();
        who.sort();
        let Model { name, weights_mib, kv_token_kib, context, keep, .. } = model;
        (!who.is_empty()).then(|| Loadable {
            model: name.clone(),
            pools: who,
            digest: digest(name),
            weights: Bytes(weights_mib << 20),
            kv_per_token: Bytes(kv_token_kib << 10),
            ctx_max: *context,
            compute: 0,
            needs: vec![],
            keep: *keep,
        })
    };
    let mut rows: Vec<Loadable> = models.iter().filter_map(row).collect();
    rows.sort_by(|a, b| a.model.cmp(&b.model));
    rows
}

/// Nanoseconds.
const SECOND: u128 = 1_000_000_000;

fn per_token(rate: MilliRate) -> u128 {
    SECOND * 1_000 / u128::from(rate.0.max(1))
}

/// What the scheduler expects of loads before it has seen one: that all of these, one after another, go as
/// fast as they do.
fn loader(offers: &[Offer]) -> Loader {
    let bytes = |time: fn(&Offer) -> u128| {
        let weights: u128 = offers.iter().map(|offer| u128::from(offer.facts.weights.0)).sum();
        let ns: u128 = offers.iter().map(time).sum();
        Bytes(u64::try_from(weights * SECOND / ns.max(1)).unwrap_or(u64::MAX).max(1))
    };
    Loader {
        load: bytes(|offer| offer.cost.load(offer.facts.weights).into()),
        prompt: bytes(|offer| per_token(offer.facts.prefill)),
        answer: bytes(|offer| per_token(offer.facts.decode)),
        compute: 0,
        abilities: vec![],
    }
}

/// The pool of each worker, in the same order.
fn pools_of(pools: &[Pool], devices: &[Device]) -> Vec<String> {
    let count = |pool: &Pool| devices.iter().find(|d| d.name == *pool.device.get_ref()).map_or(0, |d| d.count);
    pools.iter().flat_map(|pool| (0..count(pool) * pool.workers).map(|_| pool.name.clone())).collect()
}

fn offer(rules: &Rules, model: &Model, device: &Device) -> Offer {
    let cost = model.cost.at_pace(device.pace_permille);
    let (prefill, decode) = cost.rates();
    let digest = digest(&model.name);
    let (weights, kv_per_token) = (Bytes(model.weights_mib << 20), Bytes(model.kv_token_kib << 10));
    let (fingerprint, ctx_max) = (digest, model.context);
    let facts = ModelFacts { digest, fingerprint, weights, kv_per_token, ctx_max, prefill, decode };
    let place = rules.models.binary_search(&model.name).unwrap_or_default();
    Offer { model: ModelId(place as u16), facts, cost }
}

/// Files differ as names do.
fn digest(name: &String) -> Sha256 {
    let mut digest = Sha256::default();
    digest.0[..16].copy_from_slice(&digest_of(name).0.to_le_bytes());
    digest
}

fn check(read: &Reading<'_>, models: &[Model], devices: &[Device]) -> Result<(), FileError> {
    for model in models {
        let key = |key: &str| format!("models.{}.{key}", model.name);
        read.within(&key("weights_mib"), model.weights_mib, 0, MEMORY_MAX)?;
        read.within(&key("kv_token_kib"), model.kv_token_kib, 0, MEMORY_MAX)?;
        read.within(&key("context"), model.context.into(), 2, 1 << 24)?;
        let wrong = |error: crate::cost::CostError| FileError::Key { key: key("cost"), problem: error.to_string() };
        model.cost.check().map_err(wrong)?;
    }
    for device in devices {
        let key = |key: &str| format!("cluster.devices.{}.{key}", device.name);
        read.within(&key("count"), device.count, 1, WORKERS_MAX)?;
        read.within(&key("memory_mib"), device.memory_mib, 1, MEMORY_MAX)?;
        read.within(&key("pace_permille"), device.pace_permille.into(), 1, 1_000_000)?;
    }
    Ok(())
}

/// Sorted; each once, none empty.
fn names<'n>(key: &str, names: impl Iterator<Item = &'n String>) -> Result<Vec<String>, FileError> {
    let mut sorted: Vec<String> = names.cloned().collect();
    sorted.sort();
    let wrong = |problem: String| Err(FileError::Key { key: key.to_owned(), problem });
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return wrong(format!("`{}` stands twice", pair[0]));
    }
    match sorted.iter().find(|name| name.is_empty() || name.len() > NAME_MAX) {
        Some(name) => wrong(format!("`{name}` is no name: one has 1 to {NAME_MAX} bytes")),
        None => Ok(sorted),
    }
}
