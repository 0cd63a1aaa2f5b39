//! Arithmetic of how long things take, from integer rates. Pure; reads nothing but its arguments.

use orchestrion_world::protocol::TaskSpec;
use orchestrion_world::time::{TICKS_PER_SECOND, Ticks};
use orchestrion_world::units::MilliRate;

/// How long `tokens` take at `rate`, rounded up. A rate of zero is not known to move at all.
pub(crate) fn length(tokens: u64, rate: MilliRate) -> Ticks {
    let per_tick = u128::from(TICKS_PER_SECOND) * 1_000;
    let ticks = (u128::from(tokens) * per_tick).div_ceil(u128::from(rate.0.max(1)));
    Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
}

/// The rate at which `tokens` were made in `us` microseconds; `None` where there is nothing to learn.
pub(crate) fn rate(tokens: u64, us: u64) -> Option<MilliRate> {
    (tokens > 0 && us > 0).then(|| {
        let rate = u128::from(tokens) * 1_000_000_000 / u128::from(us);
        MilliRate(u64::try_from(rate).unwrap_or(u64::MAX))
    })
}

/// An exponentially weighted mean in integers: an eighth of the way to the sample, at least one step,
/// so that it arrives.
pub(crate) fn learn(mean: u64, sample: u64) -> u64 {
    let way = mean.abs_diff(sample).div_ceil(8);
    if sample > mean { mean + way } else { mean - way }
}

/// How long a task runs on a worker that makes `prefill` and `decode` tokens in all and would then
/// share itself among `sharers` tasks. It assumes that the whole answer is used.
pub(crate) fn run(spec: &TaskSpec, prefill: MilliRate, decode: MilliRate, sharers: u64) -> Ticks {
    let alone = length(spec.prompt_tokens.into(), prefill).0.saturating_add(length(spec.max_tokens.into(), decode).0);
    Ticks(alone.saturating_mul(sharers))
}

/// How long until a task with `ahead` others before it starts, where `free` of `slots` slots are free
/// and a task holds its slot for `service`.
pub(crate) fn wait(ahead: u64, free: u64, slots: u64, service: Ticks) -> Ticks {
    match (ahead + 1).checked_sub(free) {
        None | Some(0) => Ticks(0),
        Some(turns) => {
            let ticks = u128::from(turns) * u128::from(service.0) / u128::from(slots.max(1));
            Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_rates_are_inverse() {
        assert_eq!(length(100, MilliRate(50_000)), Ticks(2_000));
        assert_eq!(rate(100, 2_000_000), Some(MilliRate(50_000)));
        assert_eq!(length(1, MilliRate(u64::MAX)), Ticks(1));
        assert_eq!(length(u64::MAX, MilliRate(0)), Ticks(u64::MAX));
        assert_eq!(rate(0, 5), None);
    }

    #[test]
    fn learning_arrives_and_never_overshoots() {
        let (mut up, mut down) = (0, 2_000);
        for _ in 0..100 {
            up = learn(up, 1_000);
            down = learn(down, 1_000);
            assert!(up <= 1_000 && down >= 1_000);
        }
        assert_eq!((up, down), (1_000, 1_000));
        assert_eq!(learn(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_free_slot_means_no_wait() {
        assert_eq!(wait(0, 1, 4, Ticks(100)), Ticks(0));
        assert_eq!(wait(3, 0, 4, Ticks(100)), Ticks(100));
        assert_eq!(wait(7, 0, 4, Ticks(100)), Ticks(200));
    }
}
