//! The world by our own ids: finds entities, and notes which ones a step touched.
//!
//! Every mutable access goes through here, so that the step's end can bring the state digest up to date
//! by looking at what changed and at nothing else. Who stands where is derived from the entities, as the
//! [`crate::roster`] and the [`crate::field`] are: [`crate::ledger`] rebuilds them.

use crate::id::{DeviceId, JobId, ModelId, PoolId, SessionId, TaskId, TenantId, WorkerId};
use crate::job::Job;
use crate::roster::{Print, Roster, Sum};
use crate::session::Session;
use crate::task::Task;
use crate::tenant::Tenant;
use crate::time::Tick;
use crate::units::Sha256;
use crate::vram::{Device, Shard};
use crate::wheel::{Alarm, Fuse, TimerHandle, TimerKey, Wheel};
use crate::worker::{Model, Pool, Worker};
use bevy_ecs::prelude::{Bundle, Component, Entity, Mut, World};

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
}

/// Access to entities by id. Mutable access marks the entity as touched.
pub trait Store {
    fn get_by<C: Component>(&self, key: Key) -> Option<&C>;
    fn get_by_mut<C: Component<Mutability = bevy_ecs::component::Mutable>>(&mut self, key: Key) -> Option<Mut<'_, C>>;
    /// Adds an entity under a name nobody has.
    fn enlist(&mut self, key: Key, components: impl Bundle);
    /// Removes an entity and its part of the digest.
    fn discharge(&mut self, key: Key);
    fn whereabouts(&self, key: Key) -> Option<Entity>;
    /// Every name, sorted by kind and id.
    fn names(&self) -> Vec<Key>;

    fn task(&self, id: TaskId) -> Option<&Task> {
        self.get_by(Key::Task(id))
    }
    fn task_mut(&mut self, id: TaskId) -> Option<Mut<'_, Task>> {
        self.get_by_mut(Key::Task(id))
    }
    fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.get_by(Key::Worker(id))
    }
    fn worker_mut(&mut self, id: WorkerId) -> Option<Mut<'_, Worker>> {
        self.get_by_mut(Key::Worker(id))
    }
    fn model(&self, id: ModelId) -> Option<&Model> {
        self.get_by(Key::Model(id))
    }
    fn model_mut(&mut self, id: ModelId) -> Option<Mut<'_, Model>> {
        self.get_by_mut(Key::Model(id))
    }
    fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.get_by(Key::Pool(id))
    }
    fn pool_mut(&mut self, id: PoolId) -> Option<Mut<'_, Pool>> {
        self.get_by_mut(Key::Pool(id))
    }
    fn device(&self, id: DeviceId) -> Option<&Device> {
        self.get_by(Key::Device(id))
    }
    fn device_mut(&mut self, id: DeviceId) -> Option<Mut<'_, Device>> {
        self.get_by_mut(Key::Device(id))
    }
    fn shard(&self, device: DeviceId, digest: Sha256) -> Option<&Shard> {
        self.get_by(Key::Shard(device, digest))
    }
    fn shard_mut(&mut self, device: DeviceId, digest: Sha256) -> Option<Mut<'_, Shard>> {
        self.get_by_mut(Key::Shard(device, digest))
    }
    fn tenant(&self, id: TenantId) -> Option<&Tenant> {
        self.get_by(Key::Tenant(id))
    }
    fn tenant_mut(&mut self, id: TenantId) -> Option<Mut<'_, Tenant>> {
        self.get_by_mut(Key::Tenant(id))
    }
    fn session(&self, id: SessionId) -> Option<&Session> {
        self.get_by(Key::Session(id))
    }
    fn session_mut(&mut self, id: SessionId) -> Option<Mut<'_, Session>> {
        self.get_by_mut(Key::Session(id))
    }
    fn job(&self, id: JobId) -> Option<&Job> {
        self.get_by(Key::Job(id))
    }
    fn job_mut(&mut self, id: JobId) -> Option<Mut<'_, Job>> {
        self.get_by_mut(Key::Job(id))
    }
    /// Every worker, by id.
    fn workers(&self) -> Vec<&Worker>;
    /// Every device, by id.
    fn devices(&self) -> Vec<&Device>;
    /// Replaces the one timer of a worker, a model or a session.
    fn set_alarm(&mut self, key: Key, timer: Option<(Tick, TimerKey)>);
    /// Every tenant's id, in order.
    fn tenants(&self) -> Vec<TenantId>;
    /// Replaces the timer of a worker's breaker.
    fn set_fuse(&mut self, key: Key, timer: Option<(Tick, TimerKey)>);
    /// A model is on a worker no more.
    fn remove_resident(&mut self, id: WorkerId, model: ModelId);
}

impl Store for World {
    fn get_by<C: Component>(&self, key: Key) -> Option<&C> {
        self.get(self.whereabouts(key)?)
    }

    fn get_by_mut<C: Component<Mutability = bevy_ecs::component::Mutable>>(&mut self, key: Key) -> Option<Mut<'_, C>> {
        let mut roster = self.resource_mut::<Roster>();
        let entity = roster.get(key)?;
        roster.touch(key, entity);
        self.get_mut(entity)
    }

    fn enlist(&mut self, key: Key, components: impl Bundle) {
        // All at once: a component that came later would move the entity to another table.
        let entity = self.spawn((components, Print::default())).id();
        let mut roster = self.resource_mut::<Roster>();
        roster.touch(key, entity);
        let before = roster.insert(key, entity);
        assert!(before.is_none(), "audit `one entity a name`: {key:?} was enlisted twice");
    }

    fn discharge(&mut self, key: Key) {
        let Some(entity) = self.resource_mut::<Roster>().remove(key) else { return };
        let print = self.get::<Print>(entity).map_or(0, |print| print.value);
        let mut sum = self.resource_mut::<Sum>();
        sum.prints = sum.prints.wrapping_sub(print);
        self.despawn(entity);
    }

    fn whereabouts(&self, key: Key) -> Option<Entity> {
        self.resource::<Roster>().get(key)
    }

    fn names(&self) -> Vec<Key> {
        self.resource::<Roster>().names()
    }

    fn workers(&self) -> Vec<&Worker> {
        let all = self.resource::<Roster>().workers();
        all.into_iter().filter_map(|entity| self.get(entity)).collect()
    }

    fn devices(&self) -> Vec<&Device> {
        let all = self.resource::<Roster>().devices();
        all.into_iter().filter_map(|entity| self.get(entity)).collect()
    }

    fn tenants(&self) -> Vec<TenantId> {
        self.resource::<Roster>().tenants()
    }

    fn set_alarm(&mut self, key: Key, timer: Option<(Tick, TimerKey)>) {
        let armed = timer.map(|(due, timer)| self.resource_mut::<Wheel>().arm(due, timer));
        let alarm = self.whereabouts(key).and_then(|entity| self.get_mut::<Alarm>(entity));
        let before = alarm.and_then(|mut alarm| std::mem::replace(&mut alarm.0, armed));
        disarm(self, before);
    }

    fn set_fuse(&mut self, key: Key, timer: Option<(Tick, TimerKey)>) {
        let armed = timer.map(|(due, timer)| self.resource_mut::<Wheel>().arm(due, timer));
        let fuse = self.whereabouts(key).and_then(|entity| self.get_mut::<Fuse>(entity));
        let before = fuse.and_then(|mut fuse| std::mem::replace(&mut fuse.0, armed));
        disarm(self, before);
    }

    fn remove_resident(&mut self, id: WorkerId, model: ModelId) {
        if let Some(mut worker) = self.worker_mut(id) {
            worker.residents.retain(|r| r.model != model);
        }
    }
}

fn disarm(world: &mut World, timer: Option<TimerHandle>) {
    if let Some(timer) = timer {
        world.resource_mut::<Wheel>().disarm(timer);
    }
}
