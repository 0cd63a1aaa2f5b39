//! The host engine: one model in memory, its sequences, and a step that runs tokens of any of them.
//!
//! The caller says what a step runs: several sequences at once, a prompt in chunks or whole. What a
//! sequence answers does not depend on any of it, nor on the level or the number of threads.
//!
//! Reads and writes its own memory only. Draws no tokens (see `sampler`), keeps no time, decides no order
//! of work (see `station`).

pub use crate::kernel::{Ceilings, Level, LevelError};
pub use crate::model::LoadError;
pub use crate::model::forward::{Stage, Tap};
pub use crate::numerics::DEFINITION;

use crate::gguf::Gguf;
use crate::kernel::Kernels;
use crate::kernel::drive::Exec;
use crate::kernel::pool::Pool;
use crate::kv::Kv;
use crate::model::Model;
use crate::model::forward::{Buffers, Row};
use crate::numerics::linear::check_finite;
use orchestrion_world::units::Bytes;
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
    /// Prompt and answer together; at most what the model was trained for.
    pub ctx_max: u32,
}

/// What a step runs of a sequence: the tokens that follow what it has read.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    pub sequence: SequenceId,
    pub tokens: &'a [u32],
    /// Whether the logits after the last of `tokens` are needed.
    pub wants_logits: bool,
}

/// Work that cannot run; the step did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("no such sequence")]
    UnknownSequence,
    #[error("token {token} is outside a vocabulary of {vocab}")]
    UnknownToken { token: u32, vocab: u32 },
    #[error("position {position} is outside a context of {ctx_max}")]
    ContextExceeded { position: u64, ctx_max: u32 },
}

/// The sequence met an infinity or a NaN; what it holds is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a number of the sequence is not finite")]
pub struct NumericFault;

#[derive(Debug)]
struct Sequence {
    kv: Kv,
    read: u32,
}

/// See the module's description.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    exec: Exec,
    buffers: Buffers,
    sequences: SlotMap<SequenceId, Sequence>,
    ctx_max: u32,
}

impl Engine {
    /// Loads a model; the file is no longer needed then.
    pub fn load(gguf: &Gguf, options: EngineOptions) -> Result<Engine, LoadError> {
        let kernels = Kernels::of(options.level)?;
        let pool = Pool::new(options.threads).map_err(|e| LoadError::Threads(e.kind()))?;
        let model = Model::load(gguf, (options.level, options.threads), options.ctx_max)?;
        let ctx_max = options.ctx_max.min(model.hyper.context);
        let exec = Exec { kernels, pool };
        Ok(Engine { model, exec, buffers: Buffers::default(), sequences: SlotMap::with_key(), ctx_max })
    }

    pub fn level(&self) -> Level {
        self.exec.kernels.level
    }

    pub fn threads(&self) -> usize {
        self.exec.pool.threads()
    }

    pub fn vocab(&self) -> u32 {
        self.model.vocab as u32
    }

    pub fn ctx_max(&self) -> u32 {
        self.ctx_max
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

    /// A sequence that has read nothing.
    pub fn open(&mut self) -> SequenceId {
        self.sequences.insert(Sequence { kv: Kv::new(self.model.kv_shape()), read: 0 })
    }

    /// Forgets a sequence; its memory is free at once.
    pub fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(sequence);
    }

    /// Runs all of `work`; the same sequence may stand in it several times, in order.
    pub fn step(&mut self, work: &[Work<'_>]) -> Result<Step<'_>, StepError> {
        self.step_traced(work, &mut |_, _| {})
    }

    /// `step`, with an ear on the residual stream.
    pub fn step_traced(&mut self, work: &[Work<'_>], tap: Tap<'_>) -> Result<Step<'_>, StepError> {
        let (rows, ids) = self.rows(work)?;
        let shape = self.model.kv_shape();
        let mut kvs: Vec<Kv> = ids
            .iter()
            .map(|id| match self.sequences.get_mut(*id) {
                Some(sequence) => std::mem::replace(&mut sequence.kv, Kv::new(shape)),
                None => Kv::new(shape),
            })
            .collect();
        self.model.forward(&mut self.exec, &rows, &mut kvs, &mut self.buffers, tap);
        for (i, (id, kv)) in ids.into_iter().zip(kvs).enumerate() {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.kv = kv;
                sequence.read += rows.iter().filter(|row| row.sequence == i).count() as u32;
            }
        }
        let mut answers = Vec::with_capacity(work.len());
        let (mut row, mut wanted) = (0, 0);
        for item in work {
            let faulted = self.buffers.faulted[row..row + item.tokens.len()].contains(&true);
            row += item.tokens.len();
            let has_logits = item.wants_logits && !item.tokens.is_empty();
            answers.push(if faulted { Err(NumericFault) } else { Ok(has_logits.then_some(wanted)) });
            wanted += usize::from(has_logits);
        }
        Ok(Step { answers, logits: &self.buffers.logits, vocab: self.model.vocab })
    }

    /// The batch's rows, checked, and the sequences they index.
    fn rows(&self, work: &[Work<'_>]) -> Result<(Vec<Row>, Vec<SequenceId>), StepError> {
        let (mut rows, mut ids, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for item in work {
            let found = self.sequences.get(item.sequence).ok_or(StepError::UnknownSequence)?;
            let sequence = ids.iter().position(|id| *id == item.sequence).unwrap_or_else(|| {
                ids.push(item.sequence);
                reads.push(found.read);
                ids.len() - 1
            });
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
                wants_logits: item.wants_logits && i as usize == item.tokens.len(),
            }));
            reads[sequence] = end as u32;
        }
        Ok((rows, ids))
    }
}

/// What a step came to.
#[derive(Debug)]
pub struct Step<'a> {
    answers: Vec<Result<Option<usize>, NumericFault>>,
    logits: &'a [f32],
    vocab: usize,
}

impl Step<'_> {
    /// The logits of the step's `work`-th item; `None` where they were not wanted.
    pub fn logits(&self, work: usize) -> Result<Option<&[f32]>, NumericFault> {
        let Some(answer) = self.answers.get(work) else { return Ok(None) };
        let Some(at) = (*answer)? else { return Ok(None) };
        let logits = &self.logits[at * self.vocab..][..self.vocab];
        check_finite(logits).map_err(|_| NumericFault)?;
        Ok(Some(logits))
    }
}
