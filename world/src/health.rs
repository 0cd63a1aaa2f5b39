//! How a worker and a device fare: the worker's lifecycle, its circuit breaker, its restarts, and what a
//! device has been found guilty of.
//!
//! Pure data and tables. The health phase is the one writer; who may take tasks is read from here.

use crate::config::{BreakerRules, RestartRules};
use crate::time::{Tick, Ticks};
use serde::{Deserialize, Serialize};

/// A worker's lifecycle. [`WorkerState::advance`] is its only writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WorkerState {
    /// Was told to begin a new life and has not been heard in it.
    Starting,
    /// Lives, and is loading its model.
    Loading,
    /// Takes tasks, as far as its breaker lets it.
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Ended as asked. Kept, so that its older life stays fenced.
    Stopped,
    /// Ended with an error, or fell silent.
    Failed,
}

/// A move that the lifecycle's table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker cannot go from {from:?} to {to:?}")]
pub struct IllegalTurn {
    pub from: WorkerState,
    pub to: WorkerState,
}

impl WorkerState {
    pub const ALL: [WorkerState; 6] =
        [Self::Starting, Self::Loading, Self::Ready, Self::Draining, Self::Stopped, Self::Failed];

    /// Moves on, or refuses and changes nothing.
    pub fn advance(&mut self, to: WorkerState) -> Result<(), IllegalTurn> {
        use WorkerState::*;
        let legal = match *self {
            Starting => matches!(to, Loading | Ready | Draining | Stopped | Failed),
            Loading => matches!(to, Ready | Draining | Stopped | Failed),
            Ready => matches!(to, Draining | Stopped | Failed),
            Draining => matches!(to, Ready | Stopped | Failed),
            Stopped => matches!(to, Starting),
            Failed => matches!(to, Starting | Stopped),
        };
        if !legal {
            return Err(IllegalTurn { from: *self, to });
        }
        *self = to;
        Ok(())
    }

    /// Whether it has its model loaded: it beats, and what it says of its tasks counts.
    pub fn is_up(self) -> bool {
        matches!(self, WorkerState::Ready | WorkerState::Draining)
    }

    /// Whether it is on its way up.
    pub fn is_coming(self) -> bool {
        matches!(self, WorkerState::Starting | WorkerState::Loading)
    }

    /// The name on the wire.
    pub fn label(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Loading => "loading",
            WorkerState::Ready => "ready",
            WorkerState::Draining => "draining",
            WorkerState::Stopped => "stopped",
            WorkerState::Failed => "failed",
        }
    }
}

/// Keeps tasks away from a worker that fails one after the other. A failure is an attempt that faulted by no
/// fault of its request, or the loss of the worker while it was up; one that succeeds begins the count anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Breaker {
    /// Lets every task through; so many failed in a row.
    Closed { failures: u32 },
    /// Lets none through.
    Open { until: Tick },
    /// Lets one task through at a time; once one of them has succeeded, until then.
    HalfOpen { closes: Option<Tick> },
}

impl Breaker {
    pub const CLOSED: Breaker = Breaker::Closed { failures: 0 };

    /// After a failure.
    pub fn failed(self, now: Tick, rules: &BreakerRules) -> Breaker {
        match self {
            Breaker::Closed { failures } if failures + 1 < rules.failures => Breaker::Closed { failures: failures + 1 },
            Breaker::Closed { .. } | Breaker::HalfOpen { .. } => Breaker::Open { until: now + rules.open },
            // A task that ran when it opened.
            Breaker::Open { .. } => self,
        }
    }

    /// After an attempt that went well.
    pub fn succeeded(self, now: Tick, rules: &BreakerRules) -> Breaker {
        match self {
            Breaker::Closed { .. } => Breaker::CLOSED,
            Breaker::HalfOpen { closes } => Breaker::HalfOpen { closes: closes.or(Some(now + rules.stable)) },
            Breaker::Open { .. } => self,
        }
    }

    /// When its time is over, if it has one.
    pub fn due(self) -> Option<Tick> {
        match self {
            Breaker::Closed { .. } => None,
            Breaker::Open { until } => Some(until),
            Breaker::HalfOpen { closes } => closes,
        }
    }

    /// When its time is over.
    pub fn rang(self) -> Breaker {
        match self {
            Breaker::Open { .. } => Breaker::HalfOpen { closes: None },
            Breaker::HalfOpen { .. } | Breaker::Closed { .. } => Breaker::CLOSED,
        }
    }

    /// The name on the wire.
    pub fn label(self) -> &'static str {
        match self {
            Breaker::Closed { .. } => "closed",
            Breaker::Open { .. } => "open",
            Breaker::HalfOpen { .. } => "half-open",
        }
    }
}

/// Why a worker was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Loss {
    /// It ended with an error.
    Crash,
    /// It said nothing for too long, a probe included.
    Silence,
    /// It was told to begin and did not come up in time, or failed on the way.
    NoStart,
    /// It broke under a task.
    Fault,
    /// Its weights are not what was loaded.
    Corrupt,
}

impl Loss {
    pub const ALL: [Loss; 5] = [Self::Crash, Self::Silence, Self::NoStart, Self::Fault, Self::Corrupt];

    /// The name in metrics and on the wire.
    pub fn label(self) -> &'static str {
        match self {
            Loss::Crash => "crash",
            Loss::Silence => "silence",
            Loss::NoStart => "no-start",
            Loss::Fault => "fault",
            Loss::Corrupt => "corrupt",
        }
    }
}

/// What is known of a worker's restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// Losses since it was last stable: the exponent of the backoff.
    pub losses: u32,
    /// When it last came up.
    pub up_since: Tick,
    /// Why it was last lost.
    pub loss: Option<Loss>,
    /// When it will be told to begin again.
    pub due: Option<Tick>,
}

impl Restarts {
    /// At its first coming up.
    pub fn none(now: Tick) -> Restarts {
        Restarts { losses: 0, up_since: now, loss: None, due: None }
    }

    /// After one more loss, and how long to wait before it is told to begin again, jitter aside.
    pub fn lost(self, now: Tick, was_up: bool, loss: Loss, rules: &RestartRules) -> (Restarts, Ticks) {
        let stable = was_up && now.since(self.up_since) >= rules.stable;
        let before = if stable { 0 } else { self.losses };
        let doubled = rules.backoff.0.checked_shl(before).filter(|wait| wait >> before == rules.backoff.0);
        let wait = Ticks(doubled.unwrap_or(u64::MAX).min(rules.backoff_max.0));
        (Restarts { losses: before.saturating_add(1), loss: Some(loss), due: None, ..self }, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rules;

    #[test]
    fn the_table_of_turns() {
        let table: Vec<String> = WorkerState::ALL
            .iter()
            .map(|from| {
                WorkerState::ALL.iter().map(|&to| if from.clone().advance(to).is_ok() { 'x' } else { '.' }).collect()
            })
            .collect();
        //                  S L R D S F
        assert_eq!(table, [".xxxxx", "..xxxx", "...xxx", "..x.xx", "x.....", "x...x."]);
    }

    #[test]
    fn five_failures_in_a_row_open_and_a_trial_closes() {
        let rules = Rules::default().health.breaker;
        let mut breaker = Breaker::CLOSED;
        for _ in 0..4 {
            breaker = breaker.failed(Tick(10), &rules);
        }
        assert_eq!(breaker, Breaker::Closed { failures: 4 });
        assert_eq!(breaker.succeeded(Tick(11), &rules), Breaker::CLOSED, "in a row");
        let open = breaker.failed(Tick(10), &rules);
        assert_eq!(open, Breaker::Open { until: Tick(300_010) });
        assert_eq!([open.failed(Tick(20), &rules), open.succeeded(Tick(20), &rules)], [open, open]);
        let half = open.rang();
        assert_eq!((half, half.due()), (Breaker::HalfOpen { closes: None }, None));
        assert_eq!(half.failed(Tick(400_000), &rules), Breaker::Open { until: Tick(700_000) });
        let proven = half.succeeded(Tick(400_000), &rules).succeeded(Tick(410_000), &rules);
        assert_eq!(proven.due(), Some(Tick(460_000)), "from the first success on");
        assert_eq!(proven.rang(), Breaker::CLOSED);
    }

    #[test]
    fn the_wait_doubles_to_its_cap_and_begins_anew_after_a_stable_life() {
        let rules = Rules::default().health.restart;
        let mut restarts = Restarts::none(Tick(0));
        let mut waits = vec![];
        for _ in 0..9 {
            let (next, wait) = restarts.lost(Tick(100), false, Loss::NoStart, &rules);
            waits.push(wait.0);
            restarts = next;
        }
        assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        let up = Restarts { up_since: Tick(100), ..restarts };
        assert_eq!(up.lost(Tick(300_099), true, Loss::Crash, &rules).1, Ticks(60_000));
        assert_eq!(up.lost(Tick(300_100), true, Loss::Crash, &rules).1, Ticks(1_000));
        let often = Restarts { losses: u32::MAX, ..restarts };
        assert_eq!(often.lost(Tick(1), false, Loss::Crash, &rules).1, Ticks(60_000));
    }
}
