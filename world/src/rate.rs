//! Rates: so much at once, and then as it comes back, evenly. A bucket of exact integers: nothing is lost by
//! rounding, and the wait that it tells is the shortest that suffices.

use crate::config::{RulesError, within};
use crate::time::{Tick, Ticks};
use serde::{Deserialize, Serialize};

/// `amount` in each `per`, and `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub amount: u64,
    pub per: Ticks,
    pub burst: u64,
}

const AMOUNT_MAX: u64 = 1_000_000_000;
/// A day.
const PER_MAX: u64 = 24 * 60 * 60 * 1_000;

impl Rate {
    pub(crate) fn check(&self) -> Result<(), RulesError> {
        within("a rate's amount", self.amount, 1, AMOUNT_MAX)?;
        within("a rate's length of time", self.per.0, 1, PER_MAX)?;
        within("a rate's burst", self.burst, 1, AMOUNT_MAX)
    }

    fn full(&self) -> i64 {
        (self.burst * self.per.0) as i64
    }
}

/// What is there of a rate, in shares of a unit of which `per` make one. Below zero where somebody took more
/// at once than a full bucket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    level: i64,
    at: Tick,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: &Rate, now: Tick) -> Bucket {
        Bucket { level: rate.full(), at: now }
    }

    fn level(&self, rate: &Rate, now: Tick) -> i64 {
        let came = i128::from(now.since(self.at).0) * i128::from(rate.amount);
        i64::try_from(i128::from(self.level) + came).map_or(rate.full(), |level| level.min(rate.full()))
    }

    /// How long until `units` may be taken; at once where zero. More than fits is taken from a full bucket,
    /// which then owes.
    pub fn wait(&self, rate: &Rate, now: Tick, units: u64) -> Ticks {
        let needed = i128::from(units.min(rate.burst)) * i128::from(rate.per.0);
        let lacking = needed - i128::from(self.level(rate, now));
        let ticks = u128::try_from(lacking).unwrap_or_default().div_ceil(u128::from(rate.amount));
        Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    pub fn take(&mut self, rate: &Rate, now: Tick, units: u64) {
        let taken = i64::try_from(units).unwrap_or(i64::MAX).saturating_mul(rate.per.0 as i64);
        *self = Bucket { level: self.level(rate, now).saturating_sub(taken), at: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_wait_that_is_told_is_the_shortest_that_suffices(
            amount in 1u64..50, per in 1u64..5_000, burst in 1u64..20,
            moves in prop::collection::vec((0u64..3_000, 1u64..40), 1..40),
        ) {
            let rate = Rate { amount, per: Ticks(per), burst };
            let (mut bucket, mut now, mut taken, mut last) = (Bucket::new(&rate, Tick(0)), Tick(0), 0, 0);
            for (gap, units) in moves {
                now = now + Ticks(gap);
                let wait = bucket.wait(&rate, now, units);
                if wait.0 > 0 {
                    prop_assert_eq!(bucket.wait(&rate, now + Ticks(wait.0 - 1), units), Ticks(1));
                    now = now + wait;
                }
                prop_assert_eq!(bucket.wait(&rate, now, units), Ticks(0));
                bucket.take(&rate, now, units);
                (taken, last) = (taken + units, units);
            }
            // However it was asked for, it was no more than the rate gives, and the burst, and one that owes.
            prop_assert!(taken * per <= now.0 * amount + (burst + last) * per);
        }
    }

    #[test]
    fn a_burst_and_then_evenly() {
        let rate = Rate { amount: 2, per: Ticks(1_000), burst: 3 };
        let mut bucket = Bucket::new(&rate, Tick(0));
        let mut ask = |tick, units| {
            let wait = bucket.wait(&rate, Tick(tick), units);
            if wait == Ticks(0) {
                bucket.take(&rate, Tick(tick), units);
            }
            wait.0
        };
        assert_eq!([ask(0, 1), ask(0, 1), ask(0, 1), ask(0, 1), ask(499, 1), ask(500, 1)], [0, 0, 0, 500, 1, 0]);
        // Rest is not saved up beyond the burst; what is larger than it waits for the whole and owes the rest.
        assert_eq!([ask(1_000_000, 5), ask(1_000_000, 1), ask(1_001_500, 1)], [0, 1_500, 0]);
    }
}
