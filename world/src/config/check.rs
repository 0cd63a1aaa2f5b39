//! Bounds of the rules: what cannot be meant, or would let the core overflow, and why.

use super::{HealthRules, Loadable, Rules};
use crate::tenant;

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
/// Each takes some hundred bytes, in every snapshot too.
const PREFIXES_MAX: u64 = 1 << 20;
/// About 35 years: no sum of such lengths comes near the end of the tick's range.
pub(crate) const LENGTH_MAX: u64 = 1 << 40;
/// A pebibyte: sums of some such sizes stay far from the end of 64 bits.
const SIZE_MAX: u64 = 1 << 50;

impl Rules {
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
        within("placement.prefixes_max", placement.prefixes_max.into(), 0, PREFIXES_MAX)?;
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
