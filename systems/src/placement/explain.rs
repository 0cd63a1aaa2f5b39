//! The same decision, told: every worker with the filter that removed it or its terms, the term that
//! decided, and the smallest change that would have flipped the choice. Built only for who asks.

use super::choose::{Candidate, Filter, Request, filter};
use super::flip::{self, Flip};
use super::rank::{self, Term};
use orchestrion_world::config::{PlacementRule, Rules};
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{TaskId, WorkerId};
use orchestrion_world::placement::Ban;
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::{Bytes, Permille};
use serde::Serialize;
use std::fmt;

/// One placement decision in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DecisionLog {
    pub tick: Tick,
    pub task: TaskId,
    pub model: String,
    pub rule: PlacementRule,
    pub prompt_tokens: u32,
    pub max_tokens: u32,
    /// Every worker the world knows, best first, then those that were filtered, by id.
    pub candidates: Vec<Considered>,
    pub chosen: Option<WorkerId>,
    /// The first term in which the winner and the runner-up differ.
    pub decided_by: Option<Decider>,
    /// The smallest change that would have flipped the choice.
    pub flip: Option<Flip>,
    /// What was ordered so that the task finds a place, where it found none.
    pub asked: Vec<Asked>,
}

/// What a decision that found no worker asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Asked {
    /// The model is loaded there.
    Load { worker: WorkerId, takes: Ticks },
    /// Another model makes way there, at once or when its tasks have ended.
    MakeWay { worker: WorkerId, model: String },
    /// A batch task gives up its slot there.
    CallBack { worker: WorkerId },
}

/// One worker as the decision saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    pub worker: WorkerId,
    pub pool: String,
    pub removed_by: Option<Filter>,
    /// None where it does not serve the model.
    pub predicted_run: Option<Ticks>,
    /// Tokens of the prompt that it may know, which are taken off.
    pub known_tokens: u32,
    pub leases: u16,
    pub slots: u16,
    pub load: Permille,
    pub residual: Bytes,
}

/// What made the winner win, and by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Decider {
    pub term: Term,
    pub runner_up: WorkerId,
    pub margin: u64,
}

/// Makes the decision over all candidates, in the order of their ids.
pub(crate) fn explain(rules: &Rules, tick: Tick, request: &Request, candidates: &[Candidate<'_>]) -> DecisionLog {
    let values = |c: &Candidate<'_>| -> Vec<u64> {
        rank::whole(rules.placement.policy).iter().map(|&term| rank::value(term, request, c)).collect()
    };
    let (mut feasible, removed): (Vec<&Candidate<'_>>, Vec<_>) =
        candidates.iter().partition(|c| filter(rules.placement, request, c).is_none());
    feasible.sort_by_key(|c| values(c));
    let decided_by = feasible.get(..2).and_then(|pair| {
        let (winner, runner_up) = (values(pair[0]), values(pair[1]));
        let at = (0..winner.len()).find(|&n| winner[n] != runner_up[n])?;
        let term = rank::whole(rules.placement.policy)[at];
        let margin = match term {
            // Compared to a sixteenth; what would have to change is exact.
            Term::PredictedEnd => rank::predicted_run(request, pair[1]).0 - winner[at],
            _ => runner_up[at] - winner[at],
        };
        Some(Decider { term, runner_up: pair[1].worker.id, margin })
    });
    let chosen = feasible.first().map(|c| c.worker.id);
    let flip = flip::smallest(rules.placement, request, candidates, chosen);
    let considered = feasible.into_iter().chain(removed).map(|c| Considered {
        worker: c.worker.id,
        pool: rules.pools.get(usize::from(c.worker.facts.pool.0)).map(|p| p.name.clone()).unwrap_or_default(),
        removed_by: filter(rules.placement, request, c),
        predicted_run: c.serving.map(|_| rank::predicted_run(request, c)),
        known_tokens: request.known_on(c.worker.id),
        leases: c.worker.leases.len() as u16,
        slots: c.worker.facts.slots,
        load: c.worker.load(),
        residual: c.residual,
    });
    DecisionLog {
        tick,
        task: request.task,
        model: rules.models.get(usize::from(request.spec.model.0)).cloned().unwrap_or_default(),
        rule: rules.placement.policy,
        prompt_tokens: request.spec.prompt_tokens,
        max_tokens: request.spec.max_tokens,
        candidates: considered.collect(),
        chosen,
        decided_by,
        flip,
        asked: vec![],
    }
}

impl fmt::Display for DecisionLog {
    /// For a person: one paragraph, then one line for each worker.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, prompt, answer) = (&self.model, self.prompt_tokens, self.max_tokens);
        write!(f, "At tick {}, {model} was asked for up to {answer} tokens after {prompt}: ", self.tick.0)?;
        match self.chosen {
            Some(worker) => writeln!(f, "{worker} was chosen (rule {:?}).", self.rule)?,
            None => writeln!(f, "no worker could take it, so it went on waiting (rule {:?}).", self.rule)?,
        }
        for considered in &self.candidates {
            writeln!(f, "  {considered}")?;
        }
        match (self.chosen, &self.decided_by) {
            (Some(winner), Some(decider)) => writeln!(f, "  {}", decider.sentence(winner)),
            (Some(winner), None) => writeln!(f, "  {winner} was the only worker that could start it."),
            (None, _) => Ok(()),
        }?;
        if let Some(flip) = &self.flip {
            writeln!(f, "  {}", flip.sentence(self.chosen))?;
        }
        self.asked.iter().try_for_each(|asked| writeln!(f, "  {asked}"))
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Load { worker, takes } => write!(f, "So the model is loaded on {worker}, in {} ms.", takes.0),
            Asked::MakeWay { worker, model } => write!(f, "So {model} makes way on {worker}."),
            Asked::CallBack { worker } => write!(f, "So a batch task gives up its slot on {worker}."),
        }
    }
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Considered { worker, pool, leases, slots, .. } = self;
        write!(f, "{worker} of pool {pool} ({leases} of {slots} slots in use): ")?;
        match self.removed_by {
            None => {
                let (end, free) = (self.predicted_run.unwrap_or_default().0, mib(self.residual));
                write!(f, "predicted to take {end} ms")?;
                if self.known_tokens > 0 {
                    write!(f, " with {} tokens of the prompt known from before", self.known_tokens)?;
                }
                write!(f, ", {free} MiB of memory free")
            }
            Some(Filter::NotAllowed { ban: Ban::OtherPool }) => write!(f, "out, the task asks for other pools"),
            Some(Filter::NotAllowed { ban: Ban::Avoided }) => write!(f, "out, the task avoids its pool"),
            Some(Filter::NotAllowed { ban: Ban::OtherDevices }) => {
                write!(f, "out, its devices are not exactly those that the task asks for")
            }
            Some(Filter::Claimed { by }) => {
                write!(f, "out, task {by} waits for it, came first and may not go just anywhere")
            }
            Some(Filter::NotReady { state: WorkerState::Failed }) => write!(f, "out, it is lost"),
            Some(Filter::NotReady { state }) => write!(f, "out, it is {}", state.label()),
            Some(Filter::BreakerOpen) => write!(f, "out, its breaker is open: its tasks failed one after the other"),
            Some(Filter::NotResident) => write!(f, "out, it does not serve this model"),
            Some(Filter::NoFreeSlot { slots: 1 }) => write!(f, "out, its slot is in use"),
            Some(Filter::NoFreeSlot { slots }) => write!(f, "out, all {slots} slots are in use"),
            Some(Filter::BatchShareHeld { held, may, slots }) => {
                write!(f, "out, batch tasks hold {held} of its {slots} slots and may hold {may}")
            }
            Some(Filter::LettingGo) => write!(f, "out, it has not let go of an earlier task with this id"),
            Some(Filter::OtherFingerprint) => {
                write!(f, "out, readers were shown tokens of another model file or engine, and its own may be others")
            }
            Some(Filter::ContextTooShort { needed, ctx_max }) => {
                write!(f, "out, {needed} tokens exceed its context of {ctx_max}")
            }
            Some(Filter::NotEnoughMemory { needed, free }) => {
                write!(f, "out, its context needs {} MiB and {} MiB are free", mib(needed), mib(free))
            }
        }
    }
}

impl Decider {
    /// What decided, and by how much.
    fn sentence(&self, winner: WorkerId) -> String {
        let Decider { term, runner_up, margin } = *self;
        match term {
            Term::FailedBefore => {
                format!("{runner_up} had just failed the task, {winner} had not.")
            }
            Term::Preferred => {
                format!("The task prefers the pool of {winner} to that of {runner_up}, by {margin} places of its list.")
            }
            Term::SameSession => {
                format!("All else equal, the last turn of the session went to {winner} and not to {runner_up}.")
            }
            Term::KnownPrompt => {
                format!(
                    "All else equal, {winner} knows {margin} tokens of the prompt from before that {runner_up} does not."
                )
            }
            Term::PredictedEnd => {
                format!("{winner} ends sooner than {runner_up} by more than a sixteenth.")
            }
            Term::LeastLoaded => format!("{winner} is {} points of load below {runner_up}.", percent(margin)),
            Term::MostLoaded => format!("{winner} is {} points of load above {runner_up}.", percent(margin)),
            Term::MostResidualMemory => {
                format!("{winner} has {} MiB more free memory than {runner_up}.", mib(Bytes(margin)))
            }
            Term::FastestDecode => {
                let rate = format!("{}.{:03}", margin / 1000, margin % 1000);
                format!("All else equal, {winner} makes about {rate} tokens/s more than {runner_up}.")
            }
            Term::PoolName => format!("All else equal, the pool of {winner} comes before that of {runner_up} by name."),
            Term::WorkerId => format!("All else equal, {winner} comes before {runner_up} by id."),
        }
    }
}

fn percent(permille: u64) -> String {
    format!("{}.{}", permille / 10, permille % 10)
}

fn mib(bytes: Bytes) -> u64 {
    bytes.0 >> 20
}
