//! Entries to and from the spool: what of a task outlives the process.
//!
//! Pure conversions under the entry's lock; when they happen is the switchboard's to say.

use super::{Admission, Begun, Entry, Phase, State, Surface};
use crate::recovery::Unfinished;
use crate::spool::{Card, Finished, Wanted};
use crate::token_log::TokenLog;
use orchestrion_world::id::WorkerId;
use orchestrion_world::payload::{Grammar, Output, Payload};
use orchestrion_world::protocol::Outcome;
use orchestrion_world::time::Ticks;
use std::sync::{Arc, Mutex, OnceLock};

impl Entry {
    fn card(&self, position: u32, predicted_start: Ticks) -> Card {
        Card {
            task: self.task,
            body: self.body,
            class: self.class,
            fingerprint: self.fingerprint.to_string(),
            seed: self.seed,
            prompt_tokens: self.prompt_tokens,
            max_tokens: self.max_tokens,
            logprobs: self.logprobs,
            dropped: self.dropped,
            part: self.part.clone(),
            position,
            predicted_start,
        }
    }

    /// The task's words, as long as it has not ended.
    pub(crate) fn wanted(&self, position: u32, predicted_start: Ticks) -> Option<Wanted> {
        let Payload { prompt, stop, sampling, bias, logprobs, grammar, max_tokens: _, class: _, salt: _, output: _ } =
            self.payload()?;
        let card = self.card(position, predicted_start);
        let (prompt, stop, bias) = (prompt.to_vec(), stop.to_vec(), bias.to_vec());
        let grammar = grammar.map(|grammar| Grammar::clone(&grammar));
        Some(Wanted { card, prompt, stop, sampling, bias, logprobs, grammar })
    }

    /// Closes the gate, so that what is kept is what readers get, and gives the result; none where the task
    /// ended before or was never admitted.
    pub(crate) fn finish(&self, outcome: &Outcome, worker: Option<WorkerId>, wall_ms: u64) -> Option<Finished> {
        let mut state = self.lock();
        let (position, predicted_start) = match state.admission {
            Some(Admission::Accepted { position, predicted_start }) => (position, predicted_start),
            // In the step of its admission, which is not told yet.
            None => Default::default(),
            Some(Admission::Refused(_) | Admission::Withdrawn) => return None,
        };
        if matches!(state.phase, Phase::Ended(_)) {
            return None;
        }
        state.log.close();
        Some(Finished {
            card: self.card(position, predicted_start),
            worker: worker.or(state.begun.map(|begun| begun.worker)),
            outcome: *outcome,
            broken: state.log.broken(),
            cut: state.cut,
            answer: Arc::clone(state.log.answer()),
            wall_ms,
        })
    }

    /// A task that goes on, as an earlier process left it.
    pub(crate) fn unfinished(Unfinished { wanted, cut }: Unfinished, number: u64) -> Entry {
        let Wanted { card, prompt, stop, sampling, bias, logprobs, grammar } = wanted;
        let (prompt, stop, bias) = (prompt.into(), stop.into(), bias.into());
        let output = card.part.as_ref().map_or(Output::Text, |part| part.form.output());
        let grammar = grammar.map(Arc::new);
        // Whose it is stands in the journal only: it shares with nobody.
        let (class, salt, max_tokens) = (card.class, None, card.max_tokens);
        let payload = Payload { prompt, stop, sampling, bias, logprobs, grammar, max_tokens, class, salt, output };
        let entry = Entry::of(&card, Some(payload), number);
        entry.change(|state| {
            state.phase = Phase::Queued;
            state.admission = Some(admission(&card));
            state.cut = cut;
        });
        entry
    }

    /// A result of an earlier process.
    pub(crate) fn ended(finished: Finished, number: u64) -> Entry {
        let Finished { card, worker, outcome, broken, cut, answer, wall_ms: _ } = finished;
        let entry = Entry::of(&card, None, number);
        entry.change(|state| {
            state.phase = Phase::Ended(outcome);
            state.admission = Some(admission(&card));
            let (position, predicted_start) = (card.position, card.predicted_start);
            state.begun = worker.map(|worker| Begun { position, predicted_start, worker });
            state.log = TokenLog::closed(card.max_tokens, broken, answer);
            state.cut = cut;
        });
        entry
    }

    fn of(card: &Card, payload: Option<Payload>, number: u64) -> Entry {
        Entry {
            task: card.task,
            number,
            body: card.body,
            surface: Surface::Queue,
            class: card.class,
            seed: card.seed,
            fingerprint: card.fingerprint.as_str().into(),
            dropped: card.dropped,
            part: card.part.clone(),
            others: OnceLock::new(),
            prompt_tokens: card.prompt_tokens,
            max_tokens: card.max_tokens,
            logprobs: card.logprobs,
            state: Mutex::new(State::new(card.max_tokens, payload)),
        }
    }
}

fn admission(card: &Card) -> Admission {
    Admission::Accepted { position: card.position, predicted_start: card.predicted_start }
}
