//! Tasks: what was asked, and where in its life it is.

use crate::budget::Amount;
use crate::config::TimeoutRules;
use crate::id::{Attempt, TaskId, WorkerId};
use crate::protocol::{Determinism, Outcome, TaskSpec, TimeLimit};
use crate::time::{Tick, Ticks};
use crate::units::Sha256;
use crate::wheel::TimerHandle;
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};

/// One admitted task. It is despawned at the end of the step in which it ends.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    /// Counts admissions: the order of a queue.
    pub ordinal: u64,
    pub spec: TaskSpec,
    pub admitted: Tick,
    pub deadline: Option<Tick>,
    /// Attempts made so far; the live one, if any, has this number.
    pub attempts: u32,
    /// Of the live attempt.
    pub placed: Tick,
    /// When the live attempt was last heard to make a token, and how many it made.
    pub heard: Tick,
    pub made: u32,
    /// Tokens that readers may have been shown, by any attempt.
    pub tokens_out: u32,
    /// Of the worker that made the first of them: another may make others.
    pub fingerprint: Option<Sha256>,
    /// Attempts that were taken from it for interactive work: they are no failures.
    pub preempted: u32,
    /// The worker that the last lost attempt failed on.
    pub failed_on: Option<WorkerId>,
    /// Held back for it of its tenant's and its session's budgets.
    pub reserved: Amount,
    pub life: Life,
}

impl Task {
    /// One that was just admitted.
    pub fn queued(id: TaskId, ordinal: u64, spec: TaskSpec, admitted: Tick) -> Task {
        Task {
            id,
            ordinal,
            admitted,
            deadline: spec.deadline.map(|length| admitted + length),
            spec,
            attempts: 0,
            placed: Tick(0),
            heard: Tick(0),
            made: 0,
            tokens_out: 0,
            fingerprint: None,
            preempted: 0,
            failed_on: None,
            reserved: Amount::default(),
            life: Life::Queued,
        }
    }

    /// The last attempt, which is the live one if any is.
    pub fn attempt(&self) -> Attempt {
        Attempt::of(self.ordinal, self.attempts)
    }

    /// Attempts that were lost.
    pub fn failures(&self) -> u32 {
        self.attempts - self.preempted
    }

    /// Whether a lost attempt may be followed by another: readers must not be told two stories.
    pub fn is_repeatable(&self) -> bool {
        self.tokens_out == 0 || self.spec.determinism == Determinism::Strict
    }

    /// When the live attempt's time is over if it makes no more tokens, and which of its times that is.
    pub fn patience(&self, rules: &TimeoutRules) -> Option<(Tick, TimeLimit)> {
        self.life.worker()?;
        let next = match self.made {
            0 => (self.placed, rules.first_token, TimeLimit::FirstToken),
            _ => (self.heard, rules.idle, TimeLimit::Idle),
        };
        let limits = [next, (self.placed, rules.wall, TimeLimit::Wall)];
        limits
            .into_iter()
            .filter(|(_, length, _)| *length > Ticks(0))
            .map(|(from, length, of)| (from + length, of))
            .min()
    }
}

/// A task's lifecycle. [`Life::advance`] is its only writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// Waits in its model's queue, for the first time or again.
    Queued,
    /// An attempt was lost; waits to be queued again.
    Backoff { until: Tick },
    /// Holds a lease; the worker has not taken it up yet.
    Placed { worker: WorkerId },
    /// The worker reads its prompt or makes tokens.
    Running { worker: WorkerId },
    /// Over.
    Ended(Outcome),
}

/// A move that the lifecycle's table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task cannot go from {from:?} to {to:?}")]
pub struct IllegalMove {
    pub from: Life,
    pub to: Life,
}

impl Life {
    /// Moves on, or refuses and changes nothing.
    pub fn advance(&mut self, to: Life) -> Result<(), IllegalMove> {
        use Life::*;
        let legal = match (&*self, &to) {
            (Queued, Placed { .. } | Ended(_)) => true,
            (Backoff { .. }, Queued | Ended(_)) => true,
            (Placed { .. }, Running { .. } | Queued | Backoff { .. } | Ended(_)) => true,
            (Running { .. }, Queued | Backoff { .. } | Ended(_)) => true,
            (Queued | Backoff { .. } | Placed { .. } | Running { .. } | Ended(_), _) => false,
        };
        if !legal {
            return Err(IllegalMove { from: *self, to });
        }
        *self = to;
        Ok(())
    }

    /// The worker that holds its lease.
    pub fn worker(&self) -> Option<WorkerId> {
        match *self {
            Life::Placed { worker } | Life::Running { worker } => Some(worker),
            Life::Queued | Life::Backoff { .. } | Life::Ended(_) => None,
        }
    }
}

/// A task's armed timers. Derived from the task: not in the Ledger.
#[derive(Component, Clone, Copy, Debug, Default)]
pub struct TaskTimers {
    pub deadline: Option<TimerHandle>,
    pub retry: Option<TimerHandle>,
    /// Of the live attempt: rings at the end of its patience or before.
    pub patience: Option<TimerHandle>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::CancelReason;

    #[test]
    fn the_table_of_moves() {
        let w = WorkerId(1);
        let all = [
            Life::Queued,
            Life::Backoff { until: Tick(1) },
            Life::Placed { worker: w },
            Life::Running { worker: w },
            Life::Ended(Outcome::Cancelled { reason: CancelReason::Client, tokens_out: 0 }),
        ];
        let table: Vec<String> = all
            .iter()
            .map(|from| all.iter().map(|to| if from.clone().advance(*to).is_ok() { 'x' } else { '.' }).collect())
            .collect();
        //                  Q B P R E
        assert_eq!(table, ["..x.x", "x...x", "xx.xx", "xx..x", "....."]);
    }

    #[test]
    fn a_refused_move_changes_nothing() {
        let mut life = Life::Queued;
        assert!(life.advance(Life::Running { worker: WorkerId(1) }).is_err());
        assert_eq!(life, Life::Queued);
    }
}
