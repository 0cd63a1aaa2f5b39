//! CPU time, of the measuring thread or of the process, beside wall time, and medians.

use rustix::time::{ClockId, clock_gettime};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    clock: ClockId,
    cpu: Duration,
    wall: Instant,
}

/// What passed between two.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

impl Mark {
    /// Of this thread.
    pub(crate) fn now() -> Mark {
        Mark::of(ClockId::ThreadCPUTime)
    }

    /// Of a clock that counts CPU time.
    pub(crate) fn of(clock: ClockId) -> Mark {
        let cpu = clock_gettime(clock);
        Mark { clock, cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32), wall: Instant::now() }
    }

    pub(crate) fn spent(self) -> Spent {
        let now = Mark::of(self.clock);
        Spent { cpu: now.cpu.saturating_sub(self.cpu), wall: now.wall - self.wall }
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Spent) {
        self.cpu += other.cpu;
        self.wall += other.wall;
    }
}

/// The middle one; of an even number the lower of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// A count in a second.
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]).to_bits(), 5f64.to_bits());
        assert_eq!(median(vec![9.0, 1.0, 5.0, 7.0]).to_bits(), 5f64.to_bits());
    }

    #[test]
    fn time_passes() {
        let mark = Mark::now();
        let sum = std::hint::black_box((0..100_000u64).fold(0, |a, b| a ^ std::hint::black_box(b)));
        let spent = mark.spent();
        assert!(spent.cpu > Duration::ZERO && spent.wall >= spent.cpu / 2, "{spent:?} for {sum}");
    }
}
