//! Fetches and loads the models of all pools, starts their stations, and waits until each is up. The same
//! loader starts a station again that the core has told to begin anew.

use super::banner::Served;
use super::kitchen::{Kitchen, Recipe};
use super::stations::{Depot, Wires};
use crate::configuration::{Config, DeviceKind, Loadable, Pool};
use crate::failure::{Code, Failure};
use crate::memory::memory;
use crate::progress::{Progress, stage_of};
use orchestrion_api::port::Urgent;
use orchestrion_api::recovery::Heritage;
use orchestrion_api::switchboard::Switchboard;
use orchestrion_gpu::engine::{DEFINITION, Engine, EngineOptions, PageCount};
use orchestrion_gpu::grammar::Grammars;
use orchestrion_gpu::station::{Outlet, Station, StationModel, StationSpec};
use orchestrion_gpu::supply::{self, ModelRef, Supplied};
use orchestrion_gpu::template::{Template, TemplateError};
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_world::id::{DeviceId, Epoch, ModelId, PoolId, TaskId, WorkerId};
use orchestrion_world::protocol::{CancelReason, Report};
use orchestrion_world::units::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The host's memory is one device.
const HOST: DeviceId = DeviceId(0);
/// Prompt tokens in an engine step: a cancel or a neighbour's token waits for no more than this.
const PREFILL_CHUNK: u32 = 64;
/// A step takes milliseconds; only a core that refuses the worker takes so long.
const CORE_PATIENCE: Duration = Duration::from_secs(30);

/// What start-up does on a thread of its own, told what to tell.
pub(crate) fn pools(
    config: &Config,
    kitchen: &Arc<Kitchen>,
    depot: &Depot,
    heritage: &Heritage,
    urgent: flume::Sender<Urgent>,
    switchboard: Arc<Switchboard>,
) -> Result<Vec<Served>, Failure> {
    let (first_words, words) = flume::bounded(2 * config.pools.len());
    let wires = Arc::new(Wires { urgent, switchboard: Arc::clone(&switchboard), first_words });
    let loader = Arc::new(Loader {
        pools: config.pools.clone(),
        loadable: config.models.loadable.clone(),
        options: supply::Options::from_env(config.cache_dir()?),
        // What the host engine may fill is what the machine has.
        device_capacity: Bytes(memory()?.total),
        kitchen: Arc::clone(kitchen),
        outlet: Arc::clone(&wires) as _,
    });
    let mut served = Vec::new();
    for (n, pool) in config.pools.iter().enumerate() {
        let worker = WorkerId(n as u32 + 1);
        let loaded = loader.load(worker, None)?;
        let kernels =
            format!("host engine ({}, {} threads)", loaded.model.engine.level(), loaded.model.engine.threads());
        let embeds = loaded.model.engine.is_encoder();
        served.push(Served { name: pool.model_name(), engine: kernels, chats: loaded.chats, embeds });
        if let Some(model) = kitchen.id_of(&pool.model_name()) {
            // In the lane before the worker, so that it is not given one of them.
            leave(&heritage.strangers(model, &loaded.model.fingerprint), &wires.urgent);
        }
        depot.add(worker, loader.station(worker, heritage.next_epoch(worker), loaded.model)?);
    }
    depot.reload_by(loader, Arc::clone(&switchboard));
    for _ in &config.pools {
        if let Ok(Report::WorkerDown { worker, .. }) = words.recv() {
            let problem = format!("worker {worker} failed while it warmed up; the log says more");
            return Err(Failure::new(Code::Failed, problem));
        }
    }
    taken(config, &switchboard)?;
    Ok(served)
}

/// Waits until the core has taken every pool's worker: whoever reads `ready` may ask at once.
fn taken(config: &Config, switchboard: &Switchboard) -> Result<(), Failure> {
    let began = Instant::now();
    while switchboard.ready_pools() < config.pools.len() {
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

/// Makes the stations of the configuration's pools, the first time and again.
pub(crate) struct Loader {
    pub(super) pools: Vec<Pool>,
    pub(super) loadable: Vec<Loadable>,
    pub(super) options: supply::Options,
    pub(super) device_capacity: Bytes,
    pub(super) kitchen: Arc<Kitchen>,
    pub(super) outlet: Arc<dyn Outlet>,
}

/// A pool's model in memory.
pub(super) struct Loaded {
    pub(super) model: StationModel,
    /// What the banner says of its template.
    chats: String,
}

impl Loader {
    pub(super) fn outlet(&self) -> &dyn Outlet {
        &*self.outlet
    }

    /// Loads the model of the worker's pool. One that was exchanged since its words were first prepared is an
    /// error: prompts of the one are no prompts of the other.
    /// Without a model, the one that the configuration gives the pool.
    pub(super) fn load(&self, worker: WorkerId, model: Option<ModelId>) -> Result<Loaded, Failure> {
        let own = self.pool(worker)?;
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
        let name = pool.model_name();
        let unknown = || Failure::new(Code::Failed, format!("the configuration names no model {name}"));
        let id = self.kitchen.id_of(&name).ok_or_else(unknown)?;
        let (mut model, template) = load(pool, id, &self.options)?;
        model.engine.limit_contexts(self.contexts(pool, &model.engine));
        let chats = match &template {
            Ok(template) => template.origin().to_string(),
            Err(_) if model.engine.is_encoder() => "makes vectors of texts".to_owned(),
            Err(_) => "no chat template".to_owned(),
        };
        let recipe = Recipe {
            tokenizer: Arc::clone(&model.tokenizer),
            grammars: Arc::clone(&model.grammars),
            template,
            ctx_max: model.engine.ctx_max(),
            is_encoder: model.engine.is_encoder(),
            fingerprint: model.fingerprint.clone(),
        };
        if self.kitchen.put(&name, recipe) {
            return Ok(Loaded { model, chats });
        }
        let problem = format!("{}: the file is another than the one first loaded; restart the server", pool.model);
        Err(Failure::new(Code::BadData, problem))
    }

    /// What contexts of a pool may take: what all its slots can fill, and of its part of the memory three quarters
    /// of what its weights leave. What is kept for later requests fills any bound in time.
    fn contexts(&self, pool: &Pool, engine: &Engine) -> Bytes {
        let all = u64::from(pool.slots) * u64::from(engine.ctx_max().next_multiple_of(PageCount::POSITIONS));
        let left = (self.device_capacity.0 / self.pools.len().max(1) as u64).saturating_sub(engine.weights().0);
        Bytes(engine.kv_per_token().0.saturating_mul(all).min(left / 4 * 3))
    }

    /// Starts a station over a loaded model.
    pub(super) fn station(&self, worker: WorkerId, epoch: Epoch, model: StationModel) -> Result<Station, Failure> {
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
            prefill_chunk: PREFILL_CHUNK,
            draft_tokens: pool.draft_tokens,
        };
        Ok(Station::spawn(spec, model, Arc::clone(&self.outlet))?)
    }

    /// Workers are numbered from 1 in the order of the pools.
    fn pool(&self, worker: WorkerId) -> Result<&Pool, Failure> {
        let at = (worker.0 as usize).checked_sub(1);
        let pool = at.and_then(|at| self.pools.get(at));
        pool.ok_or_else(|| Failure::new(Code::Failed, format!("the configuration has no pool for worker {worker}")))
    }
}

fn load(
    pool: &Pool,
    id: ModelId,
    options: &supply::Options,
) -> Result<(StationModel, Result<Template, TemplateError>), Failure> {
    let model = ModelRef::from(pool.model.as_str());
    let mut progress = Progress::default();
    let mut show = |stage: supply::Stage, done, total| progress.show(&stage_of(&pool.model, stage), done, total);
    let Supplied { gguf, .. } = supply::load(&model, options, &mut show).map_err(Failure::of(Code::Unavailable))?;
    progress.finish();
    let named = |error: &dyn std::fmt::Display| Failure::new(Code::BadData, format!("{}: {error}", pool.model));
    let threads = match pool.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    let ctx_max = pool.ctx.unwrap_or(u32::MAX);
    let engine = Engine::load(&gguf, EngineOptions { level: pool.level(), threads, ctx_max }).map_err(|e| named(&e))?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).map_err(|e| named(&e))?);
    let template = match Template::from_gguf(&gguf) {
        Err(absent @ TemplateError::Absent { .. }) => {
            if !engine.is_encoder() {
                tracing::warn!(model = pool.model, "{absent}");
            }
            Err(absent)
        }
        found => Ok(found.map_err(|e| named(&e))?),
    };
    let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
    let digest = gguf.digest();
    let fingerprint = format!("{digest}/{DEFINITION}");
    Ok((StationModel { id, engine, tokenizer, grammars, digest, fingerprint }, template))
}
