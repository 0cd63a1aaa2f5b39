//! Steps a recorded run again and holds every step against what was recorded.
//!
//! The shared motor of replay and explain. What differs is told with the place in the journal and the
//! effects as they are now; the recorded ones are not there to show, a journal keeps their digests.

use super::ReplayError;
use crate::journal::{Chain, Entry, JournalError, Outcome, Place, Record, RunReader, STATE_EVERY, Segment};
use crate::pulse::message_of;
use crate::wording::Names;
use orchestrion_systems::{Simulation, Step};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::{Effect, Input};
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Re-executes the records of some consecutive segments of one run.
pub(crate) struct Rerun<'a> {
    pub(crate) reader: RunReader<'a>,
    pub(crate) simulation: Option<Simulation>,
    pub(crate) names: Names,
    /// The ledger the first segment starts from, until somebody takes it.
    pub(crate) start: Option<Ledger>,
    pub(crate) build: String,
}

/// A step that was executed again and equals the recorded one.
pub(crate) struct Done {
    pub(crate) seq: u64,
    pub(crate) tick: Tick,
    pub(crate) inputs: Vec<Input>,
    pub(crate) made: Made,
}

pub(crate) enum Made {
    Step(Step),
    /// It broke the invariant that it broke when it was recorded.
    Broke(String),
}

/// The first step that did not come out as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    pub place: Place,
    pub tick: Tick,
    /// The build that recorded it.
    pub build: String,
    /// Recorded and made now; equal where only the state differs.
    pub decisions: (Digest, Digest),
    /// Recorded and made now, where it was recorded and differs.
    pub state: Option<(Digest, Digest)>,
    /// What the step decides now, in words.
    pub effects: Vec<String>,
}

impl<'a> Rerun<'a> {
    pub(crate) fn new(segments: &'a [Segment], before: Option<Chain>) -> Rerun<'a> {
        Rerun {
            reader: RunReader::new(segments, before),
            simulation: None,
            names: Names::default(),
            start: None,
            build: String::new(),
        }
    }

    /// Executes the next recorded step; none at the end. `watch` sees each simulation before its first.
    pub(crate) fn step(&mut self, watch: &mut dyn FnMut(&mut Simulation)) -> Result<Option<Done>, ReplayError> {
        loop {
            match self.reader.read()? {
                None => return Ok(None),
                Some(Entry::Step(record)) => return self.again(record).map(Some),
                Some(Entry::Segment(header)) => {
                    self.build = header.origin.build;
                    self.go_on_from(header.origin.digest, header.ledger, watch)?;
                }
            }
        }
    }

    /// Executes every step that was carried to its end, and says how many those were. One that broke an
    /// invariant is left out: nobody was told of it, and it would break again.
    pub(crate) fn recover(&mut self) -> Result<u64, ReplayError> {
        let mut steps = 0;
        while let Some(entry) = self.reader.read()? {
            match entry {
                Entry::Step(Record { outcome: Outcome::Broke { audit }, seq, .. }) => {
                    tracing::warn!(seq, %audit, "the last run ended in a step that broke an invariant: it is left out");
                    break;
                }
                Entry::Step(record) => {
                    self.again(record)?;
                    steps += 1;
                }
                Entry::Segment(header) => {
                    self.build = header.origin.build;
                    self.go_on_from(header.origin.digest, header.ledger, &mut |_| {})?;
                }
            }
        }
        Ok(steps)
    }

    /// Begins from a segment's ledger, or checks it, where the run was here already.
    fn go_on_from(
        &mut self,
        digest: Digest,
        ledger: Option<Ledger>,
        watch: &mut dyn FnMut(&mut Simulation),
    ) -> Result<(), ReplayError> {
        if let Some(simulation) = &mut self.simulation {
            let same = simulation.state() == digest && ledger.is_none_or(|ledger| simulation.ledger() == ledger);
            return if same { Ok(()) } else { Err(ReplayError::Ledger { place: self.place() }) };
        }
        let Some(ledger) = ledger else { return Err(JournalError::NoStart { file: self.place().file }.into()) };
        if let Some(rules) = &ledger.core.rules {
            self.names = Names::of(rules);
        }
        let mut simulation = Simulation::restore(&ledger)
            .map_err(|error| ReplayError::Unrestorable { place: self.place(), problem: error.to_string() })?;
        watch(&mut simulation);
        self.simulation = Some(simulation);
        self.start = Some(ledger);
        Ok(())
    }

    fn again(&mut self, record: Record) -> Result<Done, ReplayError> {
        let Record { seq, tick, inputs, outcome } = record;
        for input in &inputs {
            if let Input::SetRules(rules) = input {
                self.names = Names::of(rules);
            }
        }
        let Some(simulation) = &mut self.simulation else {
            return Err(ReplayError::Unrestorable { place: self.place(), problem: "no ledger came before".into() });
        };
        let given = inputs.clone();
        let now = catch_unwind(AssertUnwindSafe(|| simulation.step(tick, given)));
        let made = match (outcome, now) {
            (Outcome::Stepped { decisions, state }, Ok(step)) => {
                let state = state.map(|state| (state, simulation.state())).filter(|(then, now)| then != now);
                if step.decisions != decisions || state.is_some() {
                    return Err(ReplayError::Diverged(Box::new(Divergence {
                        place: self.place(),
                        tick,
                        build: self.build.clone(),
                        decisions: (decisions, step.decisions),
                        state,
                        effects: step.effects.iter().map(|effect| self.in_words(effect)).collect(),
                    })));
                }
                Made::Step(step)
            }
            (Outcome::Broke { audit }, Err(_)) => Made::Broke(audit),
            (Outcome::Broke { audit }, Ok(_)) => {
                return Err(ReplayError::NoLongerBreaks { place: self.place(), audit });
            }
            (Outcome::Stepped { .. }, Err(panic)) => {
                return Err(ReplayError::Breaks { place: self.place(), audit: message_of(panic.as_ref()) });
            }
        };
        Ok(Done { seq, tick, inputs, made })
    }

    /// An effect with its subject.
    pub(crate) fn in_words(&self, effect: &Effect) -> String {
        let words = self.names.effect(effect);
        effect.task().map_or(words.clone(), |task| format!("task {task} {words}"))
    }

    pub(crate) fn place(&self) -> Place {
        self.reader.place().unwrap_or(Place { file: PathBuf::new(), seq: None, offset: 0 })
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Divergence { place, tick, build, decisions, state, effects } = self;
        write!(f, "{place} (tick {}): ", tick.0)?;
        match state {
            Some((then, now)) if decisions.0 == decisions.1 => write!(
                f,
                "the same was decided, but the state after it, or after one of the {} steps before, differs: \
                 recorded {then}, now {now}.",
                STATE_EVERY - 1
            )?,
            Some(_) | None => {
                write!(f, "something else is decided: digest recorded {}, now {}.", decisions.0, decisions.1)?;
            }
        }
        writeln!(f, " It was recorded by build {build}. The step now decides:")?;
        if effects.is_empty() {
            return write!(f, "  nothing");
        }
        let shown = effects.iter().take(50).map(|effect| format!("  {effect}")).collect::<Vec<_>>().join("\n");
        write!(f, "{shown}")?;
        if effects.len() > 50 { write!(f, "\n  … and {} more", effects.len() - 50) } else { Ok(()) }
    }
}
