//! The station's loop: orders in, a step of the engine, reports and tokens out.
//!
//! What a step runs is `orchestrion_planner`'s: one token of every answer in progress and at most one chunk of
//! prompt tokens, so that a long prompt delays nobody by more than a chunk. What a task answers does not depend
//! on its company (see `engine`), so the mix is free to be whatever is at hand.
//!
//! Keeps the time for beats, batches of progress and usage. Decides nothing about who comes first among
//! tasks: that was the core's, and the order of arrival is kept.

use super::task::{Made, Task};
use super::{Order, Outlet, Reception, StationModel, StationSpec};
use crate::engine::{PageCount, StepError, Wants, Work};
use orchestrion_planner::{Limits, Row, StepPlan, Turn};
use orchestrion_world::id::{Attempt, Epoch, TaskId};
use orchestrion_world::payload::{Payload, Token};
use orchestrion_world::protocol::{DeviceShare, FaultClass, Finish, ModelFacts, Report, ShardFault, WorkerFacts};
use orchestrion_world::units::{MilliRate, Permille, Sha256};
use sha2::{Digest, Sha256 as Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const BEAT_BUSY: Duration = Duration::from_secs(1);
const BEAT_IDLE: Duration = Duration::from_secs(5);
const PROGRESS: Duration = Duration::from_millis(100);
/// A step should take no longer: cancels, beats and neighbours' tokens wait for its end. A slow machine gets
/// shorter chunks for it, which changes no token.
const STEP: Duration = Duration::from_millis(250);
/// Steps of the warm-up: one prompt chunk, then single tokens.
const WARM_DECODES: u32 = 8;

pub(super) struct Runner<'a> {
    spec: StationSpec,
    model: StationModel,
    outlet: Arc<dyn Outlet>,
    epoch: &'a AtomicU32,
    /// In order of arrival.
    tasks: Vec<Task>,
    /// Tokens made and not yet reported.
    made: Vec<(TaskId, Attempt, u32)>,
    /// Kept from step to step for their memory's sake.
    rows: Vec<Row>,
    plan: StepPlan,
    last_beat: Instant,
    last_progress: Instant,
}

impl<'a> Runner<'a> {
    pub(super) fn new(spec: StationSpec, model: StationModel, outlet: Arc<dyn Outlet>, epoch: &'a AtomicU32) -> Self {
        let now = Instant::now();
        let (tasks, made, rows, plan) = Default::default();
        Runner { spec, model, outlet, epoch, tasks, made, rows, plan, last_beat: now, last_progress: now }
    }

    /// Until the handle is gone.
    pub(super) fn run(mut self, inbox: &flume::Receiver<Order>) -> Result<(), StepError> {
        let model = self.measure()?;
        // Thousandths of tokens a second, times milliseconds.
        let in_a_step = model.prefill.0.saturating_mul(STEP.as_millis() as u64) / 1_000_000;
        self.spec.prefill_chunk = u32::try_from(in_a_step).unwrap_or(u32::MAX).clamp(1, self.spec.prefill_chunk.max(1));
        let facts = self.facts(model);
        self.announce(&facts);
        loop {
            let order = if self.tasks.is_empty() {
                inbox.recv_deadline(self.last_beat + BEAT_IDLE).map_err(|e| e == flume::RecvTimeoutError::Disconnected)
            } else {
                inbox.try_recv().map_err(|e| e == flume::TryRecvError::Disconnected)
            };
            match order {
                Ok(order) => {
                    self.obey(order, &facts);
                    continue;
                }
                Err(true) => return Ok(()),
                Err(false) => {}
            }
            if !self.tasks.is_empty() {
                self.step()?;
            }
            let now = Instant::now();
            if now - self.last_progress >= PROGRESS {
                self.flush(now);
            }
            if now - self.last_beat >= if self.tasks.is_empty() { BEAT_IDLE } else { BEAT_BUSY } {
                self.beat(now);
            }
        }
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// What the model is and how fast it reads and writes here and now.
    fn measure(&mut self) -> Result<ModelFacts, StepError> {
        let engine = &mut self.model.engine;
        let chunk = self.spec.prefill_chunk.min(engine.ctx_max().saturating_sub(WARM_DECODES)).max(1);
        let tokens: Vec<u32> = (0..chunk).map(|i| i % engine.vocab()).collect();
        let speaks = !engine.is_encoder();
        let sequence = if speaks { engine.open() } else { engine.open_pooled(chunk) };
        let begun = Instant::now();
        let wants = if speaks { Wants::Last } else { Wants::Nothing };
        engine.step(&[Work { sequence, tokens: &tokens, wants }])?;
        let prefilled = Instant::now();
        let decodes = if speaks { WARM_DECODES.min(engine.ctx_max() - chunk) } else { 0 };
        for _ in 0..decodes {
            engine.step(&[Work { sequence, tokens: &tokens[..1], wants: Wants::Last }])?;
        }
        let rate = |tokens: u32, took: Duration| {
            MilliRate((u128::from(tokens) * 1_000_000_000_000 / took.as_nanos().max(1)) as u64)
        };
        let prefill = rate(chunk, prefilled - begun);
        // The one token of a vector takes no step of its own.
        let decode = if speaks { rate(decodes.max(1), prefilled.elapsed()) } else { prefill };
        engine.close(sequence);
        Ok(ModelFacts {
            digest: self.model.digest,
            fingerprint: Sha256(Hasher::digest(self.model.fingerprint.as_bytes()).into()),
            weights: engine.weights(),
            kv_per_token: engine.kv_per_token(),
            ctx_max: engine.ctx_max(),
            prefill,
            decode,
        })
    }

    fn facts(&self, model: ModelFacts) -> WorkerFacts {
        let StationSpec { pool, device, device_capacity: capacity, slots, .. } = self.spec;
        let devices = vec![DeviceShare { device, capacity, share: Permille(1000) }];
        WorkerFacts { pool, devices, slots, came_with: Some((self.model.id, model)), loader: None }
    }

    fn announce(&mut self, facts: &WorkerFacts) {
        let (worker, epoch) = (self.spec.worker, self.epoch());
        self.outlet.report(Report::WorkerUp { worker, epoch, facts: facts.clone() });
        self.last_beat = Instant::now();
    }

    fn beat(&mut self, now: Instant) {
        self.outlet.report(Report::Beat { worker: self.spec.worker, epoch: self.epoch() });
        self.last_beat = now;
    }

    fn obey(&mut self, order: Order, facts: &WorkerFacts) {
        match order {
            // An order for another life is nobody's.
            Order::Start { epoch, .. } if epoch != self.epoch() => {}
            Order::Start { task, attempt, payload, .. } => self.start(task, attempt, payload),
            Order::Cancel { task, attempt } => {
                if let Some(i) = self.tasks.iter().position(|t| (t.task, t.attempt) == (task, attempt)) {
                    self.flush(Instant::now());
                    self.finish(i, Finish::Cancelled);
                }
            }
            Order::Change { epoch, model, order } => {
                let (worker, fault) = (self.spec.worker, ShardFault::Fixed);
                self.outlet.report(Report::ShardFailed { worker, epoch, model, order, fault });
            }
            Order::Probe => self.beat(Instant::now()),
            Order::Reset { epoch } => {
                self.tasks.drain(..).for_each(|mut task| task.leave(&mut self.model.engine));
                self.made.clear();
                self.epoch.store(epoch.0, Ordering::Relaxed);
                self.announce(facts);
            }
        }
    }

    fn start(&mut self, task: TaskId, attempt: Attempt, payload: Payload) {
        if self.tasks.len() >= usize::from(self.spec.slots) {
            return self.fault(task, attempt, FaultClass::Retryable);
        }
        match Task::new(&mut self.model, (task, attempt), payload) {
            Some(task) => self.tasks.push(task),
            None => self.fault(task, attempt, FaultClass::InvalidInput),
        }
    }

    fn fault(&self, task: TaskId, attempt: Attempt, class: FaultClass) {
        self.outlet.report(Report::Faulted { worker: self.spec.worker, epoch: self.epoch(), task, attempt, class });
    }

    fn finish(&mut self, i: usize, finish: Finish) {
        let mut t = self.tasks.remove(i);
        let usage = t.usage(finish);
        t.leave(&mut self.model.engine);
        self.outlet.report(Report::Finished {
            worker: self.spec.worker,
            epoch: self.epoch(),
            task: t.task,
            attempt: t.attempt,
            usage,
        });
    }

    /// Reports the tokens made since the last time.
    fn flush(&mut self, now: Instant) {
        self.last_progress = now;
        let made = std::mem::take(&mut self.made);
        self.progress(made);
    }

    fn progress(&self, made: Vec<(TaskId, Attempt, u32)>) {
        if !made.is_empty() {
            self.outlet.report(Report::Progress { worker: self.spec.worker, epoch: self.epoch(), made });
        }
    }

    /// Which tasks run and how many tokens each. Who gives way has left, who begins has entered by then.
    fn plan(&mut self) -> Vec<(usize, u32)> {
        let engine = &mut self.model.engine;
        self.rows.clear();
        self.rows.extend(self.tasks.iter().map(|task| task.row(engine)));
        let free = u32::try_from(engine.pages().available()).unwrap_or(u32::MAX);
        self.plan.plan(&self.rows, Limits { budget: self.spec.prefill_chunk, free, page: PageCount::POSITIONS });
        let turns = || self.plan.turns.iter().enumerate();
        for (i, _) in turns().filter(|(_, turn)| **turn == Turn::GiveWay) {
            self.tasks[i].leave(engine);
        }
        for (i, _) in turns().filter(|(_, turn)| matches!(turn, Turn::Begin(_))) {
            self.tasks[i].enter(engine);
        }
        turns().map(|(i, turn)| (i, turn.tokens())).filter(|(_, tokens)| *tokens > 0).collect()
    }

    fn step(&mut self) -> Result<(), StepError> {
        let (plan, begun) = (self.plan(), Instant::now());
        let mut work = Vec::with_capacity(plan.len());
        let mut runs = Vec::with_capacity(plan.len());
        for (i, count) in plan {
            let Some(sequence) = self.tasks[i].sequence else { continue };
            if self.tasks[i].begin(begun) {
                let Task { task, attempt, .. } = self.tasks[i];
                let (worker, epoch) = (self.spec.worker, self.epoch());
                self.outlet.report(Report::Started { worker, epoch, task, attempt });
            }
            runs.push((i, sequence, count));
        }
        // Beside many answers a draft costs what it saves.
        let most = self.spec.draft_tokens / runs.len().max(1) as u32;
        for (i, ..) in &runs {
            if self.tasks[*i].answers() {
                self.tasks[*i].draft(&self.model.engine, most);
            }
        }
        for (i, sequence, count) in &mut runs {
            let (tokens, wants) = self.tasks[*i].next(*count);
            work.push(Work { sequence: *sequence, tokens, wants });
            *count = tokens.len() as u32;
        }
        let step = self.model.engine.step(&work)?;
        let now = Instant::now();
        let mut answers = Vec::with_capacity(runs.len());
        for (at, (i, _, count)) in runs.iter_mut().enumerate() {
            let (logits, mut answer) = (|draft| step.logits(at, draft), |answer| answers.push((*i, answer)));
            *count = self.tasks[*i].advance(*count as usize, logits, now, &mut answer) as u32;
        }
        for (i, sequence, accepted) in runs {
            let (engine, task) = (&mut self.model.engine, &mut self.tasks[i]);
            engine.accept(sequence, accepted as usize);
            let mut silent = answers.iter_mut().filter(|(of, answer)| *of == i && matches!(answer, Ok(None)));
            if let Some((_, answer)) = silent.next().filter(|_| task.wants_vector()) {
                let vector = engine.pooled(sequence).map_err(|_| FaultClass::InvalidInput);
                *answer = vector.map(|vector| Some(task.embed(&vector, now)));
            }
        }
        self.publish(answers);
        Ok(())
    }

    /// Counts first, then words, then ends: no reader sees the first token of a task of which the core has not
    /// heard, and no count comes after its task's end. The answers of a task stand together, tasks in their order.
    fn publish(&mut self, mut answers: Vec<(usize, Result<Option<Made>, FaultClass>)>) {
        let mut urgent = Vec::new();
        for (i, answer) in &answers {
            let task = &self.tasks[*i];
            if !matches!(answer, Ok(None | Some(Made { index: 1.., finish: None, .. }))) {
                urgent.push((task.task, task.attempt));
            }
            if let Ok(Some(_)) = answer {
                match self.made.iter_mut().find(|(id, attempt, _)| (*id, *attempt) == (task.task, task.attempt)) {
                    Some((.., count)) => *count += 1,
                    None => self.made.push((task.task, task.attempt, 1)),
                }
            }
        }
        // The others' counts wait for their turn: what is told of a task is read, journalled and followed.
        let told = self.made.extract_if(.., |(task, attempt, _)| urgent.contains(&(*task, *attempt))).collect();
        self.progress(told);
        let mut diverged = None;
        answers.retain_mut(|(i, answer)| {
            if diverged == Some(*i) {
                return false;
            }
            if let Ok(Some(made)) = answer {
                let task = &self.tasks[*i];
                let (likelihood, vector) = (made.likelihood.take(), made.vector.take());
                let token = Token { index: made.index, id: made.id, text: &made.text, likelihood, vector };
                if self.outlet.token(task.task, task.attempt, token) == Reception::Contradicted {
                    *answer = Err(FaultClass::Diverged);
                    diverged = Some(*i);
                }
            }
            true
        });
        let mut gone = 0;
        for (i, answer) in answers {
            match answer {
                Ok(Some(Made { finish: Some(finish), .. })) => self.finish(i - gone, finish),
                Ok(_) => continue,
                Err(class) => {
                    let mut task = self.tasks.remove(i - gone);
                    task.leave(&mut self.model.engine);
                    self.fault(task.task, task.attempt, class);
                }
            }
            gone += 1;
        }
    }
}

#[cfg(test)]
mod churn;
#[cfg(test)]
mod drafts;
