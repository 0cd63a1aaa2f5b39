//! What the core has to know of models that come and go, before it decides anything: each is read, checked and packed
//! once. What of them a pool begins with stays; of the others their words stay, so that requests for them can be
//! prepared while they are not loaded.
//!
//! Only where models may be loaded on demand; elsewhere only whether the pools' files are there, which is to be said
//! before the journal has a run under rules that were a slip of the pen. One that cannot be read is left out, and said:
//! requests for it are told that it is not loaded.

use super::load::{Loaded, Loader, NotLoaded};
use crate::failure::Failure;
use orchestrion_world::config::{Keep, Loadable as Row};
use orchestrion_world::id::{ModelId, WorkerId};
use std::collections::BTreeMap;

/// What was found.
#[derive(Default)]
pub(crate) struct Surveyed {
    /// For the rules, by model.
    pub(crate) rows: Vec<Row>,
    pub(super) first: BTreeMap<WorkerId, Loaded>,
    /// Of those that no pool begins with: what their tokens depend on.
    pub(super) others: Vec<(ModelId, String)>,
}

pub(crate) fn survey(loader: &Loader) -> Result<Surveyed, Failure> {
    loader.look()?;
    let mut found = Surveyed::default();
    if loader.loadable.is_empty() {
        return Ok(found);
    }
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (worker, pool) in (1..).map(WorkerId).zip(&loader.pools) {
        let loaded = loader.load(worker, None)?;
        let fresh = || row(pool.model_name(), Keep::Warm, &loaded);
        rows.entry(pool.model_name()).or_insert_with(fresh).pools.push(pool.id.clone());
        found.first.insert(worker, loaded);
    }
    for wanted in &loader.loadable {
        let may = |id: &String| wanted.pools.is_empty() || wanted.pools.contains(id);
        let all = (1..).map(WorkerId).zip(&loader.pools);
        let pools: Vec<_> = all.filter(|(_, pool)| may(&pool.id)).collect();
        let Some((worker, _)) = pools.first() else { continue };
        let names = pools.iter().map(|(_, pool)| pool.id.clone());
        if let Some(known) = rows.get_mut(&wanted.name()) {
            known.pools.extend(names);
            continue;
        }
        match loader.load(*worker, loader.kitchen.id_of(&wanted.name())) {
            Ok(loaded) => {
                let fresh = row(wanted.name(), wanted.keep, &loaded);
                rows.insert(wanted.name(), Row { pools: names.collect(), ..fresh });
                found.others.push((loaded.model.id, loaded.model.fingerprint));
            }
            Err(NotLoaded { failure, .. }) => {
                tracing::warn!(model = wanted.name(), %failure, "a model of `models.loadable` cannot be loaded");
            }
        }
    }
    for mut row in rows.into_values() {
        row.pools.sort();
        row.pools.dedup();
        found.rows.push(row);
    }
    Ok(found)
}

fn row(model: String, keep: Keep, Loaded { model: of, ctx_max, .. }: &Loaded) -> Row {
    Row {
        model,
        pools: vec![],
        digest: of.digest,
        weights: of.engine.weights(),
        kv_per_token: of.engine.kv_per_token(),
        ctx_max: *ctx_max,
        compute: 0,
        // This very engine has loaded it.
        needs: vec![],
        keep,
    }
}
