//! The storm: scenarios drawn from seeds, and what is demanded of each of them.
//!
//! [`plan`] draws, [`prove`] runs and demands, [`shrink`] cuts a scenario that breaks something down to what
//! it takes. All of it is a function of the seed; how long it takes is told by who asks.

pub mod draw;
pub mod plan;
mod proofs;
pub mod shrink;

use crate::script::Script;
use crate::stage::{Run, run};
use orchestrion_systems::Simulation;
use orchestrion_world::protocol::{Effect, Notice, Outcome};
use proofs::{Permuted, Prepared};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is done to every simulation before it is used; nothing, but in tests of the storm itself.
pub type Prepare<'p> = &'p dyn Fn(&mut Simulation);

/// What one scenario came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub ticks: u64,
    pub steps: u64,
    /// What befell it.
    pub faults: BTreeMap<&'static str, u64>,
    /// How submissions were refused and tasks ended.
    pub answers: BTreeMap<String, u64>,
}

impl Tally {
    fn of(run: &Run) -> Tally {
        let mut tally = Tally { steps: run.steps.len() as u64, faults: run.faults.clone(), ..Tally::default() };
        tally.ticks = run.ledger.core.now.0;
        for effect in run.steps.iter().flat_map(|(_, _, step, _)| &step.effects) {
            let Effect::Notice(notice) = effect else { continue };
            let answer = match notice {
                Notice::Refused { refusal, .. } => format!("refused {refusal:?}"),
                Notice::Ended { outcome: Outcome::Done(_), .. } => "done".to_owned(),
                Notice::Ended { outcome: Outcome::Cancelled { .. }, .. } => "cancelled".to_owned(),
                Notice::Ended { outcome: Outcome::Failed { failure, .. }, .. } => format!("failed {failure:?}"),
                Notice::Retrying { .. } => "retried".to_owned(),
                Notice::Preempted { .. } => "put back".to_owned(),
                _ => continue,
            };
            // The name, without its figures.
            let name: String = answer.chars().take_while(|c| c.is_alphanumeric() || *c == ' ').collect();
            *tally.answers.entry(name.trim_end().to_owned()).or_default() += 1;
        }
        tally
    }

    /// Faults that the storm can draw and none of these scenarios had.
    pub fn missing(&self) -> Vec<&'static str> {
        plan::FAULTS.into_iter().filter(|kind| self.faults.get(kind).is_none_or(|n| *n == 0)).collect()
    }

    /// Adds another scenario's.
    pub fn add(&mut self, other: Tally) {
        self.ticks += other.ticks;
        self.steps += other.steps;
        other.faults.into_iter().for_each(|(kind, n)| *self.faults.entry(kind).or_default() += n);
        other.answers.into_iter().for_each(|(kind, n)| *self.answers.entry(kind).or_default() += n);
    }
}

/// Runs a scenario with every audit after every step, and demands what must hold of every run: it settles
/// where it heals, runs again the same, goes on the same from any state of it, skips nothing that matters,
/// and breaks no audit where words of one tick come in another order.
///
/// # Errors
/// What broke, and when.
pub fn prove(script: &Script, prepare: Prepare<'_>) -> Result<Tally, String> {
    let proof = || -> Result<Tally, String> {
        let run = run(script, &mut Prepared(prepare))?;
        settled(&run)?;
        proofs::again(script, &run, prepare)?;
        let permuted = crate::stage::run(script, &mut Permuted::new(script.seed, prepare));
        let permuted = permuted.map_err(|broken| format!("permuted: {broken}"))?;
        settled(&permuted).map_err(|broken| format!("permuted: {broken}"))?;
        Ok(Tally::of(&run))
    };
    catch_unwind(AssertUnwindSafe(proof)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a word")))
    })
}

fn settled(run: &Run) -> Result<(), String> {
    run.unsettled.as_ref().map_or(Ok(()), |why| Err(format!("it never settles: {why}")))
}
