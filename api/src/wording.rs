//! Inputs and effects in words, for the reports of replay and explain.
//!
//! Sentences without their subject ("was accepted …"), with the figures. Names of models and pools come
//! from the rules in force; without any, ids stand in their place.

use jiff::Timestamp;
use orchestrion_world::budget::Kind;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{ModelId, PoolId, TaskId};
use orchestrion_world::protocol::{
    AdmissionMode, CancelReason, Class, Effect, EvictionReason, Failure, FaultClass, Finish, Input, Intent, Notice,
    Order, Outcome, Payer, Refusal, Report, SessionOver, Setback, ShardChange, ShardFault, TaskSpec, TenantLimit,
    TimeLimit, Usage,
};
use orchestrion_world::time::Ticks;

/// What ids stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    models: Vec<String>,
    pools: Vec<String>,
}

impl Names {
    pub(crate) fn of(rules: &Rules) -> Names {
        Names { models: rules.models.clone(), pools: rules.pools.iter().map(|pool| pool.name.clone()).collect() }
    }

    fn model(&self, id: ModelId) -> String {
        self.models.get(usize::from(id.0)).map_or_else(|| format!("model {}", id.0), |name| format!("model {name}"))
    }

    fn pool(&self, id: PoolId) -> String {
        self.pools.get(usize::from(id.0)).map_or_else(|| format!("pool {}", id.0), |name| format!("pool {name}"))
    }

    /// An effect, said of its task or worker.
    pub(crate) fn effect(&self, effect: &Effect) -> String {
        match effect {
            Effect::Order(order) => self.order(order),
            Effect::Notice(notice) => self.notice(notice),
        }
    }

    fn order(&self, order: &Order) -> String {
        match order {
            Order::Start { worker, epoch, attempt, .. } => {
                format!("was sent to worker {worker}, life {}, as attempt {}", epoch.0, attempt.number)
            }
            Order::Cancel { worker, attempt, .. } => {
                format!("was called back from worker {worker}, attempt {}", attempt.number)
            }
            Order::Reset { worker, epoch } => {
                format!("worker {worker} was told to drop what it has and to begin life {}", epoch.0)
            }
            Order::Probe { worker, .. } => format!("worker {worker} was asked whether it lives"),
            Order::SpawnWorker { worker, epoch, .. } => {
                format!("worker {worker} was told to load its model and begin life {}", epoch.0)
            }
            Order::StopWorker { worker, epoch } => format!("worker {worker}, life {}, was told to end", epoch.0),
            Order::LoadShard { worker, model, .. } => {
                format!("worker {worker} was told to load {}", self.model(*model))
            }
            Order::FreeShard { worker, model, .. } => {
                format!("worker {worker} was told to free {}", self.model(*model))
            }
            Order::VerifyShard { worker, model, .. } => {
                format!("worker {worker} was asked whether {} is what was loaded", self.model(*model))
            }
        }
    }

    fn notice(&self, notice: &Notice) -> String {
        match notice {
            Notice::Accepted { position, predicted_start, .. } => format!(
                "was accepted with {} ahead of it in its queue, predicted to start after {}",
                count(*position, "task"),
                length(*predicted_start)
            ),
            Notice::Refused { refusal, .. } => format!("was refused: {}", self.refusal(refusal)),
            Notice::Placed { attempt, pool, worker, .. } => {
                format!("was placed on worker {worker} of {} (attempt {})", self.pool(*pool), attempt.number)
            }
            Notice::Started { attempt, worker, .. } => {
                format!("was taken up by worker {worker} (attempt {})", attempt.number)
            }
            Notice::Retrying { lost, until, why, .. } => {
                let why = setback_words(*why);
                format!(
                    "lost attempt {}, because {why}, and waits until tick {} to be tried again",
                    lost.number, until.0
                )
            }
            Notice::Preempted { lost, worker, by, .. } => format!(
                "was put back from worker {worker}, attempt {}, because interactive work, task {by} first, had no slot; \
                 it waits in its old place and that counts as no failure",
                lost.number
            ),
            Notice::Ended { outcome, .. } => outcome_words(outcome),
            Notice::PoolChanged { pool, ready } => {
                format!("{} now has {} ready", self.pool(*pool), count(u32::from(*ready), "worker"))
            }
            Notice::ModeChanged { model, class, mode, delay, target } => {
                let line = match class {
                    Class::Interactive => "interactive",
                    Class::Batch => "batch",
                };
                match mode {
                    AdmissionMode::Held => format!(
                        "the {line} queue of {} is held to a wait of {}: nobody waited less than {}",
                        self.model(*model),
                        length(*target),
                        length(*delay)
                    ),
                    AdmissionMode::Open => format!("the {line} queue of {} takes all again", self.model(*model)),
                }
            }
            Notice::ShardChanged { worker, model, change } => {
                format!("{} on worker {worker} {}", self.model(*model), self.change(change))
            }
            Notice::RulesRefused => "the new rules were not taken".to_owned(),
            Notice::WorkerRefused { worker, reason } => format!("worker {worker} was not taken in ({reason:?})"),
            Notice::Restarted { worker, pool, loss } => {
                format!("worker {worker} of {} begins again after its loss ({})", self.pool(*pool), loss.label())
            }
            Notice::RestartsStopped { pool } => {
                format!(
                    "{} lost its workers too often: those that are down stay down until it is resumed",
                    self.pool(*pool)
                )
            }
            Notice::BreakerChanged { worker, breaker } => {
                format!("the breaker of worker {worker} is {}", breaker.label())
            }
            Notice::JobChanged { job } => {
                let (kind, state) = (job.action.label(), job.state.label());
                format!("job {} of {} ({kind}) is {state}", job.id, self.pool(job.pool))
            }
            Notice::JobRefused { job, refusal } => format!("job {job} was not begun ({refusal:?})"),
            Notice::Quarantined { device } => {
                format!("device {device} is in quarantine until a pool that stands on it is resumed")
            }
        }
    }

    fn change(&self, change: &ShardChange) -> String {
        match change {
            ShardChange::Loading { takes } => format!("is being loaded, which should take {}", length(*takes)),
            ShardChange::Loaded => "serves".to_owned(),
            ShardChange::Failed { fault: ShardFault::Fixed } => {
                "stays as it is: the worker can load no other".to_owned()
            }
            ShardChange::Failed { fault: ShardFault::Corrupt } => {
                "has other bytes than it should: it is not served".to_owned()
            }
            ShardChange::Failed { fault: ShardFault::Transient } => "could not be loaded".to_owned(),
            ShardChange::Failed { fault: ShardFault::Missing } => {
                "could not be loaded: its file is not there or cannot be read".to_owned()
            }
            ShardChange::Failed { fault: ShardFault::NoMemory } => {
                "could not be loaded: the machine has no room for it".to_owned()
            }
            ShardChange::Yielding { to } => format!("takes no more tasks, to make way for {}", self.model(*to)),
            ShardChange::Stays => "stays after all".to_owned(),
            ShardChange::Evicting { reason: EvictionReason::Demand { by } } => {
                format!("is evicted for {}", self.model(*by))
            }
            ShardChange::Evicting { reason: EvictionReason::Pressure } => {
                "is evicted: its device is too full".to_owned()
            }
            ShardChange::Evicting { reason: EvictionReason::Corrupt } => "is thrown away".to_owned(),
            ShardChange::Gone => "is gone".to_owned(),
        }
    }

    fn refusal(&self, refusal: &Refusal) -> String {
        match refusal {
            Refusal::UnknownModel => "no such model in the rules".to_owned(),
            Refusal::DuplicateTask => "a live task has its id".to_owned(),
            Refusal::ContextExceeded { tokens, ctx_max } => {
                format!("its {tokens} tokens exceed the largest context there is, {ctx_max}")
            }
            Refusal::DeadlineInfeasible { deadline, needed, retry_after } => format!(
                "its deadline of {} is nearer than {}, {}",
                length(*deadline),
                if retry_after.is_some() {
                    "a first token behind those that wait"
                } else {
                    "the shortest possible run"
                },
                length(*needed)
            ),
            Refusal::QueueDelayed { expected, target, retry_after } => format!(
                "it would wait {} in a queue that is held to {}; it would not after {}",
                length(*expected),
                length(*target),
                length(*retry_after)
            ),
            Refusal::BudgetExhausted { of, kind, needed, left } => {
                let whose = match of {
                    Payer::Tenant => "tenant",
                    Payer::Session => "session",
                };
                let what = match kind {
                    Kind::Tokens => "tokens",
                    Kind::Time => "ms on a slot",
                    Kind::Cost => "millionths of a milli-unit",
                };
                format!("it may use {needed} {what}, and the budget of its {whose} has {left} left")
            }
            Refusal::TenantLimited { limit, bound, retry_after } => {
                let what = match limit {
                    TenantLimit::TaskRate => "asked for as many tasks as its rate allows",
                    TenantLimit::TokenRate => "asked for as many tokens as its rate allows",
                    TenantLimit::Queued => "has as many tasks waiting as it may",
                    TenantLimit::Live => "has as many tasks here as it may",
                };
                format!("its tenant {what} ({bound}); it may again after {}", length(*retry_after))
            }
            Refusal::SessionOver { over } => match over {
                SessionOver::Turns(most) => format!("its session has had its {most} turns"),
                SessionOver::Expired => "its session's time is over".to_owned(),
                SessionOver::Closed => "its session was closed".to_owned(),
            },
            Refusal::SessionsFull { bound, .. } => {
                format!("there are {bound} sessions and a task of each waits or runs")
            }
            Refusal::QueueFull { policy, bound, retry_after } => format!(
                "the queue is full ({bound} tasks) and by its policy, {}, none of them gives way; room is expected after {}",
                policy.label(),
                length(*retry_after)
            ),
            Refusal::PoolClosed { retry_after } => {
                format!("its pools were closed by an operator; ask again after {}", length(*retry_after))
            }
            Refusal::NowhereAllowed { retry_after } => {
                format!("no worker that its client allows is up; one may be after {}", length(*retry_after))
            }
            Refusal::PoolUnready { retry_after } => {
                format!("no worker of its model is up; one may be after {}", length(*retry_after))
            }
        }
    }

    /// An input, said of the task it is about; none where it is about another or none. Progress is for
    /// the caller to add up, and what finished is told by the notice of its end.
    pub(crate) fn input(&self, input: &Input, task: TaskId) -> Option<String> {
        match input {
            Input::Intent(Intent::Submit { task: id, spec }) if *id == task => Some(self.spec(spec)),
            Input::Intent(Intent::Cancel { task: id, reason }) if *id == task => {
                Some(format!("was to be cancelled: {}", reason_words(*reason)))
            }
            Input::Report(Report::Faulted { worker, task: id, attempt, class, .. }) if *id == task => {
                let kind = fault_words(*class);
                Some(format!("failed on worker {worker} in attempt {}: {kind}", attempt.number))
            }
            _ => None,
        }
    }

    fn spec(&self, spec: &TaskSpec) -> String {
        let class = match spec.class {
            Class::Interactive => "interactive",
            Class::Batch => "batch",
        };
        let deadline = spec.deadline.map_or_else(|| "no deadline".into(), |d| format!("a deadline of {}", length(d)));
        format!(
            "was submitted as {class} work for {}: {} of prompt, at most {} of answer, {deadline}",
            self.model(spec.model),
            count(spec.prompt_tokens, "token"),
            count(spec.max_tokens, "token")
        )
    }
}

/// Who gave up a place in the queue or a slot for the task, and why.
pub(crate) fn made_room(effect: &Effect, task: TaskId) -> Option<String> {
    if let Effect::Notice(Notice::Preempted { task: gone, worker, by, .. }) = effect {
        let told = || format!("found no slot, so worker {worker} was told to let go of batch task {gone}");
        return (*by == task).then(told);
    }
    let Effect::Notice(Notice::Ended { task: gone, outcome: Outcome::Failed { failure, .. } }) = effect else {
        return None;
    };
    match failure {
        Failure::Displaced { policy, by, .. } if *by == task => {
            let policy = policy.label();
            Some(format!("found the queue full; by its policy, {policy}, task {gone} gave way to it"))
        }
        _ => None,
    }
}

fn outcome_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(usage) => format!("ended, done: {}", usage_words(usage)),
        Outcome::Cancelled { reason, tokens_out } => {
            format!("ended, cancelled after {}: {}", count(*tokens_out, "token"), reason_words(*reason))
        }
        Outcome::Failed { failure, tokens_out } => {
            let why = match failure {
                Failure::DeadlinePassed => "its deadline passed".to_owned(),
                Failure::WorkerLost => "its worker was lost, after the first token or too often before it".to_owned(),
                Failure::InvalidInput => "the engine cannot run the request".to_owned(),
                Failure::NoWorker => "no worker was left that could run it".to_owned(),
                Failure::Displaced { policy, by, retry_after } => format!(
                    "the queue was full, and by its policy, {}, it gave its place to task {by}; room is expected after {}",
                    policy.label(),
                    length(*retry_after)
                ),
                Failure::TimedOut(limit) => limit_words(*limit).to_owned(),
                Failure::Diverged => "two attempts made different tokens".to_owned(),
            };
            format!("ended, failed after {}: {why}", count(*tokens_out, "token"))
        }
    }
}

fn fault_words(class: FaultClass) -> &'static str {
    match class {
        FaultClass::Transient => "a fault that another try may not meet",
        FaultClass::InvalidInput => "a fault of the request itself",
        FaultClass::Fatal => "a fault that broke the worker",
        FaultClass::Retryable => "the worker had no room for it",
        FaultClass::Diverged => "it made other tokens than readers were shown",
    }
}

fn limit_words(limit: TimeLimit) -> &'static str {
    match limit {
        TimeLimit::FirstToken => "no first token came in the time allowed",
        TimeLimit::Idle => "no further token came in the time allowed",
        TimeLimit::Wall => "it took longer than is allowed",
    }
}

fn setback_words(why: Setback) -> &'static str {
    match why {
        Setback::WorkerLost => "its worker was lost",
        Setback::Fault(class) => fault_words(class),
        Setback::TimedOut(limit) => limit_words(limit),
    }
}

fn usage_words(usage: &Usage) -> String {
    let Usage { finish, tokens_in, tokens_cached, tokens_out, prefill_us, decode_us } = usage;
    let why = match finish {
        Finish::Stop => "an end token or a stop string",
        Finish::Length => "the length allowed",
        Finish::Cancelled => "a cancel",
    };
    let known = if *tokens_cached > 0 { format!(" ({tokens_cached} of them known before)") } else { String::new() };
    format!(
        "{}{known} read in {} ms, {} made in {} ms, ended by {why}",
        count(*tokens_in, "token"),
        prefill_us / 1000,
        count(*tokens_out, "token"),
        decode_us / 1000
    )
}

fn reason_words(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::Client => "the client asked",
        CancelReason::Disconnect => "the client's connection closed",
        CancelReason::Abandoned => "nobody read the stream",
        CancelReason::Shutdown => "the server was going down",
    }
}

pub(crate) fn count(n: u32, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// A length of virtual time for a person.
pub(crate) fn length(ticks: Ticks) -> String {
    if ticks.0 < 10_000 {
        format!("{} ms", ticks.0)
    } else {
        format!("{}.{:01} s", ticks.0 / 1000, ticks.0 % 1000 / 100)
    }
}

/// A date and time of day, as RFC 3339 writes them; the number where it is beyond the year 9999.
pub(crate) fn utc(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| unix_ms.to_string(), |time| format!("{time:.3}"))
}
