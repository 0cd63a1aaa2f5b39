//! `[[tenants]]` and `[sessions]`: for whom the server works, by the names of tokens, and what each may have.

use orchestrion_world::budget::{Budget, Price};
use orchestrion_world::config::Rules;
use orchestrion_world::id::TenantId;
use orchestrion_world::rate::Rate;
use orchestrion_world::session::SessionRules;
use orchestrion_world::tenant::TenantRules;
use orchestrion_world::time::Ticks;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What holds for one tenant; where nothing is said there is no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tenant {
    /// Of a token or of its `tenant=`; `default` is everybody who is not named.
    pub name: String,
    /// Its part of a queue that others wait in too.
    pub weight: u32,
    /// Tasks that it may ask for, such as `5/s` or `100/m`, and so many at once: without a number, all of them.
    pub tasks: Option<Pace>,
    pub tasks_burst: Option<u64>,
    /// The same of tokens: the prompt's, and the answer's at its longest.
    pub tokens: Option<Pace>,
    pub tokens_burst: Option<u64>,
    /// Tasks of it that may wait, and that may wait or run.
    pub queued_max: Option<u32>,
    pub live_max: Option<u32>,
    /// In all.
    pub budget_tokens: Option<u64>,
    pub budget_time_ms: Option<u64>,
    pub budget_cost_milli: Option<u64>,
    /// Milli-units for a million tokens.
    pub prompt_price_milli: u32,
    pub answer_price_milli: u32,
}

impl Default for Tenant {
    fn default() -> Self {
        Tenant {
            name: TenantId::DEFAULT_NAME.into(),
            weight: 1,
            tasks: None,
            tasks_burst: None,
            tokens: None,
            tokens_burst: None,
            queued_max: None,
            live_max: None,
            budget_tokens: None,
            budget_time_ms: None,
            budget_cost_milli: None,
            prompt_price_milli: 0,
            answer_price_milli: 0,
        }
    }
}

impl Tenant {
    pub(super) fn rules(&self) -> TenantRules {
        let rate = |pace: &Option<Pace>, burst: Option<u64>| {
            pace.map(|Pace { amount, per }| Rate { amount, per, burst: burst.unwrap_or(amount) })
        };
        TenantRules {
            name: self.name.clone(),
            weight: self.weight,
            tasks: rate(&self.tasks, self.tasks_burst),
            tokens: rate(&self.tokens, self.tokens_burst),
            queued_max: self.queued_max,
            live_max: self.live_max,
            budget: budget(self.budget_tokens, self.budget_time_ms, self.budget_cost_milli),
            price: Price { prompt: self.prompt_price_milli, answer: self.answer_price_milli },
        }
    }
}

fn budget(tokens: Option<u64>, time_ms: Option<u64>, cost_milli: Option<u64>) -> Budget {
    Budget { tokens, time: time_ms.map(Ticks), cost_milli }
}

/// `5/s`, `100/m` or `2000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    amount: u64,
    per: Ticks,
}

const UNITS: [(&str, Ticks); 3] = [("s", Ticks(1_000)), ("m", Ticks(60_000)), ("h", Ticks(3_600_000))];

impl Serialize for Pace {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let unit = UNITS.iter().find(|unit| unit.1 == self.per).map_or("s", |unit| unit.0);
        s.collect_str(&format_args!("{}/{unit}", self.amount))
    }
}

impl<'de> Deserialize<'de> for Pace {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Pace, D::Error> {
        let text = String::deserialize(d)?;
        let read = text.split_once('/').and_then(|(amount, unit)| {
            let per = UNITS.iter().find(|(name, _)| *name == unit)?.1;
            Some(Pace { amount: amount.parse().ok()?, per })
        });
        let problem = || serde::de::Error::custom(format!("`{text}` is no rate; write 5/s, 100/m or 2000/h"));
        read.ok_or_else(problem)
    }
}

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
        let budget = budget(budget_tokens, budget_time_ms, budget_cost_milli);
        SessionRules { ttl: Ticks(ttl_ms), turns_max, max, budget }
    }
}
