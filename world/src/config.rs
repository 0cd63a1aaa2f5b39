//! The rules: every bound and policy the core decides by. They enter as `Input::SetRules`, so a
//! journal knows under which rules each decision was made.

mod check;
pub mod overrides;
pub mod written;

use crate::budget::Budget;
use crate::id::{ModelId, TenantId};
use crate::session::SessionRules;
use crate::tenant::TenantRules;
use crate::time::Ticks;
use crate::units::{Bytes, Permille, Sha256};
use serde::{Deserialize, Serialize};

pub use check::RulesError;
pub(crate) use check::{LENGTH_MAX, within};

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

impl Rules {
    /// What holds for a tenant, where it is named.
    pub fn tenant(&self, id: TenantId) -> Option<&TenantRules> {
        self.tenants.binary_search_by_key(&id, TenantRules::id).ok().map(|at| &self.tenants[at])
    }

    /// A tenant's part of a shared line.
    pub fn weight(&self, id: TenantId) -> u32 {
        self.tenant(id).map_or(1, |tenant| tenant.weight)
    }

    /// What loading the model takes; none where it cannot be loaded.
    pub fn loadable(&self, model: ModelId) -> Option<&Loadable> {
        let name = self.models.get(usize::from(model.0))?;
        self.loadable.binary_search_by(|row| row.model.cmp(name)).ok().map(|at| &self.loadable[at])
    }
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
    /// Beginnings of prompts of which is kept where they were read last; none turns that off.
    pub prefixes_max: u32,
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
                prefixes_max: 16_384,
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
