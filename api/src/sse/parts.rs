//! The frames of a task whose answer is numbers: what each of its parts came to, in their order, and one end.
//!
//! Ids: 0 is `started`, n is part n-1, the end is one more than there are parts.

use super::{event, result, started};
use crate::http::vectors::{Measured, floats};
use crate::spool::{Form, Part};
use crate::task_entry::{Begun, Ending, Entry, Frames};
use crate::token_log::Said;
use orchestrion_world::protocol::Outcome;
use std::sync::Arc;

/// Those of one part, which begin where those of the part before it end.
#[derive(Debug)]
pub(crate) struct PartFrames {
    pub(crate) task: Arc<Entry>,
    pub(crate) part: Part,
    pub(crate) correlation_id: Arc<str>,
    pub(crate) failed: bool,
}

impl Frames for PartFrames {
    fn started(&mut self, out: &mut Vec<u8>, begun: &Begun) {
        started(out, &self.task, begun);
    }

    fn token(&mut self, out: &mut Vec<u8>, _index: u32, said: Said<'_>) {
        let dropped = self.task.parts().nth(self.part.index as usize).map(|entry| entry.dropped).unwrap_or_default();
        let measured = Measured { part: &self.part, vector: floats(said.vector), dropped };
        let name = match self.part.form {
            Form::Embedding { .. } => "embedding",
            Form::Rerank { .. } => "score",
        };
        event(out, self.part.index.saturating_add(1), name, &measured.json());
    }

    fn ended(&mut self, out: &mut Vec<u8>, ending: &Ending) {
        self.failed = ending.broken || !matches!(ending.outcome, Outcome::Done(_));
        if !self.failed && self.part.index.saturating_add(1) < self.part.count {
            return;
        }
        let whole = self.task.standing().ending.unwrap_or(*ending);
        let id = whole.tokens.saturating_add(1);
        match result(&whole) {
            Ok(facts) => event(out, id, "end", &facts),
            Err(problem) => event(out, id, "error", &problem.flat(&self.correlation_id)),
        }
    }

    fn closes(&self) -> bool {
        self.failed
    }
}
