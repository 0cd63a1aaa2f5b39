//! The stations of this process: takes the pulse's orders to them, and their reports and tokens back.

use orchestrion_api::port::{Stations, Urgent};
use orchestrion_api::switchboard::Switchboard;
use orchestrion_api::token_log::Pushed;
use orchestrion_gpu::station::{OrderError, Outlet, Reception, Station};
use orchestrion_world::id::{Attempt, TaskId, WorkerId};
use orchestrion_world::payload::{Payload, Token};
use orchestrion_world::protocol::{Order, Report};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Every station, by the worker it is.
#[derive(Debug, Default)]
pub(crate) struct Depot(RwLock<BTreeMap<WorkerId, Station>>);

impl Depot {
    pub(crate) fn add(&self, worker: WorkerId, station: Station) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(worker, station);
    }

    /// Ends all stations and waits for them.
    pub(crate) fn close(&self) {
        let stations = std::mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        stations.into_values().for_each(Station::stop);
    }
}

impl Stations for Depot {
    fn order(&self, order: Order, payload: Option<Payload>) {
        let depot = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(station) = depot.get(&order.worker()) else { return };
        let sent = match (&order, payload) {
            (Order::Start { task, attempt, epoch, .. }, Some(payload)) => {
                station.start(*task, *attempt, *epoch, payload)
            }
            // The task ended between the decision and here: its cancel follows.
            (Order::Start { .. }, None) => return,
            (Order::Cancel { task, attempt, .. }, _) => station.cancel(*task, *attempt),
            (Order::Reset { epoch, .. }, _) => station.reset(*epoch),
        };
        match sent {
            // Its WorkerDown is on the way, and says more.
            Ok(()) | Err(OrderError::Gone) => {}
            Err(OrderError::Full) => tracing::error!(?order, "a station was given more than its slots hold"),
        }
    }
}

/// What the stations of this process say, on its two ways: reports to the core, tokens to the readers.
pub(crate) struct Wires {
    pub urgent: flume::Sender<Urgent>,
    pub switchboard: Arc<Switchboard>,
    /// Told of each worker's first coming up or going down.
    pub first_words: flume::Sender<Report>,
}

impl Outlet for Wires {
    fn report(&self, report: Report) {
        let word = matches!(report, Report::WorkerUp { .. } | Report::WorkerDown { .. }).then(|| report.clone());
        // An error means that the pulse has ended, and the process with it.
        let _ = self.urgent.send(Urgent::Report(report));
        // The core is told first: who hears here that a worker is up may submit to it.
        if let Some(word) = word {
            // After start-up nobody listens.
            let _ = self.first_words.try_send(word);
        }
    }

    fn token(&self, task: TaskId, attempt: Attempt, token: Token<'_>) -> Reception {
        match self.switchboard.token(task, attempt, token) {
            // Behind a closed gate nobody waits; a cancel is on its way here.
            Pushed::Taken | Pushed::Skipped | Pushed::Closed => Reception::Taken,
            Pushed::Diverged => Reception::Contradicted,
        }
    }
}
