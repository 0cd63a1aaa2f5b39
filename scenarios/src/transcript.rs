//! Effects in words: one line each, after `< `, with the tick.

use orchestrion_world::config::Rules;
use orchestrion_world::health::Breaker;
use orchestrion_world::id::TaskId;
use orchestrion_world::protocol::{Effect, Failure, Notice, Order, Outcome, Refusal, Setback};
use orchestrion_world::time::Tick;

/// An effect as a transcript tells it.
pub fn line(now: Tick, rules: &Rules, effect: &Effect) -> String {
    let words = match effect {
        Effect::Order(order) => tell_order(order),
        Effect::Notice(notice) => tell_notice(rules, notice),
    };
    format!("< {} {words}", now.0)
}

fn t(id: TaskId) -> String {
    format!("t{}", id.0)
}

fn tell_order(order: &Order) -> String {
    match order {
        Order::Start { worker, task, attempt, .. } => format!("{worker} start {} attempt={}", t(*task), attempt.0),
        Order::Cancel { worker, task, attempt, .. } => format!("{worker} cancel {} attempt={}", t(*task), attempt.0),
        Order::Reset { worker, epoch } => format!("{worker} reset epoch={}", epoch.0),
        Order::Probe { worker, .. } => format!("{worker} probe"),
        Order::SpawnWorker { worker, epoch } => format!("{worker} spawn epoch={}", epoch.0),
        Order::StopWorker { worker, .. } => format!("{worker} stop"),
    }
}

fn tell_notice(rules: &Rules, notice: &Notice) -> String {
    let pool = |id: &orchestrion_world::id::PoolId| rules.pools.get(usize::from(id.0)).map_or("?", |p| &p.name);
    match notice {
        Notice::Accepted { task, position, predicted_start } => {
            format!("{} accepted position={position} starts_in={}", t(*task), predicted_start.0)
        }
        Notice::Refused { task, refusal } => format!("{} refused {}", t(*task), tell_refusal(refusal)),
        Notice::Placed { task, pool: id, worker, .. } => format!("{} placed on {worker} of {}", t(*task), pool(id)),
        Notice::Started { task, worker, .. } => format!("{} started on {worker}", t(*task)),
        Notice::Retrying { task, lost, until, why } => {
            format!("{} lost attempt={} to {} retry_at={}", t(*task), lost.0, tell_setback(*why), until.0)
        }
        Notice::Ended { task, outcome } => format!("{} ended {}", t(*task), tell_outcome(outcome)),
        Notice::PoolChanged { pool: id, ready } => format!("pool {} has {ready} ready", pool(id)),
        Notice::RulesRefused => "rules refused".into(),
        Notice::WorkerRefused { worker, reason } => format!("{worker} not taken in: {reason:?}"),
        Notice::Restarted { worker, loss, .. } => format!("{worker} restarted after {}", loss.label()),
        Notice::RestartsStopped { pool: id } => format!("pool {} is restarted no more", pool(id)),
        Notice::BreakerChanged { worker, breaker: Breaker::Open { until } } => {
            format!("{worker} breaker open until={}", until.0)
        }
        Notice::BreakerChanged { worker, breaker } => format!("{worker} breaker {}", breaker.label()),
        Notice::Quarantined { device } => format!("{device} quarantined"),
    }
}

fn tell_setback(setback: Setback) -> String {
    match setback {
        Setback::WorkerLost => "its worker's loss".into(),
        Setback::Fault(class) => format!("a fault, {class:?},"),
        Setback::TimedOut(limit) => format!("its time, {limit:?},"),
    }
}

fn tell_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::UnknownModel => "unknown model".into(),
        Refusal::DuplicateTask => "duplicate task".into(),
        Refusal::ContextExceeded { tokens, ctx_max } => format!("context {tokens} > {ctx_max}"),
        Refusal::DeadlineInfeasible { deadline, needed } => format!("deadline {} < {}", deadline.0, needed.0),
        Refusal::QueueFull { policy, bound, retry_after } => {
            format!("queue full policy={} bound={bound} retry_after={}", policy.label(), retry_after.0)
        }
        Refusal::PoolUnready { retry_after } => format!("no worker retry_after={}", retry_after.0),
    }
}

fn tell_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(usage) => format!("done {:?} out={}", usage.finish, usage.tokens_out),
        Outcome::Cancelled { reason, tokens_out } => format!("cancelled {reason:?} out={tokens_out}"),
        Outcome::Failed { failure: Failure::Displaced { policy, by, retry_after }, tokens_out: _ } => {
            format!("displaced by {} policy={} retry_after={}", t(*by), policy.label(), retry_after.0)
        }
        Outcome::Failed { failure, tokens_out } => format!("failed {failure:?} out={tokens_out}"),
    }
}
