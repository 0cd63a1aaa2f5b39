//! Tenants as a text has them: `[[tenants]]` of a configuration and `[[rules.tenants]]` of a scenario file.

use crate::budget::{Budget, Price};
use crate::id::TenantId;
use crate::rate::Rate;
use crate::tenant::TenantRules;
use crate::time::Ticks;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What holds for one tenant; where nothing is said there is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WrittenTenant {
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

impl Default for WrittenTenant {
    fn default() -> Self {
        WrittenTenant {
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

impl WrittenTenant {
    /// What the core goes by.
    pub fn rules(&self) -> TenantRules {
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
            budget: Budget {
                tokens: self.budget_tokens,
                time: self.budget_time_ms.map(Ticks),
                cost_milli: self.budget_cost_milli,
            },
            price: Price { prompt: self.prompt_price_milli, answer: self.answer_price_milli },
        }
    }
}

/// `5/s`, `100/m` or `2000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
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
