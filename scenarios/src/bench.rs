//! A cluster at full load, to measure the core by: every slot busy, a fixed number of tasks waiting, and
//! each step a hundred inputs that take some tasks in and end as many.
//!
//! One model and one class, so that all workers compete for each task and all tasks stand in one line:
//! the hardest case for placement and for the queue. Workers differ in what they report, so their learned
//! rates do too. Measures nothing itself: who calls [`Bench::step`] has the clock.

use orchestrion_systems::{Simulation, Step};
use orchestrion_world::config::{PoolRules, Rules};
use orchestrion_world::id::{Attempt, DeviceId, Epoch, ModelId, PoolId, TaskId, TenantId, WorkerId};
use orchestrion_world::protocol::{
    Class, Determinism, DeviceShare, Effect, Finish, Input, Intent, ModelFacts, Notice, Order, Report, TaskSpec, Usage,
    WorkerFacts,
};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::{Bytes, Digest, MilliRate, Permille, Sha256};
use std::collections::VecDeque;

/// Inputs of a step, and what they are: [`PACE`] tasks come, as many start, as many end; the rest are
/// beats and progress of workers in turn.
pub const INPUTS: usize = 100;
/// Tasks that come, start and end in a step.
pub const PACE: usize = 32;
const BEATS: usize = (INPUTS - 3 * PACE) / 2;
/// Fewer slots than this and a step could not end [`PACE`] tasks that earlier steps started.
const SLOTS_MIN: u32 = 4 * PACE as u32;
const SLOTS_EACH: u32 = 4;
/// Inputs of a step while the cluster fills.
const FILL: u32 = 1_000;

/// How large the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub workers: u32,
    /// Tasks that wait; with none, slots are free.
    pub waiting: u32,
}

/// See the module's head.
#[derive(Debug)]
pub struct Bench {
    simulation: Simulation,
    workers: u32,
    tick: u64,
    tasks: u64,
    /// The worker whose turn it is to beat.
    turn: u32,
    /// Orders that were not taken up yet, and those that run.
    ordered: VecDeque<Leased>,
    running: VecDeque<Leased>,
    /// Of each worker.
    leases: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Leased {
    worker: WorkerId,
    task: TaskId,
    attempt: Attempt,
}

const EPOCH: Epoch = Epoch(1);

impl Bench {
    /// A cluster of this size. Where tasks wait, every slot has a task; where none do, all slots are free.
    pub fn new(size: Size) -> Bench {
        let mut bench = Bench::up(size);
        if size.waiting == 0 {
            // Tasks come, start, run and end: in every step from the fourth on.
            for _ in 0..3 {
                let inputs = bench.inputs();
                bench.run(inputs);
            }
            return bench;
        }
        let slots = size.workers * slots_each(size.workers);
        let mut missing = size.waiting + slots;
        while missing > 0 {
            let many = missing.min(FILL);
            missing -= many;
            let mut inputs = bench.take_up(FILL as usize);
            inputs.extend((0..many).map(|_| bench.submit()));
            bench.run(inputs);
        }
        while !bench.ordered.is_empty() {
            let inputs = bench.take_up(FILL as usize);
            bench.run(inputs);
        }
        assert_eq!(bench.running.len(), slots as usize, "every slot is busy");
        // From the next step on there are as many orders to take up as tasks that end.
        let inputs = bench.inputs();
        bench.run(inputs);
        bench
    }

    /// The workers are up, nobody has asked for anything.
    fn up(size: Size) -> Bench {
        let simulation = Simulation::new(1);
        let (ordered, running, leases) = (VecDeque::new(), VecDeque::new(), vec![0; size.workers as usize]);
        let mut bench =
            Bench { simulation, workers: size.workers, tick: 0, tasks: 0, turn: 0, ordered, running, leases };
        let pool = PoolRules { name: "p".into(), model: "m".into() };
        let mut rules = Rules { models: vec!["m".into()], pools: vec![pool], ..Rules::default() };
        rules.queue.interactive_max = u32::MAX;
        rules.health.workers_max = size.workers;
        bench.run(vec![Input::Boot { wall_ms: 0 }, Input::SetRules(Box::new(rules))]);
        bench.run((0..size.workers).map(|n| Input::Report(announced(n, slots_each(size.workers)))).collect());
        bench
    }

    /// The next step's inputs, which the last step's effects decide.
    pub fn inputs(&mut self) -> Vec<Input> {
        let mut inputs = Vec::with_capacity(INPUTS);
        // Some always run, to make progress.
        let done = self.running.len().saturating_sub(PACE).min(PACE);
        let done: Vec<Leased> = self.running.drain(..done).collect();
        for leased in &self.running.iter().take(BEATS).copied().collect::<Vec<_>>() {
            let made = vec![(leased.task, leased.attempt, 8)];
            inputs.push(Input::Report(Report::Progress { worker: leased.worker, epoch: EPOCH, made }));
        }
        for _ in 0..BEATS {
            self.turn = (self.turn + 1) % self.workers;
            inputs.push(Input::Report(Report::Beat { worker: WorkerId(self.turn), epoch: EPOCH }));
        }
        inputs.extend(self.take_up(PACE));
        for leased in &done {
            let sharers = &mut self.leases[leased.worker.0 as usize];
            inputs.push(Input::Report(finished(leased, *sharers)));
            *sharers -= 1;
        }
        inputs.extend((0..PACE).map(|_| self.submit()));
        inputs
    }

    /// One step, a tick after the last; does not look at what came of it.
    pub fn step(&mut self, inputs: Vec<Input>) -> Step {
        self.tick += 1;
        self.simulation.step(Tick(self.tick), inputs)
    }

    /// The digest of the state as it stands.
    pub fn state(&mut self) -> Digest {
        self.simulation.state()
    }

    /// Reads what a step came to, for the next one's inputs; how many tasks ended in it.
    pub fn follow(&mut self, step: &Step) -> usize {
        let mut ended = 0;
        for effect in &step.effects {
            match effect {
                Effect::Order(Order::Start { worker, task, attempt, .. }) => {
                    self.leases[worker.0 as usize] += 1;
                    self.ordered.push_back(Leased { worker: *worker, task: *task, attempt: *attempt });
                }
                Effect::Notice(Notice::Ended { .. }) => ended += 1,
                Effect::Order(_) | Effect::Notice(_) => {}
            }
        }
        ended
    }

    /// The state as it stands.
    pub fn simulation(&self) -> &Simulation {
        &self.simulation
    }

    fn run(&mut self, inputs: Vec<Input>) {
        let step = self.step(inputs);
        self.follow(&step);
    }

    fn take_up(&mut self, most: usize) -> Vec<Input> {
        let many = self.ordered.len().min(most);
        let started = self.ordered.drain(..many).map(|leased| {
            self.running.push_back(leased);
            let Leased { worker, task, attempt } = leased;
            Input::Report(Report::Started { worker, epoch: EPOCH, task, attempt })
        });
        started.collect()
    }

    fn submit(&mut self) -> Input {
        self.tasks += 1;
        let spread = mix(self.tasks);
        // As a version 7 UUID: time above, chance below.
        let task = TaskId(u128::from(self.tasks) << 80 | u128::from(spread));
        let spec = TaskSpec {
            model: ModelId(0),
            class: Class::Interactive,
            tenant: TenantId::DEFAULT,
            session: None,
            prompt_tokens: 64 + (spread % 448) as u32,
            prompt_digest: Sha256([spread as u8; 32]),
            prefix: Box::default(),
            max_tokens: 16 + (spread >> 32) as u32 % 240,
            deadline: Some(Ticks(3_600_000)),
            seed: spread,
            determinism: Determinism::BestEffort,
            placement: None,
        };
        Input::Intent(Intent::Submit { task, spec })
    }
}

fn slots_each(workers: u32) -> u32 {
    SLOTS_EACH.max(SLOTS_MIN.div_ceil(workers))
}

/// Worker `n` has a device of its own, with memory for every slot at its longest.
fn announced(n: u32, slots: u32) -> Report {
    let facts = WorkerFacts {
        pool: PoolId(0),
        devices: vec![DeviceShare { device: DeviceId(n), capacity: Bytes(80 << 30), share: Permille(1000) }],
        slots: slots as u16,
        came_with: Some((
            ModelId(0),
            ModelFacts {
                digest: Sha256([7; 32]),
                fingerprint: Sha256([8; 32]),
                weights: Bytes(16 << 30),
                kv_per_token: Bytes(128 << 10),
                ctx_max: 4_096,
                prefill: MilliRate(8_000_000),
                decode: MilliRate(400_000),
            },
        )),
        loader: None,
    };
    Report::WorkerUp { worker: WorkerId(n), epoch: EPOCH, facts }
}

/// Within a tenth of the announced rates, by worker and task, shared among so many.
fn finished(leased: &Leased, sharers: u64) -> Report {
    let Leased { worker, task, attempt } = *leased;
    let pace = sharers * (900 + mix(task.0 as u64 ^ u64::from(worker.0)) % 200);
    let usage = Usage {
        finish: Finish::Stop,
        tokens_in: 256,
        tokens_cached: 0,
        tokens_out: 128,
        prefill_us: 128 * pace,
        decode_us: 1_270 * pace,
    };
    Report::Finished { worker, epoch: EPOCH, task, attempt, usage }
}

/// The finisher of SplitMix64: neighbours become far apart.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_as_many_tasks_as_it_takes_in_and_breaks_no_invariant() {
        for (workers, waiting) in [(1, 50), (7, 50), (40, 50), (40, 0)] {
            let mut bench = Bench::new(Size { workers, waiting });
            let gauges = bench.simulation().gauges();
            for _ in 0..20 {
                let inputs = bench.inputs();
                assert_eq!(inputs.len(), INPUTS, "{workers} workers");
                let step = bench.step(inputs);
                assert_eq!(bench.follow(&step), PACE);
                assert_eq!(bench.simulation().audit(), Ok(()));
            }
            let after = bench.simulation().gauges();
            assert_eq!((after.queued_interactive, after.leases), (gauges.queued_interactive, gauges.leases));
        }
    }
}
