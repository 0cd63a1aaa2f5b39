//! `[sessions]`: how long conversations live and what each may have. `[[tenants]]` are
//! [`orchestrion_world::config::written`]'s, which scenario files share.

use orchestrion_world::budget::Budget;
use orchestrion_world::config::Rules;
use orchestrion_world::session::SessionRules;
use orchestrion_world::time::Ticks;
use serde::{Deserialize, Serialize};

/// `[sessions]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Sessions {
    /// From a session's last turn.
    pub ttl_ms: u64,
    pub turns_max: u32,
    /// Sessions at a time.
    pub max: u32,
    /// Of each session.
    pub budget_tokens: Option<u64>,
    pub budget_time_ms: Option<u64>,
    pub budget_cost_milli: Option<u64>,
}

impl Default for Sessions {
    fn default() -> Self {
        let SessionRules { ttl, turns_max, max, budget } = Rules::default().sessions;
        Sessions {
            ttl_ms: ttl.0,
            turns_max,
            max,
            budget_tokens: budget.tokens,
            budget_time_ms: budget.time.map(|time| time.0),
            budget_cost_milli: budget.cost_milli,
        }
    }
}

impl Sessions {
    pub(super) fn rules(&self) -> SessionRules {
        let Sessions { ttl_ms, turns_max, max, budget_tokens, budget_time_ms, budget_cost_milli } = *self;
        let budget = Budget { tokens: budget_tokens, time: budget_time_ms.map(Ticks), cost_milli: budget_cost_milli };
        SessionRules { ttl: Ticks(ttl_ms), turns_max, max, budget }
    }
}
