//! What is counted by outcome and reason: how each of the core's words is called in a label.

use super::{ByReason, Telemetry, millis};
use orchestrion_world::config::OverloadPolicy;
use orchestrion_world::health::Loss;
use orchestrion_world::id::PoolId;
use orchestrion_world::protocol::{CancelReason, EvictionReason, Failure, Outcome, Refusal};
use std::time::Duration;

/// Why the door itself turned a submission away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The lane to the pulse was full.
    Ingress,
    /// The token's rate was used up.
    Rate,
    /// The words could not be turned into tokens.
    Unprepared,
    /// The journal could not be written.
    Unwritable,
}

impl Telemetry {
    pub(crate) fn refused(&self, refusal: Refusal) {
        let reason = match refusal {
            Refusal::UnknownModel => "unknown_model",
            Refusal::DuplicateTask => "duplicate_task",
            Refusal::ContextExceeded { .. } => "context_exceeded",
            Refusal::DeadlineInfeasible { .. } => "deadline_infeasible",
            Refusal::QueueDelayed { .. } => {
                self.queue_delay.inc();
                "queue_delay"
            }
            Refusal::BudgetExhausted { .. } => "budget_exhausted",
            Refusal::TenantLimited { .. } => "tenant_limited",
            Refusal::SessionOver { .. } => "session_over",
            Refusal::SessionsFull { .. } => "sessions_full",
            Refusal::QueueFull { policy, .. } => {
                self.pressed(policy);
                match policy {
                    OverloadPolicy::Reject => "queue_full",
                    OverloadPolicy::DropLru => "queue_full_drop_lru",
                    OverloadPolicy::ShedLowPriority => "shed_low_priority",
                }
            }
            Refusal::PoolUnready { .. } => "pool_unready",
            Refusal::PoolClosed { .. } => "pool_closed",
            Refusal::NowhereAllowed { .. } => "nowhere_allowed",
        };
        self.rejected.get_or_create(&ByReason { reason }).inc();
    }

    fn pressed(&self, policy: OverloadPolicy) {
        let [reject, drop_lru, shed] = &self.backpressure;
        match policy {
            OverloadPolicy::Reject => reject.inc(),
            OverloadPolicy::DropLru => drop_lru.inc(),
            OverloadPolicy::ShedLowPriority => shed.inc(),
        };
    }

    pub(crate) fn turned_away(&self, why: Turned) {
        let reason = match why {
            Turned::Ingress => {
                self.ingress.inc();
                "ingress"
            }
            Turned::Rate => {
                self.rate_limit.inc();
                "rate_limited"
            }
            Turned::Unprepared => "unprepared",
            Turned::Unwritable => "journal_unwritable",
        };
        self.rejected.get_or_create(&ByReason { reason }).inc();
    }

    pub(crate) fn ended(&self, outcome: &Outcome) {
        let [done, cancelled, failed] = &self.finished;
        match outcome {
            Outcome::Done(usage) => {
                done.inc();
                self.tokens_cached.inc_by(usage.tokens_cached.into());
                self.decode_ms.observe(millis(Duration::from_micros(usage.decode_us)));
            }
            Outcome::Cancelled { reason, .. } => {
                cancelled.inc();
                let [client, disconnect, abandoned, shutdown] = &self.cancelled;
                match reason {
                    CancelReason::Client => client.inc(),
                    CancelReason::Disconnect => disconnect.inc(),
                    CancelReason::Abandoned => abandoned.inc(),
                    CancelReason::Shutdown => shutdown.inc(),
                };
            }
            Outcome::Failed { failure, .. } => {
                failed.inc();
                if let Failure::Displaced { policy, .. } = failure {
                    self.pressed(*policy);
                }
            }
        }
    }

    pub(crate) fn evicted(&self, reason: EvictionReason) {
        let [demand, pressure, corrupt] = &self.evictions;
        match reason {
            EvictionReason::Demand { .. } => demand.inc(),
            EvictionReason::Pressure => pressure.inc(),
            EvictionReason::Corrupt => corrupt.inc(),
        };
    }

    pub(crate) fn restarted(&self, pool: PoolId, loss: Loss) {
        let row = self.restarts.get(usize::from(pool.0)).into_iter().flatten();
        if let Some((counter, _)) = row.zip(Loss::ALL).find(|(_, of)| *of == loss) {
            counter.inc();
        }
    }
}
