//! Runs a script in virtual time: script and engine give inputs, the core steps, orders go to the engine,
//! and after every step every audit runs. Deterministic: the transcript is a function of the script.

use crate::engine::Engine;
use crate::history::History;
use crate::line::Line;
use crate::moves::{self, Move};
use crate::script::{Act, Event, Script};
use crate::transcript;
use orchestrion_systems::{Simulation, Step};
use orchestrion_world::config::Rules;
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{ModelId, PoolId, TaskId, WorkerId};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::{Effect, FaultClass, Input, Intent, Notice, Report, TaskSpec};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Digest;
use orchestrion_world::worker::Worker;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::slice::Iter;

/// How the stage treats the core on the way; whatever it does, no audit may break.
pub trait Handling {
    /// Called before each step with the step's number: may put another simulation in its place.
    fn before_step(&mut self, number: u64, simulation: Simulation) -> Simulation;

    /// May put what arrives in one step in another order.
    fn arrange(&mut self, _inputs: &mut Vec<Input>) {}
}

/// Leaves the simulation alone.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Handling for Plain {
    fn before_step(&mut self, _: u64, simulation: Simulation) -> Simulation {
        simulation
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Question and answer.
    pub transcript: String,
    /// Each step's inputs and result, to step again elsewhere, and the digest of the state after it.
    pub steps: Vec<(Tick, Vec<Input>, Step, Digest)>,
    pub ledger: Ledger,
    /// Tasks whose end was not told by the end of the script.
    pub living: usize,
    /// What befell the workers and the core, how often; what found nothing to befall does not count.
    pub faults: BTreeMap<&'static str, u64>,
    /// Why a healed run did not settle.
    pub unsettled: Option<String>,
}

/// How long a run goes on after the last event for tasks to end by themselves.
const PATIENCE: Ticks = Ticks(3_600_000);
/// The same where all is well again.
const PATIENCE_HEALED: Ticks = Ticks(600_000);

/// Runs a script to its end, and on until no task lives; where it heals, until nothing is held any more.
///
/// # Errors
/// The broken invariant, with the tick.
pub fn run(script: &Script, handling: &mut dyn Handling) -> Result<Run, String> {
    let mut stage = Stage::new(script);
    let mut first = vec![Input::Boot { wall_ms: 0 }, Input::SetRules(Box::new(script.rules.clone()))];
    for (id, facts) in &script.workers {
        first.extend(stage.engine.rise(Tick(0), *id, Some(facts)).map(Input::Report));
    }
    stage.step(Tick(0), first, handling)?;
    let last = script.events.last().map_or(Tick(0), |e| e.at);
    let mut events = script.events.iter().peekable();
    while events.peek().is_some() || stage.unsettled().is_some() && stage.now() <= last + stage.patience() {
        let Some(now) = stage.due(events.peek().map(|e| e.at)) else { break };
        let mut inputs = stage.arrivals(now, &mut events);
        let idle = inputs.is_empty() && !stage.simulation.as_mut().is_some_and(|s| s.is_due(now));
        if !idle && stage.down.is_none() {
            handling.arrange(&mut inputs);
            stage.step(now, inputs, handling)?;
        }
    }
    stage.run.unsettled = stage.unsettled();
    stage.run.living = stage.history.living();
    stage.run.ledger = stage.ledger;
    Ok(stage.run)
}

/// The model that workers of a pool come with.
fn model_of(rules: &Rules, pool: PoolId) -> ModelId {
    let name = rules.pools.get(usize::from(pool.0)).map(|pool| &pool.model);
    let at = name.and_then(|name| rules.models.binary_search(name).ok());
    ModelId(at.unwrap_or_default() as u16)
}

struct Stage {
    /// Always there between steps; handlings take it by value.
    simulation: Option<Simulation>,
    /// Its state after the last step.
    ledger: Ledger,
    /// As they were last set.
    rules: Rules,
    engine: Engine,
    line: Line,
    history: History,
    specs: BTreeMap<TaskId, TaskSpec>,
    watched: Option<TaskId>,
    /// Workers that were not taken in when they came last.
    refused: BTreeSet<WorkerId>,
    /// Until when there is no process.
    down: Option<Tick>,
    healed: bool,
    /// What the engine said to orders: inputs of the next step.
    said: Vec<Report>,
    run: Run,
}

impl Stage {
    fn new(script: &Script) -> Stage {
        let ledger = Ledger::empty(script.seed);
        Stage {
            simulation: Some(Simulation::new(script.seed)),
            ledger: ledger.clone(),
            rules: script.rules.clone(),
            engine: Engine::with_step(script.step),
            line: Line::default(),
            history: History::default(),
            specs: BTreeMap::new(),
            watched: None,
            refused: BTreeSet::new(),
            down: None,
            healed: false,
            said: Vec::new(),
            run: Run {
                transcript: String::new(),
                steps: vec![],
                ledger,
                living: 0,
                faults: BTreeMap::new(),
                unsettled: None,
            },
        }
    }

    fn now(&self) -> Tick {
        self.ledger.core.now
    }

    /// The next tick at which something happens.
    fn due(&self, event: Option<Tick>) -> Option<Tick> {
        let due = match self.down {
            Some(back) => event.map_or(back, |at| at.min(back)),
            None => {
                let wake = self.simulation.as_ref().and_then(Simulation::next_wake);
                let said = (!self.said.is_empty()).then(|| self.now());
                [event, self.engine.next(), self.line.next(), wake, said].into_iter().flatten().min()?
            }
        };
        Some(due.max(self.now()))
    }

    fn patience(&self) -> Ticks {
        if self.healed { PATIENCE_HEALED } else { PATIENCE }
    }

    /// Why the run is not over: a task lives, or after healing something is still held.
    fn unsettled(&self) -> Option<String> {
        let living = self.history.living();
        if living > 0 {
            return Some(format!("{living} tasks live"));
        }
        let job = self.ledger.pools.iter().find_map(|pool| pool.job);
        if let Some(job) = job.filter(|_| self.healed) {
            return Some(format!("{job:?} runs"));
        }
        // Who was given up for good stays so until the next boot, and who was drained until it is resumed.
        let halted = |w: &Worker| self.ledger.pools.iter().any(|p| p.id == w.facts.pool && (p.halted || p.closed));
        let stands_on = |w: &Worker, id| w.facts.devices.iter().any(|part| part.device == id);
        let shut = |w: &Worker| self.ledger.devices.iter().any(|d| d.quarantined && stands_on(w, d.id));
        let out = |w: &Worker| w.state != WorkerState::Ready && !self.refused.contains(&w.id) && !halted(w) && !shut(w);
        let worker = self.ledger.workers.iter().find(|w| !w.leases.is_empty() || out(w));
        worker.filter(|_| self.healed).map(|w| format!("{} is {:?} with the leases {:?}", w.id, w.state, w.leases))
    }

    /// Everything that arrives at `now`, in order.
    fn arrivals(&mut self, now: Tick, events: &mut Peekable<Iter<'_, Event>>) -> Vec<Input> {
        let mut inputs = Vec::new();
        if self.down.is_some_and(|back| back <= now) {
            inputs = self.boot(now);
        }
        let spoken: Vec<Report> = std::mem::take(&mut self.said);
        let reports = spoken.into_iter().chain(self.engine.reports(now));
        let passed: Vec<Report> = reports.flat_map(|report| self.line.pass(now, report)).collect();
        inputs.extend(passed.into_iter().chain(self.line.arrived(now)).map(Input::Report));
        while let Some(event) = events.next_if(|e| e.at <= now) {
            self.run.transcript += &event.text;
            self.run.transcript.push('\n');
            match (self.down, &event.act) {
                (None, act) => self.act(now, act, &mut inputs),
                // The configuration is read when the process starts; nobody else hears anything.
                (Some(_), Act::Rule(rules)) => self.rules = Rules::clone(rules),
                (Some(_), Act::Heal) => (self.down, self.healed) = (Some(now), true),
                (Some(_), _) => {}
            }
        }
        inputs
    }

    /// The first step of a process that takes up the state of the last: what died with that is told first.
    fn boot(&mut self, now: Tick) -> Vec<Input> {
        self.down = None;
        let mut inputs = vec![Input::Boot { wall_ms: now.0 }, Input::SetRules(Box::new(self.rules.clone()))];
        let ready = self.ledger.workers.iter().filter(|w| w.state.is_up());
        inputs.extend(ready.map(|w| {
            let (worker, epoch) = (w.id, w.epoch);
            Input::Report(Report::WorkerDown { worker, epoch, error: Some(FaultClass::Fatal) })
        }));
        // A process begins with the models of its configuration.
        for worker in &self.ledger.workers {
            self.engine.assign(worker.id, model_of(&self.rules, worker.facts.pool));
            self.engine.outlive(worker.id, worker.epoch);
        }
        self.said = self.engine.heal(now);
        inputs
    }

    fn act(&mut self, now: Tick, act: &Act, inputs: &mut Vec<Input>) {
        let mut befell =
            |kind: &'static str, often: bool| *self.run.faults.entry(kind).or_default() += u64::from(often);
        let said = match act {
            Act::Submit(task, spec) => {
                self.specs.insert(*task, spec.clone());
                return inputs.push(Input::Intent(Intent::Submit { task: *task, spec: spec.clone() }));
            }
            Act::Cancel(task, reason) => {
                return inputs.push(Input::Intent(Intent::Cancel { task: *task, reason: *reason }));
            }
            Act::Die(worker) => {
                let down = self.engine.die(*worker);
                befell("crash", down.is_some());
                down.into_iter().collect()
            }
            Act::Hang(worker) => {
                befell("hang", self.engine.hang(*worker));
                vec![]
            }
            Act::Rise(worker) => {
                let up = self.engine.rise(now, *worker, None);
                befell("rise", up.is_some());
                up.into_iter().collect()
            }
            Act::Fault(task, class) => {
                let fault = self.engine.fault(*task, *class);
                befell("fault", fault.is_some());
                fault.into_iter().collect()
            }
            Act::Operate(job, pool, action) => {
                befell(action.label(), true);
                return inputs.push(Input::Intent(Intent::Operate { job: *job, pool: *pool, action: *action }));
            }
            Act::Flaw(worker, flaw) => {
                befell("flaw", self.engine.flaw(*worker, *flaw));
                vec![]
            }
            Act::Corrupt(worker) => {
                let corrupt = self.engine.corrupt(*worker);
                befell("corrupt", corrupt.is_some());
                corrupt.into_iter().collect()
            }
            Act::Flip(worker) => {
                befell("flip", self.engine.flip(*worker));
                vec![]
            }
            Act::FaultAt(worker, class) => {
                let fault = self.engine.running(*worker).and_then(|task| self.engine.fault(task, *class));
                befell("fault", fault.is_some());
                fault.into_iter().collect()
            }
            Act::Slow(worker, share) => {
                befell("slow", self.engine.slow(*worker, *share));
                vec![]
            }
            Act::Trouble(worker, trouble, length) => {
                befell(trouble.label(), true);
                self.line.trouble(now, *worker, *trouble, *length);
                vec![]
            }
            Act::Ghost(worker) => {
                let again = self.line.ghost(*worker);
                befell("ghost", !again.is_empty());
                return inputs.extend(again.into_iter().map(Input::Report));
            }
            Act::Restart(length) => {
                befell("restart", true);
                self.down = Some(now + *length);
                self.engine.kill();
                self.line.cut();
                self.said.clear();
                return inputs.clear();
            }
            Act::Heal => {
                self.healed = true;
                self.line.heal();
                self.engine.heal(now)
            }
            Act::Rule(rules) => {
                befell("rules", true);
                self.rules = Rules::clone(rules);
                return inputs.push(Input::SetRules(rules.clone()));
            }
            Act::Stall(task) => {
                befell("stall", self.engine.stall(*task));
                vec![]
            }
            Act::StallAt(worker) => {
                let stalled = self.engine.running(*worker).is_some_and(|task| self.engine.stall(task));
                befell("stall", stalled);
                vec![]
            }
            Act::Spoil(worker, fault) => {
                befell("spoil", true);
                self.engine.spoil(*worker, *fault);
                vec![]
            }
            Act::Boot => return inputs.push(Input::Boot { wall_ms: now.0 }),
            Act::Watch(task) => {
                self.watched = Some(*task);
                vec![]
            }
            Act::Close(session) => {
                befell("close", true);
                return inputs.push(Input::Intent(Intent::Close { session: *session }));
            }
            Act::Look(session, name) => {
                let view = self.simulation.as_ref().and_then(|simulation| simulation.session(*session, now));
                self.run.transcript += &format!("< {} {name} {}\n", now.0, transcript::session(view.as_ref()));
                vec![]
            }
            Act::Wait => vec![],
        };
        inputs.extend(said.into_iter().flat_map(|report| self.line.pass(now, report)).map(Input::Report));
    }

    fn step(&mut self, now: Tick, inputs: Vec<Input>, h: &mut dyn Handling) -> Result<(), String> {
        let at = |broken: &dyn std::fmt::Display| format!("tick {}: {broken}", now.0);
        let simulation = self.simulation.take().ok_or("the simulation was lost")?;
        let simulation = match inputs.first() {
            Some(Input::Boot { .. }) => Simulation::restore(&self.ledger).map_err(|broken| at(&broken))?,
            _ => simulation,
        };
        let mut simulation = h.before_step(self.run.steps.len() as u64, simulation);
        self.history.ask(&inputs);
        for input in &inputs {
            if let Input::Report(Report::WorkerUp { worker, .. }) = input {
                self.refused.remove(worker);
            }
        }
        if let Some(task) = self.watched {
            simulation.watch(task);
        }
        let step = simulation.step(now, inputs.clone());
        for decision in simulation.take_decisions() {
            let told = decision.to_string();
            self.run.transcript.extend(told.lines().map(|line| format!("< {} {line}\n", now.0)));
        }
        let state = simulation.state();
        let after = simulation.audited().map_err(|broken| at(&broken))?;
        let before = std::mem::replace(&mut self.ledger, after);
        let moved = Move { before: &before, inputs: &inputs, effects: &step.effects, after: &self.ledger };
        moves::audit(&moved).map_err(|broken| at(&broken))?;
        for effect in &step.effects {
            self.history.hear(effect).map_err(|broken| at(&broken))?;
            self.run.transcript += &transcript::line(now, &self.rules, effect);
            self.run.transcript.push('\n');
            match effect {
                Effect::Notice(Notice::WorkerRefused { worker, .. }) => drop(self.refused.insert(*worker)),
                Effect::Notice(_) | Effect::Order(_) => {}
            }
            if let Effect::Order(order) = effect {
                let spec = order.starts().and_then(|task| self.specs.get(&task));
                self.said.extend(self.engine.order(now, order, spec));
            }
        }
        self.history.close().map_err(|broken| at(&broken))?;
        self.run.steps.push((now, inputs, step, state));
        self.simulation = Some(simulation);
        Ok(())
    }
}
