//! What a bundle does not tell: names of models, pools and tenants, ids of tasks and sessions, digests of prompts
//! and model files, sampling seeds, and when it was.
//!
//! Inputs, effects and ledgers pass through their readable form, in which every id and every digest is a text,
//! whatever field holds it: a type that comes to hold one tomorrow is redacted as well. All that were found are
//! numbered in their order, so what was equal stays equal and what came first stays first: decisions may rest on
//! both. Pure.

use orchestrion_world::config::{Loadable, PoolRules, Rules};
use orchestrion_world::id::{TaskId, TenantId};
use orchestrion_world::ledger::{Core, Ledger};
use orchestrion_world::protocol::{Effect, Input};
use orchestrion_world::tenant::TenantRules;
use orchestrion_world::units::Sha256;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Error, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Whether tasks get other ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    Renumbered,
    /// The jitter of a retry is drawn by the id: with another one it would come at another time.
    Kept,
}

/// What a text names; each has a form of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Task,
    Digest,
    Session,
    Tenant,
}

/// Fields whose number tells something.
const SAMPLING_SEED: &str = "seed";
const PREFIX_HASHES: &str = "prefix";
const WALL_TIME: &str = "wall_ms";

/// Everything that is to be replaced.
#[derive(Debug, Default)]
pub(super) struct Found {
    texts: BTreeSet<(Kind, String)>,
    prefixes: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) struct Redaction {
    texts: BTreeMap<String, String>,
    prefixes: BTreeMap<u64, u64>,
    tenants: BTreeMap<TenantId, String>,
    /// The wall time that becomes 1970.
    epoch_ms: u64,
}

fn kind_of(text: &str) -> Option<Kind> {
    if text.parse::<TaskId>().is_ok() {
        return Some(Kind::Task);
    }
    match text.len() {
        _ if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) => None,
        64 => Some(Kind::Digest),
        32 => Some(Kind::Session),
        16 => Some(Kind::Tenant),
        _ => None,
    }
}

impl Found {
    pub(super) fn look_at(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let mut json = serde_json::to_value(value)?;
        walk("", &mut json, &mut |field, value| match value {
            Value::String(text) => self.texts.extend(kind_of(text).map(|kind| (kind, text.clone()))),
            Value::Number(number) if field == PREFIX_HASHES => self.prefixes.extend(number.as_u64()),
            _ => {}
        });
        Ok(())
    }

    pub(super) fn tasks(&self) -> usize {
        self.texts.iter().filter(|(kind, _)| *kind == Kind::Task).count()
    }
}

impl Redaction {
    pub(super) fn new(found: &Found, ids: Ids, epoch_ms: u64) -> Redaction {
        let of = |wanted: Kind| found.texts.iter().filter(move |(kind, _)| *kind == wanted).map(|(_, text)| text);
        let mut texts = BTreeMap::new();
        if ids == Ids::Renumbered {
            texts.extend(of(Kind::Task).zip(1..).map(|(text, n)| (text.clone(), TaskId(n).to_string())));
        }
        texts.extend(of(Kind::Digest).zip(1..).map(|(text, n): (_, u64)| (text.clone(), format!("{n:064x}"))));
        texts.extend(of(Kind::Session).zip(1..).map(|(text, n): (_, u64)| (text.clone(), format!("{n:032x}"))));
        // A tenant's id is a digest of its name: as many new names as there are, in the order of their digests.
        let was: Vec<TenantId> = of(Kind::Tenant)
            .filter_map(|text| u64::from_str_radix(text, 16).ok().map(TenantId))
            .filter(|id| *id != TenantId::DEFAULT)
            .collect();
        let mut names: Vec<String> = (1..=was.len()).map(|n| format!("tenant-{n:05}")).collect();
        names.sort_by_key(|name| TenantId::of(name));
        let tenants: BTreeMap<TenantId, String> = was.into_iter().zip(names).collect();
        texts.extend(tenants.iter().map(|(id, name)| (hex(*id), hex(TenantId::of(name)))));
        let prefixes = found.prefixes.iter().copied().zip(1..).collect();
        Redaction { texts, prefixes, tenants, epoch_ms }
    }

    pub(super) fn task(&self, task: TaskId) -> TaskId {
        self.texts.get(&task.to_string()).and_then(|text| text.parse().ok()).unwrap_or(task)
    }

    pub(super) fn input(&self, input: &Input) -> Result<Input, Error> {
        match input {
            Input::SetRules(rules) => Ok(Input::SetRules(Box::new(self.rules(rules)?))),
            other => self.pass(other),
        }
    }

    pub(super) fn effects(&self, effects: &[Effect]) -> Result<Vec<Effect>, Error> {
        effects.iter().map(|effect| self.pass(effect)).collect()
    }

    pub(super) fn ledger(&self, ledger: &Ledger) -> Result<Ledger, Error> {
        let core = &ledger.core;
        let booted = core.booted.map(|(wall, at)| (wall.saturating_sub(self.epoch_ms), at));
        let mut redacted = Core { booted, ..core.clone() };
        if let Some(rules) = &core.rules {
            redacted.set_rules(self.rules(rules)?);
        }
        Ok(Ledger { core: redacted, ..self.pass(&without_core(ledger))? })
    }

    /// Models and pools are known by their places, which stay; tenants by their names.
    fn rules(&self, rules: &Rules) -> Result<Rules, Error> {
        let model = |n: usize| format!("model-{n:05}");
        let place = |name: &String| rules.models.binary_search(name).unwrap_or_default();
        let pool = |(n, pool): (usize, &PoolRules)| PoolRules {
            name: format!("pool-{n:05}"),
            model: model(place(&pool.model)),
        };
        let pool_place = |name: &String| rules.pools.binary_search_by(|pool| pool.name.cmp(name)).unwrap_or_default();
        let loadable = |known: &Loadable| -> Result<Loadable, Error> {
            let pools = known.pools.iter().map(|name| format!("pool-{:05}", pool_place(name))).collect();
            Ok(Loadable { model: model(place(&known.model)), pools, ..self.pass(known)? })
        };
        let tenant = |tenant: &TenantRules| TenantRules {
            name: self.tenants.get(&tenant.id()).unwrap_or(&tenant.name).clone(),
            ..tenant.clone()
        };
        Ok(Rules {
            models: (0..rules.models.len()).map(model).collect(),
            pools: rules.pools.iter().enumerate().map(pool).collect(),
            tenants: rules.tenants.iter().map(tenant).collect(),
            loadable: rules.loadable.iter().map(loadable).collect::<Result<_, _>>()?,
            ..rules.clone()
        })
    }

    fn pass<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<T, Error> {
        let mut json = serde_json::to_value(value)?;
        walk("", &mut json, &mut |field, value| match value {
            Value::String(text) => {
                if let Some(new) = self.texts.get(text) {
                    text.clone_from(new);
                }
            }
            Value::Number(number) => {
                let was = number.as_u64().unwrap_or_default();
                match field {
                    SAMPLING_SEED => *number = 0.into(),
                    WALL_TIME => *number = was.saturating_sub(self.epoch_ms).into(),
                    PREFIX_HASHES => *number = self.prefixes.get(&was).copied().unwrap_or_default().into(),
                    _ => {}
                }
            }
            _ => {}
        });
        serde_json::from_value(json)
    }
}

/// What rules hold that is to be replaced, beside names.
pub(super) fn of_rules(rules: &Rules) -> (Vec<TenantId>, Vec<Sha256>) {
    (rules.tenants.iter().map(TenantRules::id).collect(), rules.loadable.iter().map(|known| known.digest).collect())
}

/// The core's digests are no numbers that JSON has, and its seed is none of sampling.
pub(super) fn without_core(ledger: &Ledger) -> Ledger {
    Ledger { core: Ledger::empty(0).core, ..ledger.clone() }
}

fn hex(tenant: TenantId) -> String {
    format!("{:016x}", tenant.0)
}

/// Shows every leaf with the name of the field that it stands in.
fn walk(field: &str, value: &mut Value, seen: &mut dyn FnMut(&str, &mut Value)) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| walk(field, value, seen)),
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| walk(name, value, seen)),
        leaf => seen(field, leaf),
    }
}
