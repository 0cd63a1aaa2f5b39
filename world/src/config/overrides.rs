//! Rules by the keys of the configuration: `placement.policy=least-loaded` and its like, for replays and
//! scenarios.
//!
//! One table of keys; each is parsed by its type, and a wrong one is told with the keys there are.

use super::{EvictionRule, OverloadPolicy, PlacementRule, Rules, RulesError};
use crate::time::Ticks;
use crate::units::Permille;

/// Why a key or value was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    #[error("there is no rule `{key}` to change; there are {known}")]
    UnknownKey { key: String, known: String },
    #[error("{key}={value}: expected {expected}")]
    BadValue { key: String, value: String, expected: String },
    #[error("the changed rules cannot be: {0}")]
    Rules(#[from] RulesError),
}

const POLICIES: &str = "one of predicted-end, least-loaded, pack";
const NUMBER: &str = "a whole number that is not negative";

type Set = fn(&mut Rules, &str) -> Result<(), String>;

const KEYS: &[(&str, Set)] = &[
    ("placement.policy", |rules, value| policy(value).map(|policy| rules.placement.policy = policy)),
    ("placement.batch_share_permille", |rules, value| permille(value, &mut rules.placement.batch_share)),
    ("placement.preempt_max", |rules, value| number(value, &mut rules.placement.preempt_max)),
    ("placement.prefixes_max", |rules, value| number(value, &mut rules.placement.prefixes_max)),
    ("queue.interactive_max", |rules, value| number(value, &mut rules.queue.interactive_max)),
    ("queue.batch_max", |rules, value| number(value, &mut rules.queue.batch_max)),
    ("queue.policy", |rules, value| overload(value).map(|policy| rules.queue.policy = policy)),
    ("queue.interactive_delay_ms", |rules, value| ticks(value, &mut rules.queue.interactive_delay)),
    ("queue.batch_delay_ms", |rules, value| ticks(value, &mut rules.queue.batch_delay)),
    ("queue.delay_interval_ms", |rules, value| ticks(value, &mut rules.queue.delay_interval)),
    ("sessions.ttl_ms", |rules, value| ticks(value, &mut rules.sessions.ttl)),
    ("sessions.turns_max", |rules, value| number(value, &mut rules.sessions.turns_max)),
    ("sessions.max", |rules, value| number(value, &mut rules.sessions.max)),
    ("sessions.budget_tokens", |rules, value| limit(value, &mut rules.sessions.budget.tokens)),
    ("sessions.budget_time_ms", |rules, value| {
        let mut time = None;
        limit(value, &mut time).map(|()| rules.sessions.budget.time = time.map(Ticks))
    }),
    ("sessions.budget_cost_milli", |rules, value| limit(value, &mut rules.sessions.budget.cost_milli)),
    ("health.beat_timeout_ms", |rules, value| ticks(value, &mut rules.health.beat_timeout)),
    ("health.no_worker_grace_ms", |rules, value| ticks(value, &mut rules.health.no_worker_grace)),
    ("health.load_timeout_ms", |rules, value| ticks(value, &mut rules.health.load_timeout)),
    ("health.fatal_max", |rules, value| number(value, &mut rules.health.fatal_max)),
    ("health.fatal_window_ms", |rules, value| ticks(value, &mut rules.health.fatal_window)),
    ("health.corrupt_max", |rules, value| number(value, &mut rules.health.corrupt_max)),
    ("health.restart.backoff_ms", |rules, value| ticks(value, &mut rules.health.restart.backoff)),
    ("health.restart.backoff_max_ms", |rules, value| ticks(value, &mut rules.health.restart.backoff_max)),
    ("health.restart.jitter_permille", |rules, value| permille(value, &mut rules.health.restart.jitter)),
    ("health.restart.stable_ms", |rules, value| ticks(value, &mut rules.health.restart.stable)),
    ("health.restart.storm_max", |rules, value| number(value, &mut rules.health.restart.storm_max)),
    ("health.restart.storm_window_ms", |rules, value| ticks(value, &mut rules.health.restart.storm_window)),
    ("health.breaker.failures", |rules, value| number(value, &mut rules.health.breaker.failures)),
    ("health.breaker.open_ms", |rules, value| ticks(value, &mut rules.health.breaker.open)),
    ("health.breaker.stable_ms", |rules, value| ticks(value, &mut rules.health.breaker.stable)),
    ("jobs.keep_ms", |rules, value| ticks(value, &mut rules.jobs.keep)),
    ("jobs.kept_max", |rules, value| number(value, &mut rules.jobs.kept_max)),
    ("health.workers_max", |rules, value| number(value, &mut rules.health.workers_max)),
    ("eviction.policy", |rules, value| eviction(value).map(|policy| rules.eviction.policy = policy)),
    ("eviction.pressure_permille", |rules, value| permille(value, &mut rules.eviction.pressure)),
    ("eviction.residency_min_ms", |rules, value| ticks(value, &mut rules.eviction.residency_min)),
    ("retry.attempts_max", |rules, value| number(value, &mut rules.retry.attempts_max)),
    ("retry.backoff_ms", |rules, value| ticks(value, &mut rules.retry.backoff)),
    ("retry.backoff_max_ms", |rules, value| ticks(value, &mut rules.retry.backoff_max)),
    ("retry.jitter_permille", |rules, value| permille(value, &mut rules.retry.jitter)),
    ("retry.budget_permille", |rules, value| permille(value, &mut rules.retry.budget)),
    ("timeouts.first_token_ms", |rules, value| ticks(value, &mut rules.timeouts.first_token)),
    ("timeouts.idle_ms", |rules, value| ticks(value, &mut rules.timeouts.idle)),
    ("timeouts.wall_ms", |rules, value| ticks(value, &mut rules.timeouts.wall)),
];

/// Every key there is.
pub fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(name, _)| *name)
}

/// Applies `key=value` pairs in order.
pub fn apply(rules: &mut Rules, overrides: &[(String, String)]) -> Result<(), OverrideError> {
    for (key, value) in overrides {
        let Some((_, set)) = KEYS.iter().find(|(name, _)| name == key) else {
            let known = keys().collect::<Vec<_>>().join(", ");
            return Err(OverrideError::UnknownKey { key: key.clone(), known });
        };
        set(rules, value).map_err(|expected| OverrideError::BadValue {
            key: key.clone(),
            value: value.clone(),
            expected,
        })?;
    }
    Ok(rules.check()?)
}

fn policy(value: &str) -> Result<PlacementRule, String> {
    match value {
        "predicted-end" => Ok(PlacementRule::PredictedEnd),
        "least-loaded" => Ok(PlacementRule::LeastLoaded),
        "pack" => Ok(PlacementRule::Pack),
        _ => Err(POLICIES.to_owned()),
    }
}

fn overload(value: &str) -> Result<OverloadPolicy, String> {
    let labels = || format!("one of {}", OverloadPolicy::ALL.map(OverloadPolicy::label).join(", "));
    OverloadPolicy::named(value).ok_or_else(labels)
}

fn eviction(value: &str) -> Result<EvictionRule, String> {
    let labels = || format!("one of {}", EvictionRule::ALL.map(EvictionRule::label).join(", "));
    EvictionRule::named(value).ok_or_else(labels)
}

fn number(value: &str, into: &mut u32) -> Result<(), String> {
    value.parse().map(|number| *into = number).map_err(|_| NUMBER.to_owned())
}

/// Where there was none, there is one from here on.
fn limit(value: &str, into: &mut Option<u64>) -> Result<(), String> {
    value.parse().map(|number| *into = Some(number)).map_err(|_| NUMBER.to_owned())
}

fn ticks(value: &str, into: &mut Ticks) -> Result<(), String> {
    value.parse().map(|number| *into = Ticks(number)).map_err(|_| NUMBER.to_owned())
}

fn permille(value: &str, into: &mut Permille) -> Result<(), String> {
    value.parse().map(|number| *into = Permille(number)).map_err(|_| NUMBER.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PlacementRules;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_key_changes_its_rule_and_no_other() {
        let mut changed = Rules::default();
        apply(
            &mut changed,
            &pairs(&[
                ("placement.policy", "pack"),
                ("placement.batch_share_permille", "1000"),
                ("queue.batch_max", "7"),
                ("queue.policy", "drop-lru"),
            ]),
        )
        .unwrap();
        let defaults = Rules::default().placement;
        let placement = PlacementRules { policy: PlacementRule::Pack, batch_share: Permille(1000), ..defaults };
        let mut expected = Rules { placement, ..Rules::default() };
        expected.queue.batch_max = 7;
        expected.queue.policy = OverloadPolicy::DropLru;
        assert_eq!(changed, expected);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_there_is() {
        let unknown = apply(&mut Rules::default(), &pairs(&[("placement", "pack")])).unwrap_err().to_string();
        assert!(unknown.contains("`placement`") && unknown.contains("placement.policy"), "{unknown}");
        let bad = apply(&mut Rules::default(), &pairs(&[("placement.policy", "best")])).unwrap_err().to_string();
        assert_eq!(bad, "placement.policy=best: expected one of predicted-end, least-loaded, pack");
        let none =
            apply(&mut Rules::default(), &pairs(&[("placement.batch_share_permille", "0")])).unwrap_err().to_string();
        assert_eq!(none, "the changed rules cannot be: placement.batch_share must be between 1 and 1000, not 0");
        let bad = apply(&mut Rules::default(), &pairs(&[("queue.policy", "drop")])).unwrap_err().to_string();
        assert_eq!(bad, "queue.policy=drop: expected one of reject, drop-lru, shed-low-priority");
    }
}
