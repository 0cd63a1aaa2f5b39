//! What a station loads and lets go of beside its work, on threads of their own: running answers go on.
//!
//! Loads go one after another. What came of one arrives among the station's orders; a station that has ended
//! meanwhile gets nothing, and what was loaded for it is dropped.

use super::bench::Bench;
use super::{Order, Outlet, Source, StationModel, StationSpec};
use orchestrion_world::id::{Epoch, ModelId, ShardOrder, WorkerId};
use orchestrion_world::protocol::{Report, ShardFault};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// An order to load a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) epoch: Epoch,
    pub(super) model: ModelId,
    pub(super) order: ShardOrder,
}

/// What came of one.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) load: Load,
    pub(super) bench: Result<Bench, ShardFault>,
}

pub(super) struct Loads {
    source: Arc<dyn Source>,
    home: flume::WeakSender<Order>,
    outlet: Arc<dyn Outlet>,
    spec: StationSpec,
    waiting: VecDeque<Load>,
    running: bool,
}

impl Loads {
    pub(super) fn new(
        source: Arc<dyn Source>,
        home: flume::WeakSender<Order>,
        outlet: Arc<dyn Outlet>,
        spec: StationSpec,
    ) -> Loads {
        Loads { source, home, outlet, spec, waiting: VecDeque::new(), running: false }
    }

    pub(super) fn order(&mut self, load: Load) {
        self.waiting.push_back(load);
        self.next();
    }

    /// The one that ran is over.
    pub(super) fn over(&mut self) {
        self.running = false;
        self.next();
    }

    /// Nobody waits for those any more that have not begun.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }

    fn next(&mut self) {
        let Some(load) = self.waiting.pop_front_if(|_| !self.running) else { return };
        let (source, home, spec) = (Arc::clone(&self.source), self.home.clone(), self.spec);
        let thread = std::thread::Builder::new().name(format!("load-{}", spec.worker));
        let spawned = thread.spawn(move || {
            let bench = catch_unwind(AssertUnwindSafe(|| run(&*source, spec, load.model)));
            let bench = bench.unwrap_or_else(|_| {
                tracing::error!(worker = %spec.worker, model = load.model.0, "loading panicked");
                Err(ShardFault::Transient)
            });
            if let Some(home) = home.upgrade() {
                // An error means that the station has ended just now: the model goes with the message.
                let _ = home.send(Order::Arrived(Box::new(Arrival { load, bench })));
            }
        });
        self.running = spawned.is_ok();
        if let Err(error) = spawned {
            let (worker, Load { epoch, model, order }) = (spec.worker, load);
            tracing::error!(%worker, %error, "no thread to load a model on");
            let fault = ShardFault::Transient;
            self.outlet.report(Report::ShardFailed { worker, epoch, model, order, fault });
        }
    }
}

fn run(source: &dyn Source, spec: StationSpec, id: ModelId) -> Result<Bench, ShardFault> {
    let model = source.load(spec.worker, id)?;
    Bench::new(model, spec.prefill_chunk).map_err(|error| {
        tracing::error!(worker = %spec.worker, model = id.0, %error, "the engine refused a step of its warm-up");
        ShardFault::Transient
    })
}

/// Gives a model's memory back beside the work, and says so where it was ordered.
pub(super) fn let_go(worker: WorkerId, outlet: &Arc<dyn Outlet>, model: StationModel, freed: Option<Report>) {
    let (told, word) = (Arc::clone(outlet), freed.clone());
    let spawned = std::thread::Builder::new().name(format!("free-{worker}")).spawn(move || {
        drop(model);
        word.into_iter().for_each(|word| told.report(word));
    });
    if spawned.is_err() {
        // The model went with the closure.
        freed.into_iter().for_each(|word| outlet.report(word));
    }
}
