//! A task of several inputs: an entry for each, of which the first has the task's id and leads to the others.
//!
//! The core knows each as a task of its own. Their client knows one and is told of its parts in their order: it has
//! come as far as the first that is not done, and ends with the first that fails.

use super::{Ending, Entry, Phase, View};
use crate::spool::Part;
use orchestrion_world::id::TaskId;
use orchestrion_world::protocol::{Finish, Outcome, Usage};
use std::iter::once;
use std::sync::Arc;

impl Part {
    /// The id of a part, the same whenever the task is sent again.
    pub(crate) fn id(task: TaskId, index: u32) -> TaskId {
        if index == 0 {
            return task;
        }
        let mut text = task.0.to_be_bytes().to_vec();
        text.extend_from_slice(&index.to_be_bytes());
        let mut id = [0; 16];
        id.iter_mut().zip(blake3::hash(&text).as_bytes()).for_each(|(to, from)| *to = *from);
        TaskId(u128::from_be_bytes(id))
    }
}

impl Entry {
    /// All its parts are there. Said twice, it is the same.
    pub(crate) fn lead(&self, others: Vec<Arc<Entry>>) {
        self.others.get_or_init(|| others);
    }

    /// Whether it is what a client knows as a task, with all its parts.
    pub(crate) fn is_task(&self) -> bool {
        let is_whole =
            |part: &Part| part.index == 0 && part.count as usize == 1 + self.others.get().map_or(0, Vec::len);
        self.part.as_ref().is_none_or(is_whole)
    }

    /// In their order, itself the first; of a completion itself alone.
    pub(crate) fn parts(self: &Arc<Self>) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        once(self).chain(self.others.get().into_iter().flatten())
    }

    /// Where the task stands that its client knows.
    pub(crate) fn standing(self: &Arc<Self>) -> View {
        let first = self.view();
        // A reader can have had one that an earlier process told: it is told again, the same.
        let bound = self.part.as_ref().map(|part| part.count);
        let (mut told, mut used): (u32, Option<Usage>) = (0, None);
        for part in self.parts() {
            let View { phase, tokens, ending, .. } = part.view();
            let Some(ending) = ending else {
                let phase = if used.is_some() { Phase::Running } else { phase };
                return View { phase, tokens: told.saturating_add(tokens), ending: None, ..first };
            };
            let (Outcome::Done(usage), false) = (ending.outcome, ending.broken) else {
                let ending = Ending { tokens: bound.unwrap_or(ending.tokens), ..ending };
                return View { phase, tokens: told.saturating_add(tokens), ending: Some(ending), ..first };
            };
            told = told.saturating_add(tokens);
            used = Some(used.map_or(usage, |used| sum(used, usage)));
        }
        let outcome = used.map(Outcome::Done);
        let phase = outcome.map_or(first.phase, Phase::Ended);
        let ending = outcome.map(|outcome| Ending { outcome, broken: false, tokens: bound.unwrap_or(told) });
        View { phase, tokens: told, ending, ..first }
    }

    /// Whether its result is to be kept from now on: true once, when all its parts have ended.
    pub(crate) fn claim_keep(self: &Arc<Self>) -> bool {
        // The last ones seldom end first.
        let ended = self.is_task() && self.parts().rev().all(|part| matches!(part.phase(), Phase::Ended(_)));
        ended && !std::mem::replace(&mut self.lock().kept, true)
    }
}

/// What two parts used.
fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        finish: Finish::Stop,
        tokens_in: a.tokens_in.saturating_add(b.tokens_in),
        tokens_cached: a.tokens_cached.saturating_add(b.tokens_cached),
        tokens_out: a.tokens_out.saturating_add(b.tokens_out),
        prefill_us: a.prefill_us.saturating_add(b.prefill_us),
        decode_us: a.decode_us.saturating_add(b.decode_us),
    }
}
