//! A model that stands on a station: its engine, what was measured of it, and its tasks.
//!
//! The warm-up that measures runs on whatever thread makes the bench. Runs nothing else (see `run`).

use super::StationModel;
use super::task::Task;
use crate::engine::{PageCount, StepError, Wants, Work};
use crate::seal::{Broken, Seal};
use orchestrion_world::id::JobId;
use orchestrion_world::protocol::ModelFacts;
use orchestrion_world::units::{Bytes, MilliRate, Sha256};
use sha2::{Digest, Sha256 as Hasher};
use std::time::{Duration, Instant};

/// Steps of the warm-up: one prompt chunk, then single tokens.
const WARM_DECODES: u32 = 8;

#[derive(Debug)]
pub(super) struct Bench {
    pub(super) model: StationModel,
    pub(super) facts: ModelFacts,
    /// Prompt tokens in a step beside answers at most.
    pub(super) chunk: u32,
    /// In order of arrival.
    pub(super) tasks: Vec<Task>,
    pub(super) seal: Seal,
    /// Who asked to have all weights looked at.
    pub(super) asked: Option<Asked>,
}

/// A look at all weights of a model, whoever looks at a part of them meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) job: JobId,
    /// Leaves to be looked at, from where the round is, and on from its beginning.
    pub(super) left: usize,
}

impl Bench {
    /// Measures the model; `chunk` as a fast machine would have it.
    pub(super) fn new(mut model: StationModel, chunk: u32) -> Result<Bench, StepError> {
        let facts = measure(&mut model, chunk)?;
        let chunk = orchestrion_planner::budget(facts.prefill, chunk);
        let begun = Instant::now();
        let seal = model.engine.seal();
        let (root, leaves, took) = (seal.root(), seal.len(), begun.elapsed());
        tracing::info!(model = model.id.0, %root, leaves, ms = took.as_millis(), "weights are sealed");
        Ok(Bench { model, facts, chunk, tasks: Vec::new(), seal, asked: None })
    }

    /// Looks at the part of the weights that is due after so much of the time of a round, at a leaf at least.
    pub(super) fn check(&mut self, since: Duration, round: Duration) -> Result<usize, Broken> {
        let due = self.seal.len() as u128 * since.as_micros() / round.as_micros().max(1);
        let due = usize::try_from(due).unwrap_or(usize::MAX).clamp(1, self.seal.len());
        self.model.engine.check(&mut self.seal, due)
    }

    /// What it takes in memory: weights and all pages of context that were made.
    pub(super) fn takes(&self) -> u64 {
        let engine = &self.model.engine;
        engine.weights().0 + engine.pages().made as u64 * engine.page().0
    }

    /// Pages that its tasks could still come to want in the next step.
    pub(super) fn wants(&self) -> usize {
        let engine = &self.model.engine;
        let more = |task: &Task| {
            let row = task.row(engine);
            ((row.known + 1).div_ceil(PageCount::POSITIONS) as usize + 1).saturating_sub(row.pages as usize)
        };
        self.tasks.iter().map(more).sum()
    }
}

/// Pages that the tasks of a bench may take. What is kept for later prompts makes way, that of other models first.
pub(super) fn free_pages(benches: &mut [Bench], at: usize, memory: Bytes) -> u32 {
    let wanted = benches[at].wants();
    let taken = |benches: &[Bench]| benches.iter().map(Bench::takes).sum::<u64>();
    let engine = &benches[at].model.engine;
    let (page, pages) = (engine.page().0.max(1), engine.pages());
    let own = pages.made - pages.held;
    let mut short = (taken(benches) + wanted.saturating_sub(own) as u64 * page).saturating_sub(memory.0);
    for (n, other) in benches.iter_mut().enumerate() {
        let engine = &mut other.model.engine;
        if n != at && short > 0 {
            let (page, before) = (engine.page().0.max(1), engine.pages().made);
            engine.give_back(usize::try_from(short.div_ceil(page)).unwrap_or(usize::MAX));
            short = short.saturating_sub((before - engine.pages().made) as u64 * page);
        }
    }
    let (over, room) = (taken(benches).saturating_sub(memory.0), memory.0.saturating_sub(taken(benches)));
    let engine = &mut benches[at].model.engine;
    engine.give_back(usize::try_from(over.div_ceil(page)).unwrap_or(usize::MAX));
    let (pages, new) = (engine.pages(), usize::try_from(room / page).unwrap_or(usize::MAX));
    let most = pages.made.saturating_add(new);
    engine.make_do(most);
    u32::try_from(pages.available().min(most - pages.held)).unwrap_or(u32::MAX)
}

/// What the model is and how fast it reads and writes here and now.
fn measure(model: &mut StationModel, chunk: u32) -> Result<ModelFacts, StepError> {
    let engine = &mut model.engine;
    let chunk = chunk.min(engine.ctx_max().saturating_sub(WARM_DECODES)).max(1);
    let tokens: Vec<u32> = (0..chunk).map(|i| i % engine.vocab()).collect();
    let speaks = !engine.is_encoder();
    let sequence = if speaks { engine.open() } else { engine.open_pooled(chunk) };
    let wants = if speaks { Wants::Last } else { Wants::Nothing };
    let begun = Instant::now();
    engine.step(&[Work { sequence, tokens: &tokens, wants }])?;
    let prefilled = Instant::now();
    let decodes = if speaks { WARM_DECODES.min(engine.ctx_max() - chunk) } else { 0 };
    for _ in 0..decodes {
        engine.step(&[Work { sequence, tokens: &tokens[..1], wants: Wants::Last }])?;
    }
    let rate = |tokens: u32, took: Duration| {
        MilliRate((u128::from(tokens) * 1_000_000_000_000 / took.as_nanos().max(1)) as u64)
    };
    let prefill = rate(chunk, prefilled - begun);
    // The one token of a vector takes no step of its own.
    let decode = if speaks { rate(decodes.max(1), prefilled.elapsed()) } else { prefill };
    engine.close(sequence);
    Ok(ModelFacts {
        digest: model.digest,
        fingerprint: Sha256(Hasher::digest(model.fingerprint.as_bytes()).into()),
        weights: engine.weights(),
        kv_per_token: engine.kv_per_token(),
        ctx_max: engine.tokens_max(),
        prefill,
        decode,
    })
}

/// Bytes of weights that such a rate goes through in a second, at every token all of them.
pub(super) fn through(weights: Bytes, rate: MilliRate) -> Bytes {
    Bytes(u64::try_from(u128::from(weights.0) * u128::from(rate.0) / 1_000).unwrap_or(u64::MAX))
}
