//! How pools and their workers are, for operators. Read on request between steps; nothing here decides.

use orchestrion_world::health::{Breaker, Loss, WorkerState};
use orchestrion_world::id::{DeviceId, Epoch, JobId, ModelId, PoolId, WorkerId};
use orchestrion_world::store::World;
use orchestrion_world::units::Bytes;
use orchestrion_world::vram::Residence;

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    pub id: PoolId,
    pub model: ModelId,
    pub ready: u16,
    pub closed: bool,
    /// Lost workers are not restarted.
    pub halted: bool,
    /// The one that runs.
    pub job: Option<JobId>,
    pub workers: Vec<WorkerView>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    pub id: WorkerId,
    pub epoch: Epoch,
    pub devices: Vec<DeviceId>,
    pub state: WorkerState,
    pub breaker: Breaker,
    pub quarantined: bool,
    pub loss: Option<Loss>,
    pub leases: u16,
    pub slots: u16,
    pub ctx_max: u32,
    /// Its models, by id.
    pub models: Vec<ModelView>,
}

/// A model on a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelView {
    pub model: ModelId,
    pub life: Residence,
    /// Of its weights.
    pub bytes: Bytes,
    pub leases: u16,
}

/// Every pool, by id.
pub(crate) fn pools(world: &World) -> Vec<PoolView> {
    let count = world.core.rules.as_ref().map_or(0, |rules| rules.pools.len());
    let pools = (0..count).filter_map(|n| world.pool(PoolId(n as u16)));
    let crews = &world.crews;
    let view = |pool: &orchestrion_world::worker::Pool| PoolView {
        id: pool.id,
        model: pool.model,
        ready: pool.ready,
        closed: pool.closed,
        halted: pool.halted,
        job: pool.job,
        workers: crews.of_pool(pool.id).filter_map(|id| worker(world, id)).collect(),
    };
    pools.map(view).collect()
}

fn worker(world: &World, id: WorkerId) -> Option<WorkerView> {
    let worker = world.worker(id)?;
    Some(WorkerView {
        id,
        epoch: worker.epoch,
        devices: worker.facts.devices.iter().map(|part| part.device).collect(),
        state: worker.state,
        breaker: worker.breaker,
        quarantined: worker.facts.devices.iter().any(|part| world.device(part.device).is_some_and(|d| d.quarantined)),
        loss: worker.restarts.loss,
        leases: worker.leases.len() as u16,
        slots: worker.facts.slots,
        ctx_max: worker.residents.iter().map(|resident| resident.facts.ctx_max).max().unwrap_or_default(),
        models: worker
            .residents
            .iter()
            .map(|resident| ModelView {
                model: resident.model,
                life: resident.life,
                bytes: resident.facts.weights,
                leases: worker.leases_of(resident.model) as u16,
            })
            .collect(),
    })
}
