//! Device memory: who may use it, what stands in it. The world's ledger of it is exact; a device's
//! `weights + reserved` never exceeds its capacity.
//!
//! A model on a worker has one life ([`Resident`]), its bytes stand on each of the worker's devices
//! ([`Shard`]) from the order to load until they are freed.

use crate::config::Loadable;
use crate::id::{DeviceId, ModelId, ShardOrder};
use crate::prefix::PAGE;
use crate::protocol::{Loader, ModelFacts};
use crate::time::{TICKS_PER_SECOND, Tick, Ticks};
use crate::units::{Bytes, MilliRate, Sha256};
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};

/// One device's memory.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub id: DeviceId,
    pub capacity: Bytes,
    /// Taken by shards.
    pub weights: Bytes,
    /// Taken by the context of leased tasks.
    pub reserved: Bytes,
    /// When it last failed for good, within the window of the rules; the oldest first.
    pub fatals: Vec<Tick>,
    /// How often weights on it were found to be other than what was loaded.
    pub corruptions: u32,
    /// Nothing runs on it until somebody resumes a pool that stands on it.
    pub quarantined: bool,
}

impl Device {
    /// An empty one.
    pub fn new(id: DeviceId, capacity: Bytes) -> Device {
        Device {
            id,
            capacity,
            weights: Bytes(0),
            reserved: Bytes(0),
            fatals: vec![],
            corruptions: 0,
            quarantined: false,
        }
    }

    /// What neither shards nor leases take.
    pub fn residual(&self) -> Bytes {
        Bytes(self.capacity.0.saturating_sub(self.weights.0).saturating_sub(self.reserved.0))
    }
}

/// A model's bytes on a device. Workers of the same file on the same device share them.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub device: DeviceId,
    pub digest: Sha256,
    pub bytes: Bytes,
    /// Workers that hold it; with the last one it goes.
    pub holders: u16,
}

/// A model on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    pub model: ModelId,
    pub life: Residence,
    /// The last to load or free it; none where the worker came with it.
    pub order: Option<ShardOrder>,
    /// Expected while it is staged, then measured, then learned.
    pub facts: ModelFacts,
    /// Never evicted: the worker came with it and can load no other, or the rules say so.
    pub pinned: bool,
    /// When it was ordered or, once it is sealed, since when it serves.
    pub since: Tick,
    /// When a task last came to it or left it.
    pub used: Tick,
    /// Tasks that came to it.
    pub uses: u32,
    /// Loads that came to nothing, one after another.
    pub failures: u8,
}

impl Resident {
    /// As a worker came with it.
    pub fn came(model: ModelId, facts: ModelFacts, pinned: bool, now: Tick) -> Resident {
        let (life, order) = (Residence::Sealed, None);
        Resident { model, life, order, facts, pinned, since: now, used: now, uses: 0, failures: 0 }
    }
}

/// A resident's life. [`Residence::advance`] is its only writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Residence {
    /// Ordered; its memory is reserved.
    Staging,
    /// Checked and ready: it serves.
    Sealed,
    /// Takes no more tasks, so that it can make way for another model.
    Yielding { to: ModelId },
    /// Ordered to go; its memory is still taken.
    Evicting { to: Option<ModelId> },
    /// As evicting, because its bytes are not those of the model.
    Condemned,
    /// It could not be loaded, and is not tried again before `until`; it takes no memory.
    Failed { until: Tick },
}

/// A move that the table of lives does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a resident cannot go from {from:?} to {to:?}")]
pub struct IllegalTurn {
    pub from: Residence,
    pub to: Residence,
}

impl Residence {
    /// Moves on, or refuses and changes nothing. Who is evicted or failed may be gone after.
    pub fn advance(&mut self, to: Residence) -> Result<(), IllegalTurn> {
        use Residence::*;
        let legal = match (&*self, &to) {
            (Staging, Sealed | Condemned | Failed { .. }) => true,
            (Sealed, Yielding { .. } | Evicting { .. }) => true,
            // Nobody wants its place any more.
            (Yielding { .. }, Sealed | Evicting { .. }) => true,
            // The worker could not let it go.
            (Evicting { .. }, Sealed) => true,
            (Condemned, Failed { .. }) => true,
            (Failed { .. }, Staging) => true,
            (Staging | Sealed | Yielding { .. } | Evicting { .. } | Condemned | Failed { .. }, _) => false,
        };
        if !legal {
            return Err(IllegalTurn { from: *self, to });
        }
        *self = to;
        Ok(())
    }

    /// The name on the wire.
    pub fn label(self) -> &'static str {
        match self {
            Residence::Staging => "loading",
            Residence::Sealed => "serving",
            Residence::Yielding { .. } => "yielding",
            Residence::Evicting { .. } => "evicting",
            Residence::Condemned => "corrupt",
            Residence::Failed { .. } => "failed",
        }
    }

    /// Whether its weights take memory.
    pub fn takes_memory(self) -> bool {
        match self {
            Residence::Staging
            | Residence::Sealed
            | Residence::Yielding { .. }
            | Residence::Evicting { .. }
            | Residence::Condemned => true,
            Residence::Failed { .. } => false,
        }
    }
}

impl Loader {
    /// Whether it has what the model demands: MCD ⊆ ECP.
    pub fn can_run(&self, row: &Loadable) -> bool {
        self.compute >= row.compute && row.needs.iter().all(|need| self.abilities.binary_search(need).is_ok())
    }

    /// The model as it would stand here. Each token takes all weights through memory once.
    pub fn expects(&self, row: &Loadable) -> ModelFacts {
        let rate = |bytes: Bytes| {
            let milli = u128::from(bytes.0) * 1_000 / u128::from(row.weights.0.max(1));
            MilliRate(u64::try_from(milli).unwrap_or(u64::MAX).max(1))
        };
        ModelFacts {
            digest: row.digest,
            // The worker says it when it has the model.
            fingerprint: row.digest,
            weights: row.weights,
            kv_per_token: row.kv_per_token,
            ctx_max: row.ctx_max,
            prefill: rate(self.prompt),
            decode: rate(self.answer),
        }
    }

    /// How long so many bytes take to load.
    pub fn load_time(&self, weights: Bytes) -> Ticks {
        let ticks = (u128::from(weights.0) * u128::from(TICKS_PER_SECOND)).div_ceil(u128::from(self.load.0.max(1)));
        Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
    }
}

impl ModelFacts {
    /// Context memory that a task of so many tokens takes.
    pub fn kv_for(&self, tokens: u64) -> Bytes {
        kv_for(self.kv_per_token, tokens)
    }

    /// The most tokens that a task may be of, so that its context takes no more than this.
    pub fn tokens_in(&self, memory: Bytes) -> u64 {
        (memory.0 / self.kv_for(1).0.max(1)).saturating_mul(PAGE.into())
    }
}

/// As many tokens, in whole pages: an engine holds no part of one.
pub(crate) fn kv_for(kv_per_token: Bytes, tokens: u64) -> Bytes {
    Bytes(in_pages(tokens).saturating_mul(kv_per_token.0))
}

/// The tokens that whole pages for so many have room for.
pub fn in_pages(tokens: u64) -> u64 {
    tokens.div_ceil(PAGE.into()).saturating_mul(PAGE.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Permille;

    #[test]
    fn the_table_of_turns() {
        let (to, until) = (ModelId(1), Tick(9));
        let all = [
            Residence::Staging,
            Residence::Sealed,
            Residence::Yielding { to },
            Residence::Evicting { to: Some(to) },
            Residence::Condemned,
            Residence::Failed { until },
        ];
        let table: Vec<String> = all
            .iter()
            .map(|from| all.iter().map(|to| if from.clone().advance(*to).is_ok() { 'x' } else { '.' }).collect())
            .collect();
        //                  S S Y E C F
        assert_eq!(table, [".x..xx", "..xx..", ".x.x..", ".x....", ".....x", "x....."]);
    }

    #[test]
    fn a_context_takes_whole_pages_and_as_many_tokens_fit_as_do() {
        let kv = |each, tokens| kv_for(Bytes(each), tokens).0;
        assert_eq!([0, 1, 32, 33, 64].map(|tokens| kv(3, tokens)), [0, 96, 96, 192, 192]);
        assert_eq!((kv(0, 9), kv(u64::MAX, 9), kv(3, u64::MAX)), (0, u64::MAX, u64::MAX));
        let facts = |each| ModelFacts {
            digest: Sha256::default(),
            fingerprint: Sha256::default(),
            weights: Bytes(0),
            kv_per_token: Bytes(each),
            ctx_max: 0,
            prefill: MilliRate(0),
            decode: MilliRate(0),
        };
        for (each, memory) in [(1, 0), (1, 31), (1, 32), (7, 1_000), (1 << 20, 40 << 20), (3, u64::MAX >> 8)] {
            let (facts, memory) = (facts(each), Bytes(memory));
            let most = facts.tokens_in(memory);
            assert!(facts.kv_for(most) <= memory && facts.kv_for(most + 1) > memory, "{each} {memory:?} {most}");
        }
    }

    #[test]
    fn a_share_and_its_whole_agree() {
        for (free, share) in [(0, 1), (1_000, 333), (999, 500), (u64::MAX, 1000), (7, 1)] {
            let (free, share) = (Bytes(free), Permille(share));
            let most = free.whole(share);
            assert!(most.share(share) <= free, "{free:?} {share:?}");
            assert!(most.0 == u64::MAX || Bytes(most.0 + 1).share(share) > free, "{free:?} {share:?}");
        }
    }
}
