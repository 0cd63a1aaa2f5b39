//! One task's answer: its tokens in order, behind a gate.
//!
//! Stations append, readers look by index, and the gate closes once, on the core's verdict. It holds the
//! rule for attempts: an older attempt is shut out, a newer one may repeat what stands here but never
//! change it. It has no lock and wakes nobody: `task_entry` does both, so that gate and tokens move
//! under one lock.

use orchestrion_world::id::Attempt;
use orchestrion_world::payload::{Likelihood, Likely, Token};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An alternative with the few bytes of its text on the heap.
const LIKELY_BYTES: usize = size_of::<Likely>() + 32;

/// What became of a token that a station offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Appended: readers will see it.
    Taken,
    /// The same token already stands there.
    Skipped,
    /// The task has ended, never was, or a newer attempt has begun: stop working on this attempt.
    Closed,
    /// It contradicts or overruns what stands there. The log takes no more: report the task as faulted.
    Diverged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// The core has spoken.
    Closed,
    /// Two attempts disagreed, or a token was lost on the way.
    Broken,
}

/// What the tokens say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Where each token's text ends in `text`.
    pub ends: Vec<u32>,
    pub text: String,
    /// Of each token where the task wants them; the end token, which is the last, has none.
    pub likelihoods: Vec<Likelihood>,
    /// Where the answer is numbers: the bits of f32.
    pub vector: Box<[u32]>,
}

/// What readers are told of a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) text: &'a str,
    /// Where the task wants to know.
    pub(crate) likelihood: Option<&'a Likelihood>,
    /// Of the one token of a task whose answer is numbers.
    pub(crate) vector: &'a [u32],
}

/// Append-only; at most `cap` tokens.
#[derive(Debug)]
pub(crate) struct TokenLog {
    attempt: Attempt,
    cap: u32,
    gate: Gate,
    broken: bool,
    ids: Vec<u32>,
    /// Shared once the gate is closed, so that neither the spool nor a client's result is a copy made under
    /// the entry's lock.
    answer: Arc<Answer>,
}

impl TokenLog {
    pub(crate) fn new(cap: u32) -> Self {
        TokenLog {
            attempt: Attempt::of(0, 0),
            cap,
            gate: Gate::Open,
            broken: false,
            ids: Vec::new(),
            answer: Arc::default(),
        }
    }

    /// One that was closed, as an earlier process kept it. Text beyond the last end is nobody's.
    pub(crate) fn closed(cap: u32, broken: bool, answer: Arc<Answer>) -> Self {
        TokenLog { attempt: Attempt::of(0, 0), cap, gate: Gate::Closed, broken, ids: Vec::new(), answer }
    }

    /// From here on only `attempt` and later ones may write.
    pub(crate) fn fence(&mut self, attempt: Attempt) {
        self.attempt = self.attempt.max(attempt);
    }

    pub(crate) fn push(&mut self, attempt: Attempt, token: Token<'_>) -> Pushed {
        let Token { index, id, text, likelihood, vector } = token;
        match self.gate {
            Gate::Closed => return Pushed::Closed,
            Gate::Broken => return Pushed::Diverged,
            Gate::Open if attempt < self.attempt => return Pushed::Closed,
            Gate::Open => self.attempt = attempt,
        }
        if index < self.len() {
            let same = self.ids.get(index as usize) == Some(&id) && self.piece(index) == text;
            return if same { Pushed::Skipped } else { self.diverge() };
        }
        let end = u32::try_from(self.answer.text.len() + text.len());
        match end {
            Ok(end) if index == self.len() && index < self.cap => {
                self.ids.push(id);
                // Nobody shares it before the gate is closed: this copies nothing.
                let answer = Arc::make_mut(&mut self.answer);
                answer.ends.push(end);
                answer.text.push_str(text);
                answer.likelihoods.extend(likelihood);
                if let Some(vector) = vector {
                    answer.vector = vector;
                }
                Pushed::Taken
            }
            // A gap would be an answer with a hole in it, an overrun an answer nobody asked for.
            _ => self.diverge(),
        }
    }

    fn diverge(&mut self) -> Pushed {
        self.gate = Gate::Broken;
        self.broken = true;
        Pushed::Diverged
    }

    /// No token enters after this. What was only kept to compare attempts is freed.
    pub(crate) fn close(&mut self) {
        self.gate = Gate::Closed;
        self.ids = Vec::new();
    }

    pub(crate) fn broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn len(&self) -> u32 {
        // At most `cap`, which is a u32.
        self.answer.ends.len() as u32
    }

    /// The most tokens it takes.
    pub(crate) fn cap(&self) -> u32 {
        self.cap
    }

    /// The text of token `index`; empty where there is none.
    pub(crate) fn piece(&self, index: u32) -> &str {
        let Answer { ends, text, .. } = &*self.answer;
        let index = index as usize;
        let start = index.checked_sub(1).and_then(|before| ends.get(before)).map_or(0, |&end| end as usize);
        let end = ends.get(index).map_or(start, |&end| end as usize);
        text.get(start..end).unwrap_or_default()
    }

    pub(crate) fn said(&self, index: u32) -> Said<'_> {
        let likelihood = self.answer.likelihoods.get(index as usize);
        Said { text: self.piece(index), likelihood, vector: &self.answer.vector }
    }

    /// The whole. To be held from the end of the task on: a push beside it would copy it.
    pub(crate) fn answer(&self) -> &Arc<Answer> {
        &self.answer
    }

    /// What it occupies, for the byte cap on kept results.
    pub(crate) fn bytes(&self) -> usize {
        let Answer { ends, text, likelihoods, vector } = &*self.answer;
        let alternatives = likelihoods.first().map_or(0, |likelihood| 1 + likelihood.top.len());
        let likelihoods = likelihoods.capacity() * (alternatives * LIKELY_BYTES + size_of::<Likelihood>());
        text.capacity() + 4 * (ends.capacity() + self.ids.capacity() + vector.len()) + likelihoods
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::token;

    fn with(tokens: &[(u32, &str)]) -> TokenLog {
        let mut log = TokenLog::new(8);
        for (i, (id, text)) in tokens.iter().enumerate() {
            assert_eq!(log.push(Attempt::of(1, 1), token(i as u32, *id, text)), Pushed::Taken);
        }
        log
    }

    #[test]
    fn tokens_are_appended_in_order_and_read_by_index() {
        let log = with(&[(7, "Grüß"), (8, ""), (9, " Gott")]);
        assert_eq!(log.len(), 3);
        assert_eq!((log.piece(0), log.piece(1), log.piece(2), log.piece(3)), ("Grüß", "", " Gott", ""));
        assert_eq!(log.answer().text, "Grüß Gott");
    }

    #[test]
    fn nothing_enters_after_the_gate() {
        let mut log = with(&[(7, "a")]);
        log.close();
        assert_eq!(log.push(Attempt::of(1, 1), token(1, 8, "b")), Pushed::Closed);
        assert_eq!((log.len(), log.broken()), (1, false));
    }

    #[test]
    fn an_older_attempt_is_shut_out() {
        let mut log = with(&[(7, "a")]);
        log.fence(Attempt::of(1, 2));
        assert_eq!(log.push(Attempt::of(1, 1), token(1, 8, "b")), Pushed::Closed);
        assert_eq!(log.push(Attempt::of(1, 2), token(0, 7, "a")), Pushed::Skipped);
        assert_eq!(log.push(Attempt::of(1, 2), token(1, 8, "b")), Pushed::Taken);
        assert_eq!(
            log.push(Attempt::of(1, 1), token(2, 9, "c")),
            Pushed::Closed,
            "a token of attempt 2 fences as well"
        );
    }

    #[test]
    fn a_later_attempt_may_repeat_but_not_change() {
        for (id, text) in [(8, "a"), (7, "b")] {
            let mut log = with(&[(7, "a")]);
            assert_eq!(log.push(Attempt::of(1, 2), token(0, id, text)), Pushed::Diverged);
            assert_eq!(log.push(Attempt::of(1, 2), token(1, 9, "c")), Pushed::Diverged, "and it takes no more");
            assert!(log.broken());
            log.close();
            assert!(log.broken(), "closing does not forget");
        }
    }

    #[test]
    fn gaps_and_overruns_break_it() {
        assert_eq!(with(&[]).push(Attempt::of(1, 1), token(1, 7, "a")), Pushed::Diverged);
        let mut log = TokenLog::new(1);
        assert_eq!(log.push(Attempt::of(1, 1), token(0, 7, "a")), Pushed::Taken);
        assert_eq!(log.push(Attempt::of(1, 1), token(1, 7, "a")), Pushed::Diverged);
    }
}
