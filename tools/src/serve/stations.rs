//! The stations of this process: takes the pulse's orders to them, and their reports and tokens back.
//!
//! A worker that is told to begin anew is loaded on a thread of its own, which always ends in words: the
//! station's `WorkerUp`, or a `WorkerDown` with what went wrong in the log.

use super::load::Loader;
use crate::failure::{Code, Failure};
use orchestrion_api::port::{Stations, Urgent};
use orchestrion_api::switchboard::Switchboard;
use orchestrion_api::token_log::Pushed;
use orchestrion_gpu::station::{OrderError, Outlet, Reception, Station};
use orchestrion_world::id::{Attempt, Epoch, ModelId, TaskId, WorkerId};
use orchestrion_world::payload::{Payload, Token};
use orchestrion_world::protocol::{FaultClass, Order, Report};
use orchestrion_world::units::Bytes;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An engine's step is over within seconds; a thread that takes longer to end hangs, and what it holds cannot
/// be taken from it.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Every station, by the worker it is.
#[derive(Default)]
pub(crate) struct Depot {
    floor: Arc<Floor>,
    /// Once the first loading is over.
    loader: OnceLock<Arc<Loader>>,
}

#[derive(Default)]
struct Floor {
    stations: RwLock<BTreeMap<WorkerId, Station>>,
    /// Workers whose model is being loaded again, and the life that it is for.
    loading: Mutex<BTreeMap<WorkerId, Epoch>>,
    /// Threads that were told to end and may still hold their model.
    ending: Mutex<BTreeMap<WorkerId, JoinHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Floor {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<WorkerId, Station>> {
        self.stations.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<WorkerId, Station>> {
        self.stations.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn loading(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Epoch>> {
        locked(&self.loading)
    }

    fn retire(&self, worker: WorkerId) {
        if let Some(station) = self.write().remove(&worker) {
            locked(&self.ending).insert(worker, station.end());
        }
    }

    /// Whether the worker's last thread is gone.
    fn is_clear(&self, worker: WorkerId) -> bool {
        locked(&self.ending).get(&worker).is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the old station's end, loads the model and starts the new one; none where it was called off.
    fn load(&self, loader: &Arc<Loader>, worker: WorkerId, model: ModelId) -> Result<(), Failure> {
        let began = Instant::now();
        self.retire(worker);
        while !self.is_clear(worker) {
            if began.elapsed() > END_PATIENCE {
                let problem = "its old thread hangs and holds its model; only a restart of the server ends it";
                return Err(Failure::new(Code::Failed, problem));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let loaded = loader.load(worker, Some(model))?;
        let mut stations = self.write();
        if let Some(epoch) = self.loading().remove(&worker) {
            stations.insert(worker, loader.station(worker, epoch, loaded.model)?);
        }
        Ok(())
    }
}

impl Depot {
    pub(crate) fn add(&self, worker: WorkerId, station: Station) {
        self.floor.write().insert(worker, station);
    }

    /// From here on workers can begin anew.
    pub(crate) fn reload_by(&self, loader: Arc<Loader>) {
        // There is one start-up.
        let _ = self.loader.set(loader);
    }

    /// A bit flips in the weights of a worker.
    #[cfg(test)]
    pub(super) fn tamper(&self, worker: WorkerId) {
        self.floor.read()[&worker].tamper().unwrap();
    }

    /// Ends all stations and waits for them.
    pub(crate) fn close(&self) {
        self.floor.loading().clear();
        let stations = std::mem::take(&mut *self.floor.write());
        stations.into_values().for_each(Station::stop);
    }

    /// On a thread of its own: the pulse waits for nothing.
    fn spawn(&self, worker: WorkerId, epoch: Epoch, model: ModelId) {
        let Some(loader) = self.loader.get().cloned() else {
            return tracing::error!(%worker, "told to begin anew before the first start was over");
        };
        let floor = Arc::clone(&self.floor);
        let spawned = std::thread::Builder::new().name(format!("loader-{worker}")).spawn(move || {
            let busy = floor.loading().insert(worker, epoch).is_some();
            loader.outlet().report(Report::Loading { worker, epoch });
            if busy {
                // The thread that is at it brings it up in this life.
                return;
            }
            let loaded = catch_unwind(AssertUnwindSafe(|| floor.load(&loader, worker, model)));
            let problem = match loaded {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => failure.to_string(),
                Err(_) => "loading panicked".to_owned(),
            };
            tracing::error!(%worker, problem, "the worker could not begin anew");
            let Some(epoch) = floor.loading().remove(&worker) else { return };
            loader.switchboard.not_up(worker, problem);
            loader.outlet().report(Report::WorkerDown { worker, epoch, error: Some(FaultClass::Transient) });
        });
        if let Err(error) = spawned {
            tracing::error!(%worker, %error, "no thread to load its model on");
        }
    }
}

impl Stations for Depot {
    fn order(&self, order: Order, payload: Option<Payload>) {
        let worker = order.worker();
        match order {
            Order::SpawnWorker { epoch, model, .. } => return self.spawn(worker, epoch, model),
            Order::StopWorker { .. } => {
                self.floor.loading().remove(&worker);
                // Its thread says `WorkerDown` when it ends.
                return self.floor.retire(worker);
            }
            Order::Start { .. }
            | Order::Cancel { .. }
            | Order::Reset { .. }
            | Order::Probe { .. }
            | Order::LoadShard { .. }
            | Order::FreeShard { .. }
            | Order::VerifyShard { .. } => {}
        }
        let depot = self.floor.read();
        let Some(station) = depot.get(&worker) else { return };
        let sent = match (&order, payload) {
            (Order::Start { task, attempt, epoch, model, .. }, Some(payload)) => {
                station.start((*task, *attempt), *epoch, *model, payload)
            }
            // The task ended between the decision and here: its cancel follows.
            (Order::Start { .. }, None) => return,
            (Order::Cancel { task, attempt, .. }, _) => station.cancel(*task, *attempt),
            (Order::Reset { epoch, .. }, _) => station.reset(*epoch),
            (Order::LoadShard { epoch, model, order, .. }, _) => station.load(*epoch, *model, *order),
            (Order::FreeShard { epoch, model, order, .. }, _) => station.free(*epoch, *model, *order),
            (Order::VerifyShard { epoch, model, job, .. }, _) => station.verify(*epoch, *model, *job),
            (Order::Probe { .. }, _) => station.probe(),
            (Order::SpawnWorker { .. } | Order::StopWorker { .. }, _) => return,
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

    fn contexts(&self, worker: WorkerId, held: Bytes, bound: Bytes) {
        self.switchboard.contexts(worker, held, bound);
    }

    fn verifying(&self, worker: WorkerId, model: ModelId, seen: Option<(Bytes, Bytes)>) {
        self.switchboard.verifying(worker, model, seen);
    }
}

#[cfg(test)]
mod tests {
    use super::super::kitchen::Kitchen;
    use super::*;
    use crate::configuration::Pool;
    use orchestrion_api::door::DoorConfig;
    use orchestrion_api::telemetry::Telemetry;
    use orchestrion_gpu::generate::{GenSpec, generate};
    use orchestrion_gpu::supply;

    struct Ear(flume::Sender<Report>);

    impl Outlet for Ear {
        fn report(&self, report: Report) {
            self.0.send(report).unwrap();
        }

        fn token(&self, _: TaskId, _: Attempt, _: Token<'_>) -> Reception {
            Reception::Taken
        }

        fn contexts(&self, _: WorkerId, _: Bytes, _: Bytes) {}

        fn verifying(&self, _: WorkerId, _: ModelId, _: Option<(Bytes, Bytes)>) {}
    }

    /// The life that a word is of, and what it says.
    fn told(words: &flume::Receiver<Report>) -> (u32, &'static str) {
        loop {
            match words.recv_timeout(Duration::from_secs(60)).unwrap() {
                Report::Loading { epoch, .. } => return (epoch.0, "loading"),
                Report::WorkerUp { epoch, .. } => return (epoch.0, "up"),
                Report::WorkerDown { epoch, error: None, .. } => return (epoch.0, "stopped"),
                Report::WorkerDown { epoch, .. } => return (epoch.0, "failed"),
                _ => {}
            }
        }
    }

    #[test]
    fn a_worker_is_stopped_and_loaded_again_for_real() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tiny.gguf");
        std::fs::write(&file, generate(&GenSpec::default()).unwrap()).unwrap();
        let pool = Pool { model: file.display().to_string(), threads: Some(1), ..Pool::default() };
        let (ear, words) = flume::unbounded();
        let loader = Loader {
            options: supply::Options::from_env(dir.path().join("cache")),
            device_capacity: Bytes(1 << 40),
            verify_round_s: 3_600,
            kitchen: Arc::new(Kitchen::new(vec![pool.model_name()])),
            pools: vec![pool],
            loadable: vec![],
            switchboard: Arc::new(Switchboard::new(
                DoorConfig::default().keep(),
                Arc::new(Telemetry::new(&[], orchestrion_world::config::EvictionRule::Lru)),
            )),
            outlet: Arc::new(Ear(ear)),
        };
        let (loader, depot, worker) = (Arc::new(loader), Depot::default(), WorkerId(1));
        let loaded = loader.load(worker, None).map_err(Failure::from).unwrap();
        depot.add(worker, loader.station(worker, Epoch(1), loaded.model).unwrap());
        depot.reload_by(loader);
        let order = |order| depot.order(order, None);
        assert_eq!(told(&words), (1, "up"));
        order(Order::StopWorker { worker, epoch: Epoch(1) });
        assert_eq!(told(&words), (1, "stopped"));
        order(Order::SpawnWorker { worker, model: ModelId(0), epoch: Epoch(2) });
        assert_eq!([told(&words), told(&words)], [(2, "loading"), (2, "up")]);
        // One that lives is ended first.
        order(Order::SpawnWorker { worker, model: ModelId(0), epoch: Epoch(3) });
        let mut lives = [told(&words), told(&words), told(&words)];
        lives.sort_unstable();
        assert_eq!(lives, [(2, "stopped"), (3, "loading"), (3, "up")]);
        // Its file is gone: it says so, and can begin again when the file is back.
        let hidden = dir.path().join("hidden.gguf");
        std::fs::rename(&file, &hidden).unwrap();
        order(Order::StopWorker { worker, epoch: Epoch(3) });
        assert_eq!(told(&words), (3, "stopped"));
        order(Order::SpawnWorker { worker, model: ModelId(0), epoch: Epoch(4) });
        assert_eq!([told(&words), told(&words)], [(4, "loading"), (4, "failed")]);
        std::fs::rename(&hidden, &file).unwrap();
        order(Order::SpawnWorker { worker, model: ModelId(0), epoch: Epoch(5) });
        assert_eq!([told(&words), told(&words)], [(5, "loading"), (5, "up")]);
        depot.close();
    }
}
