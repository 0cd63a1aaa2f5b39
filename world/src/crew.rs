//! Which workers stand in a pool and on a device: who is asked when something befalls either. Derived from
//! the workers, not in the Ledger.

use crate::id::{DeviceId, PoolId, WorkerId};
use crate::protocol::WorkerFacts;
use bevy_ecs::prelude::Resource;
use std::collections::{BTreeMap, BTreeSet};

/// See the module's head.
#[derive(Resource, Debug, Default, PartialEq, Eq)]
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
        let was = self.by_pool.get_mut(&facts.pool).is_some_and(|crew| crew.remove(&id));
        for part in &facts.devices {
            if let Some(crew) = self.by_device.get_mut(&part.device) {
                crew.remove(&id);
            }
        }
        self.by_pool.retain(|_, crew| !crew.is_empty());
        self.by_device.retain(|_, crew| !crew.is_empty());
        self.count -= usize::from(was);
    }

    /// The workers of a pool, by id.
    pub fn of_pool(&self, pool: PoolId) -> Vec<WorkerId> {
        self.by_pool.get(&pool).into_iter().flatten().copied().collect()
    }

    /// The workers on a device, by id.
    pub fn on_device(&self, device: DeviceId) -> Vec<WorkerId> {
        self.by_device.get(&device).into_iter().flatten().copied().collect()
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
