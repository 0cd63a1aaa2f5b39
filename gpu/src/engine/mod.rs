//! The host engine: one model in memory, its sequences, and a step that runs tokens of any of them.
//!
//! The caller says what a step runs: several sequences at once, a prompt in chunks or whole. What a
//! sequence answers does not depend on any of it, nor on the level or the number of threads, nor on whether
//! a beginning was read before by another sequence and is only looked up (see `kv`). An encoder reads an input as a
//! whole, once its last token is there (see `encode`).
//!
//! Reads and writes its own memory only. Draws no tokens (see `sampler`), keeps no time, decides no order
//! of work (see `station`).

mod encode;
mod sequence;
#[cfg(test)]
mod tests;

pub use crate::kernel::{Ceilings, Level, LevelError};
pub use crate::model::LoadError;
pub use crate::model::forward::{Stage, Tap};
pub use crate::numerics::DEFINITION;

use crate::gguf::Gguf;
use crate::kernel::Kernels;
use crate::kernel::drive::Exec;
use crate::kernel::matrix::Packing;
use crate::kernel::pool::Pool;
use crate::kv::{Kvs, PAGE, Pages};
use crate::model::Model;
use crate::model::forward::{Buffers, Row};
use crate::model::layer::Set;
use crate::model::pooling::Pooled;
use crate::numerics::linear::check_finite;
use crate::seal::{Broken, Seal};
use orchestrion_world::units::Bytes;
use sequence::Sequence;
use slotmap::{SlotMap, new_key_type};

new_key_type! {
    /// A sequence of one engine.
    pub struct SequenceId;
}

/// How an engine is set up.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    pub level: Level,
    /// Threads that compute, the caller included; at least one.
    pub threads: usize,
    /// Prompt and answer together, or an encoder's input; at most what the model was trained for.
    pub ctx_max: u32,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    /// Of a prompt its continuation; a vector too.
    Text,
    /// Of a text a vector.
    Vectors,
    /// Of a pair of texts a score.
    Scores,
}

/// What a step runs of a sequence: the tokens that follow what it has read.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    pub sequence: SequenceId,
    pub tokens: &'a [u32],
    pub wants: Wants,
}

/// The logits that are needed of a work's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Nothing,
    /// Those after the last token.
    Last,
    /// So many tokens at the end are a draft: they run, and are not read until they are accepted. Needed are the
    /// logits after the token before them and after each of them.
    Draft(usize),
}

impl Wants {
    /// Tokens at the end that are a draft.
    fn draft(self) -> usize {
        match self {
            Wants::Nothing | Wants::Last => 0,
            Wants::Draft(tokens) => tokens,
        }
    }
}

/// Work that cannot run; the step did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("no such sequence")]
    UnknownSequence,
    #[error("token {token} is outside a vocabulary of {vocab}")]
    UnknownToken { token: u32, vocab: u32 },
    #[error("a draft is not the end of its sequence's work")]
    DraftWithin,
    #[error("position {position} is outside a context of {ctx_max}")]
    ContextExceeded { position: u64, ctx_max: u32 },
    #[error("the model reads an input and makes one vector of it; it goes on from nothing")]
    NotPooled,
    #[error("the work takes {wanted} pages of context, and {available} of {bound} are left")]
    OutOfPages { wanted: usize, available: usize, bound: usize },
}

/// The memory of contexts, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCount {
    /// At most.
    pub bound: usize,
    /// Taken by sequences.
    pub held: usize,
    /// Kept for prompts that begin like one before, until they are needed.
    pub idle: usize,
    /// That take memory, held or not.
    pub made: usize,
}

impl PageCount {
    /// Positions in a page.
    pub const POSITIONS: u32 = PAGE as u32;

    /// What sequences can take.
    pub fn available(self) -> usize {
        self.bound.saturating_sub(self.held)
    }
}

/// The sequence met an infinity or a NaN; what it holds is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a number of the sequence is not finite")]
pub struct NumericFault;

/// See the module's description.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    exec: Exec,
    buffers: Buffers,
    sequences: SlotMap<SequenceId, Sequence>,
    pages: Pages,
    ctx_max: u32,
}

impl Engine {
    /// Loads a model; the file is no longer needed then.
    pub fn load(gguf: &Gguf, options: EngineOptions) -> Result<Engine, LoadError> {
        let kernels = Kernels::of(options.level)?;
        let pool = Pool::new(options.threads).map_err(|e| LoadError::Threads(e.kind()))?;
        let model = Model::load(gguf, Packing::new(options.level, options.threads), options.ctx_max)?;
        let ctx_max = options.ctx_max.min(model.context());
        let exec = Exec { kernels, pool };
        let (buffers, sequences, pages) = (Buffers::default(), SlotMap::with_key(), Pages::new(model.kv_shape()));
        Ok(Engine { model, exec, buffers, sequences, pages, ctx_max })
    }

    pub fn level(&self) -> Level {
        self.exec.kernels.level
    }

    /// What tokens depend on besides their request and the model's file: the definition of its numbers, and where a file
    /// has two sets of rope factors, the one that `ctx_max` asked for.
    pub fn definition(&self) -> String {
        match self.model.set() {
            None => DEFINITION.to_owned(),
            Some(Set::Short) => format!("{DEFINITION}/short"),
            Some(Set::Long) => format!("{DEFINITION}/long"),
        }
    }

    pub fn threads(&self) -> usize {
        self.exec.pool.threads()
    }

    pub fn vocab(&self) -> u32 {
        self.model.vocab() as u32
    }

    /// Numbers of a vector that it makes.
    pub fn width(&self) -> u32 {
        self.model.width() as u32
    }

    pub fn makes(&self) -> Makes {
        match &self.model {
            Model::Decoder(_) => Makes::Text,
            Model::Encoder(model) if model.scores() => Makes::Scores,
            Model::Encoder(_) => Makes::Vectors,
        }
    }

    /// Whether it makes vectors or scores of inputs and no text.
    pub fn is_encoder(&self) -> bool {
        matches!(self.model, Model::Encoder(_))
    }

    /// Positions of a sequence.
    pub fn ctx_max(&self) -> u32 {
        self.ctx_max
    }

    /// Tokens that a task reads and makes. The one that carries what an encoder makes of its input takes no position.
    pub fn tokens_max(&self) -> u32 {
        self.ctx_max.saturating_add(self.is_encoder().into())
    }

    /// What the weights take in memory.
    pub fn weights(&self) -> Bytes {
        Bytes(self.model.bytes())
    }

    /// What a step reads of the weights, whatever its rows: all matrices, the output head's with them.
    pub fn weights_read(&self) -> Bytes {
        Bytes(self.model.bytes_read())
    }

    /// Products of weights and activations that a token takes, those of the output head not counted.
    pub fn products_per_token(&self) -> u64 {
        self.model.products()
    }

    /// What one position of one sequence takes in memory.
    pub fn kv_per_token(&self) -> Bytes {
        Bytes(self.model.kv_shape().bytes_per_token())
    }

    /// Bounds the memory of all contexts. One sequence alone always finds room: where its longest context
    /// would not fit, that is shorter from here on.
    pub fn limit_contexts(&mut self, memory: Bytes) {
        let pages = usize::try_from(memory.0 / self.page().0.max(1)).unwrap_or(usize::MAX).max(1);
        self.pages.limit(pages);
        self.ctx_max = self.ctx_max.min(u32::try_from(pages.saturating_mul(PAGE)).unwrap_or(u32::MAX));
    }

    pub fn pages(&self) -> PageCount {
        let pages = &self.pages;
        PageCount { bound: pages.bound(), held: pages.held(), idle: pages.idle(), made: pages.made() }
    }

    /// Of the weights as they are now.
    pub(crate) fn seal(&self) -> Seal {
        Seal::of(&self.model.stretches())
    }

    /// Looks at so many leaves of the weights, or at those left of the round: how many it were.
    pub(crate) fn check(&self, seal: &mut Seal, leaves: usize) -> Result<usize, Broken> {
        seal.check(&self.model.stretches(), leaves)
    }

    /// A bit of the weights flips.
    #[cfg(any(test, feature = "tamper"))]
    pub(crate) fn tamper(&mut self) {
        let mut stretches = self.model.stretches_mut();
        let last = stretches.len() - 1;
        stretches[last / 2][3] ^= 0x10;
    }

    /// What a page takes in memory.
    pub fn page(&self) -> Bytes {
        Bytes(self.kv_per_token().0 * PAGE as u64)
    }

    /// Gives the memory of up to so many pages back that nobody holds. What was kept for later prompts is read
    /// again then.
    pub fn give_back(&mut self, pages: usize) {
        self.pages.give_back(pages);
    }

    /// Until it is said again, no more pages than these take memory: what is kept for later prompts makes way.
    pub(crate) fn make_do(&mut self, pages: usize) {
        self.pages.make_do(pages);
    }

    /// A sequence that has read nothing and shares with nobody.
    pub fn open(&mut self) -> SequenceId {
        self.sequences.insert(Sequence::default())
    }

    /// A sequence of which one vector is made: the `tokens` that it reads are pooled as its model says.
    pub fn open_pooled(&mut self, tokens: u32) -> SequenceId {
        self.sequences.insert(Sequence::pooled(tokens))
    }

    /// The vector of a pooled sequence that has read something, of length one; of a model that scores pairs, the score
    /// as it is and as a share of one.
    pub fn pooled(&self, sequence: SequenceId) -> Result<Vec<f32>, NumericFault> {
        let pooled = self.sequences.get(sequence).and_then(|sequence| sequence.pooled.as_ref());
        pooled.and_then(Pooled::vector).ok_or(NumericFault)
    }

    /// A sequence about to read `prompt`, and how much of it is known from sequences of the same salt: it goes
    /// on after that. What it reads is known to them in turn.
    pub fn open_after(&mut self, salt: u64, prompt: &[u32]) -> (SequenceId, u32) {
        let sequence = Sequence::after(&mut self.pages, salt, prompt);
        let read = sequence.read;
        (self.sequences.insert(sequence), read)
    }

    /// Forgets a sequence; its pages are free at once.
    pub fn close(&mut self, sequence: SequenceId) {
        if let Some(gone) = self.sequences.remove(sequence) {
            self.pages.let_all_go(&gone.table);
        }
    }

    /// Pages of a sequence, and those of them that nobody else holds.
    pub fn pages_of(&self, sequence: SequenceId) -> (usize, usize) {
        let found = self.sequences.get(sequence);
        found.map_or((0, 0), |sequence| (sequence.table.len(), sequence.own_pages(&self.pages)))
    }

    /// Takes the pages of the sequence's first `positions` ahead; false where there are not as many.
    pub fn reserve(&mut self, sequence: SequenceId, positions: u32) -> bool {
        let Some(sequence) = self.sequences.get_mut(sequence) else { return false };
        let has_room = sequence.lacks(&self.pages, positions) <= self.pages.available();
        if has_room {
            sequence.grow(&mut self.pages, positions);
        }
        has_room
    }

    /// Runs all of `work`; the same sequence may stand in it several times, in order.
    pub fn step(&mut self, work: &[Work<'_>]) -> Result<Step<'_>, StepError> {
        self.step_traced(work, &mut |_, _| {})
    }

    /// `step`, with an ear on the residual stream.
    pub fn step_traced(&mut self, work: &[Work<'_>], tap: Tap<'_>) -> Result<Step<'_>, StepError> {
        let Batch { rows, ids, drafts } = self.batch(work)?;
        self.make_room(&rows, &ids)?;
        let Model::Decoder(model) = &mut self.model else { return Ok(self.encode(work, &rows, &ids, tap)) };
        let table = |id| self.sequences.get(id).map_or(&[][..], |sequence: &Sequence| &sequence.table);
        let tables = ids.iter().map(|id| table(*id)).collect();
        let mut kvs = Kvs { store: self.pages.store_mut(), tables };
        model.forward(&mut self.exec, &rows, &mut kvs, &mut self.buffers, tap);
        for (row, place) in rows.iter().zip(0..) {
            if let Some(Sequence { pooled: Some(pooled), .. }) = self.sequences.get_mut(ids[row.sequence]) {
                model.pool(self.exec.kernels, &self.buffers, place, pooled);
            }
        }
        for (i, id) in ids.into_iter().enumerate() {
            let Some(sequence) = self.sequences.get_mut(id) else { continue };
            let mine = || rows.iter().zip(&self.buffers.faulted).filter(|(row, _)| row.sequence == i);
            let read = mine().count() - drafts[i];
            if mine().take(read).any(|(_, faulted)| *faulted) {
                sequence.spoil();
            }
            sequence.advance(&mut self.pages, mine().take(read).map(|(row, _)| row.token));
            sequence.draft.clear();
            sequence.draft.extend(mine().skip(read).map(|(row, _)| row.token));
        }
        let answers = answers(work, &self.buffers.faulted);
        Ok(Step { answers, logits: &self.buffers.logits, vocab: self.model.vocab() })
    }

    /// Takes the first `tokens` of the last step's draft as read: they are what follows indeed, and their logits
    /// were finite.
    pub fn accept(&mut self, sequence: SequenceId, tokens: usize) {
        if let Some(sequence) = self.sequences.get_mut(sequence) {
            let mut draft = std::mem::take(&mut sequence.draft);
            sequence.advance(&mut self.pages, draft.drain(..tokens.min(draft.len())));
        }
    }

    /// Takes the pages that the rows write to, or none.
    fn make_room(&mut self, rows: &[Row], ids: &[SequenceId]) -> Result<(), StepError> {
        let mut ends = vec![0; ids.len()];
        rows.iter().for_each(|row| ends[row.sequence] = row.position + 1);
        let all = || ids.iter().zip(&ends).filter(|(_, end)| **end > 0);
        let lacks = |(id, end): (&SequenceId, &u32)| self.sequences.get(*id).map(|s| s.lacks(&self.pages, *end));
        let wanted: usize = all().filter_map(lacks).sum();
        let available = self.pages.available();
        if wanted > available {
            return Err(StepError::OutOfPages { wanted, available, bound: self.pages.bound() });
        }
        for (id, end) in all() {
            if let Some(sequence) = self.sequences.get_mut(*id) {
                sequence.grow(&mut self.pages, *end);
            }
        }
        Ok(())
    }

    /// The work's rows, checked.
    fn batch(&self, work: &[Work<'_>]) -> Result<Batch, StepError> {
        let (mut rows, mut ids, mut reads, mut drafts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for item in work {
            let found = self.sequences.get(item.sequence).ok_or(StepError::UnknownSequence)?;
            if self.is_encoder() && found.pooled.is_none() {
                return Err(StepError::NotPooled);
            }
            let sequence = ids.iter().position(|id| *id == item.sequence).unwrap_or_else(|| {
                ids.push(item.sequence);
                reads.push(found.read);
                drafts.push(0);
                ids.len() - 1
            });
            if drafts[sequence] > 0 || item.wants.draft() > 0 && item.wants.draft() >= item.tokens.len() {
                return Err(StepError::DraftWithin);
            }
            drafts[sequence] = item.wants.draft();
            let position = reads[sequence];
            let end = u64::from(position) + item.tokens.len() as u64;
            if end > u64::from(self.ctx_max) {
                return Err(StepError::ContextExceeded { position: end - 1, ctx_max: self.ctx_max });
            }
            if let Some(token) = item.tokens.iter().find(|t| **t >= self.vocab()) {
                return Err(StepError::UnknownToken { token: *token, vocab: self.vocab() });
            }
            rows.extend(item.tokens.iter().zip(1..).map(|(token, i)| Row {
                sequence,
                position: position + i - 1,
                token: *token,
                wants_logits: item.wants != Wants::Nothing && i as usize + item.wants.draft() >= item.tokens.len(),
            }));
            reads[sequence] = end as u32;
        }
        Ok(Batch { rows, ids, drafts })
    }
}

/// What a step runs.
struct Batch {
    rows: Vec<Row>,
    /// The sequences that the rows index.
    ids: Vec<SequenceId>,
    /// Of each one's rows, how many at the end are a draft.
    drafts: Vec<usize>,
}

/// For each work and each of the logits that it wants: which logits they are, if all of its numbers up to there are
/// finite. One for each work that wants none.
fn answers(work: &[Work<'_>], faulted: &[bool]) -> Vec<Vec<Result<Option<usize>, NumericFault>>> {
    let (mut row, mut wanted) = (0, 0);
    let each = |item: &Work<'_>| {
        let rows = &faulted[row..row + item.tokens.len()];
        row += rows.len();
        let has_logits = item.wants != Wants::Nothing && !rows.is_empty();
        let upto = |draft: usize| {
            let is_faulted = rows[..rows.len() - draft].contains(&true);
            let at = has_logits.then_some(wanted);
            wanted += usize::from(has_logits);
            if is_faulted { Err(NumericFault) } else { Ok(at) }
        };
        (0..=item.wants.draft()).rev().map(upto).collect()
    };
    work.iter().map(each).collect()
}

/// What a step came to.
#[derive(Debug)]
pub struct Step<'a> {
    answers: Vec<Vec<Result<Option<usize>, NumericFault>>>,
    logits: &'a [f32],
    vocab: usize,
}

impl Step<'_> {
    /// The logits of the step's `work`-th item, after so many tokens of its draft; `None` where they were not wanted.
    pub fn logits(&self, work: usize, draft: usize) -> Result<Option<&[f32]>, NumericFault> {
        let Some(answer) = self.answers.get(work).and_then(|answers| answers.get(draft)) else { return Ok(None) };
        let Some(at) = (*answer)? else { return Ok(None) };
        let logits = &self.logits[at * self.vocab..][..self.vocab];
        check_finite(logits).map_err(|_| NumericFault)?;
        Ok(Some(logits))
    }
}
