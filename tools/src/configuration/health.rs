//! `[health]`: when a worker counts as lost, how it is told to begin again, and when it gets no tasks.

use orchestrion_world::config::{BreakerRules, HealthRules, RestartRules, Rules};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Health {
    pub beat_timeout_ms: u64,
    pub load_timeout_ms: u64,
    pub no_worker_grace_ms: u64,
    pub workers_max: u32,
    /// Fatal faults within the window that put a device into quarantine.
    pub fatal_max: u32,
    pub fatal_window_ms: u64,
    pub corrupt_max: u32,
    pub restart: Restart,
    pub breaker: Breaker,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Restart {
    /// Before the first; doubles with each loss.
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
    pub jitter_permille: u32,
    /// A worker that was up for so long begins with the first backoff again.
    pub stable_ms: u64,
    /// Restarts of a pool within the window; beyond them its lost workers stay down until it is resumed.
    pub storm_max: u32,
    pub storm_window_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Breaker {
    /// In a row.
    pub failures: u32,
    pub open_ms: u64,
    pub stable_ms: u64,
}

impl Default for Health {
    fn default() -> Self {
        let HealthRules {
            beat_timeout,
            load_timeout,
            no_worker_grace,
            workers_max,
            restart: _,
            breaker: _,
            fatal_max,
            fatal_window,
            corrupt_max,
        } = Rules::default().health;
        Health {
            beat_timeout_ms: beat_timeout.0,
            load_timeout_ms: load_timeout.0,
            no_worker_grace_ms: no_worker_grace.0,
            workers_max,
            fatal_max,
            fatal_window_ms: fatal_window.0,
            corrupt_max,
            restart: Restart::default(),
            breaker: Breaker::default(),
        }
    }
}

impl Default for Restart {
    fn default() -> Self {
        let RestartRules { backoff, backoff_max, jitter, stable, storm_max, storm_window } =
            Rules::default().health.restart;
        Restart {
            backoff_ms: backoff.0,
            backoff_max_ms: backoff_max.0,
            jitter_permille: jitter.0,
            stable_ms: stable.0,
            storm_max,
            storm_window_ms: storm_window.0,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        let BreakerRules { failures, open, stable } = Rules::default().health.breaker;
        Breaker { failures, open_ms: open.0, stable_ms: stable.0 }
    }
}

impl Health {
    pub(super) fn rules(&self) -> HealthRules {
        let Health { restart, breaker, .. } = self;
        HealthRules {
            beat_timeout: Ticks(self.beat_timeout_ms),
            load_timeout: Ticks(self.load_timeout_ms),
            no_worker_grace: Ticks(self.no_worker_grace_ms),
            workers_max: self.workers_max,
            restart: RestartRules {
                backoff: Ticks(restart.backoff_ms),
                backoff_max: Ticks(restart.backoff_max_ms),
                jitter: Permille(restart.jitter_permille),
                stable: Ticks(restart.stable_ms),
                storm_max: restart.storm_max,
                storm_window: Ticks(restart.storm_window_ms),
            },
            breaker: BreakerRules {
                failures: breaker.failures,
                open: Ticks(breaker.open_ms),
                stable: Ticks(breaker.stable_ms),
            },
            fatal_max: self.fatal_max,
            fatal_window: Ticks(self.fatal_window_ms),
            corrupt_max: self.corrupt_max,
        }
    }
}
