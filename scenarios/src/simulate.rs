//! Runs a plan in virtual time: clients and stations give inputs, the core steps, its orders go to the
//! stations. What came of it is an [`Outcome`].
//!
//! All inputs of a tick become one step, reports first, as in the pulse. The outcome is a function of the plan: [`Outcome::digest`] covers every
//! decision and every state.

use crate::clients::{Clients, Group, Record, Request};
use crate::cluster::Cluster;
use crate::draw::Draws;
use crate::sample::{Sample, Samples};
use crate::station::{Build, Said};
use orchestrion_systems::Simulation;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{JobId, PoolId, WorkerId};
use orchestrion_world::job::{Action, JobState};
use orchestrion_world::ledger::digest_of;
use orchestrion_world::protocol::{Effect, Input, Intent, Notice, Order, ShardChange, ShardFault};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Digest;
use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;

/// Everything a run is made from.
pub struct Plan {
    pub seed: u64,
    pub rules: Rules,
    /// Ready from the first tick on.
    pub workers: Vec<(WorkerId, Build)>,
    pub groups: Vec<Group>,
    /// By time.
    pub requests: Box<dyn Iterator<Item = Request>>,
    pub faults: Vec<(Tick, Fault)>,
    /// What operators ask of pools; those of one tick in this order.
    pub jobs: Vec<(Tick, PoolId, Action)>,
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The worker's process ends, and so does each new one until then.
    Crash(WorkerId, Ticks),
    /// The worker finds that its weights are not those that were loaded.
    Corrupt(WorkerId),
    /// The worker's weights change, and nobody knows until they are verified.
    Flip(WorkerId),
    /// What the worker is told to load for so long comes to this.
    Load(WorkerId, ShardFault, Ticks),
    /// The worker does nothing for that long.
    Hang(WorkerId, Ticks),
    /// The worker's beats are lost for that long.
    Mute(WorkerId, Ticks),
    /// The worker runs at so many thousandths of its pace.
    Pace(WorkerId, u32),
    /// The server's clock jumps by so many milliseconds; its ticks still never go back.
    Jump(i64),
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of every step's tick, decisions and state.
    pub digest: Digest,
    pub steps: u64,
    /// The last step.
    pub ended: Tick,
    pub groups: Vec<Group>,
    /// Names, by id.
    pub pools: Vec<String>,
    pub records: Vec<Record>,
    /// What [`crate::clients::End::Not`] counts.
    pub reasons: Vec<String>,
    pub samples: Vec<Sample>,
    /// Tries of clients after their first.
    pub retries: u64,
    pub counts: Counts,
    pub operations: Vec<Operation>,
    /// Requests without an end an hour after the last one came.
    pub unfinished: u64,
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub action: Action,
    pub pool: PoolId,
    pub begun: Tick,
    /// When it was over, and as what; without a state it was refused.
    pub ended: Option<(Tick, Option<JobState>)>,
}

impl Operation {
    pub fn is_done(&self) -> bool {
        matches!(self.ended, Some((_, Some(JobState::Done))))
    }

    /// How long until it was over, in milliseconds.
    pub fn took(&self) -> Option<u64> {
        self.ended.map(|(at, _)| at.since(self.begun).0)
    }

    /// What it came to, in a word.
    pub fn label(&self) -> &'static str {
        match self.ended {
            None => JobState::Running.label(),
            Some((_, Some(state))) => state.label(),
            Some((_, None)) => "refused",
        }
    }
}

/// What the scheduler told of, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts that were made again.
    pub attempts_lost: u64,
    /// Lost workers that were told to begin again.
    pub restarts: u64,
    /// Pools whose workers were lost too often for that.
    pub restarts_stopped: u64,
    /// Models that were loaded on order, that were not, and that went for another or for want of memory.
    pub loads: u64,
    pub failed_loads: u64,
    pub evictions: u64,
}

impl Counts {
    fn hear(&mut self, notice: &Notice) {
        let count = match notice {
            Notice::Retrying { .. } => &mut self.attempts_lost,
            Notice::Restarted { .. } => &mut self.restarts,
            Notice::RestartsStopped { .. } => &mut self.restarts_stopped,
            Notice::ShardChanged { change: ShardChange::Loaded, .. } => &mut self.loads,
            Notice::ShardChanged { change: ShardChange::Failed { .. }, .. } => &mut self.failed_loads,
            Notice::ShardChanged { change: ShardChange::Gone, .. } => &mut self.evictions,
            _ => return,
        };
        *count += 1;
    }
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {} ms: {broken}", at.0)]
pub struct Broken {
    pub at: Tick,
    pub broken: String,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("seed", &self.seed).field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

/// How long a run goes on after its last request for the others to end.
const PATIENCE: Ticks = Ticks(3_600_000);

/// Steps between two audits, which walk the whole world; before so many, after each power of two.
const AUDIT_EVERY: u64 = 8_192;

/// Runs a plan to its end; `tell` hears now and then how many requests are over.
pub fn simulate(plan: Plan, tell: &mut dyn FnMut(u64)) -> Result<Outcome, Broken> {
    let Plan { seed, rules, workers, groups, requests, faults, mut jobs } = plan;
    // Stable; the next one stands last.
    jobs.sort_by_key(|(at, ..)| *at);
    jobs.reverse();
    let mut run = Run {
        simulation: Simulation::new(seed),
        cluster: Cluster::default(),
        clients: Clients::new(groups.clone(), Draws::new(seed, "retries")),
        faults: faults.into_iter().enumerate().map(|(n, (at, fault))| ((at, n as u64), fault)).collect(),
        jobs,
        operations: vec![],
        said: Said::default(),
        clock: 0,
        now: Tick(0),
        samples: Samples::default(),
        digest: Digest(0),
        steps: 0,
        counts: Counts::default(),
    };
    let pools = rules.pools.iter().map(|pool| pool.name.clone()).collect();
    let mut inputs = vec![Input::Boot { wall_ms: 0 }, Input::SetRules(Box::new(rules))];
    for (worker, build) in workers {
        run.cluster.rise(Tick(0), worker, Some(build), &mut run.said);
    }
    let mut requests = requests.peekable();
    while run.gather(&mut requests, &mut inputs) {
        run.step(std::mem::take(&mut inputs))?;
        if run.steps.is_multiple_of(4_096) {
            tell(run.clients.records.len() as u64);
        }
    }
    run.audit()?;
    Ok(Outcome {
        digest: digest_of(&(run.digest.0, run.simulation.state().0)),
        steps: run.steps,
        ended: run.now,
        groups,
        pools,
        unfinished: run.clients.living() as u64,
        records: run.clients.records,
        reasons: run.clients.reasons,
        samples: run.samples.into_vec(),
        retries: run.clients.retries,
        counts: run.counts,
        operations: run.operations,
    })
}

struct Run {
    simulation: Simulation,
    cluster: Cluster,
    clients: Clients,
    faults: BTreeMap<(Tick, u64), Fault>,
    /// Those to come, the next one last; those that came.
    jobs: Vec<(Tick, PoolId, Action)>,
    operations: Vec<Operation>,
    said: Said,
    /// What the server's clock is ahead of the world's.
    clock: i64,
    now: Tick,
    samples: Samples,
    digest: Digest,
    steps: u64,
    counts: Counts,
}

impl Run {
    /// Goes to the next tick at which something happens and gathers it; false at the end.
    fn gather(&mut self, requests: &mut Peekable<Box<dyn Iterator<Item = Request>>>, inputs: &mut Vec<Input>) -> bool {
        // What a fresh world is told is a step of its own.
        while self.steps > 0 {
            let coming = requests.peek().map(|request| request.at);
            if coming.is_none() && self.clients.living() == 0 {
                return false;
            }
            let wake = self.simulation.next_wake().map(|tick| Tick(tick.0.saturating_add_signed(-self.clock)));
            let fault = self.faults.keys().next().map(|(at, _)| *at);
            let job = self.jobs.last().map(|(at, ..)| *at);
            let due = [coming, self.clients.next_due(), self.cluster.next_due(), fault, job, wake];
            let Some(now) = due.into_iter().flatten().min() else { return false };
            if coming.is_none() && self.clients.records.last().is_some_and(|last| now > last.arrived + PATIENCE) {
                return false;
            }
            self.now = self.now.max(now);
            self.cluster.run(self.now, &mut self.said);
            self.break_things();
            for task in self.said.firsts.drain(..) {
                self.clients.first(self.now, task);
            }
            inputs.extend(self.said.reports.drain(..).map(Input::Report));
            while let Some(request) = requests.next_if(|request| request.at <= self.now) {
                inputs.push(self.clients.arrive(self.now, request));
            }
            self.clients.act(self.now, inputs);
            self.operate(inputs);
            if !inputs.is_empty() || self.simulation.is_due(self.tick()) {
                return true;
            }
        }
        inputs.extend(self.said.reports.drain(..).map(Input::Report));
        true
    }

    fn operate(&mut self, inputs: &mut Vec<Input>) {
        while let Some((_, pool, action)) = self.jobs.pop_if(|(at, ..)| *at <= self.now) {
            // Counted, so that its notices find it.
            let job = JobId(self.operations.len() as u64);
            self.operations.push(Operation { action, pool, begun: self.now, ended: None });
            inputs.push(Input::Intent(Intent::Operate { job, pool, action }));
        }
    }

    fn hear_of_job(&mut self, notice: &Notice) {
        let (id, state) = match notice {
            Notice::JobChanged { job } if job.state.is_over() => (job.id, Some(job.state)),
            Notice::JobRefused { job, .. } => (*job, None),
            _ => return,
        };
        if let Some(operation) = self.operations.get_mut(id.0 as usize) {
            operation.ended = Some((self.now, state));
        }
    }

    /// What the server's clock shows.
    fn tick(&self) -> Tick {
        Tick(self.now.0.saturating_add_signed(self.clock)).max(self.simulation.now())
    }

    fn break_things(&mut self) {
        while let Some(entry) = self.faults.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let fault = entry.remove();
            let (now, cluster) = (self.now, &mut self.cluster);
            match fault {
                Fault::Crash(worker, length) => {
                    cluster.crash(worker, &mut self.said);
                    cluster.fail(worker, now + length);
                }
                Fault::Corrupt(worker) => cluster.corrupt(worker, &mut self.said),
                Fault::Flip(worker) => cluster.flip(worker),
                Fault::Load(worker, fault, length) => cluster.spoil(worker, now + length, fault),
                Fault::Hang(worker, length) => cluster.hang(worker, now + length),
                Fault::Mute(worker, length) => cluster.mute(worker, now + length),
                Fault::Pace(worker, permille) => cluster.pace(worker, permille),
                Fault::Jump(by) => self.clock = self.clock.saturating_add(by),
            }
        }
    }

    fn step(&mut self, inputs: Vec<Input>) -> Result<(), Broken> {
        let tick = self.tick();
        let step = self.simulation.step(tick, inputs);
        for effect in &step.effects {
            match effect {
                Effect::Order(order) => {
                    let task = if let Order::Start { task, .. } = order { Some(*task) } else { None };
                    let job = task.and_then(|task| self.clients.job(task));
                    self.cluster.order(self.now, order, job, &mut self.said);
                }
                Effect::Notice(notice) => {
                    self.counts.hear(notice);
                    self.hear_of_job(notice);
                    self.clients.hear(self.now, notice);
                }
            }
        }
        self.steps += 1;
        self.digest = digest_of(&(self.digest.0, tick, step.decisions.0));
        if self.samples.is_due(self.now) {
            self.samples.take(self.now, &self.simulation, &self.counts);
        }
        let audited =
            self.steps.is_multiple_of(AUDIT_EVERY) || (self.steps.is_power_of_two() && self.steps < AUDIT_EVERY);
        if audited { self.audit() } else { Ok(()) }
    }

    fn audit(&mut self) -> Result<(), Broken> {
        // So that the digest is up to date and checked as well.
        self.simulation.state();
        self.simulation.audit().map_err(|broken| Broken { at: self.now, broken: broken.to_string() })
    }
}
