//! The rules: every bound and policy the core decides by. They enter as `Input::SetRules`, so a
//! journal knows under which rules each decision was made.

pub mod overrides;

use crate::budget::Budget;
use crate::id::{ModelId, TenantId};
use crate::session::SessionRules;
use crate::tenant::{self, TenantRules};
use crate::time::Ticks;
use crate::units::{Bytes, Permille, Sha256};
use serde::{Deserialize, Serialize};

/// What the core decides by. Lengths are ticks, shares are permille.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Names of the models clients may ask for, sorted; `ModelId` is the place here.
    pub models: Vec<String>,
    /// Sorted by name; `PoolId` is the place here.
    pub pools: Vec<PoolRules>,
    /// Sorted by `TenantId`, which is a digest of the name. Who is not here is the default tenant.
    pub tenants: Vec<TenantRules>,
    pub sessions: SessionRules,
    pub queue: QueueRules,
    pub placement: PlacementRules,
    pub health: HealthRules,
    pub retry: RetryRules,
    pub jobs: JobRules,
    pub timeouts: TimeoutRules,
    pub eviction: EvictionRules,
    /// What loading takes, sorted by model. One without a row is served by workers that came with it, and only so.
    pub loadable: Vec<Loadable>,
}

/// When a model makes way for another, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictionRules {
    pub policy: EvictionRule,
    /// A device whose memory is taken beyond this share lets go of models that nobody uses.
    pub pressure: Permille,
    /// A model stays at least this long, so that two that share a device do not take turns with each task.
    pub residency_min: Ticks,
}

/// Which of the models that may go, goes first. In a text it is its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvictionRule {
    /// The one that was used longest ago.
    Lru,
    /// The one that was used least often.
    Lfu,
    /// The one whose memory costs least to give up: reload time times uses, for each byte.
    Cost,
}

impl EvictionRule {
    pub const ALL: [EvictionRule; 3] = [Self::Lru, Self::Lfu, Self::Cost];

    /// The name in configurations and metrics.
    pub fn label(self) -> &'static str {
        match self {
            EvictionRule::Lru => "lru",
            EvictionRule::Lfu => "lfu",
            EvictionRule::Cost => "cost",
        }
    }

    /// The rule of this name.
    pub fn named(label: &str) -> Option<EvictionRule> {
        Self::ALL.into_iter().find(|rule| rule.label() == label)
    }
}

/// A model that workers may load: what it demands of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loadable {
    /// An entry of `Rules::models`.
    pub model: String,
    /// Entries of `Rules::pools`, sorted: whose workers may load it.
    pub pools: Vec<String>,
    /// SHA-256 of its file; what arrives with another is not served.
    pub digest: Sha256,
    pub weights: Bytes,
    pub kv_per_token: Bytes,
    pub ctx_max: u32,
    /// Compute capability at least, in tenths.
    pub compute: u16,
    /// Quantization, architecture and features that it asks for; a worker has them among its abilities.
    pub needs: Vec<String>,
    pub keep: Keep,
}

impl Loadable {
    pub fn id(&self, rules: &Rules) -> Option<ModelId> {
        rules.models.binary_search(&self.model).ok().map(|at| ModelId(at as u16))
    }
}

/// Whether a model is kept when nobody asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Loaded when it is asked for, evicted when memory is.
    OnDemand,
    /// Loaded at once where there is room, evicted last.
    Warm,
    /// Once loaded, never evicted.
    Pinned,
}

/// One pool: workers that come with one model, and may load others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRules {
    pub name: String,
    /// An entry of `Rules::models`.
    pub model: String,
}

/// Places in the queues of one model, and who gives way where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRules {
    pub interactive_max: u32,
    pub batch_max: u32,
    pub policy: OverloadPolicy,
    /// A queue that stands longer is held to this, or to a few tasks' time where that is more; zero never is.
    pub interactive_delay: Ticks,
    pub batch_delay: Ticks,
    /// It stands when nobody waited less for as long as this, or as the delay where that is more.
    pub delay_interval: Ticks,
}

/// Who gives way where a queue is full. In a text it is its label; in a journal its place here, which serde's
/// names do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverloadPolicy {
    /// Who comes. Each class keeps to its own places.
    Reject,
    /// Who has waited longest, batch work first. Interactive work may take the places of batch work.
    DropLru,
    /// Batch work, for interactive work only: who came last. Interactive work may take its places.
    ShedLowPriority,
}

impl OverloadPolicy {
    pub const ALL: [OverloadPolicy; 3] = [Self::Reject, Self::DropLru, Self::ShedLowPriority];

    /// The name in configurations, on the wire and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            OverloadPolicy::Reject => "reject",
            OverloadPolicy::DropLru => "drop-lru",
            OverloadPolicy::ShedLowPriority => "shed-low-priority",
        }
    }

    /// The policy of this name.
    pub fn named(label: &str) -> Option<OverloadPolicy> {
        Self::ALL.into_iter().find(|policy| policy.label() == label)
    }
}

/// Who may start where, and what is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRules {
    pub policy: PlacementRule,
    /// Of a worker's slots, those that batch tasks may hold together: rounded up, but where there are two or
    /// more one is kept for interactive work. The whole keeps none.
    pub batch_share: Permille,
    /// Times that a batch task may be put back from its slot for interactive work that has none; none turns
    /// that off.
    pub preempt_max: u32,
}

/// What placement prefers among the workers that could start a task now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PlacementRule {
    /// The worker on which the task is predicted to end first.
    PredictedEnd,
    /// The worker with the smallest share of its slots in use.
    LeastLoaded,
    /// The busiest worker with room, so that others can be given back.
    Pack,
}

/// When a worker counts as lost, and what is done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRules {
    /// Without a word for this long, a worker is lost; after half of it, it is asked.
    pub beat_timeout: Ticks,
    /// A worker may take this long to load its model.
    pub load_timeout: Ticks,
    /// Queued tasks of a model without workers end after this long.
    pub no_worker_grace: Ticks,
    /// Workers beyond this are not taken in.
    pub workers_max: u32,
    pub restart: RestartRules,
    pub breaker: BreakerRules,
    /// So many fatal faults within the window put a device into quarantine.
    pub fatal_max: u32,
    pub fatal_window: Ticks,
    /// So often may weights on a device be found corrupt before it goes into quarantine.
    pub corrupt_max: u32,
}

/// How long operators' jobs are remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRules {
    /// After their end.
    pub keep: Ticks,
    /// Jobs that are over, of all pools together.
    pub kept_max: u32,
}

/// How a lost worker is told to begin again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRules {
    /// Before the first; doubles with each loss.
    pub backoff: Ticks,
    pub backoff_max: Ticks,
    /// The backoff is drawn from this share either side.
    pub jitter: Permille,
    /// A worker that was up for so long begins with the first backoff again.
    pub stable: Ticks,
    /// Restarts of one pool within the window; beyond them it is left down until somebody resumes it.
    pub storm_max: u32,
    pub storm_window: Ticks,
}

/// When a worker that fails one task after the other gets none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerRules {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open.
    pub open: Ticks,
    /// How long after the first trial that succeeds it closes, if none fails.
    pub stable: Ticks,
}

/// When an attempt lost before its first token is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRules {
    pub attempts_max: u32,
    /// Doubles with each attempt.
    pub backoff: Ticks,
    pub backoff_max: Ticks,
    /// The backoff is drawn from this share either side.
    pub jitter: Permille,
    /// Retries allowed as a share of admissions, so that a fault cannot multiply the load.
    pub budget: Permille,
}

/// How long an attempt may take; zero is for ever. That a worker fell silent is for its beats to show: these
/// end attempts that a live worker does not get on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutRules {
    /// From its slot to its first token, the worker's other prompts before its own included.
    pub first_token: Ticks,
    /// From one token to the next.
    pub idle: Ticks,
    /// From its slot to its end.
    pub wall: Ticks,
}

/// No models, no pools; bounds and policies that suit one machine.
impl Default for Rules {
    fn default() -> Self {
        Rules {
            models: vec![],
            pools: vec![],
            tenants: vec![],
            sessions: SessionRules { ttl: Ticks(600_000), turns_max: 8, max: 4_096, budget: Budget::default() },
            queue: QueueRules {
                interactive_max: 256,
                batch_max: 1_024,
                policy: OverloadPolicy::Reject,
                interactive_delay: Ticks(250),
                batch_delay: Ticks(5_000),
                delay_interval: Ticks(1_000),
            },
            placement: PlacementRules {
                policy: PlacementRule::PredictedEnd,
                batch_share: Permille(750),
                preempt_max: 3,
            },
            // Fifteen beats of a busy worker; a model loads again within the grace.
            health: HealthRules {
                beat_timeout: Ticks(15_000),
                // A large model from a slow disk.
                load_timeout: Ticks(900_000),
                no_worker_grace: Ticks(30_000),
                workers_max: 1_024,
                restart: RestartRules {
                    backoff: Ticks(1_000),
                    backoff_max: Ticks(60_000),
                    jitter: Permille(100),
                    stable: Ticks(300_000),
                    storm_max: 10,
                    storm_window: Ticks(60_000),
                },
                breaker: BreakerRules { failures: 5, open: Ticks(300_000), stable: Ticks(60_000) },
                // Beyond the breaker's count: one worker that fails is given up before its device is.
                fatal_max: 8,
                fatal_window: Ticks(3_600_000),
                corrupt_max: 2,
            },
            retry: RetryRules {
                attempts_max: 3,
                backoff: Ticks(100),
                backoff_max: Ticks(30_000),
                jitter: Permille(200),
                budget: Permille(100),
            },
            jobs: JobRules { keep: Ticks(3_600_000), kept_max: 64 },
            eviction: EvictionRules {
                policy: EvictionRule::Lru,
                pressure: Permille(900),
                // A large model loads in about as long: it is used for as long as it took.
                residency_min: Ticks(10_000),
            },
            loadable: vec![],
            // Nobody is to be killed for being slow. A core that reads 35 prompt tokens in a second is through
            // with five prompts of 4,000 in time; a token of an answer takes an engine step, and a beat would
            // be missed before a minute is over. How long an answer takes is its client's to say, by a deadline.
            timeouts: TimeoutRules { first_token: Ticks(600_000), idle: Ticks(60_000), wall: Ticks(0) },
        }
    }
}

/// A rule that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    #[error("{what} must be sorted by name, each name once: `{name}` is out of place")]
    Unsorted { what: &'static str, name: String },
    #[error("there can be at most {max} {what}, not {found}")]
    TooMany { what: &'static str, found: usize, max: usize },
    #[error("pool `{pool}` serves the model `{model}`, which is not among the models")]
    UnknownModel { pool: String, model: String },
    #[error("{what} `{name}` stands twice, or out of the order of its digest")]
    Misplaced { what: &'static str, name: String },
    #[error("{what} must be between {min} and {max}, not {found}")]
    OutOfRange { what: &'static str, found: u64, min: u64, max: u64 },
}

/// Ids are 16 bits wide.
const NAMES_MAX: usize = u16::MAX as usize;
/// Each that is counted within a window is remembered.
const COUNTED_MAX: u64 = 1_000;
/// About 35 years: no sum of such lengths comes near the end of the tick's range.
pub(crate) const LENGTH_MAX: u64 = 1 << 40;
/// A pebibyte: sums of some such sizes stay far from the end of 64 bits.
const SIZE_MAX: u64 = 1 << 50;

impl Rules {
    /// What holds for a tenant, where it is named.
    pub fn tenant(&self, id: TenantId) -> Option<&TenantRules> {
        self.tenants.binary_search_by_key(&id, TenantRules::id).ok().map(|at| &self.tenants[at])
    }

    /// A tenant's part of a shared line.
    pub fn weight(&self, id: TenantId) -> u32 {
        self.tenant(id).map_or(1, |tenant| tenant.weight)
    }

    /// Checks every bound, so that no rule can make the core overflow.
    pub fn check(&self) -> Result<(), RulesError> {
        sorted("models", self.models.iter())?;
        sorted("pools", self.pools.iter().map(|p| &p.name))?;
        for pool in &self.pools {
            if self.models.binary_search(&pool.model).is_err() {
                return Err(RulesError::UnknownModel { pool: pool.name.clone(), model: pool.model.clone() });
            }
        }
        let Rules {
            models: _,
            pools: _,
            tenants,
            sessions,
            queue,
            placement,
            health,
            retry,
            jobs,
            timeouts,
            eviction,
            loadable,
        } = self;
        tenant::check(tenants)?;
        sessions.check()?;
        within("queue.interactive_delay", queue.interactive_delay.0, 0, LENGTH_MAX)?;
        within("queue.batch_delay", queue.batch_delay.0, 0, LENGTH_MAX)?;
        within("queue.delay_interval", queue.delay_interval.0, 1, LENGTH_MAX)?;
        loadable.iter().try_for_each(|row| self.check_loadable(row))?;
        sorted("loadable models", loadable.iter().map(|row| &row.model))?;
        within("eviction.pressure", eviction.pressure.0.into(), 1, 1000)?;
        within("eviction.residency_min", eviction.residency_min.0, 0, LENGTH_MAX)?;
        // With none, a batch task would wait for ever.
        within("placement.batch_share", placement.batch_share.0.into(), 1, 1000)?;
        within("placement.preempt_max", placement.preempt_max.into(), 0, 100)?;
        within("health.beat_timeout", health.beat_timeout.0, 1, LENGTH_MAX)?;
        within("health.no_worker_grace", health.no_worker_grace.0, 1, LENGTH_MAX)?;
        within("health.load_timeout", health.load_timeout.0, 1, LENGTH_MAX)?;
        within("health.workers_max", health.workers_max.into(), 1, NAMES_MAX as u64)?;
        let HealthRules { restart, breaker, fatal_max, fatal_window, corrupt_max, .. } = health;
        within("health.restart.backoff", restart.backoff.0, 1, LENGTH_MAX)?;
        within("health.restart.backoff_max", restart.backoff_max.0, 1, LENGTH_MAX)?;
        within("health.restart.jitter", restart.jitter.0.into(), 0, 1000)?;
        within("health.restart.stable", restart.stable.0, 1, LENGTH_MAX)?;
        within("health.restart.storm_max", restart.storm_max.into(), 1, COUNTED_MAX)?;
        within("health.restart.storm_window", restart.storm_window.0, 1, LENGTH_MAX)?;
        within("health.breaker.failures", breaker.failures.into(), 1, COUNTED_MAX)?;
        within("health.breaker.open", breaker.open.0, 1, LENGTH_MAX)?;
        within("health.breaker.stable", breaker.stable.0, 1, LENGTH_MAX)?;
        within("health.fatal_max", (*fatal_max).into(), 1, COUNTED_MAX)?;
        within("health.fatal_window", fatal_window.0, 1, LENGTH_MAX)?;
        within("health.corrupt_max", (*corrupt_max).into(), 1, COUNTED_MAX)?;
        within("jobs.keep", jobs.keep.0, 1, LENGTH_MAX)?;
        within("jobs.kept_max", jobs.kept_max.into(), 1, COUNTED_MAX)?;
        within("retry.attempts_max", retry.attempts_max.into(), 1, 100)?;
        within("retry.backoff", retry.backoff.0, 1, LENGTH_MAX)?;
        within("retry.backoff_max", retry.backoff_max.0, 1, LENGTH_MAX)?;
        within("retry.jitter", retry.jitter.0.into(), 0, 1000)?;
        within("retry.budget", retry.budget.0.into(), 0, 1000)?;
        within("timeouts.first_token", timeouts.first_token.0, 0, LENGTH_MAX)?;
        within("timeouts.idle", timeouts.idle.0, 0, LENGTH_MAX)?;
        within("timeouts.wall", timeouts.wall.0, 0, LENGTH_MAX)
    }

    fn check_loadable(&self, row: &Loadable) -> Result<(), RulesError> {
        let unknown = |pool: &str| RulesError::UnknownModel { pool: pool.to_owned(), model: row.model.clone() };
        let known = |pool: &&String| self.pools.binary_search_by(|p| p.name.cmp(pool)).is_err();
        if self.models.binary_search(&row.model).is_err() {
            return Err(unknown("any"));
        }
        if let Some(pool) = row.pools.iter().find(known) {
            return Err(unknown(pool));
        }
        sorted("pools of a loadable model", row.pools.iter())?;
        within("loadable.weights", row.weights.0, 1, SIZE_MAX)?;
        within("loadable.kv_per_token", row.kv_per_token.0, 0, SIZE_MAX)
    }

    /// What loading the model takes; none where it cannot be loaded.
    pub fn loadable(&self, model: ModelId) -> Option<&Loadable> {
        let name = self.models.get(usize::from(model.0))?;
        self.loadable.binary_search_by(|row| row.model.cmp(name)).ok().map(|at| &self.loadable[at])
    }
}

fn sorted<'n>(what: &'static str, names: impl ExactSizeIterator<Item = &'n String> + Clone) -> Result<(), RulesError> {
    if names.len() > NAMES_MAX {
        return Err(RulesError::TooMany { what, found: names.len(), max: NAMES_MAX });
    }
    match names.clone().zip(names.skip(1)).find(|(a, b)| a >= b) {
        Some((_, name)) => Err(RulesError::Unsorted { what, name: name.clone() }),
        None => Ok(()),
    }
}

pub(crate) fn within(what: &'static str, found: u64, min: u64, max: u64) -> Result<(), RulesError> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(RulesError::OutOfRange { what, found, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    #[test]
    fn an_overload_policy_is_read_by_its_label() {
        for policy in OverloadPolicy::ALL {
            let label: StrDeserializer<'_, Error> = policy.label().into_deserializer();
            assert_eq!(OverloadPolicy::deserialize(label), Ok(policy));
            assert_eq!(OverloadPolicy::named(policy.label()), Some(policy));
        }
    }
}
