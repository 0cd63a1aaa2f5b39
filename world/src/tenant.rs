//! Tenants: for whom the server works, and what each may have of it.

use crate::config::{RulesError, within};
use crate::id::TenantId;
use serde::{Deserialize, Serialize};

/// What holds for one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRules {
    pub name: String,
    /// Its part of a line that others wait in too: one of weight 2 gets twice the tokens of one of weight 1.
    pub weight: u32,
}

impl TenantRules {
    pub fn id(&self) -> TenantId {
        TenantId::of(&self.name)
    }
}

/// Each may wait in every line, and a line looks at all of them.
const TENANTS_MAX: usize = 256;
/// Larger ratios starve, and virtual time has so many digits.
const WEIGHT_MAX: u64 = 1_000;

pub(crate) fn check(tenants: &[TenantRules]) -> Result<(), RulesError> {
    if tenants.len() > TENANTS_MAX {
        return Err(RulesError::TooMany { what: "tenants", found: tenants.len(), max: TENANTS_MAX });
    }
    if let Some(pair) = tenants.windows(2).find(|pair| pair[0].id() >= pair[1].id()) {
        return Err(RulesError::Misplaced { what: "tenant", name: pair[1].name.clone() });
    }
    tenants.iter().try_for_each(|tenant| within("tenants.weight", tenant.weight.into(), 1, WEIGHT_MAX))
}
