//! The world by our own ids: finds entities, and notes which ones a step touched.
//!
//! Every mutable access goes through here, so that the step's end can bring the state digest up to date
//! by looking at what changed and at nothing else. Who stands where is derived from the entities, as the
//! [`crate::roster`] and the [`crate::field`] are: [`crate::ledger`] rebuilds them.
//!
//! Entities stand in the ECS; what there is one of is a field. A step asks for those some hundred times, and a
//! field costs nothing where the ECS looks its type up.

use crate::crew::Crews;
use crate::field::Field;
use crate::id::{DeviceId, JobId, ModelId, PoolId, SessionId, TaskId, TenantId, WorkerId};
use crate::job::{Finished, Job};
use crate::ledger::Core;
use crate::mail::Mail;
use crate::prefix::{Prefix, PrefixId, PrefixIndex};
use crate::queues::Queues;
use crate::roster::{Kind, Print, Roster, Sum};
use crate::session::{Session, SessionIndex};
use crate::task::Task;
use crate::tenant::Tenant;
use crate::time::Tick;
use crate::units::Sha256;
use crate::victims::Victims;
use crate::vram::{Device, Shard};
use crate::wheel::{Alarm, Fuse, TimerHandle, TimerKey, Wheel};
use crate::worker::{Model, Pool, Worker};
use bevy_ecs::component::Mutable;
use bevy_ecs::prelude::{Bundle, Component, Entity, Mut, Resource};
use bevy_ecs::world;

/// The stable name of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Task(TaskId),
    Worker(WorkerId),
    Model(ModelId),
    Pool(PoolId),
    Device(DeviceId),
    Shard(DeviceId, Sha256),
    Tenant(TenantId),
    Session(SessionId),
    Job(JobId),
    Prefix(PrefixId),
}

/// Everything there is. What is derived from entities is written by its own file alone.
#[derive(Debug, Resource)]
pub struct World {
    pub entities: world::World,
    pub core: Core,
    pub(crate) roster: Roster,
    pub(crate) sum: Sum,
    pub field: Field,
    pub crews: Crews,
    pub queues: Queues,
    pub sessions: SessionIndex,
    pub prefixes: PrefixIndex,
    pub victims: Victims,
    pub finished: Finished,
    pub wheel: Wheel,
    pub mail: Mail,
}

impl World {
    /// Nobody is there yet.
    pub(crate) fn empty(core: Core) -> World {
        World {
            entities: world::World::new(),
            roster: Roster::seeded(core.seed),
            sum: Sum::default(),
            field: Field::default(),
            crews: Crews::default(),
            queues: Queues::default(),
            sessions: SessionIndex::default(),
            prefixes: PrefixIndex::default(),
            victims: Victims::default(),
            finished: Finished::default(),
            wheel: Wheel::starting_at(core.now),
            mail: Mail::default(),
            core,
        }
    }

    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.get_by(Key::Task(id))
    }

    pub fn task_mut(&mut self, id: TaskId) -> Option<Mut<'_, Task>> {
        self.get_by_mut(Key::Task(id))
    }

    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.get_by(Key::Worker(id))
    }

    pub fn worker_mut(&mut self, id: WorkerId) -> Option<Mut<'_, Worker>> {
        self.get_by_mut(Key::Worker(id))
    }

    pub fn model(&self, id: ModelId) -> Option<&Model> {
        self.get_by(Key::Model(id))
    }

    pub fn model_mut(&mut self, id: ModelId) -> Option<Mut<'_, Model>> {
        self.get_by_mut(Key::Model(id))
    }

    pub fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.get_by(Key::Pool(id))
    }

    pub fn pool_mut(&mut self, id: PoolId) -> Option<Mut<'_, Pool>> {
        self.get_by_mut(Key::Pool(id))
    }

    pub fn device(&self, id: DeviceId) -> Option<&Device> {
        self.get_by(Key::Device(id))
    }

    pub fn device_mut(&mut self, id: DeviceId) -> Option<Mut<'_, Device>> {
        self.get_by_mut(Key::Device(id))
    }

    pub fn shard(&self, device: DeviceId, digest: Sha256) -> Option<&Shard> {
        self.get_by(Key::Shard(device, digest))
    }

    pub fn shard_mut(&mut self, device: DeviceId, digest: Sha256) -> Option<Mut<'_, Shard>> {
        self.get_by_mut(Key::Shard(device, digest))
    }

    pub fn tenant(&self, id: TenantId) -> Option<&Tenant> {
        self.get_by(Key::Tenant(id))
    }

    pub fn tenant_mut(&mut self, id: TenantId) -> Option<Mut<'_, Tenant>> {
        self.get_by_mut(Key::Tenant(id))
    }

    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.get_by(Key::Session(id))
    }

    pub fn session_mut(&mut self, id: SessionId) -> Option<Mut<'_, Session>> {
        self.get_by_mut(Key::Session(id))
    }

    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.get_by(Key::Job(id))
    }

    pub fn job_mut(&mut self, id: JobId) -> Option<Mut<'_, Job>> {
        self.get_by_mut(Key::Job(id))
    }

    pub fn prefix(&self, id: PrefixId) -> Option<&Prefix> {
        self.get_by(Key::Prefix(id))
    }

    pub fn prefix_mut(&mut self, id: PrefixId) -> Option<Mut<'_, Prefix>> {
        self.get_by_mut(Key::Prefix(id))
    }

    #[inline]
    pub fn get_by<C: Component>(&self, key: Key) -> Option<&C> {
        self.entities.get(self.whereabouts(key)?)
    }

    #[inline]
    pub fn get_by_mut<C: Component<Mutability = Mutable>>(&mut self, key: Key) -> Option<Mut<'_, C>> {
        let entity = self.roster.get(key)?;
        self.roster.touch(key, entity);
        self.entities.get_mut(entity)
    }

    /// Adds an entity under a name nobody has.
    pub fn enlist(&mut self, key: Key, components: impl Bundle) {
        // All at once: a component that came later would move the entity to another table.
        let entity = self.entities.spawn((components, Print::default())).id();
        self.roster.touch(key, entity);
        let before = self.roster.insert(key, entity);
        assert!(before.is_none(), "audit `one entity a name`: {key:?} was enlisted twice");
    }

    /// Removes an entity and its part of the digest.
    pub fn discharge(&mut self, key: Key) {
        let Some(entity) = self.roster.remove(key) else { return };
        let print = self.entities.get::<Print>(entity).map_or(0, |print| print.value);
        self.sum.prints = self.sum.prints.wrapping_sub(print);
        self.entities.despawn(entity);
    }

    #[inline]
    pub fn whereabouts(&self, key: Key) -> Option<Entity> {
        self.roster.get(key)
    }

    /// Every name, sorted by kind and id.
    pub fn names(&self) -> Vec<Key> {
        self.roster.names()
    }

    /// Every worker, by id.
    pub fn workers(&self) -> Vec<&Worker> {
        let all = self.roster.of_kind(Kind::Worker);
        all.into_iter().filter_map(|entity| self.entities.get(entity)).collect()
    }

    /// Every device, by id.
    pub fn devices(&self) -> Vec<&Device> {
        let all = self.roster.of_kind(Kind::Device);
        all.into_iter().filter_map(|entity| self.entities.get(entity)).collect()
    }

    /// Every tenant's id, in order.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.roster.tenants()
    }

    /// Replaces the one timer of a worker, a model or a session.
    pub fn set_alarm(&mut self, key: Key, timer: Option<(Tick, TimerKey)>) {
        let armed = timer.map(|(due, timer)| self.wheel.arm(due, timer));
        let alarm = self.whereabouts(key).and_then(|entity| self.entities.get_mut::<Alarm>(entity));
        let before = alarm.and_then(|mut alarm| std::mem::replace(&mut alarm.0, armed));
        disarm(self, before);
    }

    /// Replaces the timer of a worker's breaker.
    pub fn set_fuse(&mut self, key: Key, timer: Option<(Tick, TimerKey)>) {
        let armed = timer.map(|(due, timer)| self.wheel.arm(due, timer));
        let fuse = self.whereabouts(key).and_then(|entity| self.entities.get_mut::<Fuse>(entity));
        let before = fuse.and_then(|mut fuse| std::mem::replace(&mut fuse.0, armed));
        disarm(self, before);
    }

    /// A model is on a worker no more.
    pub fn remove_resident(&mut self, id: WorkerId, model: ModelId) {
        if let Some(mut worker) = self.worker_mut(id) {
            worker.residents.retain(|r| r.model != model);
        }
    }
}

fn disarm(world: &mut World, timer: Option<TimerHandle>) {
    if let Some(timer) = timer {
        world.wheel.disarm(timer);
    }
}
