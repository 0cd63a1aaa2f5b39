//! Device memory: who may use it, what stands in it. The world's ledger of it is exact; a device's
//! `weights + reserved` never exceeds its capacity.

use crate::id::DeviceId;
use crate::time::Tick;
use crate::units::{Bytes, Sha256};
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

/// A model's weights on a device. Workers of the same file on the same device share it.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub device: DeviceId,
    pub digest: Sha256,
    pub bytes: Bytes,
    /// Workers that use it; with the last one it goes.
    pub holders: u16,
}
