//! What is demanded of a run after it ran, and how a run is handled to demand something on the way.

use super::Prepare;
use super::draw::Draw;
use crate::line::{epoch_of, worker_of};
use crate::script::Script;
use crate::stage::{Handling, Run};
use orchestrion_systems::{Simulation, Step};
use orchestrion_world::id::{Epoch, SessionId, WorkerId};
use orchestrion_world::job::Job;
use orchestrion_world::ledger::{Ledger, digest_of};
use orchestrion_world::protocol::{Input, Intent, Report};
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use orchestrion_world::vram::Residence;
use std::collections::{BTreeMap, BTreeSet};

/// States of a run from which it is gone on with.
const FORKS: u64 = 4;
/// Of the steps that follow ticks without any, one in so many is preceded by an idle one.
const IDLE_ONE_IN: u64 = 8;

/// Prepares each simulation.
pub(super) struct Prepared<'p>(pub(super) Prepare<'p>);

impl Handling for Prepared<'_> {
    fn before_step(&mut self, _: u64, mut simulation: Simulation) -> Simulation {
        (self.0)(&mut simulation);
        simulation
    }
}

/// Gives each step what arrives in another order: that of words of one client or worker stays.
pub(super) struct Permuted<'p> {
    draw: Draw,
    prepare: Prepare<'p>,
}

impl<'p> Permuted<'p> {
    pub(super) fn new(seed: u64, prepare: Prepare<'p>) -> Permuted<'p> {
        Permuted { draw: Draw::new(seed, 2), prepare }
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Speaker {
    Process,
    Task(u128),
    Session(SessionId),
    Operator,
    Worker(WorkerId),
}

fn speaker(input: &Input) -> Speaker {
    match input {
        Input::Boot { .. } | Input::SetRules(_) => Speaker::Process,
        Input::Intent(Intent::Submit { task, .. } | Intent::Cancel { task, .. }) => Speaker::Task(task.0),
        Input::Intent(Intent::Close { session }) => Speaker::Session(*session),
        Input::Intent(Intent::Operate { .. }) => Speaker::Operator,
        Input::Report(report) => Speaker::Worker(worker_of(report)),
    }
}

impl Handling for Permuted<'_> {
    fn before_step(&mut self, _: u64, mut simulation: Simulation) -> Simulation {
        (self.prepare)(&mut simulation);
        simulation
    }

    fn arrange(&mut self, inputs: &mut Vec<Input>) {
        // What the process says comes first: nobody else is heard before.
        let own = inputs.iter().take_while(|input| speaker(input) == Speaker::Process).count();
        let mut said: BTreeMap<Speaker, Vec<Input>> = BTreeMap::new();
        let mut turns = Vec::new();
        for input in inputs.drain(own..) {
            turns.push(speaker(&input));
            said.entry(speaker(&input)).or_default().insert(0, input);
        }
        for last in (1..turns.len()).rev() {
            turns.swap(last, self.draw.below(last as u64 + 1) as usize);
        }
        inputs.extend(turns.into_iter().filter_map(|turn| said.get_mut(&turn)?.pop()));
    }
}

/// Steps again through what was recorded: from nothing, and from some states on the way, which were written
/// down and read back. Idle steps between change nothing, and neither do words of older lives and attempts.
pub(super) fn again(script: &Script, run: &Run, prepare: Prepare<'_>) -> Result<(), String> {
    let mut draw = Draw::new(script.seed, 3);
    let mut forks: Vec<u64> = (0..FORKS).map(|_| draw.below(run.steps.len() as u64)).collect();
    forks.sort_unstable();
    let mut heard = Heard::default();
    let mut worlds = vec![prepared(&Ledger::empty(script.seed), prepare)?];
    for (number, (tick, inputs, recorded, state)) in run.steps.iter().enumerate() {
        let at = |what: &str| format!("{what} at step {number}, tick {}", tick.0);
        while forks.first() == Some(&(number as u64)) {
            forks.remove(0);
            let ledger = read_back(&worlds[0].ledger())?;
            worlds.push(prepared(&ledger, prepare)?);
        }
        if tick.0 > worlds[0].now().0 + 1 && draw.below(IDLE_ONE_IN) == 0 {
            idle(&mut worlds[0], Tick(tick.0 - 1)).map_err(|broken| at(&broken))?;
        }
        let before = heard.any_again(inputs).then(|| worlds[0].ledger());
        for (n, world) in worlds.iter_mut().enumerate() {
            let step = world.step(*tick, inputs.clone());
            let kind = if n == 0 { "replay" } else { "snapshot and tail" };
            same((&step, world.state()), (recorded, *state)).map_err(|broken| at(&format!("{kind}: {broken}")))?;
        }
        if let Some(before) = before {
            without_stale(&before, *tick, inputs, (recorded, *state), prepare).map_err(|broken| at(&broken))?;
        }
    }
    Ok(())
}

fn prepared(ledger: &Ledger, prepare: Prepare<'_>) -> Result<Simulation, String> {
    let mut simulation = Simulation::restore(ledger).map_err(|error| format!("restore: {error}"))?;
    prepare(&mut simulation);
    Ok(simulation)
}

fn read_back(ledger: &Ledger) -> Result<Ledger, String> {
    let bytes = postcard::to_stdvec(ledger).map_err(|error| format!("snapshot: {error}"))?;
    let read: Ledger = postcard::from_bytes(&bytes).map_err(|error| format!("snapshot: {error}"))?;
    if &read == ledger { Ok(read) } else { Err("snapshot: another state was read than was written".into()) }
}

fn same(now: (&Step, Digest), then: (&Step, Digest)) -> Result<(), String> {
    if now == then {
        return Ok(());
    }
    let (step, recorded) = (now.0, then.0);
    let differs = step.effects.iter().zip(&recorded.effects).find(|(now, then)| now != then);
    Err(match differs {
        Some((now, then)) => format!("decides {now:?}, and decided {then:?}"),
        None if step.effects.len() != recorded.effects.len() => {
            format!("decides {} things, and decided {}", step.effects.len(), recorded.effects.len())
        }
        None => "decides the same, and comes to another state".to_owned(),
    })
}

/// A step without inputs, where no timer is due, moves nothing but time.
fn idle(world: &mut Simulation, tick: Tick) -> Result<(), String> {
    // While the process was down, nobody stepped: what was due then is due with the boot.
    if world.is_due(tick) {
        return Ok(());
    }
    let mut before = world.ledger();
    let step = world.step(tick, vec![]);
    before.core.now = tick;
    if !step.effects.is_empty() || world.ledger() != before {
        return Err(format!("23: an idle step at {} changes something: {:?}", tick.0, step.effects));
    }
    Ok(())
}

/// The step without what older lives of workers and attempts that are over say comes to the same.
fn without_stale(
    before: &Ledger,
    tick: Tick,
    inputs: &[Input],
    recorded: (&Step, Digest),
    prepare: Prepare<'_>,
) -> Result<(), String> {
    let kept: Vec<Input> = inputs.iter().filter(|input| !is_stale(before, inputs, input)).cloned().collect();
    if kept.len() == inputs.len() {
        return Ok(());
    }
    let mut world = prepared(before, prepare)?;
    let step = world.step(tick, kept);
    same((&step, world.state()), recorded).map_err(|broken| format!("11: without stale words the core {broken}"))
}

/// What was said so far, to tell what may be stale without looking at the state.
#[derive(Debug, Default)]
struct Heard {
    epochs: BTreeMap<WorkerId, Epoch>,
    words: BTreeSet<Digest>,
}

impl Heard {
    /// Whether anything is said again, or by an older life than was heard of.
    fn any_again(&mut self, inputs: &[Input]) -> bool {
        let reports = inputs.iter().filter_map(|input| match input {
            Input::Report(report) => Some(report),
            Input::Boot { .. } | Input::SetRules(_) | Input::Intent(_) => None,
        });
        reports.fold(false, |again, report| {
            let epoch = epoch_of(report);
            let last = self.epochs.entry(worker_of(report)).or_insert(epoch);
            let older = epoch < *last;
            *last = epoch.max(*last);
            // Every beat is said again.
            let repeated = !matches!(report, Report::Beat { .. }) && !self.words.insert(digest_of(report));
            again || older || repeated
        })
    }
}

fn is_stale(before: &Ledger, inputs: &[Input], input: &Input) -> bool {
    let Input::Report(report) = input else { return false };
    let id = worker_of(report);
    // Who comes up in this very step may say more in it.
    let comes = |input: &Input| matches!(input, Input::Report(Report::WorkerUp { worker, .. }) if *worker == id);
    let Ok(at) = before.workers.binary_search_by_key(&id, |w| w.id) else { return false };
    let worker = &before.workers[at];
    let dead = !worker.state.is_up() && !worker.state.is_coming();
    let old = |epoch| epoch < worker.epoch || !worker.state.is_up();
    // A revoked lease waits for its end alone.
    let free = |task, attempt| worker.lease_at(task, attempt).is_none_or(|at| worker.leases[at].revoked);
    let asked = |model, order, of: fn(Residence) -> bool| {
        worker.resident(model).is_some_and(|r| r.order == Some(order) && of(r.life))
    };
    match *report {
        Report::WorkerUp { epoch, .. } => epoch < worker.epoch || (epoch == worker.epoch && !worker.state.is_coming()),
        _ if inputs.iter().any(comes) => false,
        Report::WorkerDown { epoch, .. }
        | Report::Beat { epoch, .. }
        | Report::Loading { epoch, .. }
        | Report::ShardCorrupt { epoch, .. } => epoch < worker.epoch || dead,
        Report::ShardLoaded { epoch, model, order, .. } => {
            old(epoch) || !asked(model, order, |life| life == Residence::Staging)
        }
        Report::ShardFreed { epoch, model, order, .. } => old(epoch) || !asked(model, order, is_going),
        Report::ShardFailed { epoch, model, order, .. } => {
            old(epoch) || !asked(model, order, |life| life == Residence::Staging || is_going(life))
        }
        Report::ShardVerified { epoch, model, job, .. } => {
            let known = before.jobs.iter().find(|known| known.id == job).and_then(Job::checking);
            old(epoch) || known.is_none_or(|check| (check.worker, check.model) != (id, model))
        }
        Report::Started { epoch, task, attempt, .. } => old(epoch) || free(task, attempt),
        Report::Progress { epoch, ref made, .. } => {
            old(epoch) || made.iter().all(|(task, attempt, _)| free(*task, *attempt))
        }
        Report::Finished { epoch, task, attempt, .. } | Report::Faulted { epoch, task, attempt, .. } => {
            old(epoch) || worker.lease_at(task, attempt).is_none()
        }
    }
}

fn is_going(life: Residence) -> bool {
    matches!(life, Residence::Evicting { .. } | Residence::Condemned)
}
