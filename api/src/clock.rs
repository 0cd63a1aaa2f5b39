//! The only place where time becomes a tick: `tick = max(last, base + monotonic milliseconds)`.
//!
//! Wall time plays no part (it enters the core once, with `Input::Boot`), so a stepped or slewed system
//! clock moves no timer. Used by the pulse thread alone.

use orchestrion_world::time::{Tick, Ticks};
use std::time::{Duration, Instant, SystemTime};

/// Counts ticks from a base that stands for the moment it was made.
#[derive(Debug)]
pub(crate) struct Clock {
    origin: Instant,
    base: Tick,
    last: Tick,
}

impl Clock {
    pub(crate) fn starting_at(base: Tick) -> Clock {
        Clock { origin: Instant::now(), base, last: base }
    }

    /// The tick of this moment, never before one that was told already.
    pub(crate) fn now(&mut self) -> Tick {
        let elapsed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last = self.last.max(self.base + Ticks(elapsed));
        self.last
    }

    /// The first moment of a tick; none where it lies beyond what the system can wait for.
    pub(crate) fn moment_of(&self, tick: Tick) -> Option<Instant> {
        self.origin.checked_add(Duration::from_millis(tick.since(self.base).0))
    }
}

/// Milliseconds since 1970, for `Input::Boot`; 0 on a machine whose clock stands before that.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_follow_time_and_never_go_back() {
        let mut clock = Clock::starting_at(Tick(500));
        let first = clock.now();
        assert!(first >= Tick(500));
        std::thread::sleep(Duration::from_millis(12));
        let second = clock.now();
        assert!(second.since(first) >= Ticks(11), "{first:?} then {second:?}");
        clock.last = Tick(1_000_000);
        assert_eq!(clock.now(), Tick(1_000_000), "not before what was told");
    }

    #[test]
    fn the_moment_of_a_tick_is_when_it_begins() {
        let mut clock = Clock::starting_at(Tick(7));
        let due = Tick(7 + 15);
        let moment = clock.moment_of(due).unwrap();
        assert!(clock.now() < due);
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
        assert!(clock.now() >= due);
        assert_eq!(
            clock.moment_of(Tick(u64::MAX)).is_some(),
            clock.origin.checked_add(Duration::from_millis(u64::MAX - 7)).is_some()
        );
    }
}
