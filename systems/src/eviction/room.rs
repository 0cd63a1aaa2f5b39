//! Which models make way. Pure, over figures that others gathered: placement asks before it loads, eviction
//! under pressure, and both get the same answer.

use orchestrion_world::config::{EvictionRule, EvictionRules, Keep};
use orchestrion_world::id::{DeviceId, ModelId, WorkerId};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::{Bytes, Sha256};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What is asked of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) device: DeviceId,
    pub(crate) needed: Bytes,
    pub(crate) free: Bytes,
}

/// A model on a worker that might make way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tenant {
    pub(crate) worker: WorkerId,
    pub(crate) model: ModelId,
    /// What of it stands where.
    pub(crate) parts: Vec<Part>,
    pub(crate) pinned: bool,
    pub(crate) keep: Keep,
    pub(crate) since: Tick,
    pub(crate) used: Tick,
    pub(crate) uses: u32,
    pub(crate) leases: usize,
    /// How long the first of its own queue has waited.
    pub(crate) waiting: Option<Ticks>,
    /// How long it would take to come back.
    pub(crate) reload: Ticks,
}

/// What of a model stands on a device. It is free when the last of those who hold it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) device: DeviceId,
    pub(crate) digest: Sha256,
    pub(crate) bytes: Bytes,
    pub(crate) holders: u16,
}

/// What comes free on a device when all these go.
pub(crate) fn freed(going: &[&Tenant], device: DeviceId) -> Bytes {
    let mut shards: BTreeMap<Sha256, (u16, Bytes)> = BTreeMap::new();
    for part in going.iter().flat_map(|tenant| &tenant.parts).filter(|part| part.device == device) {
        let (left, _) = shards.entry(part.digest).or_insert((part.holders, part.bytes));
        *left = left.saturating_sub(1);
    }
    let gone = shards.into_values().filter(|(left, _)| *left == 0);
    Bytes(gone.fold(0, |sum, (_, bytes)| sum.saturating_add(bytes.0)))
}

/// Why a tenant stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stays {
    Pinned,
    /// Its minimum residency is not over.
    TooFresh {
        resident: Ticks,
        min: Ticks,
    },
    /// Its own work has waited longer than the work that wants its place.
    OwnWork {
        waited: Ticks,
        other: Ticks,
    },
}

/// Work that wants a tenant's place: how long it has waited, and for which model. Of those that came at the same time
/// the model of the lower number goes first, or two would wait for each other.
pub(crate) type Rival = (Ticks, Reverse<ModelId>);

/// Hysteresis, in one sentence: a model makes way only after its minimum residency, and only for work that has
/// waited longer than any of its own.
pub(crate) fn stays(rules: EvictionRules, now: Tick, tenant: &Tenant, rival: Option<Rival>) -> Option<Stays> {
    let resident = now.since(tenant.since);
    if tenant.pinned {
        Some(Stays::Pinned)
    } else if resident < rules.residency_min {
        Some(Stays::TooFresh { resident, min: rules.residency_min })
    } else {
        let goes_first = |own: &Ticks| rival.is_none_or(|rival| (*own, Reverse(tenant.model)) >= rival);
        let own = tenant.waiting.filter(goes_first)?;
        Some(Stays::OwnWork { waited: own, other: rival.map_or(Ticks(0), |(waited, _)| waited) })
    }
}

/// The order in which a policy lets tenants go; smaller goes first.
pub(crate) const fn order(rule: EvictionRule) -> fn(&Tenant) -> u128 {
    match rule {
        EvictionRule::Lru => |tenant| tenant.used.0 as u128,
        EvictionRule::Lfu => |tenant| tenant.uses as u128,
        EvictionRule::Cost => |tenant| {
            // Of what several hold each frees its share.
            let bytes: u64 =
                tenant.parts.iter().map(|part| (part.bytes.0 >> 20) / u64::from(part.holders.max(1))).sum();
            // Loads and uses meet in microticks for each mebibyte, so that small models differ too.
            tenant.reload.0 as u128 * (tenant.uses as u128 + 1) * 1_000_000 / (bytes as u128 + 1)
        },
    }
}

/// The tenants that make way so that every demand is met: first those that nobody uses, and of them those that
/// nobody wants warm, by the policy. None where all together would not do. Whoever is not needed stays.
pub(crate) fn make_room<'t>(rule: EvictionRule, demands: &[Demand], tenants: &'t [Tenant]) -> Option<Vec<&'t Tenant>> {
    let short = |going: &[&Tenant]| {
        demands.iter().any(|demand| demand.needed.0 > demand.free.0.saturating_add(freed(going, demand.device).0))
    };
    let mut line: Vec<&Tenant> = tenants.iter().collect();
    let place = |t: &&Tenant| (t.leases > 0, t.keep, order(rule)(t), Reverse(t.reload), t.worker, t.model);
    line.sort_by_key(place);
    let mut going: Vec<&Tenant> = vec![];
    for tenant in line {
        if !short(&going) {
            break;
        }
        going.push(tenant);
    }
    if short(&going) {
        return None;
    }
    // The first ones may have been too small to matter.
    for tenant in going.clone() {
        let rest: Vec<&Tenant> = going.iter().copied().filter(|other| *other != tenant).collect();
        if !short(&rest) {
            going = rest;
        }
    }
    Some(going)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_world::config::Rules;

    const D: DeviceId = DeviceId(0);

    fn part(model: u16, mib: u64) -> Part {
        Part { device: D, digest: Sha256([model as u8; 32]), bytes: Bytes(mib << 20), holders: 1 }
    }

    fn tenant(model: u16, used: u64, uses: u32, mib: u64) -> Tenant {
        Tenant {
            worker: WorkerId(1),
            model: ModelId(model),
            parts: vec![part(model, mib)],
            pinned: false,
            keep: Keep::OnDemand,
            since: Tick(0),
            used: Tick(used),
            uses,
            leases: 0,
            waiting: None,
            reload: Ticks(mib),
        }
    }

    fn going(rule: EvictionRule, needed: u64, tenants: &[Tenant]) -> Option<Vec<u16>> {
        let demand = Demand { device: D, needed: Bytes(needed << 20), free: Bytes(0) };
        make_room(rule, &[demand], tenants).map(|going| going.iter().map(|t| t.model.0).collect())
    }

    #[test]
    fn each_policy_has_its_own_order() {
        // Used last and often, used first and sometimes, small and never.
        let tenants = [tenant(0, 90, 50, 400), tenant(1, 10, 20, 400), tenant(2, 50, 60, 400)];
        assert_eq!(going(EvictionRule::Lru, 400, &tenants), Some(vec![1]));
        assert_eq!(going(EvictionRule::Lfu, 400, &tenants), Some(vec![1]));
        let [a, b, c] = tenants;
        let costly = Tenant { reload: Ticks(40_000), ..b };
        assert_eq!(going(EvictionRule::Cost, 400, &[a, costly, c]), Some(vec![0]));
    }

    #[test]
    fn nobody_goes_in_vain_and_idle_ones_go_before_busy_and_warm_ones() {
        let all = [tenant(0, 1, 0, 10), tenant(1, 2, 0, 500), tenant(2, 3, 0, 100)];
        assert_eq!(going(EvictionRule::Lru, 0, &all), Some(vec![]));
        assert_eq!(going(EvictionRule::Lru, 400, &all), Some(vec![1]), "the first is too small to matter");
        assert_eq!(going(EvictionRule::Lru, 510, &all), Some(vec![0, 1]));
        assert_eq!(going(EvictionRule::Lru, 611, &all), None);
        let [a, b, c] = all;
        let busy = [a, Tenant { leases: 1, ..b.clone() }, Tenant { used: Tick(9), ..b.clone() }];
        assert_eq!(going(EvictionRule::Lru, 400, &busy), Some(vec![1]), "b unused, whatever its age");
        let warm = [Tenant { keep: Keep::Warm, ..b }, Tenant { parts: vec![part(2, 500)], ..c }];
        assert_eq!(going(EvictionRule::Lru, 400, &warm), Some(vec![2]));
    }

    #[test]
    fn what_several_hold_comes_free_with_the_last_of_them() {
        let shared = |used| Tenant { parts: vec![Part { holders: 2, ..part(0, 400) }], ..tenant(0, used, 0, 400) };
        assert_eq!(going(EvictionRule::Lru, 400, &[shared(1)]), None, "another keeps it");
        assert_eq!(going(EvictionRule::Lru, 400, &[shared(1), shared(2)]), Some(vec![0, 0]));
        let other = tenant(1, 3, 0, 400);
        assert_eq!(going(EvictionRule::Lru, 400, &[shared(1), other, shared(4)]), Some(vec![1]));
    }

    #[test]
    fn a_model_makes_way_after_its_time_and_for_older_work() {
        let rules = Rules::default().eviction;
        let resident = tenant(0, 0, 0, 1);
        let at =
            |now, tenant: &Tenant, waited| stays(rules, Tick(now), tenant, Some((Ticks(waited), Reverse(ModelId(9)))));
        let min = rules.residency_min;
        assert_eq!(at(min.0 - 1, &resident, 9), Some(Stays::TooFresh { resident: Ticks(min.0 - 1), min }));
        assert_eq!(at(min.0, &resident, 0), None);
        let wanted = Tenant { waiting: Some(Ticks(5)), ..resident.clone() };
        assert_eq!(at(min.0, &wanted, 5), Some(Stays::OwnWork { waited: Ticks(5), other: Ticks(5) }));
        assert_eq!(at(min.0, &wanted, 6), None);
        // Of two that came together the one of the lower number goes first, and the other waits for it.
        let last = Tenant { model: ModelId(10), ..wanted.clone() };
        assert_eq!(at(min.0, &last, 5), None);
        assert_eq!(at(min.0, &Tenant { pinned: true, ..resident }, 6), Some(Stays::Pinned));
    }
}
