//! Fetches and loads the models of all pools, starts their stations, and waits until each is up. The same
//! loader starts a station again that the core has told to begin anew, and brings it further models on order.

use super::banner::Served;
use super::kitchen::{Kitchen, Recipe};
use super::stations::{Depot, Wires};
use super::survey::Surveyed;
use crate::configuration::{Config, DeviceKind, Loadable, Pool};
use crate::failure::{Code, Failure};
use crate::memory::{budget, memory, size};
use crate::progress::{Progress, stage_of};
use orchestrion_api::port::Urgent;
use orchestrion_api::recovery::Heritage;
use orchestrion_api::switchboard::Switchboard;
use orchestrion_gpu::engine::{Engine, EngineOptions, PageCount};
use orchestrion_gpu::gguf::{Gguf, GgufError};
use orchestrion_gpu::grammar::Grammars;
use orchestrion_gpu::station::{Outlet, Source, Station, StationModel, StationSpec};
use orchestrion_gpu::supply::{self, ModelRef, Supplied, SupplyError};
use orchestrion_gpu::template::{Template, TemplateError};
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_world::id::{DeviceId, Epoch, ModelId, PoolId, TaskId, WorkerId};
use orchestrion_world::protocol::{CancelReason, Report, ShardFault};
use orchestrion_world::units::Bytes;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The host's memory is one device.
const HOST: DeviceId = DeviceId(0);
/// A step takes milliseconds; only a core that refuses the worker takes so long.
const CORE_PATIENCE: Duration = Duration::from_secs(30);

/// What start-up does on a thread of its own, told what to tell.
pub(crate) fn pools(
    (loader, words): (Arc<Loader>, flume::Receiver<Report>),
    mut surveyed: Surveyed,
    depot: &Depot,
    heritage: &Heritage,
    urgent: &flume::Sender<Urgent>,
) -> Result<Vec<Served>, Failure> {
    for (model, fingerprint) in &surveyed.others {
        leave(&heritage.strangers(*model, fingerprint), urgent);
    }
    let mut served = Vec::new();
    for (n, pool) in loader.pools.iter().enumerate() {
        let worker = WorkerId(n as u32 + 1);
        let loaded = match surveyed.first.remove(&worker) {
            Some(loaded) => loaded,
            None => loader.load(worker, None)?,
        };
        let Loaded { model, .. } = loaded;
        let (level, threads) = (model.engine.level(), model.engine.threads());
        let kernels = format!("host engine ({level}, {threads} thread{})", if threads == 1 { "" } else { "s" });
        let makes = model.engine.makes();
        let name = pool.model_name();
        let chats = loader.kitchen.chats(&name);
        served.push(Served { name, pool: pool.id.clone(), engine: kernels, chats, makes });
        // In the lane before the worker, so that it is not given one of them.
        leave(&heritage.strangers(model.id, &model.fingerprint), urgent);
        depot.add(worker, loader.station(worker, heritage.next_epoch(worker), model)?);
    }
    depot.reload_by(Arc::clone(&loader));
    for _ in &loader.pools {
        if let Ok(Report::WorkerDown { worker, .. }) = words.recv() {
            let problem = format!("worker {worker} failed while it warmed up; the log says more");
            return Err(Failure::new(Code::Failed, problem));
        }
    }
    taken(loader.pools.len(), &loader.switchboard)?;
    Ok(served)
}

/// Waits until the core has taken every pool's worker: whoever reads `ready` may ask at once.
fn taken(pools: usize, switchboard: &Switchboard) -> Result<(), Failure> {
    let began = Instant::now();
    while switchboard.ready_pools() < pools {
        if began.elapsed() > CORE_PATIENCE {
            return Err(Failure::new(Code::Failed, "a worker is up and the core does not take it; the log says more"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Ends tasks of an earlier process whose tokens belong to another file or engine than is there now.
fn leave(strangers: &[TaskId], urgent: &flume::Sender<Urgent>) {
    for &task in strangers {
        tracing::warn!(%task, "its model was exchanged while the server was down: cancelled");
        // An error means that the pulse has ended, and the process with it.
        let _ = urgent.send(Urgent::Cancel { task, reason: CancelReason::Shutdown, reply: None });
    }
}

/// Makes the stations of the configuration's pools, the first time and again, and loads what they are told to.
pub(crate) struct Loader {
    pub(super) pools: Vec<Pool>,
    pub(super) loadable: Vec<Loadable>,
    pub(super) options: supply::Options,
    pub(super) device_capacity: Bytes,
    pub(super) verify_round_s: u64,
    pub(super) kitchen: Arc<Kitchen>,
    pub(super) switchboard: Arc<Switchboard>,
    pub(super) outlet: Arc<dyn Outlet>,
}

/// A pool's model in memory.
pub(crate) struct Loaded {
    pub(super) model: StationModel,
    /// Of its context, with memory for all of it.
    pub(super) ctx_max: u32,
}

/// Why a model was not loaded: for people, and for the core.
pub(crate) struct NotLoaded {
    pub(super) failure: Failure,
    pub(super) fault: ShardFault,
}

impl From<NotLoaded> for Failure {
    fn from(NotLoaded { failure, .. }: NotLoaded) -> Failure {
        failure
    }
}

impl Source for Loader {
    fn load(&self, worker: WorkerId, model: ModelId) -> Result<StationModel, ShardFault> {
        let loaded = Loader::load(self, worker, Some(model));
        loaded.map(|loaded| loaded.model).map_err(|NotLoaded { failure, fault }| {
            tracing::error!(%worker, model = model.0, %failure, "a model was not loaded");
            fault
        })
    }
}

impl Loader {
    /// Also the ear for the first words of its stations.
    pub(crate) fn new(
        config: &Config,
        kitchen: &Arc<Kitchen>,
        urgent: flume::Sender<Urgent>,
        switchboard: &Arc<Switchboard>,
    ) -> Result<(Arc<Loader>, flume::Receiver<Report>), Failure> {
        let (first_words, words) = flume::bounded(2 * config.pools.len());
        let wires = Wires { urgent, switchboard: Arc::clone(switchboard), first_words };
        let loader = Loader {
            pools: config.pools.clone(),
            loadable: config.models.loadable.clone(),
            options: supply::Options::from_env(config.cache_dir()?),
            device_capacity: Bytes(match config.models.memory_bytes {
                Some(bytes) => bytes,
                None => budget()?,
            }),
            verify_round_s: config.models.verify_round_s,
            kitchen: Arc::clone(kitchen),
            switchboard: Arc::clone(switchboard),
            outlet: Arc::new(wires),
        };
        Ok((Arc::new(loader), words))
    }

    pub(super) fn outlet(&self) -> &dyn Outlet {
        &*self.outlet
    }

    /// That the files which the pools name are there, and models.
    pub(super) fn look(&self) -> Result<(), Failure> {
        for pool in &self.pools {
            let ModelRef::Path(path) = ModelRef::from(pool.model.as_str()) else { continue };
            let mut magic = [0; 4];
            let begins = File::open(&path).and_then(|mut file| file.read_exact(&mut magic));
            if !path.is_dir() && (begins.is_err() || &magic != b"GGUF") {
                // What is wrong is its to say.
                let read = supply::load(&ModelRef::Path(path), &self.options, &mut |_, _, _| ());
                read.map_err(Failure::of(Code::Unavailable))?;
            }
        }
        Ok(())
    }

    /// Loads the model of the worker's pool, or the one that is named. One that was exchanged since its words were
    /// first prepared is an error: prompts of the one are no prompts of the other.
    pub(super) fn load(&self, worker: WorkerId, model: Option<ModelId>) -> Result<Loaded, NotLoaded> {
        let other = |failure| NotLoaded { failure, fault: ShardFault::Fixed };
        let own = self.pool(worker).map_err(other)?;
        let named = |name: &str| model.is_some() && self.kitchen.id_of(name) == model;
        let of_pools = self.pools.iter().map(|pool| (pool.model_name(), &pool.model));
        let of_others = self.loadable.iter().map(|row| (row.name(), &row.model));
        // Another model comes on this pool's threads and within its bounds.
        let pool = match of_pools.chain(of_others).find(|(name, _)| named(name)) {
            Some((name, file)) if name != own.model_name() => {
                &Pool { model: file.clone(), model_name: Some(name), ..own.clone() }
            }
            Some(_) | None => own,
        };
        let problem = || Failure::new(Code::Failed, format!("{}: no model of the rules has its name", pool.model));
        let id = self.kitchen.id_of(&pool.model_name()).ok_or_else(problem).map_err(other)?;
        let loaded = self.read(worker, id, pool).and_then(|(gguf, took)| self.make(id, pool, &gguf, took));
        self.switchboard.loading_over(worker, id);
        loaded
    }

    /// The file's bytes, hashed, and since when they are awaited.
    fn read(&self, worker: WorkerId, id: ModelId, pool: &Pool) -> Result<(Gguf, Instant), NotLoaded> {
        let (began, model) = (Instant::now(), ModelRef::from(pool.model.as_str()));
        let about = std::fs::metadata(supply::place(&model, &self.options).path);
        // Read, and packed beside.
        let (needed, memory) = (about.map_or(0, |about| about.len().saturating_mul(2)), memory());
        if let Some(free) = memory.ok().map(|memory| memory.available).filter(|free| *free < needed) {
            let problem =
                format!("{}: it takes {} while it is loaded, and {} is free", pool.model, size(needed), size(free));
            return Err(NotLoaded { failure: Failure::new(Code::Unavailable, problem), fault: ShardFault::NoMemory });
        }
        let mut progress = Progress::default();
        let mut show = |stage: supply::Stage, done, total| {
            self.switchboard.loading(worker, id, done, total);
            progress.show(&stage_of(&pool.model, stage), done, total);
        };
        let Supplied { gguf, .. } = supply::load(&model, &self.options, &mut show).map_err(|error| {
            let fault = fault_of(&error);
            NotLoaded { failure: Failure::new(Code::Unavailable, error), fault }
        })?;
        progress.finish();
        Ok((gguf, began))
    }

    fn make(&self, id: ModelId, pool: &Pool, gguf: &Gguf, began: Instant) -> Result<Loaded, NotLoaded> {
        let bad = |problem: String| NotLoaded {
            failure: Failure::new(Code::BadData, format!("{}: {problem}", pool.model)),
            fault: ShardFault::Corrupt,
        };
        let threads = pool.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        let options = EngineOptions { level: pool.level(), threads, ctx_max: pool.ctx.unwrap_or(u32::MAX) };
        let mut engine = Engine::load(gguf, options).map_err(|error| bad(error.to_string()))?;
        let (took, ctx_max) = (began.elapsed(), engine.tokens_max());
        engine.limit_contexts(self.contexts(pool, &engine));
        let digest = gguf.digest();
        let fingerprint = format!("{digest}/{}", engine.definition());
        let name = pool.model_name();
        if let Some((tokenizer, grammars)) = self.kitchen.lends(&name, &fingerprint) {
            let model = StationModel { id, engine, tokenizer, grammars, digest, fingerprint, took };
            return Ok(Loaded { model, ctx_max });
        }
        let tokenizer = Arc::new(Tokenizer::from_gguf(gguf).map_err(|error| bad(error.to_string()))?);
        let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
        let template = match Template::from_gguf(gguf) {
            Err(absent @ TemplateError::Absent { .. }) => {
                if !engine.is_encoder() {
                    tracing::warn!(model = pool.model, "{absent}");
                }
                Err(absent)
            }
            found => Ok(found.map_err(|error| bad(error.to_string()))?),
        };
        let recipe = Recipe {
            tokenizer: Arc::clone(&tokenizer),
            grammars: Arc::clone(&grammars),
            template,
            ctx_max: engine.tokens_max(),
            makes: engine.makes(),
            width: engine.width(),
            fingerprint: fingerprint.clone(),
        };
        if !self.kitchen.put(&name, recipe) {
            let problem = "the file is another than the one first loaded, or its contexts (`ctx`) ask for its other rope \
                           factors: restart the server, or give pools of one model contexts of one length";
            return Err(bad(problem.to_owned()));
        }
        let model = StationModel { id, engine, tokenizer, grammars, digest, fingerprint, took };
        Ok(Loaded { model, ctx_max })
    }

    /// What contexts of a pool may take: what all its slots can fill, and of its part of the memory three quarters
    /// of what its weights leave. What is kept for later requests fills any bound in time.
    fn contexts(&self, pool: &Pool, engine: &Engine) -> Bytes {
        let all = u64::from(pool.slots) * u64::from(engine.ctx_max().next_multiple_of(PageCount::POSITIONS));
        let left = (self.device_capacity.0 / self.pools.len().max(1) as u64).saturating_sub(engine.weights().0);
        Bytes(engine.kv_per_token().0.saturating_mul(all).min(left / 4 * 3))
    }

    /// Starts a station over a loaded model.
    pub(super) fn station(
        self: &Arc<Self>,
        worker: WorkerId,
        epoch: Epoch,
        model: StationModel,
    ) -> Result<Station, Failure> {
        let pool = self.pool(worker)?;
        let spec = StationSpec {
            worker,
            pool: PoolId(worker.0.saturating_sub(1) as u16),
            device: match pool.device_kind {
                DeviceKind::Host => HOST,
            },
            epoch,
            device_capacity: self.device_capacity,
            slots: pool.slots,
            prefill_chunk: orchestrion_planner::CHUNK,
            verify_round: Duration::from_secs(self.verify_round_s),
            draft_tokens: pool.draft_tokens,
        };
        let source = (!self.loadable.is_empty()).then(|| Arc::clone(self) as Arc<dyn Source>);
        Ok(Station::spawn(spec, model, source, Arc::clone(&self.outlet))?)
    }

    /// Workers are numbered from 1 in the order of the pools.
    fn pool(&self, worker: WorkerId) -> Result<&Pool, Failure> {
        let at = (worker.0 as usize).checked_sub(1);
        let pool = at.and_then(|at| self.pools.get(at));
        pool.ok_or_else(|| Failure::new(Code::Failed, format!("the configuration has no pool for worker {worker}")))
    }
}

/// What the core makes of it: a file that is not there may be there later, one that is wrong stays wrong.
fn fault_of(error: &SupplyError) -> ShardFault {
    match error {
        SupplyError::Gguf { source: GgufError::Memory { .. }, .. } => ShardFault::NoMemory,
        SupplyError::Gguf { .. } | SupplyError::Folder { .. } => ShardFault::Corrupt,
        SupplyError::Unknown { .. } | SupplyError::File { .. } | SupplyError::Nowhere { .. } => ShardFault::Missing,
        SupplyError::Cache { .. } | SupplyError::NoSpace { .. } => ShardFault::Transient,
    }
}
