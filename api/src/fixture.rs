//! What the tests of this crate share: small rules, a worker, and a driver that records runs.
//!
//! The driver is the pulse without threads: it steps, records, and answers each order at once like an
//! engine that needs a tick for it.

use crate::journal::{Fsync, JournalConfig, JournalError, Outcome, Record, Writer};
use crate::recovery::shadow::Follower;
use orchestrion_systems::Simulation;
use orchestrion_world::config::{HealthRules, PoolRules, QueueRules, Rules};
use orchestrion_world::id::{Attempt, DeviceId, Epoch, ModelId, PoolId, TaskId, TenantId, WorkerId};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::payload::Token;
use orchestrion_world::protocol::{
    Class, Determinism, DeviceShare, Effect, Finish, Input, Intent, ModelFacts, Order, Report, TaskSpec, Usage,
    WorkerFacts,
};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::{Bytes, MilliRate, Permille, Sha256};
use std::path::{Path, PathBuf};

pub(crate) fn rules() -> Rules {
    Rules {
        models: vec!["tiny".into()],
        pools: vec![
            PoolRules { name: "left".into(), model: "tiny".into() },
            PoolRules { name: "right".into(), model: "tiny".into() },
        ],
        queue: QueueRules { interactive_max: 16, batch_max: 16, ..Rules::default().queue },
        health: HealthRules {
            beat_timeout: Ticks(5_000),
            no_worker_grace: Ticks(10_000),
            workers_max: 8,
            ..Rules::default().health
        },
        ..Rules::default()
    }
}

/// A worker comes up in a pool; the higher `decode`, the faster.
pub(crate) fn up(worker: u32, pool: u16, slots: u16, decode: u64) -> Input {
    let facts = WorkerFacts {
        pool: PoolId(pool),
        devices: vec![DeviceShare { device: DeviceId(worker), capacity: Bytes(8 << 30), share: Permille(1000) }],
        slots,
        came_with: Some((
            ModelId(0),
            ModelFacts {
                digest: Sha256([7; 32]),
                fingerprint: Sha256([8; 32]),
                weights: Bytes(1 << 30),
                kv_per_token: Bytes(1 << 10),
                ctx_max: 4096,
                prefill: MilliRate(1_000_000),
                decode: MilliRate(decode),
            },
        )),
        loader: None,
    };
    Input::Report(Report::WorkerUp { worker: WorkerId(worker), epoch: Epoch(1), facts })
}

/// A worker lives.
pub(crate) fn beat(worker: u32) -> Input {
    Input::Report(Report::Beat { worker: WorkerId(worker), epoch: Epoch(1) })
}

pub(crate) fn spec() -> TaskSpec {
    TaskSpec {
        model: ModelId(0),
        class: Class::Interactive,
        tenant: TenantId::DEFAULT,
        session: None,
        prompt_tokens: 5,
        prompt_digest: Sha256([1; 32]),
        prefix: Box::default(),
        max_tokens: 16,
        deadline: None,
        seed: 3,
        determinism: Determinism::BestEffort,
        placement: None,
    }
}

pub(crate) fn submit(task: u128) -> Input {
    Input::Intent(Intent::Submit { task: TaskId(task), spec: spec() })
}

pub(crate) fn usage() -> Usage {
    Usage {
        finish: Finish::Length,
        tokens_in: 5,
        tokens_cached: 0,
        tokens_out: 16,
        prefill_us: 5_000,
        decode_us: 40_000,
    }
}

/// What an engine reports about a start, until the task's end.
pub(crate) fn life(worker: WorkerId, epoch: Epoch, task: TaskId, attempt: Attempt) -> [Report; 3] {
    [
        Report::Started { worker, epoch, task, attempt },
        Report::Progress { worker, epoch, made: vec![(task, attempt, 16)] },
        Report::Finished { worker, epoch, task, attempt, usage: usage() },
    ]
}

/// A token without a likelihood.
pub(crate) fn token(index: u32, id: u32, text: &str) -> Token<'_> {
    Token { index, id, text, likelihood: None, vector: None }
}

pub(crate) fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        dir: dir.to_path_buf(),
        segment_bytes: 1 << 20,
        segment_records: u64::MAX,
        fsync: Fsync::Never,
        retain_bytes: None,
        retain_age: None,
    }
}

/// Steps and records, rotating as the pulse does.
pub(crate) struct Recorder {
    pub(crate) simulation: Simulation,
    pub(crate) writer: Writer,
    pub(crate) follower: Follower,
    /// The records written, with the offset each ends at and its file.
    pub(crate) written: Vec<(Record, PathBuf)>,
}

impl Recorder {
    pub(crate) fn new(config: JournalConfig) -> Recorder {
        Recorder::over(Writer::open(config, "test-build", Ledger::empty(9)).unwrap(), Simulation::new(9))
    }

    /// Of a run that begins with the state of `simulation`.
    pub(crate) fn over(writer: Writer, simulation: Simulation) -> Recorder {
        Recorder { follower: Follower::of(&writer), simulation, writer, written: vec![] }
    }

    /// Boots with the rules and one slow and one fast worker.
    pub(crate) fn booted(config: JournalConfig) -> Recorder {
        let mut recorder = Recorder::new(config);
        recorder.step(0, vec![Input::Boot { wall_ms: 1_763_719_200_000 }, Input::SetRules(Box::new(rules()))]);
        recorder.step(5, vec![up(1, 0, 2, 50_000), up(2, 1, 2, 90_000)]);
        recorder
    }

    /// Closes the segment.
    pub(crate) fn rotate(&mut self) -> Result<u32, JournalError> {
        self.writer.rotate(self.simulation.state())
    }

    /// One step; the orders that came of it.
    pub(crate) fn step(&mut self, tick: u64, inputs: Vec<Input>) -> Vec<Order> {
        let step = self.simulation.step(Tick(tick), inputs.clone());
        let outcome = Outcome::Stepped { decisions: step.decisions, state: Some(self.simulation.state()) };
        let record = Record { seq: self.writer.next_seq(), tick: Tick(tick), inputs, outcome };
        self.writer.append(&record).unwrap();
        self.written.push((record, self.writer.path().to_path_buf()));
        if self.writer.is_full() {
            self.rotate().unwrap();
            self.follower.follow().unwrap();
        }
        let orders = step.effects.into_iter().filter_map(|effect| match effect {
            Effect::Order(order) => Some(order),
            Effect::Notice(_) => None,
        });
        orders.collect()
    }

    /// Submits `tasks` one after the other from `tick` on and lets each live its life, four steps a task.
    pub(crate) fn serve(&mut self, mut tick: u64, tasks: impl IntoIterator<Item = u128>) -> u64 {
        for task in tasks {
            tick += 1;
            let mut orders = self.step(tick, vec![beat(1), beat(2), submit(task)]);
            while let Some(order) = orders.pop() {
                if let Order::Start { worker, epoch, task, attempt, .. } = order {
                    for report in life(worker, epoch, task, attempt) {
                        tick += 10;
                        orders.extend(self.step(tick, vec![Input::Report(report)]));
                    }
                }
            }
        }
        tick
    }
}
