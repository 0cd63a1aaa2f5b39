//! Tenants: for whom the server works, what each may have of it, and what each has had.

use crate::budget::{Account, Budget, Price};
use crate::config::{RulesError, within};
use crate::id::TenantId;
use crate::rate::{Bucket, Rate};
use crate::time::Tick;
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};

/// What holds for one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRules {
    pub name: String,
    /// Its part of a line that others wait in too: one of weight 2 gets twice the tokens of one of weight 1.
    pub weight: u32,
    /// How fast tasks of it are admitted.
    pub tasks: Option<Rate>,
    /// And their tokens: the prompt's, and the answer's at its longest.
    pub tokens: Option<Rate>,
    /// Tasks of it that may wait at a time, in all lines.
    pub queued_max: Option<u32>,
    /// Tasks of it that may wait or run at a time.
    pub live_max: Option<u32>,
    pub budget: Budget,
    pub price: Price,
}

impl TenantRules {
    /// A tenant without limits.
    pub fn new(name: impl Into<String>, weight: u32) -> TenantRules {
        TenantRules {
            name: name.into(),
            weight,
            tasks: None,
            tokens: None,
            queued_max: None,
            live_max: None,
            budget: Budget::default(),
            price: Price::default(),
        }
    }

    pub fn id(&self) -> TenantId {
        TenantId::of(&self.name)
    }
}

/// One tenant of the rules. One that the rules do not name any more is kept while tasks of it live.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: TenantId,
    /// Its tasks that wait or run.
    pub live: u32,
    pub tasks: Option<Bucket>,
    pub tokens: Option<Bucket>,
    pub account: Account,
}

impl Tenant {
    /// A tenant that had nothing yet.
    pub fn new(rules: &TenantRules, now: Tick) -> Tenant {
        let full = |rate: Option<Rate>| rate.map(|rate| Bucket::new(&rate, now));
        let (tasks, tokens) = (full(rules.tasks), full(rules.tokens));
        Tenant { id: rules.id(), live: 0, tasks, tokens, account: Account::new(&rules.budget) }
    }
}

/// Each may wait in every line, and a line looks at all of them.
const TENANTS_MAX: usize = 256;
/// Larger ratios starve, and virtual time has so many digits.
const WEIGHT_MAX: u64 = 1_000;
/// A unit of the currency for a thousand tokens.
const PRICE_MAX: u64 = 1_000_000_000;

pub(crate) fn check(tenants: &[TenantRules]) -> Result<(), RulesError> {
    if tenants.len() > TENANTS_MAX {
        return Err(RulesError::TooMany { what: "tenants", found: tenants.len(), max: TENANTS_MAX });
    }
    if let Some(pair) = tenants.windows(2).find(|pair| pair[0].id() >= pair[1].id()) {
        return Err(RulesError::Misplaced { what: "tenant", name: pair[1].name.clone() });
    }
    tenants.iter().try_for_each(|tenant| {
        within("tenants.weight", tenant.weight.into(), 1, WEIGHT_MAX)?;
        tenant.tasks.iter().chain(&tenant.tokens).try_for_each(Rate::check)?;
        tenant.budget.check()?;
        within("tenants.prompt_price_milli", tenant.price.prompt.into(), 0, PRICE_MAX)?;
        within("tenants.answer_price_milli", tenant.price.answer.into(), 0, PRICE_MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Ticks;

    #[test]
    fn tenants_are_bounded_and_sorted() {
        let mut tenants: Vec<TenantRules> = (0..=256).map(|n| TenantRules::new(format!("t{n}"), 1)).collect();
        tenants.sort_by_key(TenantRules::id);
        assert!(matches!(check(&tenants), Err(RulesError::TooMany { found: 257, max: 256, .. })));
        assert_eq!(check(&tenants[1..]), Ok(()));
        let twice = [tenants[0].clone(), tenants[0].clone()];
        assert!(matches!(check(&twice), Err(RulesError::Misplaced { .. })));
        let bad = |change: fn(&mut TenantRules)| {
            let mut tenant = TenantRules::new("t", 1);
            change(&mut tenant);
            check(&[tenant]).unwrap_err().to_string()
        };
        assert_eq!(bad(|t| t.weight = 0), "tenants.weight must be between 1 and 1000, not 0");
        assert_eq!(bad(|t| t.weight = 1_001), "tenants.weight must be between 1 and 1000, not 1001");
        let still = Rate { amount: 0, per: Ticks(1), burst: 1 };
        assert!(check(&[TenantRules { tasks: Some(still), ..TenantRules::new("t", 1) }]).is_err());
        assert!(bad(|t| t.budget.tokens = Some(u64::MAX)).starts_with("a budget of tokens"));
        assert!(bad(|t| t.price.answer = u32::MAX).starts_with("tenants.answer_price_milli"));
    }

    #[test]
    fn a_tenant_is_known_by_its_name_alone() {
        assert_eq!(TenantId::of("default"), TenantId::DEFAULT);
        assert_eq!(TenantId::of("a"), TenantRules::new("a", 7).id());
        assert!(TenantId::of("a") != TenantId::of("b") && TenantId::of("") != TenantId::DEFAULT);
    }
}
