//! Beginnings of prompts, and where each was read last: an engine keeps the context of what it read by whole
//! pages, so that a prompt that begins alike need not be read from its first token. The core knows them by hash.
//!
//! What one tenant's prompts left behind is looked up by that tenant alone, so the tenant is a part of the name.

use crate::id::{ModelId, TenantId, WorkerId};
use crate::time::Tick;
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::Xxh3;

/// Tokens in a page of an engine's context memory.
pub const PAGE: u32 = 32;

/// Beginnings of one prompt that are looked at: of 1, 2, 4 pages and so on, 65,536 tokens at most.
pub const PREFIXES_OF_TASK: usize = 12;

/// The hash of a beginning's tokens and their tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PrefixKey(pub u64);

impl PrefixKey {
    /// Of the same tokens, said by this tenant. The core counts tenants that no rules name as one; doors and engines
    /// do not.
    #[must_use]
    pub fn of(self, tenant: TenantId) -> PrefixKey {
        PrefixKey(self.0 ^ tenant.0)
    }
}

/// The beginning of a tenant's prompts for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PrefixId {
    pub model: ModelId,
    pub tenant: TenantId,
    pub prefix: PrefixKey,
}

/// One of them, while the worker that read it last may still know it.
#[derive(Component, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    pub id: PrefixId,
    pub worker: WorkerId,
    /// When it was read there last.
    pub read: Tick,
}

/// All of them by age, and those of each worker. Derived: not in the Ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixIndex {
    pub by_age: BTreeSet<(Tick, PrefixId)>,
    pub by_worker: BTreeSet<(WorkerId, PrefixId)>,
}

impl PrefixIndex {
    pub fn add(&mut self, prefix: &Prefix) {
        self.by_age.insert((prefix.read, prefix.id));
        self.by_worker.insert((prefix.worker, prefix.id));
    }

    pub fn remove(&mut self, prefix: &Prefix) {
        self.by_age.remove(&(prefix.read, prefix.id));
        self.by_worker.remove(&(prefix.worker, prefix.id));
    }
}

/// Tokens of the beginning that stands at this place of a task's list.
pub fn length(place: usize) -> u32 {
    PAGE << place
}

/// The beginnings of the default tenant's prompt that may be known: whole pages, doubled each time, and never its last
/// token, which is always read.
pub fn of_prompt(tokens: &[u32]) -> Box<[PrefixKey]> {
    let (mut hash, mut read) = (Xxh3::new(), 0);
    let lengths = (0..PREFIXES_OF_TASK).map(|place| length(place) as usize);
    let keys = lengths.take_while(|&length| length < tokens.len()).map(|length| {
        tokens[read..length].iter().for_each(|token| hash.update(&token.to_le_bytes()));
        read = length;
        PrefixKey(hash.digest())
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_has_the_beginnings_that_it_shares_and_no_more_than_the_bound() {
        let tokens: Vec<u32> = (0..200_000).collect();
        let of = |length: usize| of_prompt(&tokens[..length]);
        assert_eq!([0, 1, 32, 33, 64, 65, 129].map(|length| of(length).len()), [0, 0, 0, 1, 1, 2, 3]);
        assert_eq!(of(100)[..], of(200_000)[..2], "what is alike has the same keys");
        assert_eq!(of(200_000).len(), PREFIXES_OF_TASK);
        let mut other = tokens[..129].to_vec();
        other[40] += 1;
        let other = of_prompt(&other);
        assert_eq!((other[0], other[1] == of(129)[1], other[2] == of(129)[2]), (of(129)[0], false, false));
    }
}
