//! The words for the rules: a section each, as in `queue interactive=2 batch=4 policy=drop-lru`.

use super::tenants;
use super::words::Words;
use orchestrion_world::config::{EvictionRule, EvictionRules, OverloadPolicy, PlacementRules, Rules, TimeoutRules};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;

/// The rules by section, each a declaration; what is not named stays as it is.
pub(super) fn declare(rules: &mut Rules, words: &mut Words<'_>) -> Result<(), String> {
    match words.verb {
        "tenant" => tenants::declare(&mut rules.tenants, words)?,
        "sessions" => rules.sessions = tenants::sessions(&rules.sessions, words)?,
        "queue" => {
            let queue = &mut rules.queue;
            queue.interactive_max = words.or("interactive", queue.interactive_max)?;
            queue.batch_max = words.or("batch", queue.batch_max)?;
            queue.interactive_delay = Ticks(words.or("interactive_delay", queue.interactive_delay.0)?);
            queue.batch_delay = Ticks(words.or("batch_delay", queue.batch_delay.0)?);
            queue.delay_interval = Ticks(words.or("delay_interval", queue.delay_interval.0)?);
            if let Some(name) = words.optional("policy") {
                let unknown = || format!("no overload policy is called `{name}`");
                queue.policy = OverloadPolicy::named(name).ok_or_else(unknown)?;
            }
        }
        "retry" => {
            let retry = &mut rules.retry;
            retry.attempts_max = words.or("attempts", retry.attempts_max)?;
            retry.backoff = Ticks(words.or("backoff", retry.backoff.0)?);
            retry.jitter = Permille(words.or("jitter", retry.jitter.0)?);
            retry.budget = Permille(words.or("budget", retry.budget.0)?);
        }
        "timeouts" => {
            let TimeoutRules { first_token, idle, wall } = &mut rules.timeouts;
            *first_token = Ticks(words.or("first_token", first_token.0)?);
            *idle = Ticks(words.or("idle", idle.0)?);
            *wall = Ticks(words.or("wall", wall.0)?);
        }
        "health" => {
            let health = &mut rules.health;
            health.beat_timeout = Ticks(words.or("beat_timeout", health.beat_timeout.0)?);
            health.no_worker_grace = Ticks(words.or("no_worker_grace", health.no_worker_grace.0)?);
            health.load_timeout = Ticks(words.or("load_timeout", health.load_timeout.0)?);
            health.restart.backoff = Ticks(words.or("restart", health.restart.backoff.0)?);
            health.restart.jitter = Permille(words.or("restart_jitter", health.restart.jitter.0)?);
            health.restart.storm_max = words.or("storm", health.restart.storm_max)?;
            health.breaker.failures = words.or("breaker", health.breaker.failures)?;
            health.breaker.open = Ticks(words.or("breaker_open", health.breaker.open.0)?);
            health.breaker.stable = Ticks(words.or("breaker_stable", health.breaker.stable.0)?);
            health.fatal_max = words.or("fatal_max", health.fatal_max)?;
        }
        "placement" => rules.placement = placement(rules, words)?,
        "eviction" => {
            let EvictionRules { policy, pressure, residency_min } = &mut rules.eviction;
            if let Some(name) = words.optional("policy") {
                let unknown = || format!("no eviction policy is called `{name}`");
                *policy = EvictionRule::named(name).ok_or_else(unknown)?;
            }
            *pressure = Permille(words.or("pressure", pressure.0)?);
            *residency_min = Ticks(words.or("residency_min", residency_min.0)?);
        }
        other => return Err(format!("no section of the rules is called `{other}`")),
    }
    Ok(())
}

pub(super) fn placement(rules: &Rules, words: &mut Words<'_>) -> Result<PlacementRules, String> {
    let batch_share = Permille(words.or("batch_share", rules.placement.batch_share.0)?);
    let preempt_max = words.or("preempt_max", rules.placement.preempt_max)?;
    let prefixes_max = words.or("prefixes", rules.placement.prefixes_max)?;
    Ok(PlacementRules { policy: words.rule()?, batch_share, preempt_max, prefixes_max })
}
