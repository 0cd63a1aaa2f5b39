//! Reads a task's `placement`: which pools and devices its client wants or does not want. Names become the ids of
//! this server's pools; one that nobody has is refused with those there are.

use super::fields::Fields;
use crate::problem::Problem;
use orchestrion_world::id::{DeviceId, PoolId};
use orchestrion_world::placement::{Aim, Fallback, Placement};
use serde_json::Value;

/// A list is no longer: it is walked for each worker that is looked at.
const LIST_MOST: usize = 64;

/// None where the client leaves it to the server.
pub(crate) fn placement(fields: &mut Fields, pools: &[String]) -> Result<Option<Box<Placement>>, Problem> {
    let mut fields = match fields.take("placement") {
        None => return Ok(None),
        Some(Value::Object(fields)) => Fields(fields),
        Some(_) => return Err(Problem::invalid("placement", "must be an object, as `{\"mode\": \"auto\"}`")),
    };
    let pin = fields.string("pin_pool_id").map_err(|_| Problem::invalid(PIN, "must be a string"))?;
    let preferred = names(&mut fields, "prefer_pools", PREFER)?;
    let avoided = names(&mut fields, "avoid_pools", AVOID)?;
    let mask = mask(&mut fields)?;
    let fallback = fields.boolean("allow_fallback").map_err(|_| Problem::invalid(FALLBACK, "must be true or false"))?;
    let mode = fields.string("mode").map_err(|_| Problem::invalid(MODE, MODES))?;
    if let Some(name) = fields.0.iter().find(|(_, value)| !value.is_null()).map(|(name, _)| name) {
        let known = "`mode`, `pin_pool_id`, `prefer_pools`, `avoid_pools`, `require_device_mask` and `allow_fallback`";
        return Err(Problem::invalid(format!("placement.{name}"), format!("is not known; there are {known}")));
    }
    let ids =
        |names: Vec<String>, param| names.iter().map(|name| id(pools, name, param)).collect::<Result<Vec<_>, _>>();
    let aim = match (mode.as_deref(), pin, preferred) {
        (Some("auto") | None, None, None) => Aim::Auto,
        (Some("pin") | None, Some(pin), None) => Aim::Pin(id(pools, &pin, PIN)?),
        (Some("prefer") | None, None, Some(preferred)) => {
            let fallback = if fallback.unwrap_or(true) { Fallback::Allowed } else { Fallback::Never };
            Aim::Prefer { pools: ids(preferred, PREFER)?, fallback }
        }
        (Some("pin"), None, _) => return Err(Problem::invalid(PIN, "is needed with the mode `pin`")),
        (Some("prefer"), _, None) => return Err(Problem::invalid(PREFER, "is needed with the mode `prefer`")),
        (Some("auto" | "prefer") | None, Some(_), _) => {
            return Err(Problem::invalid(PIN, "goes with the mode `pin` and not with `prefer_pools`"));
        }
        (Some("auto" | "pin"), _, Some(_)) => {
            return Err(Problem::invalid(PREFER, "goes with the mode `prefer` only"));
        }
        (Some(_), ..) => return Err(Problem::invalid(MODE, MODES)),
    };
    let avoid = ids(avoided.unwrap_or_default(), AVOID)?;
    let asks = aim != Aim::Auto || !avoid.is_empty() || mask.is_some();
    Ok(asks.then(|| Box::new(Placement { aim, avoid, devices: mask })))
}

const MODE: &str = "placement.mode";
const MODES: &str = "must be `auto`, `pin` or `prefer`";
const PIN: &str = "placement.pin_pool_id";
const PREFER: &str = "placement.prefer_pools";
const AVOID: &str = "placement.avoid_pools";
const FALLBACK: &str = "placement.allow_fallback";
const MASK: &str = "placement.require_device_mask";

fn id(pools: &[String], name: &str, param: &str) -> Result<PoolId, Problem> {
    let at = pools.iter().position(|pool| pool == name).map(|at| PoolId(at as u16));
    at.ok_or_else(|| {
        let mut known: Vec<&str> = pools.iter().take(LIST_MOST).map(String::as_str).collect();
        if pools.len() > LIST_MOST {
            known.push("others that `GET /v1/pools` lists");
        }
        Problem::invalid(param, format!("names no pool of this server; there are {}", known.join(", ")))
    })
}

fn names(fields: &mut Fields, name: &str, param: &str) -> Result<Option<Vec<String>>, Problem> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    let problem = || Problem::invalid(param, format!("must be a list of 1 to {LIST_MOST} names of pools"));
    let Value::Array(values) = value else { return Err(problem()) };
    if !(1..=LIST_MOST).contains(&values.len()) {
        return Err(problem());
    }
    let text = |value: Value| value.as_str().map(str::to_owned).ok_or_else(problem);
    values.into_iter().map(text).collect::<Result<_, _>>().map(Some)
}

/// Devices by the names that `GET /v1/pools` tells, `d0` and its like, each once.
fn mask(fields: &mut Fields) -> Result<Option<Vec<DeviceId>>, Problem> {
    let Some(value) = fields.take("require_device_mask") else { return Ok(None) };
    let problem = || {
        let problem = "must be a list of 1 to 64 devices as `GET /v1/pools` names them, each once: [\"d0\", \"d1\"]";
        Problem::invalid(MASK, problem)
    };
    let Value::Array(values) = value else { return Err(problem()) };
    if !(1..=LIST_MOST).contains(&values.len()) {
        return Err(problem());
    }
    let device = |value: Value| value.as_str()?.strip_prefix('d')?.parse().ok().map(DeviceId);
    let mut devices: Vec<DeviceId> = values.into_iter().map(device).collect::<Option<_>>().ok_or_else(problem)?;
    devices.sort_unstable();
    let distinct = devices.is_sorted_by(|a, b| a < b);
    if distinct { Ok(Some(devices)) } else { Err(problem()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(placement: Value) -> Result<Option<Box<Placement>>, Problem> {
        let Value::Object(fields) = json!({ "placement": placement }) else { unreachable!() };
        placement_of(Fields(fields))
    }

    fn placement_of(mut fields: Fields) -> Result<Option<Box<Placement>>, Problem> {
        placement(&mut fields, &["a".into(), "b".into()])
    }

    #[test]
    fn what_a_client_may_say() {
        let of = |aim, avoid: &[u16], devices: Option<&[u32]>| {
            let avoid = avoid.iter().map(|&pool| PoolId(pool)).collect();
            let devices = devices.map(|all| all.iter().map(|&device| DeviceId(device)).collect());
            Some(Box::new(Placement { aim, avoid, devices }))
        };
        let prefer = |fallback| Aim::Prefer { pools: vec![PoolId(1), PoolId(0)], fallback };
        for (said, read_as) in [
            (json!(null), None),
            (json!({}), None),
            (json!({"mode": "auto", "allow_fallback": true, "pin_pool_id": null}), None),
            (json!({"mode": "pin", "pin_pool_id": "b"}), of(Aim::Pin(PoolId(1)), &[], None)),
            (json!({"pin_pool_id": "b"}), of(Aim::Pin(PoolId(1)), &[], None)),
            (json!({"mode": "prefer", "prefer_pools": ["b", "a"]}), of(prefer(Fallback::Allowed), &[], None)),
            (json!({"prefer_pools": ["b", "a"], "allow_fallback": false}), of(prefer(Fallback::Never), &[], None)),
            (json!({"avoid_pools": ["a"]}), of(Aim::Auto, &[0], None)),
            (json!({"require_device_mask": ["d3", "d1"]}), of(Aim::Auto, &[], Some(&[1, 3]))),
        ] {
            assert_eq!(read(said.clone()).unwrap(), read_as, "{said}");
        }
    }

    #[test]
    fn what_it_may_not_is_named_with_what_there_is() {
        let long: Vec<String> = (0..65).map(|_| "a".into()).collect();
        for (said, param, told) in [
            (json!("a"), "placement", "object"),
            (json!({"mode": "best"}), MODE, "`auto`, `pin` or `prefer`"),
            (json!({"mode": "pin"}), PIN, "is needed"),
            (json!({"mode": "prefer"}), PREFER, "is needed"),
            (json!({"mode": "auto", "pin_pool_id": "a"}), PIN, "goes with"),
            (json!({"pin_pool_id": "a", "prefer_pools": ["b"]}), PIN, "goes with"),
            (json!({"pin_pool_id": "z"}), PIN, "there are a, b"),
            (json!({"prefer_pools": ["a", "z"]}), PREFER, "there are a, b"),
            (json!({"avoid_pools": ["z"]}), AVOID, "there are a, b"),
            (json!({"avoid_pools": []}), AVOID, "1 to 64"),
            (json!({"avoid_pools": long}), AVOID, "1 to 64"),
            (json!({"avoid_pools": [1]}), AVOID, "1 to 64"),
            (json!({"require_device_mask": 3}), MASK, "d0"),
            (json!({"require_device_mask": ["d1", "d1"]}), MASK, "each once"),
            (json!({"require_device_mask": ["gpu"]}), MASK, "d0"),
            (json!({"allow_fallback": 1, "prefer_pools": ["a"]}), FALLBACK, "true or false"),
            (json!({"pin_pool": "a"}), "placement.pin_pool", "`pin_pool_id`"),
        ] {
            let problem = read(said.clone()).unwrap_err();
            assert_eq!(problem.param.as_deref(), Some(param), "{said}");
            assert!(problem.message.contains(told), "{said}: {}", problem.message);
        }
    }
}
