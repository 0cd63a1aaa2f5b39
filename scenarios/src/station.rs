//! A simulated station: the loop of `gpu/src/station/run.rs` in virtual time, with steps of one batch taken
//! together. What a step runs is planned by the crate that real stations plan with.
//!
//! Time inside is nanoseconds. Between two boundaries lies a stretch: one step with prompts in it, or as
//! many steps of answers alone as pass until somebody ends, an order arrives or a report is due. Where
//! several models stand, a step runs each of them that has tasks, one after another; which stand and which
//! come is in `shelf`. What it says goes into [`Said`]; when it wants to be looked at again,
//! [`Station::due`] tells.

mod kept;
mod row;
mod shelf;

use crate::cost::{attended, steps_within};
use kept::Kept;
use orchestrion_planner::{self as planner, ALONE, Limits, StepPlan, Turn};
use orchestrion_world::id::{Attempt, Epoch, JobId, ModelId, ShardOrder, TaskId, WorkerId};
use orchestrion_world::prefix::{PAGE, PrefixId};
use orchestrion_world::protocol::{Class, FaultClass, Finish, Report, ShardFault, WorkerFacts};
use row::{Row, pages};
use shelf::Shelf;
pub use shelf::{Build, Offer};
use std::collections::VecDeque;

/// As real stations keep them.
const PROGRESS: u64 = 100_000_000;
const BEAT_BUSY: u64 = 1_000_000_000;
const BEAT_IDLE: u64 = 5_000_000_000;

/// What an attempt will come to; the core knows only its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub model: ModelId,
    pub class: Class,
    pub prompt: u32,
    /// What of it a station may know from before.
    pub beginnings: Box<[PrefixId]>,
    /// How much it did know, where a record says so.
    pub known: Option<u32>,
    /// Tokens that the model answers with.
    pub answer: u32,
    pub finish: Finish,
}

/// What stations said, in order.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub reports: Vec<Report>,
    /// Tasks whose first token was made, as its reader sees it.
    pub firsts: Vec<TaskId>,
}

/// An order on its way in.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Start(TaskId, Attempt, Epoch, Job),
    Cancel(TaskId, Attempt),
    Reset(Epoch),
    Load(Epoch, ModelId, ShardOrder),
    Free(Epoch, ModelId, ShardOrder),
    Verify(Epoch, ModelId, JobId),
    Probe,
}

#[derive(Clone, Debug)]
pub(crate) struct Station {
    /// As it announced itself.
    facts: WorkerFacts,
    pub(crate) epoch: Epoch,
    worker: WorkerId,
    pub(crate) shelf: Shelf,
    kept: Kept,
    /// In order of arrival.
    rows: Vec<Row>,
    /// Of one model, as the planner sees them.
    planned: Vec<planner::Row>,
    plan: StepPlan,
    stretch: Option<Stretch>,
    inbox: VecDeque<(u64, Command)>,
    /// It does nothing before.
    hung_until: u64,
    /// Its beats are lost before.
    mute_until: u64,
    last_beat: u64,
    last_progress: u64,
}

/// What runs now.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    begun: u64,
    ends: u64,
    /// Without prompts: so many steps of the batches on the shelf.
    answers: Option<u64>,
}

impl Station {
    /// A station that is ready from `now` on with a model, or with none, and says so.
    pub(crate) fn new(
        now: u64,
        (worker, epoch): (WorkerId, Epoch),
        build: &Build,
        model: Option<ModelId>,
        said: &mut Said,
    ) -> Station {
        let shelf = Shelf::new(build, model);
        let came_with = model.and_then(|model| Some((model, build.offer(model)?.facts)));
        let mut station = Station {
            facts: WorkerFacts { came_with, ..build.facts.clone() },
            epoch,
            worker,
            shelf,
            kept: Kept::default(),
            rows: Vec::new(),
            planned: Vec::new(),
            plan: StepPlan::default(),
            stretch: None,
            inbox: VecDeque::new(),
            hung_until: 0,
            mute_until: 0,
            last_beat: now,
            last_progress: now,
        };
        station.announce(now, said);
        station
    }

    fn announce(&mut self, now: u64, said: &mut Said) {
        self.last_beat = now;
        let (worker, epoch, facts) = (self.worker, self.epoch, self.facts.clone());
        said.reports.push(Report::WorkerUp { worker, epoch, facts });
    }

    /// When something happens next, if nobody says anything.
    pub(crate) fn due(&self) -> u64 {
        let beat = self.last_beat.saturating_add(BEAT_IDLE);
        let idle = || self.next_word().map_or(beat, |at| beat.min(at));
        self.stretch.map_or_else(idle, |stretch| stretch.ends).max(self.hung_until)
    }

    /// When an order or a model is there, or one has been looked at.
    fn next_word(&self) -> Option<u64> {
        let order = self.inbox.front().map(|(at, _)| *at);
        order.into_iter().chain(self.shelf.next_word()).min()
    }

    /// An order that reaches it at `at`: a stretch of answers ends at the next boundary.
    pub(crate) fn order(&mut self, at: u64, command: Command) {
        let at = at.saturating_add(self.shelf.take_up());
        self.inbox.push_back((at, command));
        let Some(Stretch { begun, ends, answers: Some(steps) }) = &mut self.stretch else { return };
        if at < *ends {
            let decode = |steps| self.shelf.decode(steps);
            *steps = steps_within(decode, at.saturating_sub(*begun)).min(*steps);
            *ends = *begun + decode(*steps);
        }
    }

    /// It does nothing until then; the step that runs ends after it.
    pub(crate) fn hang(&mut self, until: u64) {
        self.hung_until = self.hung_until.max(until);
    }

    /// Its beats are lost until then.
    pub(crate) fn mute(&mut self, until: u64) {
        self.mute_until = until;
    }

    /// From the next stretch on.
    pub(crate) fn pace(&mut self, permille: u32) {
        self.shelf.pace(permille);
    }

    /// The loop goes round at `now`, which is [`Station::due`].
    pub(crate) fn turn(&mut self, now: u64, said: &mut Said) {
        if let Some(stretch) = self.stretch.take() {
            self.advance(now, stretch, said);
        }
        while let Some((_, command)) = self.inbox.pop_front_if(|(at, _)| *at <= now) {
            self.obey(now, command, said);
        }
        self.shelf.load((self.worker, self.epoch), now, &mut said.reports);
        self.shelf.verify((self.worker, self.epoch), now, &mut said.reports);
        if now - self.last_progress >= PROGRESS {
            self.flush(now, said);
        }
        if now - self.last_beat >= if self.rows.is_empty() { BEAT_IDLE } else { BEAT_BUSY } {
            self.last_beat = now;
            self.beat(now, said);
        }
        if !self.rows.is_empty() {
            self.stretch = Some(self.plan(now, said));
        }
    }

    fn plan(&mut self, now: u64, said: &mut Said) -> Stretch {
        let (mut reads, mut left) = (false, u64::MAX);
        self.shelf.clear();
        let held: u64 = self.rows.iter().map(|row| u64::from(row.pages) * row.page).sum();
        let mut free = self.shelf.contexts().saturating_sub(held);
        for at in 0..self.shelf.len() {
            self.plan_model(now, at, &mut free, &mut left, said);
            reads |= self.rows.iter().any(|row| row.reading > 0 && (row.made == 0 || row.read + 1 < row.known()));
        }
        let held: u64 = self.rows.iter().map(|row| u64::from(row.pages) * row.page).sum();
        self.kept.shrink(self.shelf.contexts().saturating_sub(held));
        if reads {
            return Stretch { begun: now, ends: now.saturating_add(self.shelf.step()), answers: None };
        }
        let mut until = (self.last_progress + PROGRESS).min(self.last_beat + BEAT_BUSY);
        until = self.next_word().map_or(until, |at| until.min(at));
        let steps = steps_within(|steps| self.shelf.decode(steps), until.saturating_sub(now)).min(left);
        let ends = now.saturating_add(self.shelf.decode(steps));
        Stretch { begun: now, ends, answers: Some(steps) }
    }

    /// The part of a model that stands, in memory of which `free` is left; for at most `left` steps.
    fn plan_model(&mut self, now: u64, at: usize, free: &mut u64, left: &mut u64, said: &mut Said) {
        let model = self.shelf.model(at);
        self.planned.clear();
        self.planned.extend(self.rows.iter().filter(|row| row.job.model == model).map(Row::planned));
        let page = self.shelf.facts(at).kv_per_token.0 * u64::from(PAGE);
        let pages_free = free.checked_div(page).map_or(u32::MAX, |pages| u32::try_from(pages).unwrap_or(u32::MAX));
        let answers = self.rows.iter().any(|row| row.planned().answers());
        let alone = if answers { 1 } else { ALONE };
        let limits = Limits { budget: self.shelf.chunk(at), alone, free: pages_free, page: PAGE };
        let share = self.shelf.share(at);
        self.plan.plan(&self.planned, limits);
        let mine = self.rows.iter_mut().filter(|row| row.job.model == model);
        for (row, turn) in mine.zip(&self.plan.turns) {
            row.reading = turn.tokens();
            let before = row.pages;
            match turn {
                Turn::Wait => continue,
                Turn::GiveWay => (row.read, row.pages) = (0, 0),
                Turn::Begin(_) => {
                    // The last token is always read: it makes the first of the answer.
                    let known = row.job.known.unwrap_or_else(|| self.kept.known(&row.job.beginnings));
                    row.read = known.min(row.job.prompt - 1);
                    row.reading = row.reading.min(row.known() - row.read);
                    row.pages = pages(row.known());
                }
                Turn::Run(_) => row.pages = before.max(pages(row.known())),
            }
            let (taken, given) = (row.pages.saturating_sub(before), before.saturating_sub(row.pages));
            *free = free.saturating_sub(u64::from(taken) * page).saturating_add(u64::from(given) * page);
            if row.reading > 0 && row.begun.is_none() {
                (row.begun, row.cached) = (Some(now), row.read);
                let (worker, epoch) = (self.worker, self.epoch);
                said.reports.push(Report::Started { worker, epoch, task: row.task, attempt: row.attempt });
            }
            if before > 0 && row.known() - row.read == 1 {
                share.batch.rows += 1;
                share.batch.context += u64::from(row.known());
                *left = (*left).min(row.left().into());
            } else {
                share.read += u64::from(row.reading);
                share.attends += attended(row.read.into(), row.reading.into());
            }
        }
        *left = self.plan.lasts(&self.planned, limits, *left);
    }

    /// What the stretch came to: counts first, of those with a first token or a last, then ends.
    fn advance(&mut self, now: u64, stretch: Stretch, said: &mut Said) {
        let steps = stretch.answers.map_or(1, |steps| steps as u32);
        let mut made = Vec::new();
        for row in &mut self.rows {
            if row.reading == 0 {
                continue;
            }
            let known = row.known();
            row.read += if stretch.answers.is_some() { steps } else { std::mem::take(&mut row.reading) };
            row.pages = row.pages.max(pages(row.read));
            if row.read < known {
                continue;
            }
            if row.made == 0 {
                row.first = now;
                self.kept.keep(now, &row.job.beginnings, row.page);
                said.firsts.push(row.task);
            }
            row.made += steps;
            if row.told == 0 || row.left() == 0 {
                made.push(row.tell());
            }
        }
        self.progress(made, said);
        let (worker, epoch) = (self.worker, self.epoch);
        self.rows.retain(|row| {
            if row.is_done() {
                let usage = row.usage(row.job.finish, now);
                said.reports.push(Report::Finished { worker, epoch, task: row.task, attempt: row.attempt, usage });
            }
            !row.is_done()
        });
    }

    fn beat(&mut self, now: u64, said: &mut Said) {
        if now >= self.mute_until {
            said.reports.push(Report::Beat { worker: self.worker, epoch: self.epoch });
        }
    }

    fn obey(&mut self, now: u64, command: Command, said: &mut Said) {
        let (worker, epoch) = (self.worker, self.epoch);
        match command {
            // An order for another life is nobody's.
            Command::Start(_, _, epoch, _) if epoch != self.epoch => {}
            Command::Start(task, attempt, _, job) => {
                let stands = self.shelf.find(job.model);
                let full = stands.is_none() || self.rows.len() >= usize::from(self.facts.slots);
                let ctx_max = stands.map_or(0, |at| self.shelf.facts(at).ctx_max);
                let runs = job.prompt > 0 && job.prompt < ctx_max && job.answer > 0;
                if full || !runs {
                    let class = if full { FaultClass::Retryable } else { FaultClass::InvalidInput };
                    return said.reports.push(Report::Faulted { worker, epoch, task, attempt, class });
                }
                let page = stands.map_or(0, |at| self.shelf.facts(at).kv_per_token.0) * u64::from(PAGE);
                self.rows.push(Row::new((task, attempt), job, page));
            }
            Command::Cancel(task, attempt) => {
                if let Some(i) = self.rows.iter().position(|row| (row.task, row.attempt) == (task, attempt)) {
                    self.flush(now, said);
                    let usage = self.rows.remove(i).usage(Finish::Cancelled, now);
                    said.reports.push(Report::Finished { worker, epoch, task, attempt, usage });
                }
            }
            Command::Load(epoch, ..) | Command::Free(epoch, ..) | Command::Verify(epoch, ..) if epoch != self.epoch => {
            }
            Command::Verify(_, model, job) => self.shelf.look_at(now, model, job),
            Command::Load(_, model, order) => {
                if self.facts.loader.is_none() || !self.shelf.begin(now, model, order) {
                    said.reports.push(Report::ShardFailed { worker, epoch, model, order, fault: ShardFault::Fixed });
                }
            }
            Command::Free(_, model, order) => {
                let freed = self.facts.loader.is_some() && self.rows.iter().all(|row| row.job.model != model);
                said.reports.push(if freed {
                    self.shelf.free(model);
                    self.kept.lose(model);
                    Report::ShardFreed { worker, epoch, model, order }
                } else {
                    Report::ShardFailed { worker, epoch, model, order, fault: ShardFault::Fixed }
                });
            }
            Command::Probe => self.beat(now, said),
            Command::Reset(epoch) => {
                self.rows.clear();
                self.epoch = epoch;
                self.shelf.reset();
                self.kept = Kept::default();
                self.announce(now, said);
            }
        }
    }

    /// Reports the tokens made since the last time.
    fn flush(&mut self, now: u64, said: &mut Said) {
        self.last_progress = now;
        let made = self.rows.iter_mut().filter(|row| row.made > row.told).map(Row::tell).collect();
        self.progress(made, said);
    }

    fn progress(&self, made: Vec<(TaskId, Attempt, u32)>, said: &mut Said) {
        if !made.is_empty() {
            said.reports.push(Report::Progress { worker: self.worker, epoch: self.epoch, made });
        }
    }
}

#[cfg(test)]
mod tests;
