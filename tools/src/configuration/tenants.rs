//! `[[tenants]]`: for whom the server works, by the names of tokens.

use orchestrion_world::tenant::TenantRules;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tenant {
    pub name: String,
    /// Its part of a queue that others wait in too.
    pub weight: u32,
}

impl Default for Tenant {
    fn default() -> Self {
        Tenant { name: orchestrion_world::id::TenantId::DEFAULT_NAME.into(), weight: 1 }
    }
}

impl Tenant {
    pub(super) fn rules(&self) -> TenantRules {
        let Tenant { name, weight } = self.clone();
        TenantRules { name, weight }
    }
}
