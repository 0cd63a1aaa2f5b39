//! Which workers stand in a pool and on a device: who is asked when something befalls either. Derived from
//! the workers, not in the Ledger.

use crate::id::{DeviceId, PoolId, WorkerId};
use crate::protocol::WorkerFacts;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// See the module's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Crews {
    by_pool: BTreeMap<PoolId, BTreeSet<WorkerId>>,
    by_device: BTreeMap<DeviceId, BTreeSet<WorkerId>>,
    count: usize,
}

impl Crews {
    pub fn join(&mut self, id: WorkerId, facts: &WorkerFacts) {
        let fresh = self.by_pool.entry(facts.pool).or_default().insert(id);
        for part in &facts.devices {
            self.by_device.entry(part.device).or_default().insert(id);
        }
        self.count += usize::from(fresh);
    }

    pub fn leave(&mut self, id: WorkerId, facts: &WorkerFacts) {
        let was = part_with(&mut self.by_pool, facts.pool, id);
        for part in &facts.devices {
            part_with(&mut self.by_device, part.device, id);
        }
        self.count -= usize::from(was);
    }

    /// The workers of a pool, by id.
    pub fn of_pool(&self, pool: PoolId) -> impl Iterator<Item = WorkerId> {
        self.by_pool.get(&pool).into_iter().flatten().copied()
    }

    /// The workers on a device, by id.
    pub fn on_device(&self, device: DeviceId) -> impl Iterator<Item = WorkerId> {
        self.by_device.get(&device).into_iter().flatten().copied()
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Takes a worker out of its crew, and the crew away with its last; whether it was there.
fn part_with<K: Ord>(crews: &mut BTreeMap<K, BTreeSet<WorkerId>>, key: K, id: WorkerId) -> bool {
    let Entry::Occupied(mut crew) = crews.entry(key) else { return false };
    let was = crew.get_mut().remove(&id);
    if crew.get().is_empty() {
        crew.remove();
    }
    was
}
