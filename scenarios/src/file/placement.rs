//! `placement` of `[[arrivals]]`: where their clients want their tasks to run, by names of pools.

use super::{FileError, Reading};
use orchestrion_world::config::Rules;
use orchestrion_world::id::PoolId;
use orchestrion_world::placement::{Aim, Fallback, Placement};
use serde::Deserialize;
use toml::Spanned;

/// At most one of `pin` and `prefer`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// This pool and no other.
    pub pin: Option<Spanned<String>>,
    /// The first before the next.
    #[serde(default)]
    pub prefer: Vec<Spanned<String>>,
    /// Where none of those has room: others, or wait.
    #[serde(default = "allowed")]
    pub fallback: bool,
    #[serde(default)]
    pub avoid: Vec<Spanned<String>>,
}

fn allowed() -> bool {
    true
}

impl Wish {
    pub(super) fn resolve(&self, read: &Reading<'_>, key: &str, rules: &Rules) -> Result<Box<Placement>, FileError> {
        let names: Vec<&str> = rules.pools.iter().map(|pool| pool.name.as_str()).collect();
        let pool = |name: &Spanned<String>| Ok(PoolId(read.find("pool", name, &names)? as u16));
        let pools = |names: &[Spanned<String>]| names.iter().map(pool).collect::<Result<Vec<_>, FileError>>();
        let fallback = if self.fallback { Fallback::Allowed } else { Fallback::Never };
        let aim = match (&self.pin, self.prefer.as_slice()) {
            (None, []) => Aim::Auto,
            (Some(name), []) => Aim::Pin(pool(name)?),
            (None, names) => Aim::Prefer { pools: pools(names)?, fallback },
            (Some(name), _) => return Err(read.at(name, "a task is pinned to one pool or prefers some, not both")),
        };
        if !self.fallback && self.prefer.is_empty() {
            let problem = "is for `prefer` alone".to_owned();
            return Err(FileError::Key { key: format!("{key}.fallback"), problem });
        }
        Ok(Box::new(Placement { aim, avoid: pools(&self.avoid)?, devices: None }))
    }
}
