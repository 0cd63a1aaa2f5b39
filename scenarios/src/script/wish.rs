//! Where a script's client wants its task to run: `pin=a`, `prefer=b,a` with or without `stay`, `avoid=c`,
//! `devices=0,1`.

use super::words::{Words, number};
use orchestrion_world::config::Rules;
use orchestrion_world::id::{DeviceId, PoolId};
use orchestrion_world::placement::{Aim, Fallback, Placement};

pub(super) fn placement(rules: &Rules, words: &mut Words<'_>) -> Result<Option<Box<Placement>>, String> {
    let pool = |name: &str| {
        let at = rules.pools.binary_search_by(|pool| pool.name.as_str().cmp(name));
        at.map(|at| PoolId(at as u16)).map_err(|_| format!("no pool is called `{name}`"))
    };
    let pools = |names: &str| names.split(',').map(pool).collect::<Result<Vec<_>, _>>();
    let fallback = if words.flag("stay") { Fallback::Never } else { Fallback::Allowed };
    let aim = match (words.optional("pin"), words.optional("prefer")) {
        (None, None) => Aim::Auto,
        (Some(name), None) => Aim::Pin(pool(name)?),
        (None, Some(names)) => Aim::Prefer { pools: pools(names)?, fallback },
        (Some(_), Some(_)) => return Err("a task is pinned or prefers, not both".into()),
    };
    let avoid = words.optional("avoid").map_or(Ok(vec![]), pools)?;
    let mask = |names: &str| names.split(',').map(|name| number(name).map(DeviceId)).collect::<Result<Vec<_>, _>>();
    let devices = words.optional("devices").map(mask).transpose()?;
    let asks = aim != Aim::Auto || !avoid.is_empty() || devices.is_some();
    Ok(asks.then(|| Box::new(Placement { aim, avoid, devices })))
}
