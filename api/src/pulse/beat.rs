//! One beat after the other: gather, step, record, let out.
//!
//! Runs on the pulse thread. What a failure means is decided here: a journal that cannot be written now
//! (a full disk) is tried again while nothing is let out; one that lost data, and a step that broke an
//! invariant, end the pulse.

use super::condition::{Condition, Health};
use super::lanes::{Batch, Intake};
use super::{Audience, PulseError, message_of};
use crate::clock::Clock;
use crate::journal::{JournalError, Outcome, Record, STATE_EVERY, Writer};
use crate::port::{Stations, Verdict};
use crate::recovery::shadow::Shadow;
use crate::spool::{Line, Spool};
use orchestrion_systems::view::PoolView;
use orchestrion_systems::{Simulation, Step};
use orchestrion_world::id::{JobId, TaskId};
use orchestrion_world::job::JobRefusal;
use orchestrion_world::protocol::{Effect, Input, Notice, Order};
use orchestrion_world::time::{Tick, Ticks};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often a record is tried again that could not be written.
const RETRY: Duration = Duration::from_millis(250);
/// Steps a stopping pulse takes at most to empty the urgent lane, should senders not end.
const LAST_STEPS: usize = 64;

pub(crate) struct Beat {
    simulation: Simulation,
    /// Before the writer, whose drop gives the folder up.
    shadow: Shadow,
    writer: Writer,
    spool: Spool,
    clock: Clock,
    intake: Intake,
    audience: Arc<dyn Audience>,
    stations: Arc<dyn Stations>,
    health: Health,
    /// Kept for its allocation.
    notices: Vec<Notice>,
}

impl Beat {
    #[expect(clippy::too_many_arguments, reason = "the one place where its parts come together")]
    pub(crate) fn new(
        simulation: Simulation,
        shadow: Shadow,
        writer: Writer,
        spool: Spool,
        tick: Tick,
        intake: Intake,
        audience: Arc<dyn Audience>,
        stations: Arc<dyn Stations>,
        health: Health,
    ) -> Beat {
        let clock = Clock::starting_at(tick);
        Beat { simulation, shadow, writer, spool, clock, intake, audience, stations, health, notices: vec![] }
    }

    /// The first step of a run.
    pub(crate) fn boot(&mut self, inputs: Vec<Input>) -> Result<(), PulseError> {
        self.step(Batch { inputs, ..Batch::default() })
    }

    /// Beats until stopped.
    pub(crate) fn run(mut self) -> Result<(), PulseError> {
        let ending = Ending(self.health.clone());
        while !self.intake.is_stopping() {
            let mut batch = self.gather();
            let looks = std::mem::take(&mut batch.looks);
            if !batch.inputs.is_empty() || self.simulation.is_due(self.clock.now()) {
                self.step(batch)?;
            } else {
                self.answer_operators(vec![], batch.pools);
            }
            for (session, reply) in looks {
                // Whoever asked may have gone.
                let _ = reply.send(self.simulation.session(session, self.clock.now()));
            }
        }
        for _ in 0..LAST_STEPS {
            let batch = self.take_waiting();
            if batch.inputs.is_empty() {
                break;
            }
            self.step(batch)?;
        }
        self.spool.sync()?;
        self.writer.sync()?;
        // It writes snapshots too.
        drop(self.shadow);
        rest(&mut self.writer, &mut self.simulation);
        drop(ending);
        Ok(())
    }

    /// The inputs of the next step; sleeps where there are none and no timer is due.
    fn gather(&mut self) -> Batch {
        let mut batch = self.take_waiting();
        let now = self.clock.now();
        if batch.is_empty() && !self.simulation.is_due(now) {
            // The wake is a lower bound: once this tick proved empty, the next one is the earliest.
            let wake = self.simulation.next_wake().map(|tick| tick.max(now + Ticks(1)));
            self.intake.wait(wake.and_then(|tick| self.clock.moment_of(tick)), &mut batch);
            self.intake.drain(&mut batch);
        }
        batch
    }

    fn take_waiting(&mut self) -> Batch {
        let mut batch = Batch::default();
        self.intake.drain(&mut batch);
        batch
    }

    fn step(&mut self, batch: Batch) -> Result<(), PulseError> {
        let Batch { inputs, submits, cancels, operations, pools, looks: _ } = batch;
        let tick = self.clock.now();
        let kept = inputs.clone();
        let seq = self.writer.next_seq();
        let began = Instant::now();
        let stepped = catch_unwind(AssertUnwindSafe(|| self.simulation.step(tick, inputs)));
        let took = began.elapsed();
        let Step { effects, decisions } = match stepped {
            Ok(step) => step,
            Err(panic) => return Err(self.broke(seq, tick, kept, message_of(panic.as_ref()))),
        };
        self.stage(&effects)?;
        let state = seq.is_multiple_of(STATE_EVERY).then(|| self.simulation.state());
        self.record(&Record { seq, tick, inputs: kept, outcome: Outcome::Stepped { decisions, state } })?;
        self.let_out(tick, effects, submits, cancels);
        self.answer_operators(operations, pools);
        self.audience.gauges(&self.simulation.gauges(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if self.writer.is_full() {
            self.rotate()?;
        }
        self.thin()?;
        Ok(())
    }

    /// What the journal does not hold of the step, for the spool to commit before the record.
    fn stage(&mut self, effects: &[Effect]) -> Result<(), JournalError> {
        // Of those who start and end in one step: nobody was told yet of the one when the other is kept.
        let mut started = BTreeMap::new();
        for effect in effects {
            let line = match effect {
                Effect::Notice(Notice::Started { task, worker, .. }) => {
                    started.insert(*task, *worker);
                    None
                }
                Effect::Notice(Notice::Accepted { task, position, predicted_start, left: _ }) => {
                    let wanted = self.audience.wanted(*task, *position, *predicted_start);
                    wanted.map(|wanted| Line::Wanted(Box::new(wanted)))
                }
                Effect::Notice(Notice::Ended { task, outcome }) => {
                    let finished = self.audience.finished(*task, outcome, started.get(task).copied());
                    finished.map(|finished| Line::Finished(Box::new(finished)))
                }
                Effect::Notice(_) | Effect::Order(_) => None,
            };
            if let Some(line) = line {
                self.spool.stage(&line)?;
            }
        }
        Ok(())
    }

    /// Appends, however long that takes: the step has happened, and nothing of it may leave before.
    fn record(&mut self, record: &Record) -> Result<(), PulseError> {
        let mut failed = false;
        loop {
            match self.spool.commit().and_then(|()| self.writer.append(record)) {
                Ok(()) if failed => {
                    tracing::info!("the journal can be written again: taking work");
                    self.health.set(Condition::Well);
                    return Ok(());
                }
                Ok(()) => return Ok(()),
                Err(error) if error.may_pass() && !self.intake.is_stopping() => {
                    if !failed {
                        tracing::error!(%error, "the journal cannot be written: refusing new work until it can");
                        self.health.set(Condition::JournalUnwritable { problem: error.to_string() });
                        failed = true;
                    }
                    self.intake.refuse_clients(Instant::now() + RETRY);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Keeps the inputs that broke an invariant, so that a replay breaks it again.
    pub(super) fn broke(&mut self, seq: u64, tick: Tick, inputs: Vec<Input>, audit: String) -> PulseError {
        tracing::error!(seq, tick = tick.0, %audit, "a step broke an invariant: ending");
        let record = Record { seq, tick, inputs, outcome: Outcome::Broke { audit: audit.clone() } };
        if let Err(error) = self.writer.append(&record).and_then(|()| self.writer.sync()) {
            tracing::error!(%error, "and its inputs could not be recorded");
        }
        PulseError::Broken { seq, tick: tick.0, audit }
    }

    fn let_out(
        &mut self,
        tick: Tick,
        effects: Vec<Effect>,
        submits: Vec<(TaskId, oneshot::Sender<Verdict>)>,
        cancels: Vec<oneshot::Sender<()>>,
    ) {
        self.notices.clear();
        let mut orders = Vec::new();
        for effect in effects {
            match effect {
                Effect::Notice(notice) => self.notices.push(notice),
                Effect::Order(order) => orders.push(order),
            }
        }
        if !self.notices.is_empty() {
            self.audience.publish(tick, &self.notices);
        }
        for order in orders {
            self.give(order);
        }
        self.answer(submits);
        // Their streams were shut by `publish`.
        for reply in cancels {
            // Whoever asked may have gone; the cancel stands all the same.
            let _ = reply.send(());
        }
    }

    fn give(&self, order: Order) {
        let payload = order.starts().and_then(|task| {
            let payload = self.audience.payload(task);
            if payload.is_none() {
                tracing::error!(%task, "a task is to start whose words nobody kept");
            }
            payload
        });
        self.stations.order(order, payload);
    }

    /// Answers each submission with the notice about it. Two of one id in one step are answered in order.
    fn answer(&mut self, submits: Vec<(TaskId, oneshot::Sender<Verdict>)>) {
        let mut waiting: Vec<Option<_>> = submits.into_iter().map(Some).collect();
        let mut first = 0;
        for notice in &self.notices {
            let (task, verdict) = match *notice {
                Notice::Accepted { task, position, predicted_start, left } => {
                    (task, Verdict::Accepted { position, predicted_start, left })
                }
                Notice::Refused { task, refusal } => (task, Verdict::Refused(refusal)),
                _ => continue,
            };
            let same = |slot: &&mut Option<(TaskId, _)>| slot.as_ref().is_some_and(|(id, _)| *id == task);
            // Verdicts come in the order of submissions, mostly: the search starts where that holds.
            let Some((_, reply)) = waiting[first..].iter_mut().find(same).and_then(Option::take) else { continue };
            while waiting.get(first).is_some_and(Option::is_none) {
                first += 1;
            }
            // A client may have gone meanwhile; whether its task goes too is for the door to say.
            let _ = reply.send(verdict);
        }
        for (task, _) in waiting.into_iter().flatten() {
            tracing::error!(%task, "the core said nothing to a submission; its client is told that it failed");
        }
    }

    /// Answers each operation with the notice about it, and shows the pools to who looks.
    fn answer_operators(
        &self,
        operations: Vec<(JobId, oneshot::Sender<Result<(), JobRefusal>>)>,
        looks: Vec<oneshot::Sender<Vec<PoolView>>>,
    ) {
        for (id, reply) in operations {
            let refused = self.notices.iter().find_map(|notice| match notice {
                Notice::JobRefused { job, refusal } if *job == id => Some(*refusal),
                _ => None,
            });
            // Whoever asked may have gone; the job goes on all the same.
            let _ = reply.send(refused.map_or(Ok(()), Err));
        }
        for reply in looks {
            // Whoever looked may have gone.
            let _ = reply.send(self.simulation.pools());
        }
    }

    /// Has the spool written anew without what nobody can ask for; where that fails now, the old one goes on.
    fn thin(&mut self) -> Result<(), JournalError> {
        let thinned = match self.spool.is_full() {
            true => self.spool.thin(|task| self.audience.keeps(task)),
            false => self.spool.settle(),
        };
        match thinned {
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "the spool could not be written anew: the old one goes on");
                Ok(())
            }
            result => result,
        }
    }

    /// Begins the next segment; where that fails now, the old one goes on.
    fn rotate(&mut self) -> Result<(), JournalError> {
        match self.writer.rotate(self.simulation.state()) {
            Ok(closed) => self.shadow.closed(closed),
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "the journal could not begin its next segment: the last one goes on");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Leaves the state beside an empty segment, so that the next start executes nothing again and may be of a build that
/// would have decided otherwise. Where that fails, it executes the last segments.
fn rest(writer: &mut Writer, simulation: &mut Simulation) {
    let left = writer.rotate(simulation.state()).and_then(|_| writer.snapshot(simulation.ledger()));
    if let Err(error) = left {
        tracing::warn!(%error, "the last state is left out: the next start takes longer");
    }
}

/// Tells the door that the pulse has ended, however it ends.
struct Ending(Health);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.set(Condition::Ended);
    }
}
