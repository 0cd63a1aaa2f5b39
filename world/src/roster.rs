//! Who is there: each entity by its id, and what changed since the state was last digested.
//!
//! Derived from the entities, so not in the Ledger. The digest is a sum of one print for each entity, which
//! stands beside the entity with the round it was made in: what a step touches many times is hashed once.

use crate::id::{DeviceId, JobId, ModelId, PoolId, SessionId, TaskId, TenantId, WorkerId};
use crate::places::{Name, Places};
use crate::prefix::PrefixId;
use crate::store::Key;
use crate::units::Sha256;
use bevy_ecs::prelude::{Component, Entity};
use std::collections::BTreeMap;

/// Where each entity stands, and which ones changed.
#[derive(Debug)]
pub(crate) struct Roster {
    tasks: Places<TaskId>,
    workers: Places<WorkerId>,
    models: Places<ModelId>,
    pools: Places<PoolId>,
    devices: Places<DeviceId>,
    shards: BTreeMap<(DeviceId, Sha256), Entity>,
    tenants: Places<TenantId>,
    sessions: Places<SessionId>,
    jobs: BTreeMap<JobId, Entity>,
    prefixes: Places<PrefixId>,
    /// Since the digest was last brought up to date; may name one entity several times.
    touched: Vec<Touched>,
    /// Of those, since the field was.
    stale_workers: Vec<WorkerId>,
    stale_devices: Vec<DeviceId>,
}

/// An entity that may have changed, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) entity: Entity,
    pub(crate) kind: Kind,
}

/// What an entity is. Two kinds with equal bytes have different prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Task = 1,
    Worker,
    Model,
    Pool,
    Device,
    Shard,
    /// 7 is the core's.
    Tenant = 8,
    Session,
    Job,
    Prefix,
}

impl Key {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Key::Task(_) => Kind::Task,
            Key::Worker(_) => Kind::Worker,
            Key::Model(_) => Kind::Model,
            Key::Pool(_) => Kind::Pool,
            Key::Device(_) => Kind::Device,
            Key::Shard(..) => Kind::Shard,
            Key::Tenant(_) => Kind::Tenant,
            Key::Session(_) => Kind::Session,
            Key::Job(_) => Kind::Job,
            Key::Prefix(_) => Kind::Prefix,
        }
    }
}

impl Roster {
    /// Nobody is there yet.
    pub(crate) fn seeded(seed: u64) -> Roster {
        Roster {
            tasks: Places::seeded(seed),
            workers: Places::seeded(seed),
            models: Places::seeded(seed),
            pools: Places::seeded(seed),
            devices: Places::seeded(seed),
            shards: BTreeMap::new(),
            tenants: Places::seeded(seed),
            sessions: Places::seeded(seed),
            jobs: BTreeMap::new(),
            prefixes: Places::seeded(seed),
            touched: Vec::new(),
            stale_workers: Vec::new(),
            stale_devices: Vec::new(),
        }
    }

    /// Who calls it knows the kind.
    #[inline(always)]
    pub(crate) fn get(&self, key: Key) -> Option<Entity> {
        match key {
            Key::Task(id) => self.tasks.get(id),
            Key::Worker(id) => self.workers.get(id),
            Key::Model(id) => self.models.get(id),
            Key::Pool(id) => self.pools.get(id),
            Key::Device(id) => self.devices.get(id),
            Key::Shard(device, digest) => self.shards.get(&(device, digest)).copied(),
            Key::Tenant(id) => self.tenants.get(id),
            Key::Session(id) => self.sessions.get(id),
            Key::Job(id) => self.jobs.get(&id).copied(),
            Key::Prefix(id) => self.prefixes.get(id),
        }
    }

    pub(crate) fn insert(&mut self, key: Key, entity: Entity) -> Option<Entity> {
        match key {
            Key::Task(id) => self.tasks.insert(id, entity),
            Key::Worker(id) => self.workers.insert(id, entity),
            Key::Model(id) => self.models.insert(id, entity),
            Key::Pool(id) => self.pools.insert(id, entity),
            Key::Device(id) => self.devices.insert(id, entity),
            Key::Shard(device, digest) => self.shards.insert((device, digest), entity),
            Key::Tenant(id) => self.tenants.insert(id, entity),
            Key::Session(id) => self.sessions.insert(id, entity),
            Key::Job(id) => self.jobs.insert(id, entity),
            Key::Prefix(id) => self.prefixes.insert(id, entity),
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Entity> {
        match key {
            Key::Task(id) => self.tasks.remove(id),
            Key::Worker(id) => self.workers.remove(id),
            Key::Model(id) => self.models.remove(id),
            Key::Pool(id) => self.pools.remove(id),
            Key::Device(id) => self.devices.remove(id),
            Key::Shard(device, digest) => self.shards.remove(&(device, digest)),
            Key::Tenant(id) => self.tenants.remove(id),
            Key::Session(id) => self.sessions.remove(id),
            Key::Job(id) => self.jobs.remove(&id),
            Key::Prefix(id) => self.prefixes.remove(id),
        }
    }

    #[inline(always)]
    pub(crate) fn touch(&mut self, key: Key, entity: Entity) {
        match key {
            Key::Worker(id) => self.stale_workers.push(id),
            Key::Device(id) => self.stale_devices.push(id),
            Key::Task(_)
            | Key::Model(_)
            | Key::Pool(_)
            | Key::Shard(..)
            | Key::Tenant(_)
            | Key::Session(_)
            | Key::Job(_)
            | Key::Prefix(_) => {}
        }
        let touched = Touched { entity, kind: key.kind() };
        if self.touched.last() != Some(&touched) {
            self.touched.push(touched);
        }
    }

    /// How long the list of what was touched is.
    pub(crate) fn touched(&self) -> usize {
        self.touched.len()
    }

    /// Takes the list of what was touched; [`Roster::reuse`] gives it back for the next touches.
    pub(crate) fn take_touched(&mut self) -> Vec<Touched> {
        std::mem::take(&mut self.touched)
    }

    pub(crate) fn reuse(&mut self, mut list: Vec<Touched>) {
        list.clear();
        self.touched = list;
    }

    /// Whether the field has seen every worker and device.
    pub(crate) fn is_fresh(&self) -> bool {
        self.stale_workers.is_empty() && self.stale_devices.is_empty()
    }

    /// Takes the lists of workers and devices that the field has not seen; [`Roster::reuse_stale`] gives them back.
    pub(crate) fn take_stale(&mut self) -> (Vec<WorkerId>, Vec<DeviceId>) {
        (std::mem::take(&mut self.stale_workers), std::mem::take(&mut self.stale_devices))
    }

    pub(crate) fn reuse_stale(&mut self, mut workers: Vec<WorkerId>, mut devices: Vec<DeviceId>) {
        workers.clear();
        devices.clear();
        (self.stale_workers, self.stale_devices) = (workers, devices);
    }

    /// Every name, sorted by kind and id.
    pub(crate) fn names(&self) -> Vec<Key> {
        let Roster { tasks, workers, models, pools, devices, shards, tenants, sessions, jobs, prefixes, .. } = self;
        let mut names = Vec::with_capacity(tasks.len() + workers.len() + devices.len() + shards.len());
        names.extend(tasks.sorted().into_iter().map(|(id, _)| Key::Task(id)));
        names.extend(workers.sorted().into_iter().map(|(id, _)| Key::Worker(id)));
        names.extend(models.sorted().into_iter().map(|(id, _)| Key::Model(id)));
        names.extend(pools.sorted().into_iter().map(|(id, _)| Key::Pool(id)));
        names.extend(devices.sorted().into_iter().map(|(id, _)| Key::Device(id)));
        names.extend(shards.keys().map(|&(device, digest)| Key::Shard(device, digest)));
        names.extend(tenants.sorted().into_iter().map(|(id, _)| Key::Tenant(id)));
        names.extend(sessions.sorted().into_iter().map(|(id, _)| Key::Session(id)));
        names.extend(jobs.keys().copied().map(Key::Job));
        names.extend(prefixes.sorted().into_iter().map(|(id, _)| Key::Prefix(id)));
        names
    }

    /// Every one of a kind, by id.
    pub(crate) fn of_kind(&self, kind: Kind) -> Vec<Entity> {
        fn sorted<K: Name>(places: &Places<K>) -> Vec<Entity> {
            places.sorted().into_iter().map(|(_, entity)| entity).collect()
        }
        match kind {
            Kind::Task => sorted(&self.tasks),
            Kind::Worker => sorted(&self.workers),
            Kind::Model => sorted(&self.models),
            Kind::Pool => sorted(&self.pools),
            Kind::Device => sorted(&self.devices),
            Kind::Shard => self.shards.values().copied().collect(),
            Kind::Tenant => sorted(&self.tenants),
            Kind::Session => sorted(&self.sessions),
            Kind::Job => self.jobs.values().copied().collect(),
            Kind::Prefix => sorted(&self.prefixes),
        }
    }

    /// Every tenant, by id.
    pub(crate) fn tenants(&self) -> Vec<TenantId> {
        self.tenants.sorted().into_iter().map(|(id, _)| id).collect()
    }
}

/// The sum of the prints of all entities.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) prints: u128,
    /// How often it was brought up to date.
    pub(crate) round: u64,
}

/// An entity's part of the sum, as of a round.
#[derive(Component, Debug, Default)]
pub(crate) struct Print {
    pub(crate) value: u128,
    pub(crate) round: u64,
}
