//! Effects in words: one line each, after `< `, with the tick.

use orchestrion_systems::SessionView;
use orchestrion_world::budget::{Kind, Left};
use orchestrion_world::config::Rules;
use orchestrion_world::health::Breaker;
use orchestrion_world::id::{ModelId, TaskId};
use orchestrion_world::job::{Job, JobState};
use orchestrion_world::protocol::{
    Effect, EvictionReason, Failure, Notice, Order, Outcome, Refusal, Setback, ShardChange,
};
use orchestrion_world::time::Tick;

/// An effect as a transcript tells it.
pub fn line(now: Tick, rules: &Rules, effect: &Effect) -> String {
    let words = match effect {
        Effect::Order(order) => tell_order(rules, order),
        Effect::Notice(notice) => tell_notice(rules, notice),
    };
    format!("< {} {words}", now.0)
}

fn t(id: TaskId) -> String {
    format!("t{}", id.0)
}

fn model(rules: &Rules, id: ModelId) -> &str {
    rules.models.get(usize::from(id.0)).map_or("?", |name| name)
}

fn tell_order(rules: &Rules, order: &Order) -> String {
    match order {
        Order::Start { worker, task, attempt, .. } => format!("{worker} start {} attempt={}", t(*task), attempt.number),
        Order::Cancel { worker, task, attempt, .. } => {
            format!("{worker} cancel {} attempt={}", t(*task), attempt.number)
        }
        Order::Reset { worker, epoch } => format!("{worker} reset epoch={}", epoch.0),
        Order::LoadShard { worker, model: id, .. } => format!("{worker} load {}", model(rules, *id)),
        Order::FreeShard { worker, model: id, .. } => format!("{worker} free {}", model(rules, *id)),
        Order::VerifyShard { worker, model: id, .. } => format!("{worker} verify {}", model(rules, *id)),
        Order::Probe { worker, .. } => format!("{worker} probe"),
        Order::SpawnWorker { worker, epoch, .. } => format!("{worker} spawn epoch={}", epoch.0),
        Order::StopWorker { worker, .. } => format!("{worker} stop"),
    }
}

fn tell_notice(rules: &Rules, notice: &Notice) -> String {
    let pool = |id: &orchestrion_world::id::PoolId| rules.pools.get(usize::from(id.0)).map_or("?", |p| &p.name);
    match notice {
        Notice::Accepted { task, position, predicted_start, left } => {
            let told = format!("{} accepted position={position} starts_in={}", t(*task), predicted_start.0);
            told + &tell_left(left)
        }
        Notice::Refused { task, refusal } => format!("{} refused {}", t(*task), tell_refusal(refusal)),
        Notice::Placed { task, pool: id, worker, .. } => format!("{} placed on {worker} of {}", t(*task), pool(id)),
        Notice::Started { task, worker, .. } => format!("{} started on {worker}", t(*task)),
        Notice::Preempted { task, lost, worker, by } => {
            format!("{} put back from {worker} for {} lost attempt={}", t(*task), t(*by), lost.number)
        }
        Notice::Retrying { task, lost, until, why } => {
            format!("{} lost attempt={} to {} retry_at={}", t(*task), lost.number, tell_setback(*why), until.0)
        }
        Notice::Ended { task, outcome } => format!("{} ended {}", t(*task), tell_outcome(outcome)),
        Notice::PoolChanged { pool: id, ready } => format!("pool {} has {ready} ready", pool(id)),
        Notice::ModeChanged { model: id, class, mode, delay, target } => {
            format!("{} {class:?} is {mode:?} delay={} target={}", model(rules, *id), delay.0, target.0)
        }
        Notice::ShardChanged { worker, model: id, change } => {
            format!("{} on {worker} {}", model(rules, *id), tell_change(rules, *change))
        }
        Notice::RulesRefused => "rules refused".into(),
        Notice::WorkerRefused { worker, reason } => format!("{worker} not taken in: {reason:?}"),
        Notice::Restarted { worker, loss, .. } => format!("{worker} restarted after {}", loss.label()),
        Notice::RestartsStopped { pool: id } => format!("pool {} is restarted no more", pool(id)),
        Notice::BreakerChanged { worker, breaker: Breaker::Open { until } } => {
            format!("{worker} breaker open until={}", until.0)
        }
        Notice::BreakerChanged { worker, breaker } => format!("{worker} breaker {}", breaker.label()),
        Notice::Quarantined { device } => format!("{device} quarantined"),
        Notice::JobChanged { job } => format!("job {} {}", job.id.0, tell_job(rules, job)),
        Notice::JobRefused { job, refusal } => format!("job {} refused {refusal:?}", job.0),
    }
}

fn tell_change(rules: &Rules, change: ShardChange) -> String {
    match change {
        ShardChange::Loading { takes } => format!("is loaded in {}", takes.0),
        ShardChange::Loaded => "serves".into(),
        ShardChange::Failed { fault } => format!("failed {fault:?}"),
        ShardChange::Yielding { to } => format!("yields to {}", model(rules, to)),
        ShardChange::Stays => "stays".into(),
        ShardChange::Evicting { reason: EvictionReason::Demand { by } } => {
            format!("is evicted for {}", model(rules, by))
        }
        ShardChange::Evicting { reason: EvictionReason::Pressure } => "is evicted under pressure".into(),
        ShardChange::Evicting { reason: EvictionReason::Corrupt } => "is evicted as corrupt".into(),
        ShardChange::Gone => "is gone".into(),
    }
}

fn tell_left(left: &Left) -> String {
    let kinds = Kind::ALL.into_iter().filter_map(|kind| Some((kind, left.of(kind)?)));
    kinds.map(|(kind, left)| format!(" {}_left={left}", kind_name(kind))).collect()
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tokens => "tokens",
        Kind::Time => "time",
        Kind::Cost => "cost",
    }
}

/// What a client sees of its session.
pub fn session(view: Option<&SessionView>) -> String {
    let Some(SessionView { ttl, turns, kv, left }) = view else { return "is not there".into() };
    format!("ttl={} turns={turns} kv={}{}", ttl.0, kv.0, tell_left(left))
}

fn tell_setback(setback: Setback) -> String {
    match setback {
        Setback::WorkerLost => "its worker's loss".into(),
        Setback::Fault(class) => format!("a fault, {class:?},"),
        Setback::TimedOut(limit) => format!("its time, {limit:?},"),
    }
}

fn tell_job(rules: &Rules, job: &Job) -> String {
    let steps = job.steps.iter().map(|step| {
        let check = step.check.as_ref();
        let what = check.map(|check| format!("({} {})", check.worker, model(rules, check.model))).unwrap_or_default();
        let found = check.and_then(|check| check.found).map(|found| format!(" {}", found.label()));
        format!(" {}{what}={}{}", step.name.label(), step.status.label(), found.unwrap_or_default())
    });
    let fault = match job.state {
        JobState::Failed(fault) => format!(" {fault:?}"),
        JobState::Running | JobState::Done | JobState::Cancelled => String::new(),
    };
    format!("{} {}{fault}:{}", job.action.label(), job.state.label(), steps.collect::<String>())
}

fn tell_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::UnknownModel => "unknown model".into(),
        Refusal::DuplicateTask => "duplicate task".into(),
        Refusal::ContextExceeded { tokens, ctx_max } => format!("context {tokens} > {ctx_max}"),
        Refusal::DeadlineInfeasible { deadline, needed, retry_after } => {
            let told = format!("deadline {} < {}", deadline.0, needed.0);
            told + &retry_after.map(|after| format!(" retry_after={}", after.0)).unwrap_or_default()
        }
        Refusal::QueueDelayed { expected, target, retry_after } => {
            format!("queue delayed {} > {} retry_after={}", expected.0, target.0, retry_after.0)
        }
        Refusal::BudgetExhausted { of, kind, needed, left } => {
            format!("budget of its {of:?}: {} {needed} > {left}", kind_name(*kind))
        }
        Refusal::TenantLimited { limit, bound, retry_after } => {
            format!("tenant limited {limit:?} bound={bound} retry_after={}", retry_after.0)
        }
        Refusal::SessionOver { over } => format!("session over: {over:?}"),
        Refusal::SessionsFull { bound, retry_after } => {
            format!("sessions full bound={bound} retry_after={}", retry_after.0)
        }
        Refusal::QueueFull { policy, bound, retry_after } => {
            format!("queue full policy={} bound={bound} retry_after={}", policy.label(), retry_after.0)
        }
        Refusal::PoolClosed { retry_after } => format!("closed retry_after={}", retry_after.0),
        Refusal::NowhereAllowed { retry_after } => format!("no worker allowed retry_after={}", retry_after.0),
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
