//! Audits of models on workers, and of the books of their devices.

use super::check;
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{DeviceId, ModelId};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::store::World;
use orchestrion_world::units::Permille;
use orchestrion_world::vram::{Residence, Resident};
use orchestrion_world::worker::Worker;
use std::collections::BTreeMap;

pub(super) fn memory_adds_up(_: &World, ledger: &Ledger) -> Result<(), String> {
    let mut parts: BTreeMap<DeviceId, Vec<(&Worker, Permille)>> = BTreeMap::new();
    for worker in &ledger.workers {
        worker.facts.devices.iter().for_each(|part| parts.entry(part.device).or_default().push((worker, part.share)));
    }
    let on = |device| parts.get(&device).into_iter().flatten().copied();
    ledger.devices.iter().try_for_each(|device| {
        let shards = &ledger.shards[ledger.shards.partition_point(|s| s.device < device.id)..];
        let weights: u64 = shards.iter().take_while(|s| s.device == device.id).map(|s| s.bytes.0).sum();
        let leases = on(device.id).flat_map(|(w, share)| w.leases.iter().map(move |l| l.kv.share(share).0));
        let reserved: u64 = leases.sum();
        check(device.weights.0 == weights && device.reserved.0 == reserved, || format!("{device:?} is off its books"))?;
        check(weights + reserved <= device.capacity.0, || format!("{device:?} holds more than it can"))
    })?;
    ledger.shards.iter().try_for_each(|shard| {
        let of_shard = |r: &&Resident| r.life.takes_memory() && r.facts.digest == shard.digest;
        let holds = |(w, share): (&Worker, Permille)| {
            let mut held = w.residents.iter().filter(of_shard);
            held.next().map(|r| r.facts.weights.share(share) <= shard.bytes)
        };
        let holders: Vec<bool> = on(shard.device).filter_map(holds).collect();
        check(holders.len() == usize::from(shard.holders), || format!("{shard:?} has {} holders", holders.len()))?;
        check(holders.iter().all(|fits| *fits), || format!("{shard:?} is smaller than a holder's part"))
    })?;
    let booked = ledger.workers.iter().flat_map(|w| w.facts.devices.iter().map(move |part| (w, part.device)));
    booked.into_iter().try_for_each(|(worker, device)| {
        let lacks = worker.residents.iter().filter(|r| r.life.takes_memory()).find(|r| {
            let key = (device, r.facts.digest);
            ledger.shards.binary_search_by(|s| (s.device, s.digest).cmp(&key)).is_err()
        });
        lacks.map_or(Ok(()), |r| Err(format!("{} holds {:?}, which is not booked on {device}", worker.id, r.model)))
    })
}

pub(super) fn residents_in_order(_: &World, ledger: &Ledger) -> Result<(), String> {
    let mut coming: BTreeMap<ModelId, u16> = BTreeMap::new();
    for worker in &ledger.workers {
        check(worker.residents.is_sorted_by(|a, b| a.model < b.model), || format!("{}'s models", worker.id))?;
        let up = worker.state.is_up();
        // Its own is kept for one that was told to drop its work.
        let kept = |r: &Resident| worker.state.is_coming() && r.life == Residence::Sealed;
        let holds = up || worker.residents.iter().all(kept);
        check(holds, || format!("{} is {:?} and holds models", worker.id, worker.state))?;
        for resident in &worker.residents {
            match resident.life {
                Residence::Staging => *coming.entry(resident.model).or_default() += 1,
                Residence::Yielding { to } | Residence::Evicting { to: Some(to) } => {
                    *coming.entry(to).or_default() += 1
                }
                Residence::Sealed
                | Residence::Evicting { to: None }
                | Residence::Condemned
                | Residence::Failed { .. } => {}
            }
        }
    }
    ledger.models.iter().try_for_each(|model| {
        let found = coming.get(&model.id).copied().unwrap_or_default();
        check(found == model.coming, || format!("{model:?}: {found} ways of it are under way"))
    })
}

pub(super) fn leases_on_what_serves(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.workers.iter().try_for_each(|worker| {
        let bare = worker.leases.iter().find(|lease| {
            let life = worker.resident(lease.model).map(|r| r.life);
            !matches!(life, Some(Residence::Sealed | Residence::Yielding { .. }))
        });
        bare.map_or(Ok(()), |lease| Err(format!("{} runs {} on a model that does not serve", worker.id, lease.task)))
    })
}

pub(super) fn digests_as_declared(_: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    ledger.workers.iter().filter(|w| w.facts.came_with.is_none()).try_for_each(|worker| {
        let other =
            worker.residents.iter().find(|r| rules.loadable(r.model).is_none_or(|row| row.digest != r.facts.digest));
        other.map_or(Ok(()), |r| Err(format!("{} holds other bytes than those of {:?}", worker.id, r.model)))
    })
}

pub(super) fn pinned_stays(_: &World, ledger: &Ledger) -> Result<(), String> {
    let goes = |r: &&Resident| r.pinned && matches!(r.life, Residence::Yielding { .. } | Residence::Evicting { .. });
    let gone = ledger.workers.iter().find_map(|w| Some((w.id, w.residents.iter().find(goes)?)));
    gone.map_or(Ok(()), |(id, resident)| Err(format!("{id} lets {resident:?} go")))
}

pub(super) fn fixed_serve_their_pool(_: &World, ledger: &Ledger) -> Result<(), String> {
    let other = ledger.workers.iter().filter(|w| w.facts.loader.is_none()).find_map(|w| {
        let pool = ledger.pools.iter().find(|pool| pool.id == w.facts.pool)?;
        Some((w.id, pool, w.residents.iter().find(|r| r.model != pool.model)?))
    });
    other.map_or(Ok(()), |(id, pool, resident)| Err(format!("{id} of {pool:?} serves {resident:?}")))
}

pub(super) fn quarantine_holds(_: &World, ledger: &Ledger) -> Result<(), String> {
    let shut = |id| ledger.devices.iter().any(|device| device.id == id && device.quarantined);
    let at_large =
        |w: &&Worker| w.state != WorkerState::Stopped && w.facts.devices.iter().any(|part| shut(part.device));
    ledger.workers.iter().find(at_large).map_or(Ok(()), |w| Err(format!("{} is {:?} in quarantine", w.id, w.state)))
}
