//! Why the core did not take a task, in words for its client: what was compared, and what to do.

use super::{ErrorCode, Problem, full};
use orchestrion_world::budget::{COST_PER_MILLI, Kind};
use orchestrion_world::protocol::{Payer, Refusal, SessionOver, TenantLimit};
use orchestrion_world::time::Ticks;

impl Problem {
    pub(crate) fn refused(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownModel => {
                Problem::unknown_model("the scheduler serves no such model; `GET /v1/models` lists what it serves")
            }
            Refusal::DuplicateTask => Problem::new(
                ErrorCode::Conflict,
                "a task with this `task_id` is already running; use another id, or none to have one made",
            ),
            Refusal::ContextExceeded { tokens, ctx_max } => Problem::new(
                ErrorCode::InvalidParams,
                format!(
                    "prompt and answer take {tokens} tokens, the model's context holds {ctx_max}; shorten the prompt, \
                     lower `max_tokens`, or send `truncation: \"auto\"`, which leaves the prompt's oldest part out"
                ),
            )
            .too_long(),
            Refusal::DeadlineInfeasible { deadline: Ticks(left), needed: Ticks(needed), retry_after } => Problem {
                retry_after_ms: retry_after.map(|after| after.0),
                ..Problem::new(
                    ErrorCode::DeadlineUnmet,
                    match retry_after {
                        None => format!(
                            "the deadline leaves {left} ms and the shortest run takes {needed} ms; \
                             give more time or ask for fewer tokens"
                        ),
                        Some(_) => format!(
                            "the deadline leaves {left} ms and with those that wait before it a first token takes \
                             {needed} ms; give more time, or ask again after the time given"
                        ),
                    },
                )
            },
            Refusal::QueueDelayed { expected: Ticks(expected), target: Ticks(target), retry_after } => Problem::new(
                ErrorCode::AdmissionReject,
                format!(
                    "the task would wait {expected} ms and the queue is held to {target} ms while it is too long; \
                     retry after the time given"
                ),
            )
            .label("queue-delay")
            .after(retry_after.0),
            Refusal::BudgetExhausted { of, kind, needed, left } => exhausted(of, kind, needed, left),
            Refusal::TenantLimited { limit, bound, retry_after } => limited(limit, bound).after(retry_after.0),
            Refusal::SessionOver { over } => session_over(over),
            Refusal::SessionsFull { bound, retry_after } => Problem::new(
                ErrorCode::AdmissionReject,
                format!(
                    "there are {bound} sessions and each has a task that waits or runs; retry after the time given, \
                     or leave `session_id` out"
                ),
            )
            .label("sessions")
            .after(retry_after.0),
            Refusal::QueueFull { policy, bound, retry_after } => Problem::new(
                full(policy),
                format!("the queue is full at {bound} tasks and none of them gives way; retry after the time given"),
            )
            .label(policy.label())
            .after(retry_after.0),
            Refusal::PoolClosed { retry_after } => Problem::new(
                ErrorCode::PoolUnavailable,
                "an operator has taken this model's pools out of service; retry after the time given",
            )
            .after(retry_after.0),
            Refusal::NowhereAllowed { retry_after } => Problem {
                param: Some("placement".into()),
                ..Problem::new(
                    ErrorCode::PoolUnready,
                    "no worker that `placement` allows is up with this model; ask again after the time given, or allow \
                     others: `GET /v1/pools` lists them",
                )
                .after(retry_after.0)
            },
            Refusal::PoolUnready { retry_after } => {
                Problem::new(ErrorCode::PoolUnready, "no worker of this model is up; retry after the time given")
                    .after(retry_after.0)
            }
        }
    }
}

fn exhausted(of: Payer, kind: Kind, needed: u64, left: u64) -> Problem {
    let (what, unit) = match kind {
        Kind::Tokens => ("tokens", 1),
        Kind::Time => ("ms", 1),
        Kind::Cost => ("milli-units of cost", COST_PER_MILLI),
    };
    let (needed, left) = (needed.div_ceil(unit), left / unit);
    let (whose, advice) = match of {
        Payer::Tenant => ("your budget", "ask for fewer tokens, or have the budget raised"),
        Payer::Session => ("the session's budget", "ask for fewer tokens, or go on in another session"),
    };
    let message = format!("the task may use {needed} {what} and {whose} has {left} left; {advice}");
    Problem::new(ErrorCode::BudgetExhausted, message).label("budget")
}

fn limited(limit: TenantLimit, bound: u64) -> Problem {
    let message = match limit {
        TenantLimit::TaskRate => "you have asked for as many tasks as your rate allows".to_owned(),
        TenantLimit::TokenRate => "you have asked for as many tokens as your rate allows".to_owned(),
        TenantLimit::Queued => format!("{bound} of your tasks wait, which is as many as may"),
        TenantLimit::Live => format!("{bound} of your tasks wait or run, which is as many as may"),
    };
    Problem::new(ErrorCode::RateLimited, message + "; retry after the time given").label("tenant-limit")
}

fn session_over(over: SessionOver) -> Problem {
    let message = match over {
        SessionOver::Turns(most) => {
            format!("the session has had its {most} turns; go on with another `session_id`, or delete this one first")
        }
        SessionOver::Expired => {
            "the session's time is over and its last task is not; go on with another `session_id`, \
                                 or send this again once that task has ended"
                .to_owned()
        }
        SessionOver::Closed => "the session was deleted and its last task still waits or runs; go on with another \
                                `session_id`, or send this again once that task has ended"
            .to_owned(),
    };
    Problem { param: Some("session_id".into()), ..Problem::new(ErrorCode::Conflict, message) }
}
