//! From task id to entry, fed by three hands: the door opens, the pulse publishes notices, stations push
//! tokens. Readers take from the entries themselves.
//!
//! Reads notices and tokens, writes entries and metrics. Finished results of the queue surface stay until
//! their time or the byte cap is over, oldest first; tasks of the OpenAI surface leave with their end.
//! It never calls the pulse and never blocks: each lock is held for a few lines.

mod keeping;

use crate::clock::wall_ms;
use crate::jobs::Jobs;
use crate::progress::Progress;
use crate::pulse::Audience;
use crate::recovery::Past;
use crate::spool::{Finished, Wanted};
use crate::task_entry::{Admission, Begun, Entry, Opening, Phase, Surface};
use crate::telemetry::Telemetry;
use crate::token_log::Pushed;
use keeping::Kept;
use orchestrion_systems::Gauges;
use orchestrion_world::id::{Attempt, ModelId, PoolId, TaskId, WorkerId};
use orchestrion_world::payload::{Payload, Token};
use orchestrion_world::protocol::{Notice, Outcome, ShardChange};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Stations push tokens of different tasks from several threads: they should rarely meet.
const SHARDS: usize = 16;

/// How long results are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub ttl: Duration,
    pub bytes: usize,
}

/// What became of an opening.
#[derive(Debug)]
pub(crate) enum Opened {
    New(Arc<Entry>),
    /// The same request came before.
    Same(Arc<Entry>),
    /// Another request has this id.
    Conflict,
}

/// All tasks the door knows.
#[derive(Debug)]
pub struct Switchboard {
    shards: [Mutex<HashMap<TaskId, Arc<Entry>>>; SHARDS],
    kept: Mutex<Kept>,
    keep: Keep,
    ready: Mutex<BTreeMap<PoolId, u16>>,
    telemetry: Arc<Telemetry>,
    jobs: Jobs,
    loads: Progress,
    checks: Progress,
    /// Parts that failed, and with them the tasks that they are of.
    spoilt: Mutex<Vec<(TaskId, u32)>>,
    opened: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switchboard {
    pub fn new(keep: Keep, telemetry: Arc<Telemetry>) -> Self {
        let opened = AtomicU64::new(0);
        Switchboard {
            shards: Default::default(),
            kept: Mutex::default(),
            keep,
            ready: Mutex::default(),
            telemetry,
            jobs: Jobs::default(),
            loads: Progress::default(),
            checks: Progress::default(),
            spoilt: Mutex::default(),
            opened,
        }
    }

    /// What a station says of its contexts, with each beat.
    pub fn contexts(&self, worker: WorkerId, held: Bytes, bound: Bytes) {
        self.telemetry.contexts(worker, held, bound);
    }

    /// A station made a token.
    pub fn token(&self, task: TaskId, attempt: Attempt, token: Token<'_>) -> Pushed {
        let Some(entry) = self.find(task) else { return Pushed::Closed };
        let (pushed, first_since) = entry.token(attempt, token);
        if pushed == Pushed::Taken {
            self.telemetry.token();
        }
        if let Some(accepted) = first_since {
            self.telemetry.first_token(accepted.elapsed());
        }
        pushed
    }

    /// Tasks that have not ended, by id: what a shutdown has to cancel.
    pub fn living(&self) -> Vec<TaskId> {
        let ended = |entry: &Arc<Entry>| matches!(entry.phase(), Phase::Ended(_));
        let mut living: Vec<TaskId> = Vec::new();
        for shard in &self.shards {
            living.extend(locked(shard).values().filter(|entry| !ended(entry)).map(|entry| entry.task));
        }
        living.sort_unstable();
        living
    }

    /// The newest admitted tasks of the queue surface, newest first: those older than number `before`, at
    /// most `limit`.
    pub(crate) fn newest(&self, before: Option<u64>, limit: usize) -> Vec<Arc<Entry>> {
        let asked = |entry: &&Arc<Entry>| {
            entry.surface == Surface::Queue
                && entry.is_task()
                && before.is_none_or(|before| entry.number < before)
                && entry.phase() != Phase::Submitted
        };
        let mut newest: Vec<Arc<Entry>> = Vec::new();
        for shard in &self.shards {
            newest.extend(locked(shard).values().filter(asked).cloned());
        }
        newest.sort_unstable_by_key(|entry| Reverse(entry.number));
        newest.truncate(limit);
        newest
    }

    /// The core has spoken.
    fn hear(&self, notice: &Notice) {
        match *notice {
            Notice::Accepted { task, position, predicted_start, left: _ } => {
                let Some(entry) = self.find(task) else { return };
                self.telemetry.enqueued(u64::from(entry.prompt_tokens));
                entry.change(|state| {
                    state.phase = Phase::Queued;
                    state.admission = Some(Admission::Accepted { position, predicted_start });
                    state.accepted_at = Some(Instant::now());
                });
            }
            Notice::Refused { task, refusal } => {
                self.telemetry.refused(refusal);
                // Where a live task has this id, its entry is not the one that was refused.
                if let Some(entry) = self.find(task).filter(|entry| entry.phase() == Phase::Submitted) {
                    self.remove(task);
                    entry.change(|state| state.admission = Some(Admission::Refused(refusal)));
                }
            }
            Notice::Placed { task, attempt, .. } => {
                let Some(entry) = self.find(task) else { return };
                entry.change(|state| {
                    state.log.fence(attempt);
                    state.phase = Phase::Placed;
                });
            }
            Notice::Started { task, attempt, worker } => {
                let Some(entry) = self.find(task) else { return };
                let waited = entry.change(|state| {
                    state.log.fence(attempt);
                    state.phase = Phase::Running;
                    let (position, predicted_start) = match state.admission {
                        Some(Admission::Accepted { position, predicted_start }) => (position, predicted_start),
                        _ => Default::default(),
                    };
                    let again = state.begun.replace(Begun { position, predicted_start, worker }).is_some();
                    state.accepted_at.filter(|_| !again)
                });
                self.telemetry.started(waited.map(|accepted| accepted.elapsed()));
            }
            Notice::Retrying { task, lost, .. } | Notice::Preempted { task, lost, .. } => {
                if let Notice::Preempted { .. } = notice {
                    self.telemetry.preempted();
                }
                let Some(entry) = self.find(task) else { return };
                entry.change(|state| {
                    state.log.fence(Attempt::of(lost.ordinal, lost.number.saturating_add(1)));
                    state.phase = Phase::Queued;
                });
            }
            Notice::Ended { task, outcome } => self.end(task, outcome),
            Notice::PoolChanged { pool, ready } => {
                locked(&self.ready).insert(pool, ready);
                self.telemetry.pool_ready(pool, ready);
            }
            // Between the core and its operator: no client waits for the rest.
            Notice::ShardChanged { change: ShardChange::Evicting { reason }, .. } => self.telemetry.evicted(reason),
            Notice::ShardChanged { .. } | Notice::ModeChanged { .. } | Notice::RulesRefused => {}
            Notice::JobChanged { ref job } => {
                let (id, pool) = (job.id, job.pool.0);
                tracing::info!(job = %id, pool, kind = job.action.label(), state = job.state.label(), "a job");
                self.jobs.hear(job);
            }
            // Whoever asked is answered.
            Notice::JobRefused { .. } => {}
            Notice::WorkerRefused { worker, reason } => {
                tracing::warn!(%worker, ?reason, "the core did not take a worker in");
            }
            Notice::Restarted { worker, pool, loss } => {
                tracing::warn!(%worker, loss = loss.label(), "a lost worker was told to begin again");
                self.telemetry.restarted(pool, loss);
            }
            Notice::RestartsStopped { pool } => {
                tracing::error!(
                    pool = pool.0,
                    "its workers were lost too often: not restarted until the pool is resumed"
                );
            }
            Notice::BreakerChanged { worker, breaker } => {
                tracing::warn!(%worker, breaker = breaker.label(), "a worker's breaker changed");
            }
            Notice::Quarantined { device } => {
                tracing::error!(%device, "quarantined: nothing runs on it until a pool that stands on it is resumed");
            }
        }
    }

    fn end(&self, task: TaskId, outcome: Outcome) {
        let Some(entry) = self.find(task) else { return };
        if entry.surface == Surface::OpenAi {
            // Its connection holds the entry and reads the end from it. Whoever hears of the end finds it
            // counted and gone, so both come before the waking.
            self.remove(task);
        }
        let first = entry.change(|state| {
            let first = !matches!(state.phase, Phase::Ended(_));
            if first {
                state.log.close();
                state.payload = None;
                state.phase = Phase::Ended(outcome);
                self.telemetry.ended(&outcome);
            }
            first
        });
        if first && entry.surface == Surface::Queue {
            self.note(&entry, &outcome);
            self.keep(&entry, Instant::now());
        }
    }

    pub(crate) fn open(&self, opening: Opening) -> Opened {
        let mut shard = locked(self.shard(opening.task));
        if let Some(entry) = shard.get(&opening.task) {
            return if entry.body == opening.body { Opened::Same(Arc::clone(entry)) } else { Opened::Conflict };
        }
        let entry = Arc::new(Entry::new(opening, self.number()));
        shard.insert(entry.task, Arc::clone(&entry));
        Opened::New(entry)
    }

    /// The submission never reached the core.
    pub(crate) fn withdraw(&self, entry: &Entry) {
        self.remove(entry.task);
        entry.change(|state| state.admission = Some(Admission::Withdrawn));
    }

    pub(crate) fn find(&self, task: TaskId) -> Option<Arc<Entry>> {
        locked(self.shard(task)).get(&task).cloned()
    }

    /// A worker does not come up; told before the core hears so.
    pub fn not_up(&self, worker: WorkerId, why: String) {
        self.jobs.not_up(worker, why);
    }

    /// A model is being read: so many bytes of so many.
    pub fn loading(&self, worker: WorkerId, model: ModelId, done: u64, total: u64) {
        self.loads.hear(worker, model, (done, total));
    }

    /// It is loaded, or it failed.
    pub fn loading_over(&self, worker: WorkerId, model: ModelId) {
        self.loads.over(worker, model);
    }

    /// How much of a model's weights a worker has looked at, of how much; none once that is over.
    pub fn verifying(&self, worker: WorkerId, model: ModelId, seen: Option<(Bytes, Bytes)>) {
        match seen {
            Some((done, all)) => self.checks.hear(worker, model, (done.0, all.0)),
            None => self.checks.over(worker, model),
        }
    }

    /// Models that are being loaded.
    pub(crate) fn loads(&self) -> &Progress {
        &self.loads
    }

    /// Models whose weights are being looked at.
    pub(crate) fn checks(&self) -> &Progress {
        &self.checks
    }

    /// What operators asked for.
    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Pools with a worker that is ready.
    pub fn ready_pools(&self) -> usize {
        locked(&self.ready).values().filter(|&&ready| ready > 0).count()
    }

    /// Whether a worker of any pool is ready.
    pub(crate) fn any_ready(&self) -> bool {
        self.ready_pools() > 0
    }

    /// Only that later ones are higher counts.
    fn number(&self) -> u64 {
        self.opened.fetch_add(1, Ordering::Relaxed)
    }

    fn remove(&self, task: TaskId) {
        locked(self.shard(task)).remove(&task);
    }

    fn shard(&self, task: TaskId) -> &Mutex<HashMap<TaskId, Arc<Entry>>> {
        // The low bits of a UUID are its random ones.
        &self.shards[(task.0 % SHARDS as u128) as usize]
    }
}

impl Audience for Switchboard {
    fn publish(&self, _tick: Tick, notices: &[Notice]) {
        notices.iter().for_each(|notice| self.hear(notice));
    }

    /// None once the task ended or where it never was here.
    fn payload(&self, task: TaskId) -> Option<Payload> {
        self.find(task)?.payload()
    }

    fn gauges(&self, gauges: &Gauges, step_us: u64) {
        self.telemetry.stepped(gauges, step_us);
    }

    fn remember(&self, past: Past) {
        self.recall(past);
    }

    fn wanted(&self, task: TaskId, position: u32, predicted_start: Ticks) -> Option<Wanted> {
        self.find(task).filter(|entry| entry.surface == Surface::Queue)?.wanted(position, predicted_start)
    }

    fn finished(&self, task: TaskId, outcome: &Outcome, worker: Option<WorkerId>) -> Option<Finished> {
        self.find(task).filter(|entry| entry.surface == Surface::Queue)?.finish(outcome, worker, wall_ms())
    }

    fn keeps(&self, task: TaskId) -> bool {
        self.find(task).is_some()
    }
}

#[cfg(test)]
mod tests;
