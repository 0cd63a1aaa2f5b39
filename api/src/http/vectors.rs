//! What the routes share whose answer is numbers: inputs that are tasks of their own, prompt in and one vector out,
//! scheduled as any other and cancelled when the client leaves.
//!
//! A long list goes in piece by piece, so that it takes no more places in the queue than other requests may. Where one
//! input is refused or fails, so is the request.

use super::fields::Fields;
use super::task_submit::seed_of;
use crate::door::{Admitted, Door, Ticket, Wish};
use crate::port::{Content, Dropped, Truncation, Words};
use crate::problem::Problem;
use crate::sse::result;
use orchestrion_world::budget::Left;
use orchestrion_world::id::TenantId;
use orchestrion_world::payload::Output;
use orchestrion_world::protocol::Outcome;
use orchestrion_world::time::Ticks;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Of one request, at a time: fewer than the shortest queue anybody would configure.
pub(crate) const TASKS_AT_ONCE: usize = 8;

/// What all inputs of a request have in common.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) model: String,
    pub(crate) output: Output,
    pub(crate) deadline: Option<Ticks>,
    pub(crate) truncation: Truncation,
}

/// What one of them came to.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) vector: Vec<f32>,
    pub(crate) dropped: Dropped,
}

/// What all of them came to, in their order.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) all: Vec<Measured>,
    pub(crate) left: Left,
    tokens: u64,
}

impl Asked {
    /// Nothing is drawn, so no field says how.
    pub(crate) fn words(&self, content: Content, seed: u64) -> Result<Words, Problem> {
        let sampling = Fields(Map::new()).sampling(seed)?;
        let bare = Words::new(self.model.clone(), content, sampling, self.output);
        Ok(Words { max_tokens: Some(1), truncation: self.truncation, ..bare })
    }

    fn wish(&self, content: Content) -> Result<Wish, Problem> {
        let ticket = Ticket::of_connection(self.deadline);
        let words = self.words(content, seed_of(ticket.task))?;
        Ok(Wish { ticket, ctx: None, words })
    }

    /// `located` names the input, by its place, whose words are the problem.
    pub(crate) async fn gather(
        &self,
        door: &Arc<Door>,
        tenant: TenantId,
        contents: Vec<Content>,
        located: impl Fn(usize, Problem) -> Problem,
    ) -> Result<Gathered, Problem> {
        let mut gathered = Gathered { all: Vec::new(), left: Left::default(), tokens: 0 };
        let mut contents = contents.into_iter().peekable();
        while contents.peek().is_some() {
            let piece = contents.by_ref().take(TASKS_AT_ONCE).map(|content| self.wish(content));
            let piece = piece.collect::<Result<Vec<Wish>, Problem>>()?;
            let begun = gathered.all.len();
            let admitted = door.admit_choices(tenant, piece, 1).await;
            for admitted in admitted.map_err(|(place, problem)| located(begun + place, problem))? {
                gathered.left = admitted.left;
                gathered.take(&admitted).await?;
            }
        }
        Ok(gathered)
    }
}

impl Gathered {
    async fn take(&mut self, admitted: &Admitted) -> Result<(), Problem> {
        let ending = admitted.entry.finished().await;
        result(&ending)?;
        let Outcome::Done(used) = ending.outcome else { return Err(Problem::no_task()) };
        let answer = admitted.entry.answer().unwrap_or_default();
        let vector = answer.vector.iter().map(|bits| f32::from_bits(*bits)).collect();
        self.all.push(Measured { vector, dropped: admitted.entry.dropped });
        self.tokens += u64::from(used.tokens_in);
        Ok(())
    }

    pub(crate) fn usage(&self) -> Value {
        json!({"prompt_tokens": self.tokens, "total_tokens": self.tokens})
    }
}
