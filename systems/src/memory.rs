//! The books of device memory: shards and contexts are entered on every device that a worker spans, or on
//! none, and what was entered is taken out again. Nothing is decided here.

use orchestrion_world::id::{DeviceId, ModelId, WorkerId};
use orchestrion_world::protocol::{DeviceShare, WorkerFacts};
use orchestrion_world::store::{Key, World};
use orchestrion_world::units::{Bytes, Sha256};
use orchestrion_world::vram::{Device, Shard};
use orchestrion_world::worker::{Lease, Worker};

/// A worker spans no more devices.
const DEVICES_MAX: usize = 64;

/// Whether a worker's devices are some, in order, and its shares the whole.
pub(crate) fn devices_add_up(facts: &WorkerFacts) -> bool {
    let shares = facts.devices.iter().map(|part| u64::from(part.share.0));
    (1..=DEVICES_MAX).contains(&facts.devices.len())
        && facts.devices.is_sorted_by(|a, b| a.device < b.device)
        && shares.clone().all(|share| share > 0)
        && shares.sum::<u64>() == 1000
}

/// Devices that nobody knew come with the first worker on them. What may be used of one is said anew by whoever
/// comes while nobody else is on it, as after a restart of the server.
pub(crate) fn know_devices(world: &mut World, facts: &WorkerFacts) {
    for &DeviceShare { device: id, capacity, share: _ } in &facts.devices {
        let on_it = |worker: &Worker| worker.state.is_up() || !worker.residents.is_empty();
        let is_used = world.crews.on_device(id).any(|id| world.worker(id).is_some_and(on_it));
        match world.device(id).map(|device| device.capacity != capacity && !is_used) {
            None => world.enlist(Key::Device(id), Device::new(id, capacity)),
            Some(true) => world.device_mut(id).into_iter().for_each(|mut device| device.capacity = capacity),
            Some(false) => {}
        }
    }
}

/// What a worker's own devices would have to give: by device, what a new shard takes there and what is free.
/// A shard that stands there already takes nothing.
pub(crate) fn wanted<'w>(
    world: &'w World,
    facts: &'w WorkerFacts,
    digest: Sha256,
    weights: Bytes,
) -> impl Iterator<Item = (DeviceId, Bytes, Bytes)> + 'w {
    facts.devices.iter().map(move |part| {
        let stands = world.shard(part.device, digest).map_or(0, |shard| shard.bytes.0);
        let bytes = Bytes(weights.share(part.share).0.saturating_sub(stands));
        (part.device, bytes, world.device(part.device).map(Device::residual).unwrap_or_default())
    })
}

/// Enters a model's weights on all devices of a worker, shared with others of the same file; where one lacks
/// memory, on none, and says what was needed and free there.
pub(crate) fn hold(
    world: &mut World,
    facts: &WorkerFacts,
    digest: Sha256,
    weights: Bytes,
) -> Result<(), (Bytes, Bytes)> {
    let short = wanted(world, facts, digest, weights).find(|(_, needed, free)| needed > free);
    if let Some((_, needed, free)) = short {
        return Err((needed, free));
    }
    for &DeviceShare { device: id, share, .. } in &facts.devices {
        let bytes = weights.share(share);
        let mut stood = Bytes(0);
        if let Some(mut shard) = world.shard_mut(id, digest) {
            stood = shard.bytes;
            shard.holders += 1;
            // Who takes a smaller share of it came first.
            shard.bytes = stood.max(bytes);
        } else {
            world.enlist(Key::Shard(id, digest), Shard { device: id, digest, bytes, holders: 1 });
        }
        if let Some(mut device) = world.device_mut(id) {
            device.weights.0 += bytes.0.saturating_sub(stood.0);
        }
        world.mail.pressed.insert(id);
    }
    Ok(())
}

/// Takes a model's weights off all devices of a worker; with the last holder they are gone.
pub(crate) fn let_go(world: &mut World, facts: &WorkerFacts, digest: Sha256) {
    for part in &facts.devices {
        let Some(mut shard) = world.shard_mut(part.device, digest) else { continue };
        shard.holders -= 1;
        let (holders, bytes) = (shard.holders, shard.bytes);
        if holders == 0 {
            world.discharge(Key::Shard(part.device, digest));
            if let Some(mut device) = world.device_mut(part.device) {
                device.weights.0 -= bytes.0;
            }
            stir(world, part.device);
        }
    }
}

/// Enters a task's context on all devices of its worker.
pub(crate) fn reserve(world: &mut World, worker: WorkerId, kv: Bytes) {
    for n in 0.. {
        let Some(part) = part(world, worker, n) else { break };
        if let Some(mut device) = world.device_mut(part.device) {
            device.reserved.0 += kv.share(part.share).0;
        }
        world.mail.pressed.insert(part.device);
    }
}

/// Takes it out again.
pub(crate) fn unreserve(world: &mut World, worker: WorkerId, lease: &Lease) {
    for n in 0.. {
        let Some(part) = part(world, worker, n) else { break };
        if let Some(mut device) = world.device_mut(part.device) {
            device.reserved.0 -= lease.kv.share(part.share).0;
        }
        stir(world, part.device);
    }
}

/// Memory came free on a device: whoever waits for workers on it may have been waiting for that.
fn stir(world: &mut World, id: DeviceId) {
    if planted!(world, SharedMemoryUnnoticed) {
        return;
    }
    let on_it = world.crews.on_device(id).filter_map(|id| world.worker(id));
    let with_room = on_it.filter(|worker| worker.free_slots() > 0);
    let served = with_room.flat_map(|w| w.residents.iter().map(|r| r.model).filter(|&m| w.serves(m).is_some()));
    let mail = &world.mail;
    let models: Vec<ModelId> = served.filter(|model| !mail.stirred.contains(model)).collect();
    if !models.is_empty() {
        world.mail.stirred.extend(models);
    }
}

fn part(world: &World, worker: WorkerId, n: usize) -> Option<DeviceShare> {
    world.worker(worker)?.facts.devices.get(n).copied()
}
