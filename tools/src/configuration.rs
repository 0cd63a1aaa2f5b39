//! The configuration: one type for defaults, file, environment and flags, in rising order of precedence.
//!
//! An unknown key is an error that names where it stands. What the core decides by becomes
//! [`orchestrion_world::config::Rules`] here.

mod eviction;
mod health;
mod jobs;
mod models;
mod pools;
mod queue;
mod sessions;

pub(crate) use health::Health;
pub(crate) use jobs::Jobs;
pub(crate) use models::{Loadable, Models};
pub(crate) use pools::{DEMO_MODEL, DeviceKind, Pool, Simd, THREADS};
pub(crate) use queue::Queue;
pub(crate) use sessions::Sessions;

use crate::cli::ServeArgs;
use crate::failure::{Code, Failure};
use crate::nearest::meant;
use crate::serve::keys::{self, TOKENS_VARIABLE};
use config::{Config as Layers, Environment, File, FileFormat};
use etcetera::base_strategy::{BaseStrategy, Xdg};
use orchestrion_api::door::DoorConfig;
use orchestrion_api::journal::{Fsync, JournalConfig};
use orchestrion_world::config::written::WrittenTenant;
use orchestrion_world::config::{
    PlacementRule, PlacementRules, PoolRules, RetryRules, Rules, RulesError, TimeoutRules,
};
use orchestrion_world::tenant::TenantRules;
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything `orch serve` can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub server: DoorConfig,
    pub auth: keys::Settings,
    pub tenants: Vec<WrittenTenant>,
    pub sessions: Sessions,
    pub queue: Queue,
    pub placement: Placement,
    pub eviction: eviction::Eviction,
    pub health: Health,
    pub retry: Retry,
    pub jobs: Jobs,
    pub timeouts: Timeouts,
    pub journal: Journal,
    pub models: Models,
    /// One worker each. Without any, one pool `default` with the demo model.
    pub pools: Vec<Pool>,
    pub log: Log,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Placement {
    pub policy: Policy,
    /// Of a worker's slots, those that batch tasks may hold together.
    pub batch_share_permille: u32,
    /// Times that a batch task may be put back for interactive work; 0 turns that off.
    pub preempt_max: u32,
    /// Beginnings of prompts of which is kept where they were read last; 0 turns that off.
    pub prefixes_max: u32,
}

/// The rows of placement's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    PredictedEnd,
    LeastLoaded,
    Pack,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retry {
    pub attempts_max: u32,
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
    pub jitter_permille: u32,
    pub budget_permille: u32,
}

/// How long an attempt may take; 0 is for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Timeouts {
    pub first_token_ms: u64,
    pub idle_ms: u64,
    pub wall_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Journal {
    pub dir: Option<PathBuf>,
    pub segment_bytes: u64,
    pub segment_records: u64,
    pub fsync: Durability,
    pub retain_bytes: u64,
    pub retain_days: u64,
}

/// What is on disk when something is acknowledged. A killed process loses nothing under any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Durability {
    /// Whatever the system wrote back by itself.
    Never,
    /// All but the last moments before a power cut.
    Interval,
    /// Everything.
    Always,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub format: LogFormat,
    /// As in RUST_LOG, which wins.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Default for Placement {
    fn default() -> Self {
        let PlacementRules { policy: _, batch_share, preempt_max, prefixes_max } = Rules::default().placement;
        Placement { policy: Policy::PredictedEnd, batch_share_permille: batch_share.0, preempt_max, prefixes_max }
    }
}

impl Default for Retry {
    fn default() -> Self {
        let RetryRules { attempts_max, backoff, backoff_max, jitter, budget } = Rules::default().retry;
        Retry {
            attempts_max,
            backoff_ms: backoff.0,
            backoff_max_ms: backoff_max.0,
            jitter_permille: jitter.0,
            budget_permille: budget.0,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let TimeoutRules { first_token, idle, wall } = Rules::default().timeouts;
        Timeouts { first_token_ms: first_token.0, idle_ms: idle.0, wall_ms: wall.0 }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Journal {
            dir: None,
            segment_bytes: 64 << 20,
            segment_records: 16_384,
            fsync: Durability::Interval,
            retain_bytes: 1 << 30,
            retain_days: 30,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, filter: "info".into() }
    }
}

impl Config {
    /// Default < file < `ORCHESTRION_SECTION__KEY` < flags.
    pub(crate) fn layered(args: &ServeArgs) -> Result<Config, Failure> {
        let defaults = Layers::try_from(&Config::default()).map_err(bad)?;
        let mut layers = Layers::builder().add_source(defaults);
        if let Some(file) = file(args.config.as_deref())? {
            layers = layers.add_source(File::from(file).format(FileFormat::Toml));
        }
        // Without the secret, which the layers would quote in their errors.
        let variables =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let variables = variables.filter(|(key, _)| key != TOKENS_VARIABLE).collect();
        let environment = Environment::with_prefix("ORCHESTRION").prefix_separator("_").separator("__");
        let environment = environment.source(Some(variables)).try_parsing(true);
        layers = layers.add_source(environment);
        let layers = layers
            .set_override_option("server.bind", args.bind.map(|bind| bind.to_string()))
            .and_then(|l| l.set_override_option("journal.dir", args.journal.as_ref().map(|d| d.display().to_string())))
            .map_err(bad)?;
        let layered = layers.build().map_err(bad)?;
        let mut config: Config = layered.clone().try_deserialize().map_err(|error| worded(layered, error))?;
        if let Some(model) = &args.model {
            config.pools = vec![Pool { model: model.clone(), ..Pool::default() }];
        } else if config.pools.is_empty() {
            config.pools = vec![Pool::default()];
        }
        for pool in &mut config.pools {
            pool.slots = args.slots.unwrap_or(pool.slots);
            pool.threads = args.threads.or(pool.threads);
        }
        config.pools.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(two) = config.pools.windows(2).find(|two| two[0].id == two[1].id) {
            let problem = format!("two of the `pools` have the id `{}`; each must have its own", two[0].id);
            return Err(Failure::new(Code::BadConfig, problem));
        }
        config.pools.iter().try_for_each(Pool::check)?;
        config.models.check(&config.pools)?;
        config.rules().check().and_then(|()| config.check()).map_err(Failure::of(Code::BadConfig))?;
        Ok(config)
    }

    /// Bounds of what is no rule of the core's.
    fn check(&self) -> Result<(), RulesError> {
        let limits = &self.server.limits;
        let bounds = [
            // From all the answers that one request may ask for, which are let in together or not at all.
            ("queue.ingress_max", self.queue.ingress_max, 64, 1 << 20),
            ("server.limits.connections", limits.connections, 1, 1 << 20),
            ("server.limits.connections_per_address", limits.connections_per_address, 1, 1 << 20),
            // The parser's own bound.
            ("server.limits.json_depth", limits.json_depth, 1, 127),
        ];
        bounds.into_iter().try_for_each(|(what, found, min, max)| {
            let (found, min, max) = (found as u64, min, max);
            if (min..=max).contains(&found) { Ok(()) } else { Err(RulesError::OutOfRange { what, found, min, max }) }
        })
    }

    /// What the core decides by.
    pub(crate) fn rules(&self) -> Rules {
        let Config {
            tenants, sessions, queue, placement, eviction, health, retry, jobs, timeouts, models, pools, ..
        } = self;
        let mut tenants: Vec<TenantRules> = tenants.iter().map(WrittenTenant::rules).collect();
        tenants.sort_by_key(TenantRules::id);
        let loadable = models.loadable.iter().map(Loadable::name);
        let mut models: Vec<String> = pools.iter().map(Pool::model_name).chain(loadable).collect();
        models.sort();
        models.dedup();
        Rules {
            models,
            pools: pools.iter().map(|p| PoolRules { name: p.id.clone(), model: p.model_name() }).collect(),
            tenants,
            sessions: sessions.rules(),
            queue: queue.rules(),
            placement: PlacementRules {
                policy: match placement.policy {
                    Policy::PredictedEnd => PlacementRule::PredictedEnd,
                    Policy::LeastLoaded => PlacementRule::LeastLoaded,
                    Policy::Pack => PlacementRule::Pack,
                },
                batch_share: Permille(placement.batch_share_permille),
                preempt_max: placement.preempt_max,
                prefixes_max: placement.prefixes_max,
            },
            health: health.rules(),
            jobs: jobs.rules(),
            retry: RetryRules {
                attempts_max: retry.attempts_max,
                backoff: Ticks(retry.backoff_ms),
                backoff_max: Ticks(retry.backoff_max_ms),
                jitter: Permille(retry.jitter_permille),
                budget: Permille(retry.budget_permille),
            },
            timeouts: TimeoutRules {
                first_token: Ticks(timeouts.first_token_ms),
                idle: Ticks(timeouts.idle_ms),
                wall: Ticks(timeouts.wall_ms),
            },
            eviction: eviction.rules(),
            // What each takes is known when its file was read.
            loadable: vec![],
        }
    }

    pub(crate) fn journal(&self) -> Result<JournalConfig, Failure> {
        let Journal { dir, segment_bytes, segment_records, fsync, retain_bytes, retain_days } = &self.journal;
        Ok(JournalConfig {
            dir: journal_or_default(dir.as_deref())?,
            segment_bytes: *segment_bytes,
            segment_records: *segment_records,
            fsync: match fsync {
                Durability::Never => Fsync::Never,
                Durability::Interval => Fsync::Interval,
                Durability::Always => Fsync::Always,
            },
            retain_bytes: Some(*retain_bytes),
            retain_age: Some(Duration::from_secs(retain_days.saturating_mul(24 * 60 * 60))),
        })
    }

    pub(crate) fn cache_dir(&self) -> Result<PathBuf, Failure> {
        match &self.models.cache_dir {
            Some(dir) => Ok(dir.clone()),
            None => cache_dir(),
        }
    }
}

/// The folder of models.
pub(crate) fn cache_dir() -> Result<PathBuf, Failure> {
    Ok(xdg()?.cache_dir().join("orchestrion/models"))
}

/// The journal that was named, or the one `orch serve` keeps by default.
pub(crate) fn journal_or_default(path: Option<&Path>) -> Result<PathBuf, Failure> {
    let state = |xdg: Xdg| xdg.state_dir().unwrap_or_else(|| xdg.data_dir()).join("orchestrion/journal");
    path.map_or_else(|| xdg().map(state), |path| Ok(path.to_owned()))
}

fn file(named: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    if let Some(path) = named {
        let problem = || format!("there is no configuration file {}", path.display());
        return if path.is_file() { Ok(Some(path.to_owned())) } else { Err(Failure::new(Code::BadConfig, problem())) };
    }
    let usual = [PathBuf::from("orchestrion.toml"), xdg()?.config_dir().join("orchestrion/config.toml")];
    Ok(usual.into_iter().find(|path| path.is_file()))
}

fn xdg() -> Result<Xdg, Failure> {
    let problem = "no home directory: set HOME, or name the folders (`journal.dir`, `models.cache_dir`)";
    Xdg::new().map_err(|_| Failure::new(Code::BadConfig, problem))
}

/// The same failure by way of JSON, whose errors name the values there are and the path to the wrong one.
fn worded(layered: Layers, error: config::ConfigError) -> Failure {
    let json = layered.try_deserialize::<serde_json::Value>();
    match json.map(serde_path_to_error::deserialize::<_, Config>) {
        Ok(Err(worded)) => bad(worded),
        Ok(Ok(_)) | Err(_) => bad(error),
    }
}

fn bad(error: impl std::fmt::Display) -> Failure {
    let error = error.to_string();
    let hint = meant(&error).map(|name| format!(". Did you mean `{name}`?")).unwrap_or_default();
    Failure::new(Code::BadConfig, format!("the configuration cannot be read: {error}{hint}"))
}

#[cfg(test)]
mod tests;
