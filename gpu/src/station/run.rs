//! The station's loop: orders in, a step of the engine, reports and tokens out.
//!
//! What a step runs is `orchestrion_planner`'s: one token of every answer in progress and at most one chunk of
//! prompt tokens, so that a long prompt delays no answer by more than a chunk. What a task answers does not depend
//! on its company (see `engine`), so the mix is free to be whatever is at hand. Where several models stand, a turn
//! is a step of each that has tasks, one after another.
//!
//! Keeps the time for beats, batches of progress and usage. Decides nothing about who comes first among
//! tasks: that was the core's, and the order of arrival is kept.

use super::bench::{self, Bench, through};
use super::loads::{Arrival, Load, Loads, let_go};
use super::task::{Made, Task};
use super::{Order, Outlet, Reception, StationModel, StationSpec};
use crate::engine::{PageCount, StepError, Work};
use orchestrion_planner::{ALONE, Limits, Row, StepPlan, Turn};
use orchestrion_world::id::{Attempt, Epoch, ModelId, ShardOrder, TaskId};
use orchestrion_world::payload::{Payload, Token};
use orchestrion_world::protocol::{
    DeviceShare, FaultClass, Finish, Loader, ModelFacts, Report, ShardFault, WorkerFacts,
};
use orchestrion_world::units::{Bytes, Permille};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const BEAT_BUSY: Duration = Duration::from_secs(1);
const BEAT_IDLE: Duration = Duration::from_secs(5);
const PROGRESS: Duration = Duration::from_millis(100);

pub(super) struct Runner<'a> {
    spec: StationSpec,
    /// What it came with.
    first: ModelId,
    benches: Vec<Bench>,
    loads: Option<Loads>,
    /// How fast it loads and runs what it may be told to load.
    loader: Option<Loader>,
    outlet: Arc<dyn Outlet>,
    epoch: &'a AtomicU32,
    /// Tokens made and not yet reported.
    made: Vec<(TaskId, Attempt, u32)>,
    /// Kept from step to step for their memory's sake.
    rows: Vec<Row>,
    plan: StepPlan,
    last_beat: Instant,
    last_progress: Instant,
}

impl<'a> Runner<'a> {
    /// Measures the model.
    pub(super) fn new(
        spec: StationSpec,
        model: StationModel,
        loads: Option<Loads>,
        outlet: Arc<dyn Outlet>,
        epoch: &'a AtomicU32,
    ) -> Result<Self, StepError> {
        let (first, took) = (model.id, model.took);
        let bench = Bench::new(model, spec.prefill_chunk)?;
        let loader = loads.is_some().then(|| loader(&bench.facts, took));
        let (now, benches) = (Instant::now(), vec![bench]);
        let (made, rows, plan) = Default::default();
        let (last_beat, last_progress) = (now, now);
        Ok(Runner { spec, first, benches, loads, loader, outlet, epoch, made, rows, plan, last_beat, last_progress })
    }

    /// Until the handle is gone.
    pub(super) fn run(mut self, inbox: &flume::Receiver<Order>) -> Result<(), StepError> {
        self.announce();
        loop {
            let order = if self.is_idle() && !self.is_looking() {
                inbox.recv_deadline(self.last_beat + BEAT_IDLE).map_err(|e| e == flume::RecvTimeoutError::Disconnected)
            } else {
                inbox.try_recv().map_err(|e| e == flume::TryRecvError::Disconnected)
            };
            match order {
                Ok(order) => {
                    self.obey(order);
                    continue;
                }
                Err(true) => return Ok(()),
                Err(false) => {}
            }
            for at in 0..self.benches.len() {
                if !self.benches[at].tasks.is_empty() {
                    self.step(at)?;
                }
            }
            self.look_on();
            let now = Instant::now();
            if now - self.last_progress >= PROGRESS {
                self.flush(now);
            }
            if now - self.last_beat >= if self.is_idle() { BEAT_IDLE } else { BEAT_BUSY } {
                self.verify(now - self.last_beat);
                self.beat(now);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.benches.iter().all(|bench| bench.tasks.is_empty())
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    fn bench(&self, model: ModelId) -> Option<usize> {
        self.benches.iter().position(|bench| bench.model.id == model)
    }

    fn facts(&self) -> WorkerFacts {
        let StationSpec { pool, device, device_capacity: capacity, slots, .. } = self.spec;
        let devices = vec![DeviceShare { device, capacity, share: Permille(1000) }];
        let came_with = self.bench(self.first).map(|at| (self.first, self.benches[at].facts));
        WorkerFacts { pool, devices, slots, came_with, loader: self.loader.clone() }
    }

    fn announce(&mut self) {
        let (worker, epoch, facts) = (self.spec.worker, self.epoch(), self.facts());
        self.outlet.report(Report::WorkerUp { worker, epoch, facts });
        self.tell_contexts();
        self.last_beat = Instant::now();
    }

    fn beat(&mut self, now: Instant) {
        self.outlet.report(Report::Beat { worker: self.spec.worker, epoch: self.epoch() });
        self.tell_contexts();
        self.last_beat = now;
    }

    fn tell_contexts(&self) {
        let pages = |of: fn(PageCount) -> usize| {
            let bytes =
                |bench: &Bench| (of(bench.model.engine.pages()) as u64).saturating_mul(bench.model.engine.page().0);
            Bytes(self.benches.iter().map(bytes).fold(0, u64::saturating_add))
        };
        self.outlet.contexts(self.spec.worker, pages(|pages| pages.held), pages(|pages| pages.bound));
    }

    fn obey(&mut self, order: Order) {
        match order {
            // An order for another life is nobody's.
            Order::Start { epoch, .. }
            | Order::Free { epoch, .. }
            | Order::Verify { epoch, .. }
            | Order::Load(Load { epoch, .. })
                if epoch != self.epoch() => {}
            Order::Start { task, attempt, model, payload, .. } => self.start(task, attempt, model, payload),
            Order::Cancel { task, attempt } => {
                let of = |t: &Task| (t.task, t.attempt) == (task, attempt);
                let mut all = self.benches.iter().enumerate();
                if let Some((at, i)) = all.find_map(|(at, bench)| Some((at, bench.tasks.iter().position(of)?))) {
                    self.flush(Instant::now());
                    self.finish(at, i, Finish::Cancelled);
                }
            }
            Order::Load(load) => self.load(load),
            Order::Free { model, order, .. } => self.free(model, order),
            Order::Arrived(arrival) => self.take(*arrival),
            Order::Verify { model, job, .. } => self.look_at(model, job),
            Order::Probe => self.beat(Instant::now()),
            #[cfg(any(test, feature = "tamper"))]
            Order::Tamper => self.benches.iter_mut().for_each(|bench| bench.model.engine.tamper()),
            Order::Reset { epoch } => self.reset(epoch),
        }
    }

    fn load(&mut self, load: Load) {
        if let Some(loads) = &mut self.loads {
            // The machine needs the room, while it reads a file twice over; what is kept is soon read again.
            self.benches.iter_mut().for_each(|bench| bench.model.engine.give_back(usize::MAX));
            return loads.order(load);
        }
        let (worker, Load { epoch, model, order }) = (self.spec.worker, load);
        self.outlet.report(Report::ShardFailed { worker, epoch, model, order, fault: ShardFault::Fixed });
    }

    /// What came of a load. One that another life ordered is of no use.
    fn take(&mut self, Arrival { load: Load { epoch, model, order }, bench }: Arrival) {
        self.loads.iter_mut().for_each(Loads::over);
        let worker = self.spec.worker;
        match bench {
            Ok(bench) if epoch != self.epoch() => let_go(worker, &self.outlet, bench.model, None),
            Ok(bench) => {
                let facts = bench.facts;
                self.benches.push(bench);
                self.outlet.report(Report::ShardLoaded { worker, epoch, model, order, facts });
            }
            Err(fault) => self.outlet.report(Report::ShardFailed { worker, epoch, model, order, fault }),
        }
    }

    fn free(&mut self, model: ModelId, order: ShardOrder) {
        let (worker, epoch) = (self.spec.worker, self.epoch());
        let freed = Report::ShardFreed { worker, epoch, model, order };
        match self.bench(model) {
            Some(at) if self.loads.is_none() || !self.benches[at].tasks.is_empty() => {
                self.outlet.report(Report::ShardFailed { worker, epoch, model, order, fault: ShardFault::Fixed });
            }
            Some(at) => {
                self.look_away(at);
                let_go(worker, &self.outlet, self.benches.remove(at).model, Some(freed));
            }
            None => self.outlet.report(freed),
        }
    }

    /// All work is dropped, and all models but the one that it came with.
    fn reset(&mut self, epoch: Epoch) {
        (0..self.benches.len()).for_each(|at| self.forget_look(at));
        for Bench { model, tasks, .. } in &mut self.benches {
            tasks.drain(..).for_each(|mut task| task.leave(&mut model.engine));
        }
        let first = self.first;
        for gone in self.benches.extract_if(.., |bench| bench.model.id != first) {
            let_go(self.spec.worker, &self.outlet, gone.model, None);
        }
        self.loads.iter_mut().for_each(Loads::forget);
        self.made.clear();
        self.epoch.store(epoch.0, Ordering::Relaxed);
        self.announce();
    }

    fn start(&mut self, task: TaskId, attempt: Attempt, model: ModelId, payload: Payload) {
        let running: usize = self.benches.iter().map(|bench| bench.tasks.len()).sum();
        let Some(at) = self.bench(model).filter(|_| running < usize::from(self.spec.slots)) else {
            return self.fault(task, attempt, FaultClass::Retryable);
        };
        match Task::new(&mut self.benches[at].model, (task, attempt), payload) {
            Some(task) => self.benches[at].tasks.push(task),
            None => self.fault(task, attempt, FaultClass::InvalidInput),
        }
    }

    fn fault(&self, task: TaskId, attempt: Attempt, class: FaultClass) {
        self.outlet.report(Report::Faulted { worker: self.spec.worker, epoch: self.epoch(), task, attempt, class });
    }

    fn finish(&mut self, at: usize, i: usize, finish: Finish) {
        let Bench { model, tasks, .. } = &mut self.benches[at];
        let mut t = tasks.remove(i);
        let usage = t.usage(finish);
        t.leave(&mut model.engine);
        let (worker, epoch, task, attempt) = (self.spec.worker, self.epoch(), t.task, t.attempt);
        self.outlet.report(Report::Finished { worker, epoch, task, attempt, usage });
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
    fn plan(&mut self, at: usize) -> Vec<(usize, u32)> {
        let free = bench::free_pages(&mut self.benches, at, self.spec.device_capacity);
        let answers = self.benches.iter().flat_map(|bench| &bench.tasks).any(Task::answers);
        let Bench { model: StationModel { engine, .. }, tasks, chunk, .. } = &mut self.benches[at];
        self.rows.clear();
        self.rows.extend(tasks.iter().map(|task| task.row(engine)));
        let alone = if answers { 1 } else { ALONE };
        self.plan.plan(&self.rows, Limits { budget: *chunk, alone, free, page: PageCount::POSITIONS });
        let turns = || self.plan.turns.iter().enumerate();
        for (i, _) in turns().filter(|(_, turn)| **turn == Turn::GiveWay) {
            tasks[i].leave(engine);
        }
        for (i, _) in turns().filter(|(_, turn)| matches!(turn, Turn::Begin(_))) {
            tasks[i].enter(engine);
        }
        turns().map(|(i, turn)| (i, turn.tokens())).filter(|(_, tokens)| *tokens > 0).collect()
    }

    fn step(&mut self, at: usize) -> Result<(), StepError> {
        let (plan, begun) = (self.plan(at), Instant::now());
        let (worker, epoch) = (self.spec.worker, self.epoch());
        let Bench { model: StationModel { engine, .. }, tasks, .. } = &mut self.benches[at];
        let mut work = Vec::with_capacity(plan.len());
        let mut runs = Vec::with_capacity(plan.len());
        for (i, count) in plan {
            let Some(sequence) = tasks[i].sequence else { continue };
            if tasks[i].begin(begun) {
                let Task { task, attempt, .. } = tasks[i];
                self.outlet.report(Report::Started { worker, epoch, task, attempt });
            }
            runs.push((i, sequence, count));
        }
        // Beside many answers a draft costs what it saves.
        let most = self.spec.draft_tokens / runs.len().max(1) as u32;
        for (i, ..) in &runs {
            if tasks[*i].answers() {
                tasks[*i].draft(engine, most);
            }
        }
        for (i, sequence, count) in &mut runs {
            let (tokens, wants) = tasks[*i].next(*count);
            work.push(Work { sequence: *sequence, tokens, wants });
            *count = tokens.len() as u32;
        }
        let step = engine.step(&work)?;
        let now = Instant::now();
        let mut answers = Vec::with_capacity(runs.len());
        for (n, (i, _, count)) in runs.iter_mut().enumerate() {
            let (logits, mut answer) = (|draft| step.logits(n, draft), |answer| answers.push((*i, answer)));
            *count = tasks[*i].advance(*count as usize, logits, now, &mut answer) as u32;
        }
        for (i, sequence, accepted) in runs {
            let task = &mut tasks[i];
            engine.accept(sequence, accepted as usize);
            let mut silent = answers.iter_mut().filter(|(of, answer)| *of == i && matches!(answer, Ok(None)));
            if let Some((_, answer)) = silent.next().filter(|_| task.wants_vector()) {
                let vector = engine.pooled(sequence).map_err(|_| FaultClass::InvalidInput);
                *answer = vector.map(|vector| Some(task.embed(&vector, now)));
            }
        }
        self.publish(at, answers);
        Ok(())
    }

    /// Counts first, then words, then ends: no reader sees the first word of a task of which the core has not
    /// heard, and no count comes after its task's end. The answers of a task stand together, tasks in their order.
    fn publish(&mut self, at: usize, mut answers: Vec<(usize, Result<Option<Made>, FaultClass>)>) {
        let mut urgent = Vec::new();
        for (i, answer) in &answers {
            let task = &self.benches[at].tasks[*i];
            if !matches!(answer, Ok(None | Some(Made { index: 1.., finish: None, .. }))) {
                urgent.push((task.task, task.attempt));
            }
            // A vector is its task's end, and on any other try, in any other life, the same bits.
            if let Ok(Some(Made { vector: None, .. })) = answer {
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
                let task = &self.benches[at].tasks[*i];
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
                Ok(Some(Made { finish: Some(finish), .. })) => self.finish(at, i - gone, finish),
                Ok(_) => continue,
                Err(class) => {
                    let Bench { model, tasks, .. } = &mut self.benches[at];
                    let mut task = tasks.remove(i - gone);
                    task.leave(&mut model.engine);
                    self.fault(task.task, task.attempt, class);
                }
            }
            gone += 1;
        }
    }
}

/// What the worker would do with a model that it loads, as it does with the one that it came with.
fn loader(facts: &ModelFacts, took: Duration) -> Loader {
    let load = u128::from(facts.weights.0) * 1_000_000 / took.as_micros().max(1);
    Loader {
        load: Bytes(u64::try_from(load).unwrap_or(u64::MAX)),
        prompt: through(facts.weights, facts.prefill),
        answer: through(facts.weights, facts.decode),
        compute: 0,
        abilities: vec![],
    }
}

mod verify;

#[cfg(test)]
mod booked;
#[cfg(test)]
mod churn;
#[cfg(test)]
mod drafts;
#[cfg(test)]
mod tampered;
