//! The whole state as plain data, sorted by id, and its digest.
//!
//! `restore` then `step` equals never having stopped. What is derived (roster, queues, index, wheel,
//! timers) is rebuilt, never stored. The digest is a sum over entities, each hashed alone, so that a
//! step pays for what it touched; [`full_digest`] computes it from a Ledger for audits.

use crate::config::Rules;
use crate::field::{self};
use crate::job::Job;
use crate::plain;
use crate::prefix::Prefix;
use crate::protocol::{Class, Effect};
use crate::roster::{Kind, Print, Sum, Touched};
use crate::session::{Session, SessionIndex, SessionState};
use crate::store::{Key, World};
use crate::task::{Life, Task, TaskTimers};
use crate::tenant::Tenant;
use crate::time::Tick;
use crate::units::Digest;
use crate::victims::Victims;
use crate::vram::{Device, Shard};
use crate::wheel::{Alarm, Fuse, TimerKey};
use crate::worker::{Model, Pool, Worker};
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The facts that belong to no entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Keys every draw of the dice.
    pub seed: u64,
    /// The tick of the last step.
    pub now: Tick,
    /// Admissions so far.
    pub ordinals: u64,
    /// Retries that may still be made, in thousandths.
    pub retry_budget: u64,
    /// Wall time, milliseconds since 1970, of the last boot, and the tick it came at.
    pub booted: Option<(u64, Tick)>,
    /// Shared, because every phase reads them while it writes.
    #[serde(with = "shared_rules")]
    pub rules: Option<Arc<Rules>>,
    /// Of `rules`, so that a step need not hash them again.
    pub rules_digest: Digest,
}

impl Core {
    /// Changes the rules and their digest together.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules_digest = digest_of(&rules);
        self.rules = Some(Arc::new(rules));
    }
}

/// Everything a world is, to save, compare and restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub core: Core,
    pub models: Vec<Model>,
    pub pools: Vec<Pool>,
    pub devices: Vec<Device>,
    pub shards: Vec<Shard>,
    pub workers: Vec<Worker>,
    pub tasks: Vec<Task>,
    pub tenants: Vec<Tenant>,
    pub sessions: Vec<Session>,
    pub jobs: Vec<Job>,
    pub prefixes: Vec<Prefix>,
}

impl Ledger {
    /// The state before the first input.
    pub fn empty(seed: u64) -> Ledger {
        let core = Core {
            seed,
            now: Tick(0),
            ordinals: 0,
            retry_budget: 0,
            booted: None,
            rules: None,
            rules_digest: Digest(0),
        };
        Ledger {
            core,
            models: vec![],
            pools: vec![],
            devices: vec![],
            shards: vec![],
            workers: vec![],
            tasks: vec![],
            tenants: vec![],
            sessions: vec![],
            jobs: vec![],
            prefixes: vec![],
        }
    }

    /// Reads the world. Brings nothing up to date: call between steps.
    pub fn of(world: &World) -> Ledger {
        fn all<C: Component + Clone>(world: &World, kind: Kind) -> Vec<C> {
            let entities = world.roster.of_kind(kind);
            let mut all = Vec::with_capacity(entities.len());
            all.extend(entities.into_iter().filter_map(|entity| world.entities.get::<C>(entity).cloned()));
            all
        }
        Ledger {
            core: world.core.clone(),
            models: all(world, Kind::Model),
            pools: all(world, Kind::Pool),
            devices: all(world, Kind::Device),
            shards: all(world, Kind::Shard),
            workers: all(world, Kind::Worker),
            tasks: all(world, Kind::Task),
            tenants: all(world, Kind::Tenant),
            sessions: all(world, Kind::Session),
            jobs: all(world, Kind::Job),
            prefixes: all(world, Kind::Prefix),
        }
    }

    /// Whether each list is sorted by id without duplicates, as [`Ledger::of`] makes them. What the
    /// figures say of each other is for the audits.
    pub fn is_sorted(&self) -> bool {
        let Ledger { core: _, models, pools, devices, shards, workers, tasks, tenants, sessions, jobs, prefixes } =
            self;
        models.is_sorted_by(|a, b| a.id < b.id)
            && pools.is_sorted_by(|a, b| a.id < b.id)
            && devices.is_sorted_by(|a, b| a.id < b.id)
            && shards.is_sorted_by(|a, b| (a.device, a.digest) < (b.device, b.digest))
            && workers.is_sorted_by(|a, b| a.id < b.id)
            && tasks.is_sorted_by(|a, b| a.id < b.id)
            && tenants.is_sorted_by(|a, b| a.id < b.id)
            && sessions.is_sorted_by(|a, b| a.id < b.id)
            && jobs.is_sorted_by(|a, b| a.id < b.id)
            && prefixes.is_sorted_by(|a, b| a.id < b.id)
    }

    /// A world in exactly this state. The lists must be sorted.
    pub fn restore(&self) -> World {
        let Ledger { core, models, pools, devices, shards, workers, tasks, tenants, sessions, jobs, prefixes } =
            self.clone();
        let rules = core.rules.clone();
        let mut world = World::empty(core);
        world.victims = Victims::of_all(tasks.iter(), workers.iter(), rules.as_deref());
        for model in models {
            for class in [Class::Interactive, Class::Batch] {
                let shares = model.line(class).shares.clone();
                world.queues.restore(model.id, class, shares);
            }
            let alarm = model.alarm_at(rules.as_deref()).map(|due| world.wheel.arm(due, TimerKey::Stranded(model.id)));
            model.weigh_at.map(|due| world.wheel.arm(due, TimerKey::Weigh(model.id)));
            world.enlist(Key::Model(model.id), (model, Alarm(alarm)));
        }
        for pool in pools {
            world.enlist(Key::Pool(pool.id), pool);
        }
        for device in devices {
            world.enlist(Key::Device(device.id), device);
        }
        for shard in shards {
            world.enlist(Key::Shard(shard.device, shard.digest), shard);
        }
        for worker in workers {
            let id = worker.id;
            let alarm = worker.alarm_at(rules.as_deref()).map(|due| world.wheel.arm(due, TimerKey::Beat(id)));
            let fuse = worker.fuse_at().map(|due| world.wheel.arm(due, TimerKey::Breaker(id)));
            world.crews.join(id, &worker.facts);
            world.enlist(Key::Worker(id), (worker, Alarm(alarm), Fuse(fuse)));
        }
        for tenant in tenants {
            world.enlist(Key::Tenant(tenant.id), tenant);
        }
        world.sessions = SessionIndex {
            count: sessions.len(),
            idle: sessions.iter().filter(|s| s.is_idle()).map(|s| (s.expires, s.id)).collect(),
        };
        for session in sessions {
            let (id, open) = (session.id, session.state == SessionState::Open);
            let alarm = open.then(|| world.wheel.arm(session.expires, TimerKey::Session(id)));
            world.enlist(Key::Session(id), (session, Alarm(alarm)));
        }
        for task in tasks {
            let key = Key::Task(task.id);
            let deadline = task.deadline.map(|due| world.wheel.arm(due, TimerKey::Deadline(task.id)));
            let retry = match task.life {
                Life::Backoff { until } => Some(world.wheel.arm(until, TimerKey::Retry(task.id))),
                Life::Queued | Life::Placed { .. } | Life::Running { .. } | Life::Ended(_) => None,
            };
            let patience = rules.as_ref().and_then(|rules| task.patience(&rules.timeouts));
            let patience = patience.map(|(due, _)| world.wheel.arm(due, TimerKey::Patience(task.id)));
            if task.life == Life::Queued {
                world.queues.push(&task);
            }
            world.enlist(key, (task, TaskTimers { deadline, retry, patience }));
        }
        for job in jobs {
            let alarm = world.wheel.arm(job.due, TimerKey::Job(job.id));
            if job.state.is_over() {
                world.finished.0.insert((job.due, job.id));
            }
            world.enlist(Key::Job(job.id), (job, Alarm(Some(alarm))));
        }
        for prefix in prefixes {
            world.prefixes.add(&prefix);
            world.enlist(Key::Prefix(prefix.id), prefix);
        }
        field::refresh(&mut world);
        update_digest(&mut world);
        world
    }
}

/// So many entities may have changed before they are hashed, whether anybody asks for the digest or not.
const TOUCHED_MAX: usize = 1 << 18;

/// Bounds the list of what the digest has not seen.
pub fn keep_touched_few(world: &mut World) {
    if world.roster.touched() > TOUCHED_MAX {
        update_digest(world);
    }
}

/// Brings the sum up to date with what was touched, and returns the state's digest.
pub fn update_digest(world: &mut World) -> Digest {
    let Sum { mut prints, mut round } = world.sum;
    round += 1;
    let mut buffer = Vec::with_capacity(256);
    let touched = world.roster.take_touched();
    for &Touched { entity, kind } in &touched {
        // What was discharged took its print along.
        let Ok(mut entity) = world.entities.get_entity_mut(entity) else { continue };
        if entity.get::<Print>().is_none_or(|print| print.round == round) {
            continue;
        }
        let value = match kind {
            Kind::Task => entity.get::<Task>().map(|c| print(kind, c, &mut buffer)),
            Kind::Worker => entity.get::<Worker>().map(|c| print(kind, c, &mut buffer)),
            Kind::Model => entity.get::<Model>().map(|c| print(kind, c, &mut buffer)),
            Kind::Pool => entity.get::<Pool>().map(|c| print(kind, c, &mut buffer)),
            Kind::Device => entity.get::<Device>().map(|c| print(kind, c, &mut buffer)),
            Kind::Shard => entity.get::<Shard>().map(|c| print(kind, c, &mut buffer)),
            Kind::Tenant => entity.get::<Tenant>().map(|c| print(kind, c, &mut buffer)),
            Kind::Session => entity.get::<Session>().map(|c| print(kind, c, &mut buffer)),
            Kind::Job => entity.get::<Job>().map(|c| print(kind, c, &mut buffer)),
            Kind::Prefix => entity.get::<Prefix>().map(|c| print(kind, c, &mut buffer)),
        };
        let (Some(value), Some(mut print)) = (value, entity.get_mut::<Print>()) else { continue };
        prints = prints.wrapping_add(value).wrapping_sub(print.value);
        *print = Print { value, round };
    }
    world.roster.reuse(touched);
    world.sum = Sum { prints, round };
    seal(prints, &world.core, &mut buffer)
}

/// The digest, where it is up to date.
pub fn digest(world: &World) -> Option<Digest> {
    let current = world.roster.touched() == 0;
    current.then(|| seal(world.sum.prints, &world.core, &mut Vec::new()))
}

/// The digest of a Ledger, from nothing but the Ledger.
pub fn full_digest(ledger: &Ledger) -> Digest {
    let Ledger { core, models, pools, devices, shards, workers, tasks, tenants, sessions, jobs, prefixes } = ledger;
    let mut buffer = Vec::new();
    let mut sum = 0u128;
    let mut add = |print: u128| sum = sum.wrapping_add(print);
    models.iter().for_each(|m| add(print(Kind::Model, m, &mut buffer)));
    pools.iter().for_each(|p| add(print(Kind::Pool, p, &mut buffer)));
    devices.iter().for_each(|d| add(print(Kind::Device, d, &mut buffer)));
    shards.iter().for_each(|s| add(print(Kind::Shard, s, &mut buffer)));
    workers.iter().for_each(|w| add(print(Kind::Worker, w, &mut buffer)));
    tasks.iter().for_each(|t| add(print(Kind::Task, t, &mut buffer)));
    tenants.iter().for_each(|t| add(print(Kind::Tenant, t, &mut buffer)));
    sessions.iter().for_each(|s| add(print(Kind::Session, s, &mut buffer)));
    jobs.iter().for_each(|j| add(print(Kind::Job, j, &mut buffer)));
    prefixes.iter().for_each(|p| add(print(Kind::Prefix, p, &mut buffer)));
    seal(sum, core, &mut buffer)
}

/// The digest of any journalled value, as it stands in a journal.
#[expect(clippy::expect_used, reason = "postcard fails on a full buffer only, and a Vec grows")]
pub fn digest_of(value: &impl Serialize) -> Digest {
    Digest(xxh3_128_with_seed(&postcard::to_stdvec(value).expect("plain data serialises"), 0))
}

/// The digest of a step's effects.
pub fn decisions(effects: &[Effect]) -> Digest {
    Digest(hash(0, &effects, &mut Vec::with_capacity(64 * effects.len())))
}

fn print(kind: Kind, component: &impl Serialize, buffer: &mut Vec<u8>) -> u128 {
    hash(kind as u64, component, buffer)
}

fn seal(sum: u128, core: &Core, buffer: &mut Vec<u8>) -> Digest {
    let Core { seed, now, ordinals, retry_budget, booted, rules: _, rules_digest } = core;
    Digest(hash(7, &(sum, seed, now, ordinals, retry_budget, booted, rules_digest), buffer))
}

fn hash(kind: u64, value: &impl Serialize, buffer: &mut Vec<u8>) -> u128 {
    buffer.clear();
    plain::write(value, buffer);
    xxh3_128_with_seed(buffer, kind)
}

mod shared_rules {
    use super::{Arc, Rules};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(rules: &Option<Arc<Rules>>, s: S) -> Result<S::Ok, S::Error> {
        rules.as_deref().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Arc<Rules>>, D::Error> {
        Ok(Option::<Rules>::deserialize(d)?.map(Arc::new))
    }
}
