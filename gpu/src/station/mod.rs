//! A station: one thread that owns a device's engine and works off what it is told.
//!
//! Orders come in over a bounded channel; reports and tokens go out through an [`Outlet`]. Every `start`
//! is answered by exactly one `Finished` or `Faulted`, also after a cancel; after `reset` the old work is
//! dropped without a word and the worker announces itself anew. An idle station sleeps.
//!
//! Several models may stand on it, each with an engine of its own; further ones come and go on order, beside
//! the work.
//!
//! `run` is the loop and its reports, `bench` a model that stands, `loads` how one comes and goes, `task` one
//! answer in the making, `text` its words. This file knows none of it: it is what callers see, and where a panic
//! ends as `WorkerDown`.

mod bench;
mod draft;
mod loads;
#[cfg(test)]
mod loads_tests;
#[cfg(test)]
mod rig;
mod run;
mod task;
#[cfg(test)]
mod tests;
mod text;

use crate::engine::Engine;
use crate::grammar::Grammars;
use crate::tokenizer::Tokenizer;
use loads::{Arrival, Load, Loads};
use orchestrion_world::id::{Attempt, DeviceId, Epoch, JobId, ModelId, PoolId, ShardOrder, TaskId, WorkerId};
use orchestrion_world::payload::{Payload, Token};
use orchestrion_world::protocol::{FaultClass, Report, ShardFault};
use orchestrion_world::units::{Bytes, Sha256};
use run::Runner;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where a station's words go.
pub trait Outlet: Send + Sync + 'static {
    fn report(&self, report: Report);
    /// A token of the task's attempt; they come in order, from the first on for every attempt.
    fn token(&self, task: TaskId, attempt: Attempt, token: Token<'_>) -> Reception;
    /// Of what contexts may take, what running tasks hold; said with each beat.
    fn contexts(&self, worker: WorkerId, held: Bytes, bound: Bytes);
    /// How much of a model's weights has been looked at, of how much; none once it is over.
    fn verifying(&self, worker: WorkerId, model: ModelId, seen: Option<(Bytes, Bytes)>);
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// It goes to its readers, they have it, or nobody wants it any more: a cancel is on its way then.
    Taken,
    /// Readers have another in its place: the attempt is at fault.
    Contradicted,
}

/// Where a station gets further models from. Called on a thread of its own; it says itself how far it is, and why
/// it failed.
pub trait Source: Send + Sync + 'static {
    fn load(&self, worker: WorkerId, model: ModelId) -> Result<StationModel, ShardFault>;
}

/// Who the station is and how much it takes on.
#[derive(Clone, Copy, Debug)]
pub struct StationSpec {
    pub worker: WorkerId,
    pub pool: PoolId,
    pub device: DeviceId,
    /// The worker's first life.
    pub epoch: Epoch,
    /// Memory of the device that workers may use.
    pub device_capacity: Bytes,
    /// Tasks at a time.
    pub slots: u16,
    /// Prompt tokens in a step at most, beside one token of each running answer; fewer on a slow machine, more where
    /// nothing answers (`orchestrion_planner::ALONE`).
    pub prefill_chunk: u32,
    /// In this time all weights are looked at once, a part with each beat.
    pub verify_round: Duration,
    /// Tokens that a step drafts, for all answers together; 0 drafts none.
    pub draft_tokens: u32,
}

/// What the station runs.
#[derive(Debug)]
pub struct StationModel {
    pub id: ModelId,
    pub engine: Engine,
    pub tokenizer: Arc<Tokenizer>,
    pub grammars: Arc<Grammars>,
    /// SHA-256 of the model file.
    pub digest: Sha256,
    /// Model file, engine and numerics: what tokens depend on besides their request.
    pub fingerprint: String,
    /// How long it took to read and pack it.
    pub took: Duration,
}

/// What a station is told.
#[derive(Debug)]
enum Order {
    Start {
        task: TaskId,
        attempt: Attempt,
        epoch: Epoch,
        model: ModelId,
        payload: Payload,
    },
    Cancel {
        task: TaskId,
        attempt: Attempt,
    },
    Reset {
        epoch: Epoch,
    },
    Probe,
    Load(Load),
    Free {
        epoch: Epoch,
        model: ModelId,
        order: ShardOrder,
    },
    Verify {
        epoch: Epoch,
        model: ModelId,
        job: JobId,
    },
    #[cfg(any(test, feature = "tamper"))]
    Tamper,
    /// Its own: what came of a load.
    Arrived(Box<Arrival>),
}

/// An order that did not reach its station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The thread has ended; a `WorkerDown` said so.
    #[error("the station has ended")]
    Gone,
    /// More orders than its slots can mean.
    #[error("the station's queue is full")]
    Full,
}

/// The handle of a running station. Dropping it ends the station without waiting.
#[derive(Debug)]
pub struct Station {
    orders: flume::Sender<Order>,
    thread: JoinHandle<()>,
}

impl Station {
    /// Starts the thread. It measures the engine by a short warm-up, then announces `WorkerUp`. Without a source it
    /// serves the model that it has and no other.
    pub fn spawn(
        spec: StationSpec,
        model: StationModel,
        source: Option<Arc<dyn Source>>,
        outlet: Arc<dyn Outlet>,
    ) -> std::io::Result<Station> {
        // A slot means a start and a cancel; a reset or two more may wait, and orders to load and free.
        let (orders, inbox) = flume::bounded(usize::from(spec.slots) * 4 + 64);
        let loads = source.map(|source| Loads::new(source, orders.downgrade(), Arc::clone(&outlet), spec));
        let name = format!("station-{}", spec.worker);
        let thread = std::thread::Builder::new().name(name).spawn(move || top(spec, model, loads, &inbox, outlet))?;
        Ok(Station { orders, thread })
    }

    /// One attempt at a task of a model that stands, for the life `epoch` of the worker.
    pub fn start(
        &self,
        (task, attempt): (TaskId, Attempt),
        epoch: Epoch,
        model: ModelId,
        payload: Payload,
    ) -> Result<(), OrderError> {
        self.send(Order::Start { task, attempt, epoch, model, payload })
    }

    /// Ends an attempt at the next step.
    pub fn cancel(&self, task: TaskId, attempt: Attempt) -> Result<(), OrderError> {
        self.send(Order::Cancel { task, attempt })
    }

    /// Drops all work; the worker comes back as `epoch`.
    pub fn reset(&self, epoch: Epoch) -> Result<(), OrderError> {
        self.send(Order::Reset { epoch })
    }

    /// Another model beside its own.
    pub fn load(&self, epoch: Epoch, model: ModelId, order: ShardOrder) -> Result<(), OrderError> {
        self.send(Order::Load(Load { epoch, model, order }))
    }

    /// Lets a model go that no task runs on.
    pub fn free(&self, epoch: Epoch, model: ModelId, order: ShardOrder) -> Result<(), OrderError> {
        self.send(Order::Free { epoch, model, order })
    }

    /// Has it look at all weights of a model, beside its work.
    pub fn verify(&self, epoch: Epoch, model: ModelId, job: JobId) -> Result<(), OrderError> {
        self.send(Order::Verify { epoch, model, job })
    }

    /// A bit flips in the weights of each of its models.
    #[cfg(any(test, feature = "tamper"))]
    pub fn tamper(&self) -> Result<(), OrderError> {
        self.send(Order::Tamper)
    }

    /// Has it say that it lives, as soon as its step is over.
    pub fn probe(&self) -> Result<(), OrderError> {
        self.send(Order::Probe)
    }

    /// Ends the station after its current step, without waiting: the handle tells when it is over, and with it
    /// whatever it held gone.
    pub fn end(self) -> JoinHandle<()> {
        self.thread
    }

    /// Ends the station after its current step and waits for it. Work in progress is dropped.
    pub fn stop(self) {
        drop(self.orders);
        // The thread's panics are caught at its top; what is left has been reported.
        let _ = self.thread.join();
    }

    fn send(&self, order: Order) -> Result<(), OrderError> {
        self.orders.try_send(order).map_err(|e| match e {
            flume::TrySendError::Full(_) => OrderError::Full,
            flume::TrySendError::Disconnected(_) => OrderError::Gone,
        })
    }
}

/// The thread's top: whatever happens below, the last word is `WorkerDown`.
fn top(
    spec: StationSpec,
    model: StationModel,
    loads: Option<Loads>,
    inbox: &flume::Receiver<Order>,
    outlet: Arc<dyn Outlet>,
) {
    let epoch = AtomicU32::new(spec.epoch.0);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        Runner::new(spec, model, loads, outlet.clone(), &epoch).and_then(|runner| runner.run(inbox))
    }));
    let error = match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::error!(worker = %spec.worker, %error, "the engine refused a step");
            Some(FaultClass::Fatal)
        }
        Err(_) => {
            tracing::error!(worker = %spec.worker, "the engine panicked");
            Some(FaultClass::Fatal)
        }
    };
    let down = Report::WorkerDown { worker: spec.worker, epoch: Epoch(epoch.load(Ordering::Relaxed)), error };
    // The outlet may be what panicked.
    if catch_unwind(AssertUnwindSafe(|| outlet.report(down))).is_err() {
        tracing::error!(worker = %spec.worker, "the outlet panicked");
    }
}
