//! The pulse: the thread that owns the `Simulation`, steps it, records it, and lets its effects out.
//!
//! Sleeps until something arrives in a lane or a timer is due; an idle pulse burns nothing and records
//! nothing. For each step: inputs in, `step`, journal, and only then notices to the [`Audience`], orders
//! to the `Stations`, replies to those who wait. So nothing is acknowledged that is not recorded. It
//! knows no HTTP, no tokens and no engine, and it never waits for any of them.

mod beat;
mod condition;
mod lanes;

#[cfg(test)]
mod tests;

pub use condition::{Condition, Health};
pub use lanes::{Inlets, Lanes, lanes};

use crate::journal::{JournalConfig, JournalError, Taken, Writer};
use crate::port::Stations;
use crate::recovery::shadow::Shadow;
use crate::recovery::{Heritage, Past, RecoverError, Recovered, recover};
use crate::spool::{Finished, Spool, Wanted};
use beat::Beat;
use orchestrion_systems::{Gauges, RestoreError, Simulation};
use orchestrion_world::config::{Rules, RulesError};
use orchestrion_world::id::{TaskId, WorkerId};
use orchestrion_world::payload::Payload;
use orchestrion_world::protocol::{Notice, Outcome};
use orchestrion_world::time::{Tick, Ticks};
use std::any::Any;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Who hears what the core says to clients. Called on the pulse thread: must not block.
pub trait Audience: Send + Sync + 'static {
    /// The notices of a step, in order, once the step stands in the journal. A stream whose task ended
    /// is shut when this returns: cancels are acknowledged right after.
    fn publish(&self, tick: Tick, notices: &[Notice]);
    /// The words of a task that is about to start.
    fn payload(&self, task: TaskId) -> Option<Payload>;
    /// How full the world is after a step, and how long the step took.
    fn gauges(&self, gauges: &Gauges, step_us: u64);
    /// What an earlier process left; comes before any notice.
    fn remember(&self, past: Past);
    /// A task was admitted, with this position and prediction: its words, if they are to outlive the process.
    fn wanted(&self, task: TaskId, position: u32, predicted_start: Ticks) -> Option<Wanted>;
    /// A task ended: shuts its stream, and gives the result, if that is to outlive the process. `worker` took
    /// it up in the same step.
    fn finished(&self, task: TaskId, outcome: &Outcome, worker: Option<WorkerId>) -> Option<Finished>;
    /// Whether the task, or its result, is still to be had.
    fn keeps(&self, task: TaskId) -> bool;
}

/// What a pulse runs by.
#[derive(Clone, Debug)]
pub struct PulseConfig {
    pub rules: Rules,
    /// Keys every random draw of the run.
    pub seed: u64,
    /// The program's version, as it stands in the journal.
    pub build: String,
    /// Submissions that one step takes at most.
    pub client_batch: usize,
    pub journal: JournalConfig,
}

/// Why a pulse ended before it was stopped.
#[derive(Debug, thiserror::Error)]
pub enum PulseError {
    #[error(
        "step {seq} at tick {tick} broke an invariant: {audit}. Its inputs are the journal's last record: \
         `orch replay` shows it again"
    )]
    Broken { seq: u64, tick: u64, audit: String },
    #[error("the journal cannot be written: {0}")]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error("the recovered ledger is no state of a world: {0}")]
    Restore(#[from] RestoreError),
    #[error("the rules cannot be: {0}")]
    Rules(#[from] RulesError),
    #[error("the threads of pulse and journal could not be started: {0}")]
    Thread(std::io::Error),
    #[error("the pulse thread panicked outside of a step: {0}")]
    Panicked(String),
}

/// A running pulse.
#[derive(Debug)]
pub struct Pulse {
    thread: JoinHandle<Result<(), PulseError>>,
    stopper: Stopper,
    health: Health,
    heritage: Heritage,
}

/// Asks a pulse to end; so does dropping every one of them together with the [`Pulse`].
#[derive(Clone, Debug)]
pub struct Stopper(flume::Sender<()>);

impl Stopper {
    /// Returns at once; [`Pulse::join`] tells when it is done.
    pub fn stop(&self) {
        // Full means that a stop was asked for already.
        let _ = self.0.try_send(());
    }
}

impl Pulse {
    /// Takes the journal, recovers the state the last run came to, boots it with the rules and starts the
    /// thread. Returns once the boot stands in the journal.
    pub fn start(
        config: PulseConfig,
        inlets: Inlets,
        audience: Arc<dyn Audience>,
        stations: Arc<dyn Stations>,
    ) -> Result<Pulse, PulseError> {
        Self::start_on(config, |_| {}, inlets, audience, stations)
    }

    fn start_on(
        config: PulseConfig,
        change: impl FnOnce(&mut Writer),
        inlets: Inlets,
        audience: Arc<dyn Audience>,
        stations: Arc<dyn Stations>,
    ) -> Result<Pulse, PulseError> {
        let PulseConfig { rules, seed, build, client_batch, journal } = config;
        rules.check()?;
        let taken = Taken::take(journal)?;
        let Recovered { ledger, past, tick, inputs, heritage } = recover(&taken, &rules, seed)?;
        let simulation = Simulation::restore(&ledger)?;
        let spool = Spool::begin(taken.config(), past.lines())?;
        let mut writer = Writer::begin(taken, &build, ledger)?;
        change(&mut writer);
        let shadow = Shadow::start(&writer).map_err(PulseError::Thread)?;
        audience.remember(past);
        let (stop, stop_end) = flume::bounded(1);
        let health = Health::well();
        let intake = lanes::Intake::new(inlets, stop_end, client_batch.max(1));
        let mut beat = Beat::new(simulation, shadow, writer, spool, tick, intake, audience, stations, health.clone());
        beat.boot(inputs)?;
        let thread =
            std::thread::Builder::new().name("pulse".into()).spawn(move || beat.run()).map_err(PulseError::Thread)?;
        Ok(Pulse { thread, stopper: Stopper(stop), health, heritage })
    }

    /// What the stations have to know of those before them.
    pub fn heritage(&self) -> Heritage {
        self.heritage.clone()
    }

    pub fn health(&self) -> Health {
        self.health.clone()
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Takes what still waits in the urgent lane, forces the journal to disk and ends.
    pub fn stop(self) -> Result<(), PulseError> {
        self.stopper.stop();
        self.join()
    }

    /// Waits for the end: after [`Stopper::stop`], or when the pulse cannot go on.
    pub fn join(self) -> Result<(), PulseError> {
        // The stopper lives until then: its end would be a stop.
        let Pulse { thread, stopper: _stopper, health: _, heritage: _ } = self;
        thread.join().unwrap_or_else(|panic| Err(PulseError::Panicked(message_of(panic.as_ref()))))
    }
}

/// What a panic said.
pub(crate) fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
