//! Virtual time. One tick is one millisecond; the core knows no other clock.

use serde::{Deserialize, Serialize};
use std::ops::Add;

/// A point in virtual time, in ticks since the journal's first boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tick(pub u64);

/// A length of virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticks(pub u64);

/// Ticks in a second, where a rate meets a length of time.
pub const TICKS_PER_SECOND: u64 = 1_000;

impl Add<Ticks> for Tick {
    type Output = Tick;
    /// Saturates: a deadline beyond the end of time is no deadline.
    fn add(self, length: Ticks) -> Tick {
        Tick(self.0.saturating_add(length.0))
    }
}

impl Tick {
    /// The length from `earlier` to here; zero where `earlier` is later.
    pub fn since(self, earlier: Tick) -> Ticks {
        Ticks(self.0.saturating_sub(earlier.0))
    }
}
