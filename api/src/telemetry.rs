//! The metrics of the contract that something here feeds, registered once, with handles that cost one
//! atomic each.
//!
//! Fed by the switchboard from notices, tokens and the pulse's gauges, and by the door with what it turns
//! away itself. Labels are outcomes, reasons and pool names from the configuration:
//! no task, token, prompt or client is ever one. It holds its own registry, so that two doors in one
//! process (tests) do not meet.

mod models;
mod reasons;

pub(crate) use reasons::Turned;

use models::Models;
use orchestrion_systems::Gauges;
use orchestrion_world::config::{EvictionRule, OverloadPolicy};
use orchestrion_world::health::Loss;
use orchestrion_world::id::{PoolId, WorkerId};
use orchestrion_world::units::Bytes;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPoolAndReason {
    pool_id: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPolicy {
    policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPolicyAndReason {
    policy: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPriority {
    priority: &'static str,
}

/// One for each worker of this process, which the configuration counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByWorker {
    worker_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPool {
    pool_id: String,
}

const FIRST_TOKEN_MS: [f64; 11] = [50.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0, 1_000.0, 1_500.0, 2_000.0, 3_000.0];
const DECODE_MS: [f64; 8] = [250.0, 500.0, 1_000.0, 2_000.0, 4_000.0, 6_000.0, 8_000.0, 12_000.0];
const QUEUE_MS: [f64; 10] = [1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 5_000.0, 30_000.0];
const TICK_US: [f64; 9] = [5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 10_000.0];

/// Pre-registered handles.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    pools: Vec<String>,
    enqueued: Counter,
    started: Counter,
    preempted: Counter,
    finished: [Counter; 3],
    cancelled: [Counter; 4],
    rejected: Family<ByReason, Counter>,
    /// Of `OverloadPolicy::ALL`, in its order.
    backpressure: [Counter; 3],
    ingress: Counter,
    queue_delay: Counter,
    rate_limit: Counter,
    tokens_in: Counter,
    tokens_cached: Counter,
    tokens_out: Counter,
    queue_depth: [Gauge; 2],
    queues_held: Gauge,
    active_leases: Gauge,
    vram_used: Gauge,
    kv_usage: Family<ByWorker, Gauge<f64, AtomicU64>>,
    journal_writable: Gauge,
    pool_ready: Vec<Gauge>,
    models: Models,
    /// By pool; of `Loss::ALL`, in its order.
    restarts: Vec<[Counter; 5]>,
    /// For want of memory, under pressure, and for corrupt bytes.
    evictions: [Counter; 3],
    first_token_ms: Histogram,
    queue_ms: Histogram,
    decode_ms: Histogram,
    tick_us: Histogram,
}

/// What `/status` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Totals {
    pub(crate) queue_depth: i64,
    pub(crate) queues_held: i64,
    pub(crate) active_leases: i64,
    pub(crate) workers_ready: i64,
    pub(crate) tasks_enqueued: u64,
    pub(crate) tasks_done: u64,
    pub(crate) tasks_cancelled: u64,
    pub(crate) tasks_failed: u64,
    pub(crate) tokens_in: u64,
    pub(crate) tokens_out: u64,
}

fn level(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn millis(length: Duration) -> f64 {
    length.as_secs_f64() * 1_000.0
}

impl Telemetry {
    /// `pools`: names in `PoolId` order; `eviction`: by which models are evicted.
    pub fn new(pools: &[String], eviction: EvictionRule) -> Self {
        let mut registry = Registry::with_prefix("orchestrion");
        let finished = Family::<ByOutcome, Counter>::default();
        let cancelled = Family::<ByReason, Counter>::default();
        let rejected = Family::<ByReason, Counter>::default();
        let backpressure = Family::<ByPolicy, Counter>::default();
        let ready = Family::<ByPool, Gauge>::default();
        let restarts = Family::<ByPoolAndReason, Counter>::default();
        let evictions = Family::<ByPolicyAndReason, Counter>::default();
        let depth = Family::<ByPriority, Gauge>::default();
        let histogram = |buckets: &[f64]| Histogram::new(buckets.iter().copied());
        let telemetry = Telemetry {
            enqueued: Counter::default(),
            started: Counter::default(),
            preempted: Counter::default(),
            finished: ["done", "cancelled", "failed"]
                .map(|outcome| finished.get_or_create_owned(&ByOutcome { outcome })),
            cancelled: ["client", "disconnect", "abandoned", "shutdown"]
                .map(|reason| cancelled.get_or_create_owned(&ByReason { reason })),
            backpressure: OverloadPolicy::ALL
                .map(|policy| backpressure.get_or_create_owned(&ByPolicy { policy: policy.label() })),
            rate_limit: backpressure.get_or_create_owned(&ByPolicy { policy: "rate-limit" }),
            queue_delay: backpressure.get_or_create_owned(&ByPolicy { policy: "queue-delay" }),
            ingress: backpressure.get_or_create_owned(&ByPolicy { policy: "ingress" }),
            tokens_in: Counter::default(),
            tokens_cached: Counter::default(),
            tokens_out: Counter::default(),
            queue_depth: ["interactive", "batch"].map(|priority| depth.get_or_create_owned(&ByPriority { priority })),
            queues_held: Gauge::default(),
            active_leases: Gauge::default(),
            vram_used: Gauge::default(),
            kv_usage: Family::default(),
            journal_writable: Gauge::default(),
            pool_ready: pools.iter().map(|pool| ready.get_or_create_owned(&ByPool { pool_id: pool.clone() })).collect(),
            models: Models::default(),
            restarts: pools
                .iter()
                .map(|pool| {
                    Loss::ALL.map(|loss| {
                        let labels = ByPoolAndReason { pool_id: pool.clone(), reason: loss.label() };
                        restarts.get_or_create_owned(&labels)
                    })
                })
                .collect(),
            evictions: ["demand", "pressure", "corrupt"]
                .map(|reason| evictions.get_or_create_owned(&ByPolicyAndReason { policy: eviction.label(), reason })),
            first_token_ms: histogram(&FIRST_TOKEN_MS),
            queue_ms: histogram(&QUEUE_MS),
            decode_ms: histogram(&DECODE_MS),
            tick_us: histogram(&TICK_US),
            rejected,
            registry: Registry::default(),
            pools: pools.to_vec(),
        };
        registry.register("tasks_enqueued", "Tasks the core accepted", telemetry.enqueued.clone());
        registry.register("tasks_started", "Attempts that an engine took up", telemetry.started.clone());
        let preempted = telemetry.preempted.clone();
        registry.register("tasks_preempted", "Batch attempts that gave their slot to interactive work", preempted);
        registry.register("tasks_finished", "Tasks that ended", finished);
        registry.register("tasks_canceled", "Tasks that were cancelled", cancelled);
        registry.register("tasks_rejected", "Tasks that were not admitted", telemetry.rejected.clone());
        registry.register(
            "admission_backpressure_events",
            "Tasks that were refused or gave way for want of room",
            backpressure,
        );
        registry.register("tokens_in", "Prompt tokens of accepted tasks", telemetry.tokens_in.clone());
        registry.register(
            "prefix_cache_hits_tokens",
            "Prompt tokens of finished tasks that were known from earlier ones",
            telemetry.tokens_cached.clone(),
        );
        registry.register("tokens_out", "Tokens published to readers", telemetry.tokens_out.clone());
        registry.register("queue_depth", "Accepted tasks that wait for a worker", depth);
        registry.register("queues_held", "Queues that refuse who would wait too long", telemetry.queues_held.clone());
        registry.register("active_leases", "Tasks on a worker's slot", telemetry.active_leases.clone());
        registry.register("vram_used_bytes", "Memory that workers hold on all devices", telemetry.vram_used.clone());
        registry.register(
            "kv_cache_usage_ratio",
            "Of the memory that contexts may take, what running tasks hold",
            telemetry.kv_usage.clone(),
        );
        let writable = telemetry.journal_writable.clone();
        registry.register("journal_writable", "Whether steps can be recorded: 0 refuses new work", writable);
        registry.register("pool_ready", "Ready workers of a pool", ready);
        let states = telemetry.models.states.clone();
        registry.register("model_state", "Workers that have a model in this state", states);
        registry.register("worker_restarts", "Lost workers that were told to begin again", restarts);
        registry.register("evictions", "Models that were told to leave a worker's memory", evictions);
        registry.register(
            "latency_first_token_ms",
            "From acceptance to the first token",
            telemetry.first_token_ms.clone(),
        );
        registry.register("latency_queue_ms", "From acceptance to the first start", telemetry.queue_ms.clone());
        registry.register("latency_decode_ms", "From the first to the last token", telemetry.decode_ms.clone());
        registry.register("tick_duration_us", "Length of a step", telemetry.tick_us.clone());
        Telemetry { registry, ..telemetry }
    }

    /// How full the world is after a step, and how long the step took.
    pub(crate) fn stepped(&self, gauges: &Gauges, step_us: u64) {
        let [interactive, batch] = &self.queue_depth;
        interactive.set(level(gauges.queued_interactive));
        batch.set(level(gauges.queued_batch));
        self.queues_held.set(level(gauges.lines_held));
        self.active_leases.set(level(gauges.leases));
        self.vram_used.set(level(gauges.vram_used_bytes));
        self.tick_us.observe(step_us as f64);
    }

    /// How full the contexts of a worker are.
    pub(crate) fn contexts(&self, worker: WorkerId, held: Bytes, bound: Bytes) {
        let ratio = held.0 as f64 / bound.0.max(1) as f64;
        self.kv_usage.get_or_create_owned(&ByWorker { worker_id: worker.to_string() }).set(ratio);
    }

    pub(crate) fn enqueued(&self, prompt_tokens: u64) {
        self.enqueued.inc();
        self.tokens_in.inc_by(prompt_tokens);
    }

    pub(crate) fn started(&self, waited: Option<Duration>) {
        self.started.inc();
        if let Some(waited) = waited {
            self.queue_ms.observe(millis(waited));
        }
    }

    pub(crate) fn preempted(&self) {
        self.preempted.inc();
    }

    pub(crate) fn token(&self) {
        self.tokens_out.inc();
    }

    pub(crate) fn first_token(&self, since_accepted: Duration) {
        self.first_token_ms.observe(millis(since_accepted));
    }

    pub(crate) fn pool_ready(&self, pool: PoolId, ready: u16) {
        if let Some(gauge) = self.pool_ready.get(usize::from(pool.0)) {
            gauge.set(i64::from(ready));
        }
    }

    /// How models are, which a scrape looks at.
    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    /// Names, in `PoolId` order.
    pub(crate) fn pools(&self) -> &[String] {
        &self.pools
    }

    pub(crate) fn totals(&self) -> Totals {
        let [done, cancelled, failed] = &self.finished;
        Totals {
            queue_depth: self.queue_depth.iter().map(|gauge| gauge.get()).sum(),
            queues_held: self.queues_held.get(),
            active_leases: self.active_leases.get(),
            workers_ready: self.pool_ready.iter().map(|gauge| gauge.get()).sum(),
            tasks_enqueued: self.enqueued.get(),
            tasks_done: done.get(),
            tasks_cancelled: cancelled.get(),
            tasks_failed: failed.get(),
            tokens_in: self.tokens_in.get(),
            tokens_out: self.tokens_out.get(),
        }
    }

    /// The OpenMetrics text. Whether the journal can be written is known to who asks.
    pub(crate) fn encode(&self, journal_writable: bool) -> Result<String, std::fmt::Error> {
        self.journal_writable.set(i64::from(journal_writable));
        let mut out = String::with_capacity(8 * 1024);
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}
