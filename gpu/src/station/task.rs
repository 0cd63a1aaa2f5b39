//! One attempt at a task: its prompt on the way in, its answer on the way out.
//!
//! Knows how far it has come, which tokens it runs next and when it ends. Sends nothing: `run` does.

use super::StationModel;
use super::draft::Drafter;
use super::text::Text;
use crate::engine::{Engine, Makes, NumericFault, PageCount, SequenceId, Wants};
use crate::grammar::{Follower, GrammarError};
use crate::likelihood::likelihood;
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;
use orchestrion_planner::Row;
use orchestrion_world::id::{Attempt, TaskId};
use orchestrion_world::payload::{Likelihood, Output, Payload};
use orchestrion_world::protocol::{FaultClass, Finish, Usage};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Task {
    pub(super) task: TaskId,
    pub(super) attempt: Attempt,
    /// None while it waits for pages.
    pub(super) sequence: Option<SequenceId>,
    /// Its prompt, its answer so far and, while a step runs, a draft.
    tokens: Vec<u32>,
    /// Of those, what its sequence has read.
    read: usize,
    /// Of those, the draft.
    drafted: usize,
    drafter: Drafter,
    /// Prompt tokens that were known when it began.
    cached: u32,
    pub(super) made: u32,
    payload: Payload,
    ctx_max: u32,
    sampler: Sampler,
    grammar: Option<Follower>,
    text: Text,
    tokenizer: Arc<Tokenizer>,
    /// When the prompt was begun and read, when the first and the last token of the answer were made.
    begun: Option<Instant>,
    prefilled: Option<Instant>,
    first: Option<Instant>,
    latest: Option<Instant>,
}

/// A token as it goes out.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) index: u32,
    pub(super) id: u32,
    pub(super) text: String,
    pub(super) likelihood: Option<Likelihood>,
    pub(super) vector: Option<Box<[u32]>>,
    pub(super) finish: Option<Finish>,
}

impl Task {
    /// Takes up a payload that can run; `None` for one that cannot, on any try.
    pub(super) fn new(
        StationModel { engine, tokenizer, grammars, .. }: &mut StationModel,
        (task, attempt): (TaskId, Attempt),
        payload: Payload,
    ) -> Option<Task> {
        let prompt = &payload.prompt;
        let fits = !prompt.is_empty() && prompt.len() < engine.tokens_max() as usize;
        let known = prompt.iter().chain(payload.bias.iter().map(|b| &b.token)).all(|token| *token < engine.vocab());
        let makes = match payload.output {
            Output::Text => engine.makes() == Makes::Text,
            Output::Embedding => engine.makes() != Makes::Scores,
            Output::Score => engine.makes() == Makes::Scores,
        };
        if !fits || !known || !makes || payload.max_tokens == 0 || payload.sampling.repetition_penalty.0 == 0 {
            return None;
        }
        let grammar = payload.grammar.clone().map(|grammar| grammars.follow(grammar)).transpose();
        let grammar = grammar.inspect_err(|error| tracing::error!(%task, %error, "no grammar can be followed")).ok()?;
        Some(Task {
            task,
            attempt,
            sequence: None,
            tokens: prompt.to_vec(),
            read: 0,
            drafted: 0,
            drafter: Drafter::new(),
            cached: 0,
            made: 0,
            ctx_max: engine.tokens_max(),
            sampler: Sampler::new(payload.sampling, &payload.bias, engine.vocab() as usize, prompt),
            grammar,
            text: Text::new(tokenizer.clone(), payload.prompt.last().copied(), payload.stop.clone()),
            tokenizer: tokenizer.clone(),
            payload,
            begun: None,
            prefilled: None,
            first: None,
            latest: None,
        })
    }

    /// As the planner sees it.
    pub(super) fn row(&self, engine: &Engine) -> Row {
        let (pages, own) = self.sequence.map_or((0, 0), |sequence| engine.pages_of(sequence));
        let (known, read) = (self.tokens.len() as u32, self.read as u32);
        Row { class: self.payload.class, known, read, pages: pages as u32, own: own as u32 }
    }

    /// Opens its sequence, with pages for all that it has to read; not where there are too few.
    pub(super) fn enter(&mut self, engine: &mut Engine) {
        let (sequence, read) = match (self.payload.output, self.payload.salt) {
            (Output::Text, Some(salt)) => engine.open_after(salt, &self.tokens),
            (Output::Text, None) => (engine.open(), 0),
            // All of its hidden states are needed, so none is known before.
            (Output::Embedding | Output::Score, _) => (engine.open_pooled(self.tokens.len() as u32), 0),
        };
        (self.sequence, self.read) = (Some(sequence), read as usize);
        if !engine.reserve(sequence, self.tokens.len() as u32) {
            return self.leave(engine);
        }
        if self.begun.is_none() {
            self.cached = read;
        }
    }

    /// Gives its pages back; what it has read is to be read again.
    pub(super) fn leave(&mut self, engine: &mut Engine) {
        self.sequence.take().into_iter().for_each(|sequence| engine.close(sequence));
        self.read = 0;
    }

    /// Whether it reads the last token that it made, and makes another.
    pub(super) fn answers(&self) -> bool {
        self.made > 0 && self.tokens.len() - self.read == 1
    }

    /// Drafts up to `most` tokens of those that it may still make, where the pages that it holds have room for them.
    pub(super) fn draft(&mut self, engine: &Engine, most: u32) {
        let pages = self.sequence.map_or(0, |sequence| engine.pages_of(sequence).0);
        let known = self.tokens.len();
        let room = (pages * PageCount::POSITIONS as usize).min(self.ctx_max as usize - 1).saturating_sub(known);
        let rest = (self.payload.max_tokens - self.made).saturating_sub(1);
        let draft = self.drafter.draft(&self.tokens, room.min(most.min(rest) as usize));
        self.drafted = draft.len();
        self.tokens.extend(draft);
    }

    /// Up to `count` of the tokens that it has to read, with the draft where they are all, and what is wanted of them.
    pub(super) fn next(&self, count: u32) -> (&[u32], Wants) {
        let rest = &self.tokens[self.read..];
        let is_all = rest.len() - self.drafted <= count as usize;
        match self.payload.output {
            _ if !is_all => (&rest[..count as usize], Wants::Nothing),
            Output::Embedding | Output::Score => (rest, Wants::Nothing),
            Output::Text => (rest, Wants::Draft(self.drafted)),
        }
    }

    /// Notes that its prompt is being read from now on; true the first time.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        self.begun.replace(self.begun.unwrap_or(now)).is_none()
    }

    /// Takes up what a step of `tokens` tokens came to: a token where all that it knew is read, and others as far as
    /// the draft was right. Gives how much of it that was.
    pub(super) fn advance<'a>(
        &mut self,
        tokens: usize,
        logits: impl Fn(usize) -> Result<Option<&'a [f32]>, NumericFault>,
        now: Instant,
        answers: &mut dyn FnMut(Result<Option<Made>, FaultClass>),
    ) -> usize {
        let draft = self.tokens.split_off(self.tokens.len() - std::mem::take(&mut self.drafted));
        self.read += tokens - draft.len();
        let mut accepted = 0;
        loop {
            // The numbers are the same on every try: another would meet them again.
            let made = match logits(accepted) {
                Err(NumericFault) => Err(FaultClass::InvalidInput),
                Ok(None) => Ok(None),
                Ok(Some(logits)) => self.make(logits, now).map(Some),
            };
            let id = made.as_ref().ok().and_then(|made| made.as_ref()).filter(|made| made.finish.is_none());
            let is_right = id.is_some_and(|made| draft.get(accepted) == Some(&made.id));
            answers(made);
            if !is_right {
                break;
            }
            (accepted, self.read) = (accepted + 1, self.read + 1);
        }
        self.drafter.fared(draft.len(), accepted);
        accepted
    }

    /// The token that these logits give.
    fn make(&mut self, logits: &[f32], now: Instant) -> Result<Made, FaultClass> {
        self.prefilled = self.prefilled.or(Some(now));
        let position = self.tokens.len() as u32;
        let (id, complete) = self.draw(logits, position).map_err(|error| self.astray(&error))?;
        let index = self.made;
        self.made += 1;
        self.tokens.push(id);
        self.first = self.first.or(Some(now));
        self.latest = Some(now);
        let full = self.made == self.payload.max_tokens || position + 1 == self.ctx_max;
        let wanted = self.payload.logprobs.filter(|_| !self.tokenizer.is_end(id));
        let likelihood = wanted.map(|top| likelihood(logits, id, top.into(), &self.tokenizer));
        let (text, finish) = self.words(id, full, complete);
        Ok(Made { index, id, text, likelihood, vector: None, finish })
    }

    /// Whether its prompt is read and it waits for what the engine pooled of it.
    pub(super) fn wants_vector(&self) -> bool {
        self.payload.output != Output::Text && self.read == self.tokens.len()
    }

    /// The one token of a vector. Its id says what the vector is, so that attempts can be compared.
    pub(super) fn embed(&mut self, vector: &[f32], now: Instant) -> Made {
        let vector: Box<[u32]> = vector.iter().map(|x| x.to_bits()).collect();
        let id = vector.iter().fold(0, |id: u32, bits| id.rotate_left(5) ^ bits);
        self.made = 1;
        (self.prefilled, self.first, self.latest) = (Some(now), Some(now), Some(now));
        let finish = Some(Finish::Stop);
        Made { index: 0, id, text: String::new(), likelihood: None, vector: Some(vector), finish }
    }

    /// The next token, and whether it completes the grammar.
    fn draw(&mut self, logits: &[f32], position: u32) -> Result<(u32, bool), GrammarError> {
        let Some(grammar) = &mut self.grammar else { return Ok((self.sampler.next(logits, position, None), false)) };
        let id = self.sampler.next(logits, position, Some(grammar.allowed()?));
        Ok((id, !self.tokenizer.is_end(id) && grammar.push(id)?))
    }

    /// A grammar goes the same way on every try, as long as somebody follows it.
    fn astray(&self, error: &GrammarError) -> FaultClass {
        // Their words may quote the request.
        tracing::warn!(task = %self.task, "an answer cannot follow its grammar");
        match error {
            GrammarError::Gone => FaultClass::Fatal,
            GrammarError::TooLong { .. } | GrammarError::Unusable(_) | GrammarError::Stuck => FaultClass::InvalidInput,
        }
    }

    /// A token's text, and whether the answer ends with it.
    fn words(&mut self, id: u32, full: bool, complete: bool) -> (String, Option<Finish>) {
        if self.tokenizer.is_end(id) {
            return (self.text.finish().0, Some(Finish::Stop));
        }
        let (mut text, stopped) = self.text.push(id);
        if stopped {
            return (text, Some(Finish::Stop));
        }
        if !full && !complete {
            return (text, None);
        }
        let (rest, stopped) = self.text.finish();
        text.push_str(&rest);
        (text, Some(if stopped || complete { Finish::Stop } else { Finish::Length }))
    }

    pub(super) fn usage(&self, finish: Finish) -> Usage {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.duration_since(from).as_micros() as u64,
            _ => 0,
        };
        Usage {
            finish,
            tokens_in: if self.prefilled.is_some() { self.payload.prompt.len() } else { self.read } as u32,
            tokens_cached: self.cached,
            tokens_out: self.made,
            prefill_us: between(self.begun, self.prefilled),
            decode_us: between(self.first, self.latest),
        }
    }
}
