//! The simulated engine: takes orders, and reports in virtual time what a real one would. Each attempt
//! reads its prompt at the worker's prefill rate, then makes its whole answer at the decode rate; that
//! several share a worker costs them nothing here.

use orchestrion_world::id::{Attempt, Epoch, JobId, ModelId, ShardOrder, TaskId, WorkerId};
use orchestrion_world::prefix::{self, PrefixId};
use orchestrion_world::protocol::{
    FaultClass, Finish, ModelFacts, Order, Report, ShardFault, TaskSpec, Usage, WorkerFacts,
};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::{MilliRate, Permille};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How often a worker says that it lives.
pub const BEAT: Ticks = Ticks(1_000);
/// How often a worker tells of tokens.
const PROGRESS: Ticks = Ticks(100);
/// From an order to the engine's taking it up.
const TAKE_UP: Ticks = Ticks(2);
/// From an order to begin to a loaded model.
const LOAD: Ticks = Ticks(500);
/// From an order to look at a model's weights to what was found.
const VERIFY: Ticks = Ticks(200);

/// Every simulated worker, and what they will report when.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    workers: BTreeMap<WorkerId, Sim>,
    agenda: BTreeMap<(Tick, u64), (WorkerId, Epoch, Planned)>,
    planned: u64,
    /// From a cancel to the end of the step that it has to wait for.
    step: Ticks,
    /// What the next load on a worker comes to, where it is none.
    faults: BTreeMap<WorkerId, VecDeque<ShardFault>>,
}

#[derive(Clone, Debug)]
struct Sim {
    facts: WorkerFacts,
    epoch: Epoch,
    alive: bool,
    flaw: Option<Flaw>,
    /// Of the rates in `facts`: how much longer everything takes.
    slowness: Permille,
    running: BTreeMap<TaskId, Attempt>,
    /// Attempts that hold their slot and make no more tokens.
    stalled: BTreeSet<(TaskId, Attempt)>,
    /// By model: what stands there, and how fast it is.
    loaded: BTreeMap<ModelId, ModelFacts>,
    /// Those of them whose weights are not what was loaded, which nobody knows yet.
    flipped: BTreeSet<ModelId>,
    /// Beginnings of prompts, and when they were read.
    read: BTreeMap<PrefixId, Tick>,
}

impl Sim {
    fn let_go(&mut self, worker: WorkerId, task: TaskId, attempt: Attempt) -> Report {
        self.running.remove(&task);
        let usage = Usage {
            finish: Finish::Cancelled,
            tokens_in: 0,
            tokens_cached: 0,
            tokens_out: 0,
            prefill_us: 0,
            decode_us: 0,
        };
        Report::Finished { worker, epoch: self.epoch, task, attempt, usage }
    }
}

/// What is wrong with a worker, until it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Each new life of it ends while it loads.
    FailsToStart,
    /// It does not hear what it is told.
    Deaf,
}

#[derive(Clone, Debug)]
enum Planned {
    Up,
    Beat,
    Start(TaskId, Attempt),
    /// What was made at this rate since the first token came, of which so many were told.
    Tokens(TaskId, Attempt, (Tick, MilliRate), u32),
    End(TaskId, Attempt, Usage),
    /// The step that a cancel waited for is over.
    LetGo(TaskId, Attempt),
    Loaded(ModelId, ShardOrder, ModelFacts),
    Verified(ModelId, JobId),
}

impl Engine {
    pub fn with_step(step: Ticks) -> Engine {
        Engine { step, ..Engine::default() }
    }

    /// The next tick at which something is to be reported.
    pub fn next(&self) -> Option<Tick> {
        self.agenda.keys().next().map(|&(at, _)| at)
    }

    /// A worker comes up; one that was there before comes up as another, with the model that it had last.
    pub fn rise(&mut self, now: Tick, id: WorkerId, facts: Option<&WorkerFacts>) -> Option<Report> {
        let known = self.workers.get(&id);
        let epoch = known.map_or(Epoch(1), |sim| Epoch(sim.epoch.0 + 1));
        let facts = facts.or(known.map(|sim| &sim.facts))?.clone();
        Some(self.announce(now, id, epoch, facts))
    }

    /// From here on the worker comes up with this model.
    pub fn assign(&mut self, id: WorkerId, model: ModelId) {
        let Some(sim) = self.workers.get_mut(&id) else { return };
        // As scripts name the files of models.
        if let Some((came_with, of)) = &mut sim.facts.came_with {
            *came_with = model;
            of.digest.0[0] = model.0 as u8;
            of.fingerprint.0[0] = model.0 as u8;
        }
    }

    /// What it was in a process before counts as a life of it.
    pub fn outlive(&mut self, id: WorkerId, epoch: Epoch) {
        self.workers.get_mut(&id).into_iter().for_each(|sim| sim.epoch = sim.epoch.max(epoch));
    }

    /// The next load on the worker comes to this.
    pub fn spoil(&mut self, id: WorkerId, fault: ShardFault) {
        self.faults.entry(id).or_default().push_back(fault);
    }

    fn announce(&mut self, now: Tick, id: WorkerId, epoch: Epoch, facts: WorkerFacts) -> Report {
        let loaded = facts.came_with.into_iter().collect();
        let flaw = self.workers.get(&id).and_then(|sim| sim.flaw);
        let (slowness, flipped) = (Permille(1000), BTreeSet::new());
        let (running, stalled, read) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let sim =
            Sim { facts: facts.clone(), epoch, alive: true, flaw, slowness, running, stalled, loaded, flipped, read };
        self.workers.insert(id, sim);
        self.plan(now + BEAT, id, epoch, Planned::Beat);
        Report::WorkerUp { worker: id, epoch, facts }
    }

    /// A worker's process ends and says so.
    pub fn die(&mut self, id: WorkerId) -> Option<Report> {
        let sim = self.workers.get_mut(&id).filter(|sim| sim.alive)?;
        (sim.alive, sim.running) = (false, BTreeMap::new());
        Some(Report::WorkerDown { worker: id, epoch: sim.epoch, error: Some(FaultClass::Fatal) })
    }

    /// A worker stops without a word; whether one was there to stop.
    pub fn hang(&mut self, id: WorkerId) -> bool {
        let sim = self.workers.get_mut(&id).filter(|sim| sim.alive);
        sim.map(|sim| sim.alive = false).is_some()
    }

    /// From here on, what a worker takes up takes this share of its time; whether there is such a worker.
    pub fn slow(&mut self, id: WorkerId, share: Permille) -> bool {
        self.workers.get_mut(&id).map(|sim| sim.slowness = share).is_some()
    }

    /// From here on this is wrong with it, or nothing.
    pub fn flaw(&mut self, id: WorkerId, flaw: Option<Flaw>) -> bool {
        let sim = self.workers.get_mut(&id);
        sim.map(|sim| (sim.flaw, sim.alive) = (flaw, sim.alive && flaw != Some(Flaw::Deaf))).is_some()
    }

    /// The weights that a worker uses are found to be other than those loaded.
    pub fn corrupt(&self, id: WorkerId) -> Option<Report> {
        let sim = self.workers.get(&id).filter(|sim| sim.alive)?;
        Some(Report::ShardCorrupt { worker: id, epoch: sim.epoch, digest: sim.loaded.values().next()?.digest })
    }

    /// The weights that a worker uses change, and nobody knows; whether it has any.
    pub fn flip(&mut self, id: WorkerId) -> bool {
        let sim = self.workers.get_mut(&id).filter(|sim| sim.alive);
        sim.is_some_and(|sim| sim.loaded.keys().next().is_some_and(|model| sim.flipped.insert(*model)))
    }

    /// Every worker stops without a word: their process is gone.
    pub fn kill(&mut self) {
        for sim in self.workers.values_mut() {
            (sim.alive, sim.running) = (false, BTreeMap::new());
        }
        self.agenda.clear();
    }

    /// Workers that are slow are so no more, and those that are down come up.
    pub fn heal(&mut self, now: Tick) -> Vec<Report> {
        self.workers.values_mut().for_each(|sim| (sim.slowness, sim.flaw) = (Permille(1000), None));
        let down: Vec<WorkerId> = self.workers.iter().filter(|(_, sim)| !sim.alive).map(|(id, _)| *id).collect();
        down.into_iter().filter_map(|id| self.rise(now, id, None)).collect()
    }

    /// A task that runs on a worker.
    pub fn running(&self, id: WorkerId) -> Option<TaskId> {
        self.workers.get(&id)?.running.keys().next().copied()
    }

    /// The attempt that runs this task gets no further, and nobody says so; whether there is one.
    pub fn stall(&mut self, task: TaskId) -> bool {
        let runs = |sim: &&mut Sim| sim.alive && sim.running.contains_key(&task);
        let Some(sim) = self.workers.values_mut().find(runs) else { return false };
        sim.stalled.extend(sim.running.get(&task).map(|&attempt| (task, attempt)));
        true
    }

    /// The attempt that runs this task fails.
    pub fn fault(&mut self, task: TaskId, class: FaultClass) -> Option<Report> {
        let (&worker, sim) = self.workers.iter_mut().find(|(_, sim)| sim.alive && sim.running.contains_key(&task))?;
        let attempt = sim.running.remove(&task)?;
        Some(Report::Faulted { worker, epoch: sim.epoch, task, attempt, class })
    }

    /// Carries out an order; what it says at once comes back.
    ///
    /// # Panics
    /// If it is given more than its slots hold, or a model that it has not: the core promises that it never is.
    pub fn order(&mut self, now: Tick, order: &Order, spec: Option<&TaskSpec>) -> Option<Report> {
        match *order {
            Order::Start { worker, epoch, task, attempt, .. } => {
                let sim = self.workers.get_mut(&worker).filter(|sim| sim.alive && sim.epoch == epoch)?;
                sim.running.insert(task, attempt);
                assert!(sim.running.len() <= usize::from(sim.facts.slots), "{worker} was given more than its slots");
                let spec = spec?;
                assert!(sim.loaded.contains_key(&spec.model), "{worker} was given a task of a model that it has not");
                let model = *sim.loaded.get(&spec.model)?;
                let share = u64::from(sim.slowness.0);
                let length = |tokens: u32, milli: u64| {
                    Ticks((u64::from(tokens) * 1_000_000).div_ceil(milli.max(1)).saturating_mul(share) / 1_000)
                };
                let known = spec.beginnings().rposition(|id| sim.read.get(&id).is_some_and(|read| *read <= now));
                let known = known.map_or(0, prefix::length);
                let prefill = length(spec.prompt_tokens - known, model.prefill.0);
                let decode = length(spec.max_tokens.saturating_sub(1), model.decode.0);
                let usage = Usage {
                    finish: Finish::Length,
                    tokens_in: spec.prompt_tokens,
                    tokens_cached: known,
                    tokens_out: spec.max_tokens,
                    prefill_us: prefill.0 * 1_000,
                    decode_us: decode.0 * 1_000,
                };
                let first = now + TAKE_UP + prefill;
                for id in spec.beginnings() {
                    let read = sim.read.entry(id).or_insert(first);
                    *read = first.min(*read);
                }
                self.plan(now + TAKE_UP, worker, epoch, Planned::Start(task, attempt));
                self.plan(first, worker, epoch, Planned::Tokens(task, attempt, (first, model.decode), 0));
                self.plan(first + decode, worker, epoch, Planned::End(task, attempt, usage));
                None
            }
            Order::Cancel { worker, epoch, task, attempt } => {
                let sim = self.workers.get_mut(&worker).filter(|sim| sim.alive && sim.epoch == epoch)?;
                if sim.running.get(&task) != Some(&attempt) {
                    return None;
                }
                if self.step == Ticks(0) {
                    return Some(sim.let_go(worker, task, attempt));
                }
                sim.stalled.insert((task, attempt));
                self.plan(now + self.step, worker, epoch, Planned::LetGo(task, attempt));
                None
            }
            Order::Reset { worker, epoch } => {
                let sim = self.workers.get(&worker).filter(|sim| sim.flaw != Some(Flaw::Deaf))?;
                let (facts, flipped) = (sim.facts.clone(), sim.flipped.clone());
                let up = self.announce(now, worker, epoch, facts);
                // What it came with stays loaded as it is.
                let sim = self.workers.get_mut(&worker)?;
                sim.flipped = flipped.into_iter().filter(|model| sim.loaded.contains_key(model)).collect();
                Some(up)
            }
            Order::LoadShard { worker, epoch, model, order, expects } => {
                let sim = self.workers.get(&worker).filter(|sim| sim.alive && sim.epoch == epoch)?;
                let Some(loader) = &sim.facts.loader else {
                    return Some(Report::ShardFailed { worker, epoch, model, order, fault: ShardFault::Fixed });
                };
                let takes = loader.load_time(expects.weights);
                self.plan(now + takes, worker, epoch, Planned::Loaded(model, order, expects));
                None
            }
            Order::FreeShard { worker, epoch, model, order } => {
                let sim = self.workers.get_mut(&worker).filter(|sim| sim.alive && sim.epoch == epoch)?;
                sim.loaded.remove(&model);
                sim.flipped.remove(&model);
                sim.read.retain(|id, _| id.model != model);
                Some(Report::ShardFreed { worker, epoch, model, order })
            }
            Order::VerifyShard { worker, epoch, model, job } => {
                self.workers.get(&worker).filter(|sim| sim.alive && sim.epoch == epoch)?;
                self.plan(now + VERIFY, worker, epoch, Planned::Verified(model, job));
                None
            }
            Order::Probe { worker, epoch } => {
                let alive = self.workers.get(&worker).is_some_and(|sim| sim.alive && sim.epoch == epoch);
                alive.then_some(Report::Beat { worker, epoch })
            }
            Order::SpawnWorker { worker, epoch, model } => {
                // Who came up unasked lives that life already, and its word of it is on the way.
                let begins = |sim: &&mut Sim| sim.flaw != Some(Flaw::Deaf) && !(sim.alive && sim.epoch >= epoch);
                let sim = self.workers.get_mut(&worker).filter(begins)?;
                (sim.alive, sim.epoch, sim.running) = (true, epoch, BTreeMap::new());
                self.assign(worker, model);
                self.plan(now + LOAD, worker, epoch, Planned::Up);
                Some(Report::Loading { worker, epoch })
            }
            Order::StopWorker { worker, epoch } => {
                let sim = self.workers.get_mut(&worker).filter(|sim| sim.alive && sim.epoch == epoch)?;
                (sim.alive, sim.running) = (false, BTreeMap::new());
                Some(Report::WorkerDown { worker, epoch, error: None })
            }
        }
    }

    /// Everything that is reported at `now`.
    pub fn reports(&mut self, now: Tick) -> Vec<Report> {
        let mut reports = Vec::new();
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            let (worker, epoch, planned) = entry.remove();
            reports.extend(self.report(now, worker, epoch, planned));
        }
        reports
    }

    fn report(&mut self, now: Tick, worker: WorkerId, epoch: Epoch, planned: Planned) -> Option<Report> {
        let sim = self.workers.get_mut(&worker).filter(|sim| sim.alive && sim.epoch == epoch)?;
        let runs = |sim: &Sim, task, attempt| {
            sim.running.get(&task) == Some(&attempt) && !sim.stalled.contains(&(task, attempt))
        };
        match planned {
            Planned::Up if sim.flaw == Some(Flaw::FailsToStart) => {
                sim.alive = false;
                Some(Report::WorkerDown { worker, epoch, error: Some(FaultClass::Transient) })
            }
            Planned::Up => {
                let facts = sim.facts.clone();
                Some(self.announce(now, worker, epoch, facts))
            }
            Planned::Beat => {
                self.plan(now + BEAT, worker, epoch, Planned::Beat);
                Some(Report::Beat { worker, epoch })
            }
            Planned::Start(task, attempt) if runs(sim, task, attempt) => {
                Some(Report::Started { worker, epoch, task, attempt })
            }
            Planned::Tokens(task, attempt, pace, told) if runs(sim, task, attempt) => {
                let (first, decode) = pace;
                let made = 1 + (now.since(first).0 * decode.0 / 1_000_000) as u32;
                self.plan(now + PROGRESS, worker, epoch, Planned::Tokens(task, attempt, pace, made));
                (made > told).then(|| Report::Progress { worker, epoch, made: vec![(task, attempt, made - told)] })
            }
            Planned::End(task, attempt, usage) if runs(sim, task, attempt) => {
                sim.running.remove(&task);
                Some(Report::Finished { worker, epoch, task, attempt, usage })
            }
            Planned::Loaded(model, order, facts) => match self.faults.get_mut(&worker).and_then(VecDeque::pop_front) {
                Some(ShardFault::Corrupt) => {
                    let mut digest = facts.digest;
                    digest.0[31] ^= 1;
                    let facts = ModelFacts { digest, ..facts };
                    Some(Report::ShardLoaded { worker, epoch, model, order, facts })
                }
                Some(fault) => Some(Report::ShardFailed { worker, epoch, model, order, fault }),
                None => {
                    sim.loaded.insert(model, facts);
                    Some(Report::ShardLoaded { worker, epoch, model, order, facts })
                }
            },
            Planned::Verified(model, job) => Some(match sim.loaded.get(&model) {
                Some(ModelFacts { digest, .. }) if sim.flipped.contains(&model) => {
                    Report::ShardCorrupt { worker, epoch, digest: *digest }
                }
                // No tree of hashes here: that of the file stands for its root.
                loaded => {
                    let seal = loaded.map(|facts| facts.digest);
                    Report::ShardVerified { worker, epoch, model, job, seal }
                }
            }),
            Planned::LetGo(task, attempt) if sim.running.get(&task) == Some(&attempt) => {
                Some(sim.let_go(worker, task, attempt))
            }
            Planned::LetGo(..) | Planned::Start(..) | Planned::Tokens(..) | Planned::End(..) => None,
        }
    }

    fn plan(&mut self, at: Tick, worker: WorkerId, epoch: Epoch, planned: Planned) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), (worker, epoch, planned));
    }
}
