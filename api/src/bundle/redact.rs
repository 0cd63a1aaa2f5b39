//! What a bundle does not tell: names of models and pools, ids of tasks, digests of prompts and model files,
//! sampling seeds, and when it was.
//!
//! Inputs, effects and ledgers pass through their readable form, in which every UUID and every SHA-256 is a text,
//! whatever field holds it: a type that comes to hold one tomorrow is redacted as well. What was equal stays equal,
//! and the order of ids stays, since decisions may rest on both. Pure, but for the key that it is given.

use orchestrion_world::config::{PoolRules, Rules};
use orchestrion_world::id::TaskId;
use orchestrion_world::ledger::{Core, Ledger};
use orchestrion_world::protocol::{Effect, Input};
use orchestrion_world::units::Sha256;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Whether tasks get other ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    Renumbered,
    /// The jitter of a retry is drawn by the id: with another one it would come at another time.
    Kept,
}

#[derive(Debug)]
pub(super) struct Redaction {
    tasks: BTreeMap<TaskId, TaskId>,
    key: [u8; 32],
    /// The wall time that becomes 1970.
    epoch_ms: u64,
}

/// Fields whose number is replaced, and by what.
const SAMPLING_SEED: &str = "seed";
const PREFIX_HASHES: &str = "prefix";
const WALL_TIME: &str = "wall_ms";

impl Redaction {
    /// Tasks are renumbered by the order of their ids.
    pub(super) fn new(tasks: &BTreeSet<TaskId>, ids: Ids, key: [u8; 32], epoch_ms: u64) -> Redaction {
        let renumbered = |(n, id): (usize, &TaskId)| (*id, TaskId(n as u128 + 1));
        let tasks = match ids {
            Ids::Renumbered => tasks.iter().enumerate().map(renumbered).collect(),
            Ids::Kept => BTreeMap::new(),
        };
        Redaction { tasks, key, epoch_ms }
    }

    pub(super) fn task(&self, task: TaskId) -> TaskId {
        self.tasks.get(&task).copied().unwrap_or(task)
    }

    pub(super) fn input(&self, input: &Input) -> Result<Input, serde_json::Error> {
        match input {
            Input::SetRules(rules) => Ok(Input::SetRules(Box::new(rules_without_names(rules)))),
            other => self.pass(other),
        }
    }

    pub(super) fn effects(&self, effects: &[Effect]) -> Result<Vec<Effect>, serde_json::Error> {
        effects.iter().map(|effect| self.pass(effect)).collect()
    }

    /// The lists are in order again: a shard's place is decided by its digest.
    pub(super) fn ledger(&self, ledger: &Ledger) -> Result<Ledger, serde_json::Error> {
        let core = self.core(&ledger.core);
        // The core's own digests and seed are no secrets, and no numbers that JSON has.
        let mut redacted: Ledger = self.pass(&Ledger { core: Ledger::empty(0).core, ..ledger.clone() })?;
        redacted.core = core;
        redacted.shards.sort_by_key(|shard| (shard.device, shard.digest));
        Ok(redacted)
    }

    fn core(&self, core: &Core) -> Core {
        let booted = core.booted.map(|(wall, at)| (wall.saturating_sub(self.epoch_ms), at));
        let mut redacted = Core { booted, ..core.clone() };
        if let Some(rules) = &core.rules {
            redacted.set_rules(rules_without_names(rules));
        }
        redacted
    }

    fn pass<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<T, serde_json::Error> {
        let mut json = serde_json::to_value(value)?;
        self.value(&mut json);
        serde_json::from_value(json)
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Ok(task) = text.parse() {
                    *text = self.task(task).to_string();
                } else if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    *text = Sha256(*blake3::keyed_hash(&self.key, text.as_bytes()).as_bytes()).to_string();
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| self.field(name, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn field(&self, name: &str, value: &mut Value) {
        match (name, &mut *value) {
            (SAMPLING_SEED, Value::Number(_)) => *value = Value::from(0),
            (WALL_TIME, Value::Number(wall)) => {
                *value = Value::from(wall.as_u64().unwrap_or(0).saturating_sub(self.epoch_ms));
            }
            (PREFIX_HASHES, Value::Array(hashes)) => hashes.iter_mut().for_each(|hash| {
                if let Some(number) = hash.as_u64() {
                    let keyed = blake3::keyed_hash(&self.key, &number.to_le_bytes());
                    let first = keyed.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
                    *hash = Value::from(u64::from_le_bytes(first));
                }
            }),
            (_, value) => self.value(value),
        }
    }
}

/// Models and pools are known by their places, which stay.
fn rules_without_names(rules: &Rules) -> Rules {
    let model = |n: usize| format!("model-{n:05}");
    let place = |name: &String| rules.models.binary_search(name).unwrap_or_default();
    let pools = rules.pools.iter().enumerate();
    Rules {
        models: (0..rules.models.len()).map(model).collect(),
        pools: pools
            .map(|(n, pool)| PoolRules { name: format!("pool-{n:05}"), model: model(place(&pool.model)) })
            .collect(),
        ..rules.clone()
    }
}
