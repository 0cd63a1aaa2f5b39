//! The words for tenants and sessions: `tenant a weight=2 tasks=5/1000 burst=2 budget_tokens=500`,
//! `sessions ttl=1000 turns=3 max=2`.

use super::{Words, number};
use orchestrion_world::budget::{Budget, Price};
use orchestrion_world::id::{SessionId, TenantId};
use orchestrion_world::rate::Rate;
use orchestrion_world::session::SessionRules;
use orchestrion_world::tenant::TenantRules;
use orchestrion_world::time::Ticks;

/// In the place of one of the same name, if there is one.
pub(super) fn declare(tenants: &mut Vec<TenantRules>, words: &mut Words<'_>) -> Result<(), String> {
    let name = words.name()?.to_owned();
    tenants.retain(|tenant| tenant.name != name);
    tenants.push(TenantRules {
        weight: words.or("weight", 1)?,
        tasks: rate(words, "tasks", "burst")?,
        tokens: rate(words, "tokens", "tokens_burst")?,
        queued_max: words.optional("queued").map(number).transpose()?,
        live_max: words.optional("live").map(number).transpose()?,
        budget: budget(words)?,
        price: Price { prompt: words.or("prompt_price", 0)?, answer: words.or("answer_price", 0)? },
        ..TenantRules::new(name, 1)
    });
    tenants.sort_by_key(TenantRules::id);
    Ok(())
}

/// `tasks=5/1000` is five in a second.
fn rate(words: &mut Words<'_>, key: &str, burst: &str) -> Result<Option<Rate>, String> {
    let Some(text) = words.optional(key) else { return Ok(None) };
    let (amount, per) = text.split_once('/').ok_or_else(|| format!("`{text}` is no rate, as 5/1000 is"))?;
    let amount = number(amount)?;
    Ok(Some(Rate { amount, per: Ticks(number(per)?), burst: words.or(burst, amount)? }))
}

fn budget(words: &mut Words<'_>) -> Result<Budget, String> {
    let mut limit = |key| words.optional(key).map(number).transpose();
    Ok(Budget {
        tokens: limit("budget_tokens")?,
        time: limit("budget_time")?.map(Ticks),
        cost_milli: limit("budget_cost")?,
    })
}

pub(super) fn sessions(before: &SessionRules, words: &mut Words<'_>) -> Result<SessionRules, String> {
    let SessionRules { ttl, turns_max, max, budget: _ } = *before;
    Ok(SessionRules {
        ttl: Ticks(words.or("ttl", ttl.0)?),
        turns_max: words.or("turns", turns_max)?,
        max: words.or("max", max)?,
        budget: budget(words)?,
    })
}

/// A session of a tenant by its name, as at the door: the same name is another session for another tenant.
pub(super) fn session(tenant: TenantId, name: &str) -> SessionId {
    let TenantId(number) = TenantId::of(name);
    SessionId(u128::from(tenant.0) << 64 | u128::from(number))
}
