//! Runs a script in virtual time: script and engine give inputs, the core steps, orders go to the engine,
//! and after every step every audit runs. Deterministic: the transcript is a function of the script.

use crate::engine::Engine;
use crate::history::History;
use crate::script::{Act, Script};
use crate::transcript;
use orchestrion_systems::{Simulation, Step};
use orchestrion_world::id::TaskId;
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::{Effect, Input, Intent, Report, TaskSpec};
use orchestrion_world::time::Tick;
use std::collections::BTreeMap;

/// How the stage treats the core on the way; whatever it does, the transcript must not change.
pub trait Handling {
    /// Called before each step with the step's number: may put another simulation in its place.
    fn before_step(&mut self, number: u64, simulation: Simulation) -> Simulation;
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
    /// Each step's inputs and result, to step again elsewhere.
    pub steps: Vec<(Tick, Vec<Input>, Step)>,
    pub ledger: Ledger,
    /// Tasks whose end was not told by the end of the script.
    pub living: usize,
}

/// The seed of every scenario's world.
pub const SEED: u64 = 1;

/// How long a run goes on after the last event for tasks to end by themselves.
const PATIENCE: u64 = 3_600_000;

/// Runs a script to its end, and on until no task lives.
///
/// # Errors
/// The broken invariant, with the tick.
pub fn run(script: &Script, handling: &mut dyn Handling) -> Result<Run, String> {
    let mut stage = Stage {
        simulation: Some(Simulation::new(SEED)),
        engine: Engine::default(),
        history: History::default(),
        specs: BTreeMap::new(),
        watched: None,
        said: Vec::new(),
        run: Run { transcript: String::new(), steps: vec![], ledger: Ledger::empty(SEED), living: 0 },
    };
    let mut first = vec![Input::Boot { wall_ms: 0 }, Input::SetRules(Box::new(script.rules.clone()))];
    for (id, facts) in &script.workers {
        first.extend(stage.engine.rise(Tick(0), *id, Some(facts)).map(Input::Report));
    }
    stage.step(script, Tick(0), first, handling)?;
    let mut events = script.events.iter().peekable();
    loop {
        let script_next = events.peek().map(|e| e.at);
        let simulation = stage.simulation.as_ref();
        let wake = simulation.and_then(Simulation::next_wake);
        let end = script.events.last().map_or(0, |e| e.at.0) + PATIENCE;
        if script_next.is_none() && (stage.history.living() == 0 || stage.now().0 > end) {
            break;
        }
        let due = [script_next, stage.engine.next(), wake, (!stage.said.is_empty()).then(|| stage.now())];
        let Some(now) = due.into_iter().flatten().min() else { break };
        let now = now.max(stage.now());
        let mut inputs: Vec<Input> = std::mem::take(&mut stage.said).into_iter().map(Input::Report).collect();
        inputs.extend(stage.engine.reports(now).into_iter().map(Input::Report));
        while let Some(event) = events.next_if(|e| e.at <= now) {
            stage.run.transcript += &format!("{}\n", event.text);
            inputs.extend(stage.act(script, now, &event.act));
        }
        let idle = inputs.is_empty() && !stage.simulation.as_mut().is_some_and(|s| s.is_due(now));
        if !idle {
            stage.step(script, now, inputs, handling)?;
        }
    }
    stage.run.living = stage.history.living();
    stage.run.ledger = stage.simulation.map(|s| s.ledger()).ok_or("the simulation was lost")?;
    Ok(stage.run)
}

struct Stage {
    /// Always there between steps; handlings take it by value.
    simulation: Option<Simulation>,
    engine: Engine,
    history: History,
    specs: BTreeMap<TaskId, TaskSpec>,
    watched: Option<TaskId>,
    /// What the engine said to orders: inputs of the next step.
    said: Vec<Report>,
    run: Run,
}

impl Stage {
    fn now(&self) -> Tick {
        self.simulation.as_ref().map(Simulation::now).unwrap_or_default()
    }

    fn act(&mut self, script: &Script, now: Tick, act: &Act) -> Option<Input> {
        match act {
            Act::Submit(task, spec) => {
                self.specs.insert(*task, spec.clone());
                Some(Input::Intent(Intent::Submit { task: *task, spec: spec.clone() }))
            }
            Act::Cancel(task, reason) => Some(Input::Intent(Intent::Cancel { task: *task, reason: *reason })),
            Act::Die(worker) => self.engine.die(*worker).map(Input::Report),
            Act::Hang(worker) => {
                self.engine.hang(*worker);
                None
            }
            Act::Rise(worker) => self.engine.rise(now, *worker, None).map(Input::Report),
            Act::Fault(task, class) => self.engine.fault(*task, *class).map(Input::Report),
            Act::Stall(task) => {
                self.engine.stall(*task);
                None
            }
            Act::Boot => Some(Input::Boot { wall_ms: now.0 }),
            Act::Rule(rule) => {
                let rules = orchestrion_world::config::Rules { placement: *rule, ..script.rules.clone() };
                Some(Input::SetRules(Box::new(rules)))
            }
            Act::Watch(task) => {
                self.watched = Some(*task);
                None
            }
            Act::Wait => None,
        }
    }

    fn step(&mut self, script: &Script, now: Tick, inputs: Vec<Input>, h: &mut dyn Handling) -> Result<(), String> {
        let simulation = self.simulation.take().ok_or("the simulation was lost")?;
        let mut simulation = h.before_step(self.run.steps.len() as u64, simulation);
        self.history.ask(&inputs).map_err(|broken| format!("tick {}: {broken}", now.0))?;
        if let Some(task) = self.watched {
            simulation.watch(task);
        }
        let step = simulation.step(now, inputs.clone());
        for decision in simulation.take_decisions() {
            let told = decision.to_string();
            self.run.transcript.extend(told.lines().map(|line| format!("< {} {line}\n", now.0)));
        }
        simulation.audit().map_err(|broken| format!("tick {}: {broken}", now.0))?;
        for effect in &step.effects {
            self.history.hear(effect).map_err(|broken| format!("tick {}: {broken}", now.0))?;
            self.run.transcript += &transcript::line(now, &script.rules, effect);
            self.run.transcript.push('\n');
            if let Effect::Order(order) = effect {
                let spec = match order {
                    orchestrion_world::protocol::Order::Start { task, .. } => self.specs.get(task),
                    orchestrion_world::protocol::Order::Cancel { .. }
                    | orchestrion_world::protocol::Order::Reset { .. } => None,
                };
                self.said.extend(self.engine.order(now, order, spec));
            }
        }
        self.run.steps.push((now, inputs, step));
        self.simulation = Some(simulation);
        Ok(())
    }
}
