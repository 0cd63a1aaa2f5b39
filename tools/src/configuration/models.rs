//! `[models]`: where model files are kept, which there are besides those that pools begin with, and what memory
//! all of them may take.

use super::Pool;
use crate::failure::{Code, Failure};
use orchestrion_world::config::Keep;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A week.
const ROUND_MOST_S: u64 = 604_800;
/// As many may be named.
const LOADABLE_MOST: usize = 256;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Models {
    pub cache_dir: Option<PathBuf>,
    /// Of the host, for weights and contexts of all pools together; without a number, three quarters of what is
    /// free when the server starts.
    pub memory_bytes: Option<u64>,
    /// In this time the weights in memory are compared once with what was loaded, a part with each beat of a station.
    pub verify_round_s: u64,
    /// Models that no pool begins with. A request for one has it loaded, and `POST /v1/pools/{id}/reload` makes it
    /// the one that a pool begins with.
    pub loadable: Vec<Loadable>,
}

impl Default for Models {
    fn default() -> Self {
        Models { cache_dir: None, memory_bytes: None, verify_round_s: 3_600, loadable: vec![] }
    }
}

/// A model that may be loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Loadable {
    /// A catalog name or the path of a GGUF file.
    pub model: String,
    /// What clients call it; without one, the catalog name or the file's.
    #[serde(default)]
    pub model_name: Option<String>,
    /// Pools whose workers may load it; without any, all.
    #[serde(default)]
    pub pools: Vec<String>,
    #[serde(default = "on_demand")]
    pub keep: Keep,
}

fn on_demand() -> Keep {
    Keep::OnDemand
}

impl Loadable {
    pub(crate) fn name(&self) -> String {
        name(&self.model, self.model_name.as_deref())
    }
}

impl Models {
    /// That each name stands for one file, and that there are not too many.
    pub(super) fn check(&self, pools: &[Pool]) -> Result<(), Failure> {
        let bad = |problem| Err(Failure::new(Code::BadConfig, problem));
        if !(1..=ROUND_MOST_S).contains(&self.verify_round_s) {
            return bad(format!("`models.verify_round_s` is {}; it must be 1 to {ROUND_MOST_S}", self.verify_round_s));
        }
        if self.loadable.len() > LOADABLE_MOST {
            return bad(format!("`models.loadable` names {} models; at most {LOADABLE_MOST}", self.loadable.len()));
        }
        let mut files: BTreeMap<String, &str> =
            pools.iter().map(|pool| (pool.model_name(), pool.model.as_str())).collect();
        for row in &self.loadable {
            if row.model.is_empty() {
                return bad("`models.loadable`: `model` must be a catalog name or the path of a GGUF file".to_owned());
            }
            if let Some(pool) = row.pools.iter().find(|name| pools.iter().all(|pool| pool.id != **name)) {
                return bad(format!("`models.loadable`: there is no pool `{pool}`"));
            }
            let file = *files.entry(row.name()).or_insert(&row.model);
            if file != row.model {
                let name = row.name();
                return bad(format!(
                    "`models.loadable`: clients would call both {file} and {} `{name}`; give one another `model_name`",
                    row.model
                ));
            }
        }
        Ok(())
    }
}

/// What clients call a model: as it is told, or by its catalog name or its file's.
pub(super) fn name(model: &str, told: Option<&str>) -> String {
    let path = Path::new(model);
    let stem = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "gguf"));
    let name = || stem.map_or_else(|| model.to_owned(), |stem| stem.to_string_lossy().into_owned());
    told.map_or_else(name, str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Config;

    fn models(rows: &[(&str, Option<&str>)]) -> Models {
        let row = |&(model, name): &(&str, Option<&str>)| {
            let (model, model_name) = (model.to_owned(), name.map(str::to_owned));
            Loadable { model, model_name, pools: vec![], keep: Keep::OnDemand }
        };
        Models { loadable: rows.iter().map(row).collect(), ..Models::default() }
    }

    #[test]
    fn what_is_loadable_is_among_the_models_and_each_name_is_one_file() {
        let pools = vec![Pool { model: "/m/big.gguf".into(), ..Pool::default() }];
        let of = |rows: &[(&str, Option<&str>)]| models(rows).check(&pools);
        assert!(of(&[("/m/small.gguf", None), ("/m/big.gguf", None), ("/n/big.gguf", Some("other"))]).is_ok());
        for wrong in [&[("/n/big.gguf", None)][..], &[("a", Some("x")), ("b", Some("x"))], &[("", None)]] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        assert!(models(&vec![("a", None); 257]).check(&pools).is_err());
        let of_pool = |name: &str| {
            let mut models = models(&[("a", None)]);
            models.loadable[0].pools = vec![name.to_owned()];
            models.check(&pools).is_ok()
        };
        assert_eq!([of_pool("default"), of_pool("nobody's")], [true, false]);
        let models = models(&[("/m/small.gguf", None), ("tiny", Some("t"))]);
        let rules = Config { models, pools, ..Config::default() }.rules();
        assert_eq!(rules.models, ["big", "small", "t"]);
        assert!(rules.check().is_ok());
    }
}
