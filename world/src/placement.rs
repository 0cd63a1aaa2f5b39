//! Where a client wants its task to run. Most do not say; for those nothing here is looked at.
//!
//! Who says so narrows the choice or ranks it: what is left is chosen from by the rules as for anybody else.

use crate::id::{DeviceId, PoolId, TaskId};
use crate::worker::Worker;
use serde::{Deserialize, Serialize};

/// A client's override of where its task goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub aim: Aim,
    /// Pools that it never goes to.
    pub avoid: Vec<PoolId>,
    /// Sorted: it goes only to workers that span exactly these.
    pub devices: Option<Vec<DeviceId>>,
}

/// Which pools are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aim {
    /// Whichever is best.
    #[default]
    Auto,
    /// This one and no other.
    Pin(PoolId),
    /// These, the first before the next; and where none of them has room, others, if it may.
    Prefer { pools: Vec<PoolId>, fallback: Fallback },
}

/// Whether a task goes elsewhere rather than wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fallback {
    Allowed,
    Never,
}

/// Why a task may not go to a worker, whatever its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ban {
    /// The task asks for other pools.
    OtherPool,
    /// The task avoids its pool.
    Avoided,
    /// The task asks for other devices.
    OtherDevices,
}

impl Placement {
    /// Why no worker of the pool may have the task.
    pub fn bans_pool(&self, pool: PoolId) -> Option<Ban> {
        let aims = match &self.aim {
            Aim::Auto | Aim::Prefer { fallback: Fallback::Allowed, .. } => true,
            Aim::Pin(pin) => *pin == pool,
            Aim::Prefer { pools, fallback: Fallback::Never } => pools.contains(&pool),
        };
        if !aims {
            Some(Ban::OtherPool)
        } else if self.avoid.contains(&pool) {
            Some(Ban::Avoided)
        } else {
            None
        }
    }

    /// Why the worker may not have the task.
    pub fn bans(&self, worker: &Worker) -> Option<Ban> {
        let exactly =
            |mask: &Vec<DeviceId>| worker.facts.devices.iter().map(|part| part.device).eq(mask.iter().copied());
        let devices = self.devices.as_ref().filter(|mask| !exactly(mask)).map(|_| Ban::OtherDevices);
        self.bans_pool(worker.facts.pool).or(devices)
    }

    /// How many pools are preferred to this one.
    pub fn rank(&self, pool: PoolId) -> u64 {
        match &self.aim {
            Aim::Auto | Aim::Pin(_) => 0,
            Aim::Prefer { pools, .. } => pools.iter().position(|&of| of == pool).unwrap_or(pools.len()) as u64,
        }
    }
}

/// A task that waits though others behind it go: they take no worker that it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub task: TaskId,
    pub placement: Placement,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, WorkerId};
    use crate::protocol::{DeviceShare, WorkerFacts};
    use crate::time::Tick;
    use crate::units::{Bytes, Permille};

    fn worker(pool: u16, devices: &[u32]) -> Worker {
        let part = |&device: &u32| DeviceShare { device: DeviceId(device), capacity: Bytes(1), share: Permille(1) };
        let devices = devices.iter().map(part).collect();
        let facts = WorkerFacts { pool: PoolId(pool), devices, slots: 1, came_with: None, loader: None };
        Worker::new(WorkerId(0), Epoch(1), facts, vec![], Tick(0))
    }

    #[test]
    fn who_may_have_it_and_who_is_preferred() {
        let pools = || vec![PoolId(2), PoolId(0)];
        let aims = [
            Aim::Auto,
            Aim::Pin(PoolId(1)),
            Aim::Prefer { pools: pools(), fallback: Fallback::Allowed },
            Aim::Prefer { pools: pools(), fallback: Fallback::Never },
        ];
        let of = |aim: Aim, avoid: &[u16]| {
            let avoid = avoid.iter().map(|&pool| PoolId(pool)).collect();
            let placement = Placement { aim, avoid, devices: None };
            [0, 1, 2].map(|pool| placement.bans(&worker(pool, &[0])).map_or(Ok(placement.rank(PoolId(pool))), Err))
        };
        use Ban::{Avoided, OtherPool};
        assert_eq!(
            aims.map(|aim| of(aim, &[0])),
            [
                [Err(Avoided), Ok(0), Ok(0)],
                [Err(OtherPool), Ok(0), Err(OtherPool)],
                [Err(Avoided), Ok(2), Ok(0)],
                [Err(Avoided), Err(OtherPool), Ok(0)],
            ]
        );
    }

    #[test]
    fn a_mask_is_met_exactly() {
        let mask = |devices: &[u32]| Placement {
            aim: Aim::Auto,
            avoid: vec![],
            devices: Some(devices.iter().map(|&device| DeviceId(device)).collect()),
        };
        let on = worker(0, &[1, 2]);
        let bans = [&[1, 2][..], &[1], &[1, 2, 3], &[]].map(|devices| mask(devices).bans(&on));
        assert_eq!(bans, [None, Some(Ban::OtherDevices), Some(Ban::OtherDevices), Some(Ban::OtherDevices)]);
    }
}
