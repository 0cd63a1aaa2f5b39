//! Where an entity stands, by its id: an open-addressed table, because every step asks it some hundred
//! times. A lookup among a million tasks costs 10 ns once its line is in the cache, and a B-tree's 200.
//!
//! Linear probing at most three quarters full; a removal moves what follows back, so there are no gravestones.
//! The order of the slots decides nothing: who walks gets the ids sorted. The seed is the journal's, so that
//! clients, who may choose ids, cannot choose ones that meet.

use crate::id::{DeviceId, ModelId, PoolId, SessionId, TaskId, TenantId, WorkerId};
use crate::prefix::PrefixId;
use bevy_ecs::prelude::Entity;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Places<K> {
    /// As many as a power of two.
    slots: Vec<Option<(K, Entity)>>,
    len: usize,
    seed: u64,
}

/// An id as a table spreads it.
pub(crate) trait Name: Copy + Ord {
    fn halves(self) -> (u64, u64);
}

impl Name for TaskId {
    fn halves(self) -> (u64, u64) {
        (self.0 as u64, (self.0 >> 64) as u64)
    }
}

impl Name for SessionId {
    fn halves(self) -> (u64, u64) {
        (self.0 as u64, (self.0 >> 64) as u64)
    }
}

impl Name for PrefixId {
    fn halves(self) -> (u64, u64) {
        (self.prefix.0, self.tenant.0 ^ u64::from(self.model.0))
    }
}

macro_rules! short_name {
    ($($id:ty),*) => {$(
        impl Name for $id {
            fn halves(self) -> (u64, u64) {
                (self.0.into(), 0)
            }
        }
    )*};
}
short_name!(WorkerId, DeviceId, PoolId, ModelId, TenantId);

const SLOTS_MIN: usize = 16;

/// Every bit of the result depends on all of `n`.
fn fold(n: u64) -> u64 {
    // The golden ratio, as far as 64 bits hold it.
    let product = u128::from(n) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

impl<K: Name> Places<K> {
    pub(crate) fn seeded(seed: u64) -> Self {
        Places { slots: vec![None; SLOTS_MIN], len: 0, seed }
    }

    pub(crate) fn get(&self, id: K) -> Option<Entity> {
        self.slots[self.find(id)].map(|(_, entity)| entity)
    }

    /// Gives the entity that had the name before.
    pub(crate) fn insert(&mut self, id: K, entity: Entity) -> Option<Entity> {
        if self.len + 1 > self.slots.len() / 4 * 3 {
            self.grow();
        }
        let at = self.find(id);
        let before = self.slots[at].replace((id, entity));
        self.len += usize::from(before.is_none());
        before.map(|(_, entity)| entity)
    }

    pub(crate) fn remove(&mut self, id: K) -> Option<Entity> {
        let mut gap = self.find(id);
        let (_, entity) = self.slots[gap].take()?;
        self.len -= 1;
        let mask = self.slots.len() - 1;
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let Some((name, _)) = self.slots[at] else { return Some(entity) };
            // It may move to the gap unless its home lies behind that.
            if at.wrapping_sub(self.home(name)) & mask >= at.wrapping_sub(gap) & mask {
                self.slots[gap] = self.slots[at].take();
                gap = at;
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Every name and its entity, by name.
    pub(crate) fn sorted(&self) -> Vec<(K, Entity)> {
        let mut all: Vec<_> = self.slots.iter().flatten().copied().collect();
        all.sort_unstable();
        all
    }

    /// The slot of the id, or the free one where it would stand.
    fn find(&self, id: K) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.home(id);
        while self.slots[at].is_some_and(|(name, _)| name != id) {
            at = (at + 1) & mask;
        }
        at
    }

    fn home(&self, id: K) -> usize {
        let (low, high) = id.halves();
        fold(fold(self.seed ^ low) ^ high) as usize & (self.slots.len() - 1)
    }

    fn grow(&mut self) {
        let wider = vec![None; self.slots.len() * 2];
        for slot in std::mem::replace(&mut self.slots, wider).into_iter().flatten() {
            let at = self.find(slot.0);
            self.slots[at] = Some(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bevy_ecs::prelude::World;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a map; few ids, so that they are removed and come back, and meet.
        #[test]
        fn it_is_a_map(script in prop::collection::vec((0u8..3, 0u32..60), 1..300), seed: u64) {
            let mut world = World::new();
            let (mut places, mut model) = (Places::seeded(seed), BTreeMap::new());
            for (kind, id) in script {
                let id = WorkerId(id);
                match kind {
                    0 => prop_assert_eq!(places.remove(id), model.remove(&id)),
                    _ => {
                        let entity = world.spawn_empty().id();
                        prop_assert_eq!(places.insert(id, entity), model.insert(id, entity));
                    }
                }
                prop_assert_eq!(places.len(), model.len());
                prop_assert_eq!(places.sorted(), model.iter().map(|(&k, &e)| (k, e)).collect::<Vec<_>>());
                (0..60).for_each(|n| assert_eq!(places.get(WorkerId(n)), model.get(&WorkerId(n)).copied()));
            }
        }
    }

    #[test]
    fn ids_that_only_grow_or_differ_in_one_half_spread() {
        let runs: [fn(u64) -> u128; 3] = [|n| n.into(), |n| u128::from(n) << 64, |n| u128::from(n) << 80 | 0x8000];
        for (id, seed) in runs.into_iter().flat_map(|id| [(id, 0), (id, 1), (id, u64::MAX / 3)]) {
            let mut places = Places::seeded(seed);
            let entity = World::new().spawn_empty().id();
            assert!((0..10_000).all(|n| places.insert(TaskId(id(n)), entity).is_none()));
            let far = |(at, slot): (usize, &Option<(TaskId, Entity)>)| {
                slot.map_or(0, |(name, _)| at.wrapping_sub(places.home(name)) & (places.slots.len() - 1))
            };
            let steps: usize = places.slots.iter().enumerate().map(far).sum();
            assert!(steps < 4 * 10_000, "{steps} steps from home");
        }
    }
}
