//! One task as the door sees it: where it stands, its token log, its payload, and who reads it.
//!
//! Everything moves under one lock, so that the gate, the tokens and the verdict are never seen apart.
//! Who waits leaves a waker with what it waits for. Sections under the lock are short, because the pulse
//! and the stations take it too, and wakers are called outside of it. It decides nothing: phases change by the
//! core's notices alone.

mod kept;
mod parts;
mod reader;

pub(crate) use reader::{BYTES_A_TAKE, Reader};

use crate::port::Dropped;
use crate::spool::Part;
use crate::token_log::{Answer, Pushed, Said, TokenLog};
use orchestrion_world::id::{Attempt, TaskId, WorkerId};
use orchestrion_world::payload::{Payload, Token};
use orchestrion_world::protocol::{Class, Outcome, Refusal};
use orchestrion_world::time::Ticks;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Who owns a task's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// The task outlives its connections; its result is kept.
    Queue,
    /// The task lives with its connection.
    OpenAi,
}

/// What the door knows of a task before it submits it.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) task: TaskId,
    /// Of the request's body: the same id with another body is another request.
    pub(crate) body: [u8; 32],
    pub(crate) surface: Surface,
    pub(crate) class: Class,
    pub(crate) fingerprint: Arc<str>,
    pub(crate) dropped: Dropped,
    pub(crate) part: Option<Part>,
    pub(crate) payload: Payload,
}

/// The core's answer to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Accepted {
        position: u32,
        predicted_start: Ticks,
    },
    Refused(Refusal),
    /// It never reached the core: the lane was full.
    Withdrawn,
}

/// Where an admitted task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Submitted,
    Queued,
    Placed,
    Running,
    Ended(Outcome),
}

/// What the `started` event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) position: u32,
    pub(crate) predicted_start: Ticks,
    pub(crate) worker: WorkerId,
}

/// How the stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    /// Attempts disagreed: whatever the core says, the answer is not to be trusted.
    pub(crate) broken: bool,
    /// Tokens that a reader can have had: those of the log, or where a crash took them, their bound.
    pub(crate) tokens: u32,
}

/// Writes a stream's events in a surface's form.
pub(crate) trait Frames: Send {
    fn started(&mut self, out: &mut Vec<u8>, begun: &Begun);
    fn token(&mut self, out: &mut Vec<u8>, index: u32, said: Said<'_>);
    fn ended(&mut self, out: &mut Vec<u8>, ending: &Ending);
    /// Whether what was written ends the response, though it has readers that are not over.
    fn closes(&self) -> bool {
        false
    }
}

/// What can be said of a task at one moment, besides its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) admission: Option<Admission>,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) tokens: u32,
    /// Set once the task ended.
    pub(crate) ending: Option<Ending>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) admission: Option<Admission>,
    pub(crate) begun: Option<Begun>,
    pub(crate) log: TokenLog,
    pub(crate) payload: Option<Payload>,
    /// Readers may have seen tokens that a crash took: the stream ends beyond all that they could have had.
    pub(crate) cut: bool,
    /// Its result is kept for a time, and counted.
    kept: bool,
    /// For the latency metrics.
    pub(crate) accepted_at: Option<Instant>,
    readers: u32,
    reader_left_at: Option<Instant>,
    /// One clock a task watches its grace, however often readers come and go.
    grace_runs: bool,
    seats: u64,
    /// Readers seated up to here get no more tokens: a cancel was acknowledged after the end.
    muted: u64,
    waiting: Vec<Waiting>,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interest {
    /// Tokens and everything else.
    Stream,
    /// Admission and end: tokens leave it asleep.
    Milestones,
}

#[derive(Debug)]
struct Waiting {
    seat: u64,
    interest: Interest,
    waker: Waker,
    /// Woken, and not come back since. The waker stays, so that a token costs no allocation.
    asleep: bool,
}

/// Wakers called at a time outside the lock; nearly always there is one.
type Round = [Option<Waker>; 4];

/// One task.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) task: TaskId,
    /// Later tasks have higher ones.
    pub(crate) number: u64,
    pub(crate) body: [u8; 32],
    pub(crate) surface: Surface,
    pub(crate) class: Class,
    pub(crate) seed: u64,
    pub(crate) fingerprint: Arc<str>,
    /// Of its prompt.
    pub(crate) dropped: Dropped,
    /// Where its answer is numbers.
    pub(crate) part: Option<Part>,
    /// Of the first input of a task, once all are there: the others.
    others: OnceLock<Vec<Arc<Entry>>>,
    pub(crate) prompt_tokens: u32,
    pub(crate) max_tokens: u32,
    /// Whether readers are told how likely its tokens were.
    pub(crate) logprobs: bool,
    state: Mutex<State>,
}

impl Entry {
    pub(crate) fn new(opening: Opening, number: u64) -> Self {
        let payload = opening.payload;
        Entry {
            task: opening.task,
            number,
            body: opening.body,
            surface: opening.surface,
            class: opening.class,
            seed: payload.sampling.seed,
            fingerprint: opening.fingerprint,
            dropped: opening.dropped,
            part: opening.part,
            others: OnceLock::new(),
            prompt_tokens: u32::try_from(payload.prompt.len()).unwrap_or(u32::MAX),
            max_tokens: payload.max_tokens,
            logprobs: payload.logprobs.is_some(),
            state: Mutex::new(State::new(payload.max_tokens, Some(payload))),
        }
    }

    /// A poisoned lock is taken over: each section leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes whoever waits.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.change_for(Interest::Milestones, change)
    }

    /// Wakes those whose interest the change is, outside the lock.
    fn change_for<T>(&self, interest: Interest, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let made = change(&mut state);
        loop {
            let round = state.rouse(interest);
            drop(state);
            let full = round.iter().all(Option::is_some);
            round.into_iter().flatten().for_each(Waker::wake);
            if !full {
                return made;
            }
            state = self.lock();
        }
    }

    /// Offers a token; where it was the task's first, says since when the task was accepted.
    pub(crate) fn token(&self, attempt: Attempt, token: Token<'_>) -> (Pushed, Option<Instant>) {
        self.change_for(Interest::Stream, |state| {
            let begins = token.index == 0;
            let pushed = state.log.push(attempt, token);
            let first = pushed == Pushed::Taken && begins;
            (pushed, state.accepted_at.filter(|_| first))
        })
    }

    pub(crate) fn payload(&self) -> Option<Payload> {
        self.lock().payload.clone()
    }

    pub(crate) fn bytes(&self) -> usize {
        let document = self.part.as_ref().and_then(|part| part.document.as_ref()).map_or(0, String::len);
        self.lock().log.bytes() + document
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub(crate) fn readers(&self) -> u32 {
        self.lock().readers
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    pub(crate) fn view(&self) -> View {
        let state = self.lock();
        View {
            phase: state.phase,
            admission: state.admission,
            worker: state.begun.map(|begun| begun.worker),
            tokens: state.log.len(),
            ending: state.ending(),
        }
    }

    /// The whole answer, once the task ended.
    pub(crate) fn answer(&self) -> Option<Arc<Answer>> {
        let state = self.lock();
        state.ending().map(|_| Arc::clone(state.log.answer()))
    }

    /// Takes the grace watch, where nobody holds it.
    pub(crate) fn claim_grace(&self) -> bool {
        !std::mem::replace(&mut self.lock().grace_runs, true)
    }

    /// How long nobody has read; gives the watch back where somebody reads or the task has ended.
    pub(crate) fn left_alone(&self) -> Option<Instant> {
        let mut state = self.lock();
        let alone = state.reader_left_at.filter(|_| state.readers == 0 && !matches!(state.phase, Phase::Ended(_)));
        state.grace_runs = alone.is_some();
        alone
    }

    /// A cancel that came after the end is acknowledged: who reads now goes straight to the end.
    pub(crate) fn mute(&self) {
        self.change(|state| state.muted = state.seats);
    }

    /// Waits for the core's answer to the submission.
    pub(crate) async fn admitted(self: &Arc<Self>) -> Admission {
        self.wait(|state| state.admission).await
    }

    /// Waits for the end.
    pub(crate) async fn finished(self: &Arc<Self>) -> Ending {
        self.wait(State::ending).await
    }

    async fn wait<T>(self: &Arc<Self>, ready: impl Fn(&State) -> Option<T>) -> T {
        let seat = Seat::take(self);
        poll_fn(|cx| {
            let mut state = self.lock();
            match ready(&state) {
                Some(value) => Poll::Ready(value),
                None => {
                    state.register(seat.number, Interest::Milestones, cx);
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl State {
    fn new(cap: u32, payload: Option<Payload>) -> State {
        State {
            phase: Phase::Submitted,
            admission: None,
            begun: None,
            log: TokenLog::new(cap),
            payload,
            cut: false,
            kept: false,
            accepted_at: None,
            readers: 0,
            reader_left_at: None,
            grace_runs: false,
            seats: 0,
            muted: 0,
            waiting: Vec::new(),
        }
    }

    fn ending(&self) -> Option<Ending> {
        match self.phase {
            Phase::Ended(outcome) => {
                let tokens = if self.cut { self.log.cap() } else { self.log.len() };
                Some(Ending { outcome, broken: self.log.broken(), tokens })
            }
            _ => None,
        }
    }

    fn register(&mut self, seat: u64, interest: Interest, cx: &Context<'_>) {
        match self.waiting.iter_mut().find(|waiting| waiting.seat == seat) {
            Some(waiting) => {
                waiting.waker.clone_from(cx.waker());
                waiting.asleep = true;
            }
            None => self.waiting.push(Waiting { seat, interest, waker: cx.waker().clone(), asleep: true }),
        }
    }

    /// Some of those to wake; a full round means that there may be more.
    fn rouse(&mut self, change: Interest) -> Round {
        let mut round = Round::default();
        let concerned = |waiting: &&mut Waiting| {
            waiting.asleep && (change == Interest::Milestones || waiting.interest == Interest::Stream)
        };
        for (place, waiting) in round.iter_mut().zip(self.waiting.iter_mut().filter(concerned)) {
            waiting.asleep = false;
            *place = Some(waiting.waker.clone());
        }
        round
    }
}

/// A place among the waiting; leaving takes the waker along, so that the list is bounded by who waits.
#[derive(Debug)]
struct Seat {
    entry: Arc<Entry>,
    number: u64,
}

impl Seat {
    fn take(entry: &Arc<Entry>) -> Self {
        let mut state = entry.lock();
        state.seats += 1;
        Seat { entry: Arc::clone(entry), number: state.seats }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.entry.lock().waiting.retain(|waiting| waiting.seat != self.number);
    }
}
