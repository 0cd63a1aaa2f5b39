//! The clients of a simulated run: they submit, wait, retry as they are told to, and remember what they saw.
//!
//! All lengths are as a client measures them, from its first try on. A try is a task of its own: its id is
//! the request's number and the try's.

use crate::draw::Draws;
use crate::station::Job;
use orchestrion_world::id::{SessionId, TaskId};
use orchestrion_world::protocol::{
    CancelReason, Failure, Finish, Input, Intent, Notice, Outcome, Refusal, TaskSpec, Usage,
};
use orchestrion_world::time::{Tick, Ticks};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Requests of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// An answer that came later is not good.
    pub first_token_most: Option<Ticks>,
    pub total_most: Option<Ticks>,
    /// Tries after the first, and what to wait before the first of them; it doubles.
    pub retries: u32,
    pub backoff: Ticks,
    /// A client that has no first token after this long goes away.
    pub patience: Option<Ticks>,
    /// Turns of a conversation, and what its client thinks between two.
    pub talk: Option<(u32, Ticks)>,
}

/// Requests of a run, turns of conversations included: each leaves a record of some forty bytes.
pub(crate) const REQUESTS_MAX: u64 = 10_000_000;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub at: Tick,
    /// Of the plan's groups.
    pub group: u16,
    pub spec: TaskSpec,
    /// Tokens the model would answer with; `max_tokens` bounds them.
    pub answer: u32,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub arrived: Tick,
    pub group: u16,
    pub end: End,
    pub retries: u16,
    /// From its last try to a worker; from its arrival to its first token and to its end. [`NEVER`] where it
    /// did not come to that.
    pub queued: u32,
    pub first: u32,
    pub total: u32,
    pub tokens: u32,
}

/// A length that was not.
pub const NEVER: u32 = u32::MAX;

/// How a request ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Answered, within what its group asks for.
    Good,
    /// Answered too late.
    Late,
    /// An entry of [`Clients::reasons`].
    Not(u16),
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Clients {
    groups: Vec<Group>,
    draws: Draws,
    live: BTreeMap<u64, Live>,
    /// When who tries again or runs out of patience. Void where its try is over.
    agenda: BinaryHeap<Reverse<(Tick, u64, u32)>>,
    arrived: u64,
    pub(crate) records: Vec<Record>,
    /// Why requests were not answered, in order of appearance.
    pub(crate) reasons: Vec<String>,
    pub(crate) retries: u64,
}

#[derive(Debug)]
struct Live {
    request: Request,
    /// The question's own tokens, and which of its conversation it is, from 1 on.
    asks: u32,
    turn: u32,
    tries: u32,
    submitted: Tick,
    queued: Option<Tick>,
    first: Option<Tick>,
    /// Between two tries.
    waits: bool,
}

impl Clients {
    pub(crate) fn new(groups: Vec<Group>, draws: Draws) -> Clients {
        let (live, agenda) = (BTreeMap::new(), BinaryHeap::new());
        Clients { groups, draws, live, agenda, arrived: 0, records: vec![], reasons: vec![], retries: 0 }
    }

    /// Requests that are not over.
    pub(crate) fn living(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn next_due(&self) -> Option<Tick> {
        self.agenda.peek().map(|Reverse((at, ..))| *at)
    }

    /// A request arrives.
    pub(crate) fn arrive(&mut self, now: Tick, mut request: Request) -> Input {
        if self.groups[usize::from(request.group)].talk.is_some() {
            // As the door does it: the same name is another session for another tenant.
            request.spec.session = Some(SessionId(u128::from(request.spec.tenant.0) << 64 | u128::from(self.arrived)));
        }
        let asks = request.spec.prompt_tokens;
        let number = self.enter(now, request, asks, 1);
        self.submit(now, number)
    }

    fn enter(&mut self, now: Tick, request: Request, asks: u32, turn: u32) -> u64 {
        let number = self.arrived;
        self.arrived += 1;
        let (queued, first) = (None, None);
        let live = Live { request, asks, turn, tries: 0, submitted: now, queued, first, waits: true };
        self.live.insert(number, live);
        number
    }

    /// The client of an answered turn thinks, and asks again with all that was said.
    fn go_on(&mut self, now: Tick, task: TaskId, answer: u32) {
        let Some(Live { request, asks, turn, .. }) = self.of(task) else { return };
        let Some((turns, think)) = self.groups[usize::from(request.group)].talk else { return };
        if *turn >= turns || self.arrived >= REQUESTS_MAX {
            return;
        }
        let (asks, turn, mut request) = (*asks, *turn + 1, request.clone());
        let at = now + Ticks(self.draws.stretched(task.0, think.0.max(1), 200));
        let spec = &mut request.spec;
        spec.prompt_tokens = spec.prompt_tokens.saturating_add(answer).saturating_add(asks);
        request.at = at;
        let number = self.enter(at, request, asks, turn);
        self.agenda.push(Reverse((at, number, 0)));
    }

    /// What clients do by themselves up to `now`.
    pub(crate) fn act(&mut self, now: Tick, inputs: &mut Vec<Input>) {
        while let Some(Reverse((_, number, tries))) = self.agenda.peek().copied().filter(|Reverse((at, ..))| *at <= now)
        {
            self.agenda.pop();
            let Some(live) = self.live.get(&number).filter(|live| live.tries == tries) else { continue };
            if live.waits {
                inputs.push(self.submit(now, number));
            } else if live.first.is_none() {
                let task = task(number, tries);
                inputs.push(Input::Intent(Intent::Cancel { task, reason: CancelReason::Disconnect }));
            }
        }
    }

    #[expect(clippy::expect_used, reason = "both callers have just seen it")]
    fn submit(&mut self, now: Tick, number: u64) -> Input {
        let live = self.live.get_mut(&number).expect("only live requests are submitted");
        live.tries += 1;
        (live.submitted, live.waits) = (now, false);
        if let Some(patience) = self.groups[usize::from(live.request.group)].patience {
            self.agenda.push(Reverse((now + patience, number, live.tries)));
        }
        Input::Intent(Intent::Submit { task: task(number, live.tries), spec: live.request.spec.clone() })
    }

    /// What a task will come to, if it lives.
    pub(crate) fn job(&self, task: TaskId) -> Option<Job> {
        let Request { spec, answer, .. } = &self.of(task)?.request;
        let finish = if *answer < spec.max_tokens { Finish::Stop } else { Finish::Length };
        let (model, prompt, beginnings) = (spec.model, spec.prompt_tokens, spec.beginnings().collect());
        let answer = (*answer).min(spec.max_tokens);
        Some(Job { model, class: spec.class, prompt, beginnings, known: None, answer, finish })
    }

    fn of(&self, task: TaskId) -> Option<&Live> {
        self.live.get(&(task.0 as u64)).filter(|live| u128::from(live.tries) == task.0 >> 64)
    }

    fn of_mut(&mut self, task: TaskId) -> Option<&mut Live> {
        self.live.get_mut(&(task.0 as u64)).filter(|live| u128::from(live.tries) == task.0 >> 64)
    }

    /// A first token was made.
    pub(crate) fn first(&mut self, now: Tick, task: TaskId) {
        if let Some(live) = self.of_mut(task) {
            live.first = live.first.or(Some(now));
        }
    }

    pub(crate) fn hear(&mut self, now: Tick, notice: &Notice) {
        match notice {
            Notice::Placed { task, .. } => {
                if let Some(live) = self.of_mut(*task) {
                    live.queued = live.queued.or(Some(now));
                }
            }
            Notice::Refused { task, refusal } => {
                let after = again(refusal);
                self.lose(now, *task, after, || word(refusal));
            }
            Notice::Ended { task, outcome } => match outcome {
                Outcome::Done(usage) => self.win(now, *task, usage),
                Outcome::Cancelled { reason, .. } => self.lose(now, *task, None, || word(reason)),
                Outcome::Failed { failure, .. } => self.lose(now, *task, again_after(failure), || word(failure)),
            },
            // Clients act on their task's place, its end or its refusal, and on nothing else.
            _ => {}
        }
    }

    fn win(&mut self, now: Tick, task: TaskId, usage: &Usage) {
        let Some(live) = self.of(task) else { return };
        let group = &self.groups[usize::from(live.request.group)];
        let arrived = live.request.at;
        let kept = |most: Option<Ticks>, came: Option<Tick>| {
            most.is_none_or(|most| came.is_some_and(|came| came.since(arrived) <= most))
        };
        let good = kept(group.first_token_most, live.first) && kept(group.total_most, Some(now));
        self.go_on(now, task, usage.tokens_out);
        self.end(now, task, if good { End::Good } else { End::Late }, usage.tokens_out);
    }

    /// The try is lost; where it may be tried again after some time, that is done.
    fn lose(&mut self, now: Tick, task: TaskId, after: Option<Ticks>, why: impl FnOnce() -> String) {
        let Some(live) = self.of(task) else { return };
        let group = &self.groups[usize::from(live.request.group)];
        if let Some(after) = after.filter(|_| live.tries <= group.retries) {
            let backoff = group.backoff.0.saturating_mul(1 << (live.tries - 1).min(20));
            // Never earlier than told, and not all at once.
            let wait = self.draws.stretched(task.0, after.0.max(backoff).max(1), 200);
            let (number, tries) = (task.0 as u64, live.tries);
            if let Some(live) = self.of_mut(task) {
                (live.waits, live.queued, live.first) = (true, None, None);
            }
            self.retries += 1;
            return self.agenda.push(Reverse((now + Ticks(wait), number, tries)));
        }
        let why = why();
        let known = self.reasons.iter().position(|reason| *reason == why).unwrap_or_else(|| {
            self.reasons.push(why);
            self.reasons.len() - 1
        });
        self.end(now, task, End::Not(known as u16), 0);
    }

    fn end(&mut self, now: Tick, task: TaskId, end: End, tokens: u32) {
        let Some(Live { request, tries, submitted, queued, first, .. }) = self.live.remove(&(task.0 as u64)) else {
            return;
        };
        let length =
            |from: Tick, to: Option<Tick>| to.map_or(NEVER, |to| to.since(from).0.min(u64::from(NEVER - 1)) as u32);
        self.records.push(Record {
            arrived: request.at,
            group: request.group,
            end,
            retries: (tries - 1).min(u32::from(u16::MAX)) as u16,
            queued: length(submitted, queued),
            first: length(request.at, first),
            total: length(request.at, Some(now)),
            tokens,
        });
    }
}

fn task(number: u64, tries: u32) -> TaskId {
    TaskId(u128::from(tries) << 64 | u128::from(number))
}

/// How long a client that is refused waits, if another try may work.
fn again(refusal: &Refusal) -> Option<Ticks> {
    match refusal {
        Refusal::QueueFull { retry_after, .. }
        | Refusal::QueueDelayed { retry_after, .. }
        | Refusal::TenantLimited { retry_after, .. }
        | Refusal::SessionsFull { retry_after, .. }
        | Refusal::NowhereAllowed { retry_after }
        | Refusal::PoolUnready { retry_after }
        | Refusal::PoolClosed { retry_after } => Some(*retry_after),
        Refusal::UnknownModel
        | Refusal::DuplicateTask
        | Refusal::ContextExceeded { .. }
        | Refusal::BudgetExhausted { .. }
        | Refusal::SessionOver { .. }
        | Refusal::DeadlineInfeasible { .. } => None,
    }
}

fn again_after(failure: &Failure) -> Option<Ticks> {
    match failure {
        Failure::Displaced { retry_after, .. } => Some(*retry_after),
        Failure::WorkerLost | Failure::NoWorker | Failure::TimedOut(_) | Failure::Diverged => Some(Ticks(0)),
        Failure::DeadlinePassed | Failure::InvalidInput => None,
    }
}

/// A reason by its variant's name.
fn word(reason: &impl std::fmt::Debug) -> String {
    let words = format!("{reason:?}");
    words.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}
