//! Randomness without state: each draw is a hash of the seed and of what it is for. A replay, a
//! restored world and a reordered step draw the same.

use crate::id::{Attempt, Epoch, TaskId, WorkerId};
use crate::time::Ticks;
use crate::units::Permille;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A length within `share` either side of `length`, drawn for one attempt of one task.
pub fn jitter(seed: u64, task: TaskId, attempt: Attempt, length: Ticks, share: Permille) -> Ticks {
    let mut name = [0; 20];
    name[..16].copy_from_slice(&task.0.to_le_bytes());
    name[16..].copy_from_slice(&attempt.number.to_le_bytes());
    around(seed, &name, length, share)
}

/// The same for one restart of a worker.
pub fn restart_jitter(seed: u64, worker: WorkerId, epoch: Epoch, length: Ticks, share: Permille) -> Ticks {
    // Eight bytes: no task's draw has this name.
    let mut name = [0; 8];
    name[..4].copy_from_slice(&worker.0.to_le_bytes());
    name[4..].copy_from_slice(&epoch.0.to_le_bytes());
    around(seed, &name, length, share)
}

fn around(seed: u64, name: &[u8], length: Ticks, share: Permille) -> Ticks {
    let reach = length.0.saturating_mul(u64::from(share.0)) / 1000;
    // The remainder favours low values by less than reach / 2^64, which nobody can measure.
    let draw = xxh3_64_with_seed(name, seed) % (2 * reach + 1);
    Ticks(length.0 - reach.min(length.0) + draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_share_and_repeats() {
        let draws: Vec<u64> =
            (0..1000).map(|n| jitter(7, TaskId(n), Attempt::of(1, 1), Ticks(1000), Permille(200)).0).collect();
        assert!(draws.iter().all(|d| (800..=1200).contains(d)));
        assert!(draws.iter().min() < Some(&810) && draws.iter().max() > Some(&1190), "it uses its room");
        assert_eq!(draws[5], jitter(7, TaskId(5), Attempt::of(1, 1), Ticks(1000), Permille(200)).0);
    }
}
