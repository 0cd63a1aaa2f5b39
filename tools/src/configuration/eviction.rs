//! `[eviction]`: when models make way for others on a device, and which go first.

use orchestrion_world::config::{EvictionRule, EvictionRules, Rules};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Eviction {
    pub policy: EvictionRule,
    /// The share of a device's memory beyond which models go that nobody uses.
    pub pressure_permille: u32,
    /// How long a model stays at least.
    pub residency_min_ms: u64,
}

impl Default for Eviction {
    fn default() -> Self {
        let EvictionRules { policy, pressure, residency_min } = Rules::default().eviction;
        Eviction { policy, pressure_permille: pressure.0, residency_min_ms: residency_min.0 }
    }
}

impl Eviction {
    pub(crate) fn rules(&self) -> EvictionRules {
        let Eviction { policy, pressure_permille, residency_min_ms } = *self;
        let (pressure, residency_min) = (Permille(pressure_permille), Ticks(residency_min_ms));
        EvictionRules { policy, pressure, residency_min }
    }
}
