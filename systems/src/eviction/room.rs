//! Which models make way. Pure, over figures that others gathered: placement asks before it loads, eviction
//! under pressure, and both get the same answer.

use orchestrion_world::config::{EvictionRule, EvictionRules, Keep};
use orchestrion_world::id::{DeviceId, ModelId, WorkerId};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Bytes;
use std::cmp::Reverse;

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
    /// What its going would free.
    pub(crate) frees: Vec<(DeviceId, Bytes)>,
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

/// Hysteresis, in one sentence: a model makes way only after its minimum residency, and only for work that has
/// waited longer than any of its own.
pub(crate) fn stays(rules: EvictionRules, now: Tick, tenant: &Tenant, waited: Ticks) -> Option<Stays> {
    let resident = now.since(tenant.since);
    if tenant.pinned {
        Some(Stays::Pinned)
    } else if resident < rules.residency_min {
        Some(Stays::TooFresh { resident, min: rules.residency_min })
    } else {
        let own = tenant.waiting.filter(|own| *own >= waited)?;
        Some(Stays::OwnWork { waited: own, other: waited })
    }
}

/// The order in which a policy lets tenants go; smaller goes first.
pub(crate) const fn order(rule: EvictionRule) -> fn(&Tenant) -> u128 {
    match rule {
        EvictionRule::Lru => |tenant| tenant.used.0 as u128,
        EvictionRule::Lfu => |tenant| tenant.uses as u128,
        EvictionRule::Cost => |tenant| {
            let bytes: u64 = tenant.frees.iter().map(|(_, bytes)| bytes.0 >> 20).sum();
            // Loads and uses meet in microticks for each mebibyte, so that small models differ too.
            tenant.reload.0 as u128 * (tenant.uses as u128 + 1) * 1_000_000 / (bytes as u128 + 1)
        },
    }
}

/// The tenants that make way so that every demand is met: first those that nobody uses, and of them those that
/// nobody wants warm, by the policy. None where all together would not do. Whoever is not needed stays.
pub(crate) fn make_room<'t>(rule: EvictionRule, demands: &[Demand], tenants: &'t [Tenant]) -> Option<Vec<&'t Tenant>> {
    let short = |going: &[&Tenant]| {
        demands.iter().any(|demand| {
            let frees = going.iter().flat_map(|tenant| &tenant.frees).filter(|(device, _)| *device == demand.device);
            demand.needed.0 > frees.fold(demand.free.0, |sum, (_, bytes)| sum.saturating_add(bytes.0))
        })
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

    fn tenant(model: u16, used: u64, uses: u32, mib: u64) -> Tenant {
        Tenant {
            worker: WorkerId(1),
            model: ModelId(model),
            frees: vec![(D, Bytes(mib << 20))],
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
        let warm = [Tenant { keep: Keep::Warm, ..b }, Tenant { frees: vec![(D, Bytes(500 << 20))], ..c }];
        assert_eq!(going(EvictionRule::Lru, 400, &warm), Some(vec![2]));
    }

    #[test]
    fn a_model_makes_way_after_its_time_and_for_older_work() {
        let rules = Rules::default().eviction;
        let resident = tenant(0, 0, 0, 1);
        let at = |now, tenant: &Tenant, waited| stays(rules, Tick(now), tenant, Ticks(waited));
        let min = rules.residency_min;
        assert_eq!(at(min.0 - 1, &resident, 9), Some(Stays::TooFresh { resident: Ticks(min.0 - 1), min }));
        assert_eq!(at(min.0, &resident, 0), None);
        let wanted = Tenant { waiting: Some(Ticks(5)), ..resident.clone() };
        assert_eq!(at(min.0, &wanted, 5), Some(Stays::OwnWork { waited: Ticks(5), other: Ticks(5) }));
        assert_eq!(at(min.0, &wanted, 6), None);
        assert_eq!(at(min.0, &Tenant { pinned: true, ..resident }, 6), Some(Stays::Pinned));
    }
}
