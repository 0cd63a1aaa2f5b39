//! The field: who could take a task of each model, kept so that the best is found without looking at all.
//!
//! For each model a tree over the workers that serve it, four children to a node. A leaf is one worker's
//! [`Offer`], a node the best of its children's in every respect at once: what no worker below it can beat.
//! So a search leaves out whole branches. A second tree holds how fast they are, with room or without: what
//! admission asks of all stands at its root.
//!
//! Derived from workers and devices. The store notes which of them were touched, and [`refresh`] brings the
//! field up to date before it is read; nobody else writes it.

mod offer;
mod tree;

use crate::id::{DeviceId, ModelId, WorkerId};
use crate::store::{Key, World};
use crate::units::{Bytes, Permille};
use crate::vram::Device;
use crate::worker::Worker;
use bevy_ecs::prelude::Component;
use std::collections::BTreeMap;

pub use offer::{Offer, Pace, Speed};
pub use tree::{Best, Tree};

/// Slots of all workers that serve a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    pub all: u64,
    /// That batch work may hold together.
    pub batch: u64,
}

/// Where a worker stands in the field. Derived, as the field is.
#[derive(Component, Clone, Debug, Default)]
struct Seated {
    seats: Vec<Seat>,
    leases: u64,
    /// While it is up.
    slots: u64,
}

/// A worker's leaf in the trees of a model, and the slots that it adds.
#[derive(Clone, Copy, Debug)]
struct Seat {
    model: ModelId,
    leaf: usize,
    slots: Slots,
}

/// What a device adds to the totals.
#[derive(Component, Clone, Copy, Debug, Default)]
struct Booked {
    reserved: u64,
    used: u64,
}

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Field {
    models: BTreeMap<ModelId, Standing>,
    pub totals: Totals,
    /// The share of batch work that the offers were made under.
    share: Permille,
}

/// Who serves one model.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub tree: Tree<Offer>,
    /// Its leaves stand as those of `tree` do.
    pub speeds: Tree<Speed>,
    pub slots: Slots,
}

/// Sums over all workers and devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub leases: u64,
    /// Of workers that are up.
    pub slots: u64,
    pub reserved: u64,
    /// Weights and contexts.
    pub used: u64,
}

impl Field {
    /// Who serves a model, if anybody ever did.
    pub fn model(&self, model: ModelId) -> Option<&Standing> {
        self.models.get(&model)
    }

    /// What a worker offers a model, and how fast it is at it, as it stands here.
    pub fn leaf(world: &World, model: ModelId, worker: WorkerId) -> Option<(Offer, Speed)> {
        let seated = world.entities.get::<Seated>(world.whereabouts(Key::Worker(worker))?)?;
        let seat = seated.seats.iter().find(|seat| seat.model == model)?;
        let standing = world.field.models.get(&model)?;
        Some((standing.tree.leaf(seat.leaf)?, standing.speeds.leaf(seat.leaf)?))
    }

    fn seat(&mut self, world: &mut World, id: WorkerId) {
        let Some(entity) = world.whereabouts(Key::Worker(id)) else { return };
        let mut seated = world.entities.get_mut::<Seated>(entity).map(|mut seated| std::mem::take(&mut *seated));
        let new = seated.is_none();
        let mut seated = seated.take().unwrap_or_default();
        let Some(worker) = world.entities.get::<Worker>(entity) else { return };
        self.count(&mut seated, worker);
        for resident in &worker.residents {
            if !seated.seats.iter().any(|seat| seat.model == resident.model) {
                let standing = self.models.entry(resident.model).or_default();
                let leaf = standing.tree.push();
                standing.speeds.push();
                seated.seats.push(Seat { model: resident.model, leaf, slots: Slots::default() });
            }
        }
        for seat in &mut seated.seats {
            let Some(standing) = self.models.get_mut(&seat.model) else { continue };
            let serving = worker.serves(seat.model);
            let offer = serving.map(|serving| Offer::of(worker, serving, residual(world, worker), self.share));
            let speed = serving.map_or(Speed::NONE, |serving| Speed::of(worker, serving));
            standing.tree.set(seat.leaf, offer.unwrap_or(Offer::NONE));
            standing.speeds.set(seat.leaf, speed);
            let slots = Slots { all: worker.offered().into(), batch: worker.batch_slots(self.share).into() };
            let slots = if serving.is_some() { slots } else { Slots::default() };
            standing.slots.all = standing.slots.all + slots.all - seat.slots.all;
            standing.slots.batch = standing.slots.batch + slots.batch - seat.slots.batch;
            seat.slots = slots;
        }
        if new {
            world.entities.entity_mut(entity).insert(seated);
        } else if let Some(mut place) = world.entities.get_mut::<Seated>(entity) {
            *place = seated;
        }
    }

    fn count(&mut self, seated: &mut Seated, worker: &Worker) {
        let leases = worker.leases.len() as u64;
        let slots = if worker.takes() { worker.offered().into() } else { 0 };
        self.totals.leases = self.totals.leases + leases - seated.leases;
        self.totals.slots = self.totals.slots + slots - seated.slots;
        (seated.leases, seated.slots) = (leases, slots);
    }

    fn book(&mut self, world: &mut World, id: DeviceId) {
        let Some(entity) = world.whereabouts(Key::Device(id)) else { return };
        let Some(device) = world.entities.get::<Device>(entity) else { return };
        let booked = Booked { reserved: device.reserved.0, used: device.weights.0 + device.reserved.0 };
        let before = match world.entities.get_mut::<Booked>(entity) {
            Some(mut place) => std::mem::replace(&mut *place, booked),
            None => {
                world.entities.entity_mut(entity).insert(booked);
                Booked::default()
            }
        };
        self.totals.reserved = self.totals.reserved + booked.reserved - before.reserved;
        self.totals.used = self.totals.used + booked.used - before.used;
    }
}

/// Brings the field up to date with what was touched since.
pub fn refresh(world: &mut World) {
    let share = world.core.rules.as_ref().map_or(Permille(0), |rules| rules.placement.batch_share);
    if world.roster.is_fresh() && world.field.share == share {
        return;
    }
    let mut field = std::mem::take(&mut world.field);
    let (mut workers, mut devices) = world.roster.take_stale();
    devices.sort_unstable();
    devices.dedup();
    let crews = &world.crews;
    workers.extend(devices.iter().flat_map(|&device| crews.on_device(device)));
    if field.share != share {
        field.share = share;
        workers = world.workers().into_iter().map(|worker| worker.id).collect();
    }
    workers.sort_unstable();
    workers.dedup();
    devices.iter().for_each(|&id| field.book(world, id));
    workers.iter().for_each(|&id| field.seat(world, id));
    world.roster.reuse_stale(workers, devices);
    world.field = field;
}

/// The longest whole of which every device of the worker has its share free.
pub fn residual(world: &World, worker: &Worker) -> Bytes {
    worker.least(|id| world.device(id).map(Device::residual).unwrap_or_default())
}
