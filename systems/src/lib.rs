//! What happens: one step of the clockwork, `(World, inputs) -> (World, effects)`.
//!
//! Read [`tick`] first: it is the list of everything that happens, in order. [`Simulation`] is the only
//! way in. No clock, no thread, no float, no randomness but the journalled seed.

#![deny(clippy::float_arithmetic)]

/// Whether the world has this deliberate bug: in tests of the storm alone.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($world:expr, $bug:ident) => {
        crate::planted::has($world, crate::planted::Bug::$bug)
    };
}

#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($world:expr, $bug:ident) => {
        false
    };
}

mod admission;
pub mod audit;
mod dispatch;
mod estimate;
mod eviction;
mod health;
mod intake;
mod jobs;
mod memory;
pub mod placement;
#[cfg(feature = "planted")]
pub mod planted;
mod prefixes;
mod progress;
mod release;
mod report;
mod sessions;
pub mod tick;
pub mod view;

pub use admission::overload::places;
use bevy_ecs::prelude::{Resource, Schedule};
#[cfg(feature = "shuffle")]
use bevy_ecs::schedule::ScheduleBuildSettings;
use orchestrion_world::config::RulesError;
use orchestrion_world::field::Totals;
use orchestrion_world::id::{DeviceId, SessionId, TaskId};
use orchestrion_world::ledger::{Ledger, update_digest};
use orchestrion_world::protocol::{AdmissionMode, Class, Effect, Input};
use orchestrion_world::store::World;
use orchestrion_world::time::Tick;
use orchestrion_world::units::{Bytes, Digest};
use orchestrion_world::vram::Device;
use orchestrion_world::worker::Model;
use placement::explain::DecisionLog;
pub use sessions::SessionView;
use std::fmt;

/// A world and the schedule that moves it.
pub struct Simulation {
    /// Holds the [`World`], for systems to ask for.
    host: bevy_ecs::world::World,
    schedule: Schedule,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In the order in which they were decided.
    pub effects: Vec<Effect>,
    /// Of `effects`.
    pub decisions: Digest,
}

/// How full the world is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    pub queued_interactive: u64,
    pub queued_batch: u64,
    /// Lines that refuse who would wait too long.
    pub lines_held: u64,
    pub leases: u64,
    pub slots: u64,
    pub kv_reserved_bytes: u64,
    pub vram_used_bytes: u64,
}

/// The step's inputs, for intake.
#[derive(Resource, Default)]
struct Inbox {
    tick: Tick,
    inputs: Vec<Input>,
}

/// The step's result, from report.
#[derive(Resource, Default)]
struct Outbox(Option<Step>);

/// Whose decisions are to be told in full. Decides nothing and is not in the Ledger.
#[derive(Resource, Default)]
struct Watch {
    task: Option<TaskId>,
    decisions: Vec<DecisionLog>,
}

/// Why a ledger is no state of a world.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("the ledger's lists are not sorted by id")]
    Unsorted,
    #[error("the ledger's rules are out of bounds: {0}")]
    Rules(#[from] RulesError),
    #[error("the ledger breaks an invariant: {0}")]
    Broken(#[from] audit::Broken),
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Simulation {
    /// An empty world; its first inputs are a boot and the rules.
    pub fn new(seed: u64) -> Simulation {
        Self::over(Ledger::empty(seed).restore())
    }

    /// A world in the state of a ledger: from here on it is as if it had never stopped. A ledger that
    /// breaks an invariant is refused.
    pub fn restore(ledger: &Ledger) -> Result<Simulation, RestoreError> {
        if !ledger.is_sorted() {
            return Err(RestoreError::Unsorted);
        }
        if let Some(rules) = &ledger.core.rules {
            rules.check()?;
        }
        let simulation = Self::over(ledger.restore());
        simulation.audit()?;
        Ok(simulation)
    }

    /// As [`Simulation::restore`], with systems free to run in any order the schedule allows and with
    /// entity ids and rows no other run has. Nothing that can be observed may differ.
    #[cfg(feature = "shuffle")]
    pub fn restore_shuffled(ledger: &Ledger, shuffle: u64) -> Result<Simulation, RestoreError> {
        let mut simulation = Self::restore(ledger)?;
        simulation.schedule = tick::schedule(ScheduleBuildSettings { shuffle_seed: Some(shuffle), ..tick::settings() });
        let entities = &mut simulation.world_mut().entities;
        for n in 0..shuffle % 17 {
            let stranger = entities.spawn_empty().id();
            if (shuffle >> n) & 1 == 1 {
                entities.despawn(stranger);
            }
        }
        Ok(simulation)
    }

    /// Gives the world a deliberate bug.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: planted::Bug) {
        planted::plant(self.world_mut(), bug);
    }

    fn over(mut world: World) -> Simulation {
        world.entities.insert_resource(Watch::default());
        let mut host = bevy_ecs::world::World::new();
        host.insert_resource(world);
        host.insert_resource(Inbox::default());
        host.insert_resource(Outbox::default());
        Simulation { host, schedule: tick::schedule(tick::settings()) }
    }

    fn world(&self) -> &World {
        self.host.resource()
    }

    fn world_mut(&mut self) -> &mut World {
        self.host.resource_mut::<World>().into_inner()
    }

    /// Runs one step at `tick`; an earlier tick than the last step's counts as the last step's.
    pub fn step(&mut self, tick: Tick, inputs: Vec<Input>) -> Step {
        *self.host.resource_mut() = Inbox { tick, inputs };
        self.schedule.run(&mut self.host);
        // Nobody else does without bevy_app, and what is not cleared grows.
        self.host.clear_trackers();
        self.world_mut().entities.clear_trackers();
        let step = self.host.resource_mut::<Outbox>().0.take();
        step.unwrap_or_else(|| unreachable!("the last phase leaves a step"))
    }

    /// The digest of the whole state. It costs what changed since it was last asked for.
    pub fn state(&mut self) -> Digest {
        update_digest(self.world_mut())
    }

    /// A tick before which no timer is due.
    pub fn next_wake(&self) -> Option<Tick> {
        self.world().wheel.next_due()
    }

    /// Whether a timer is due at `tick`; turns the wheel, changes no state.
    pub fn is_due(&mut self, tick: Tick) -> bool {
        self.world_mut().wheel.is_due(tick)
    }

    /// The tick of the last step.
    pub fn now(&self) -> Tick {
        self.world().core.now
    }

    /// The state as plain data.
    pub fn ledger(&self) -> Ledger {
        Ledger::of(self.world())
    }

    /// How full the world is.
    pub fn gauges(&self) -> Gauges {
        let mut gauges = Gauges::default();
        for (model, class, waiting) in self.world().queues.lines() {
            let held = |model: &Model| model.line(class).delay.mode == AdmissionMode::Held;
            gauges.lines_held += u64::from(self.world().model(model).is_some_and(held));
            match class {
                Class::Interactive => gauges.queued_interactive += waiting as u64,
                Class::Batch => gauges.queued_batch += waiting as u64,
            }
        }
        let Totals { leases, slots, reserved, used } = self.world().field.totals;
        Gauges { leases, slots, kv_reserved_bytes: reserved, vram_used_bytes: used, ..gauges }
    }

    /// What can be said of a session at `now`; none where there is no such session.
    pub fn session(&self, id: SessionId, now: Tick) -> Option<SessionView> {
        sessions::view(self.world(), id, now)
    }

    /// How pools and their workers are. Walks them all: for operators.
    pub fn pools(&self) -> Vec<view::PoolView> {
        view::pools(self.world())
    }

    /// Every device, by id: what is used of it, and how much there is.
    pub fn devices(&self) -> Vec<(DeviceId, Bytes, Bytes)> {
        let used = |device: &Device| Bytes(device.weights.0 + device.reserved.0);
        self.world().devices().into_iter().map(|device| (device.id, used(device), device.capacity)).collect()
    }

    /// From here on, keeps every placement decision about this task in full.
    pub fn watch(&mut self, task: TaskId) {
        self.world_mut().entities.resource_mut::<Watch>().task = Some(task);
    }

    /// What was kept since the last call.
    pub fn take_decisions(&mut self) -> Vec<DecisionLog> {
        std::mem::take(&mut self.world_mut().entities.resource_mut::<Watch>().decisions)
    }

    /// Checks every invariant; the first broken one by name. The digest is checked where it is up to date: ask for
    /// [`Simulation::state`] before.
    pub fn audit(&self) -> Result<(), audit::Broken> {
        self.audited().map(drop)
    }

    /// As [`Simulation::audit`], and gives the state that was checked, which is the dearer half of it.
    pub fn audited(&self) -> Result<Ledger, audit::Broken> {
        let ledger = self.ledger();
        audit::audit(self.world(), &ledger)?;
        Ok(ledger)
    }

    /// The names of the systems, in the order in which they run.
    pub fn system_names(&self) -> Vec<String> {
        let systems = self.schedule.systems().into_iter().flatten();
        systems.map(|(_, system)| system.name().to_string()).collect()
    }
}
