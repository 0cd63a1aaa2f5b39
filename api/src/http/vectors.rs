//! What the routes share whose answer is numbers, and the tasks of the queue that want the same: inputs that are tasks
//! of their own, prompt in and one vector out, told in one form.
//!
//! A long list of a client that waits goes in piece by piece, so that it takes no more places in the queue than other
//! requests may. Where one input is refused or fails, so is the request.

use super::fields::Fields;
use super::task_submit::seed_of;
use super::{embeddings, rerank};
use crate::door::{Door, Ticket, Wish};
use crate::port::{Content, Dropped, Truncation, Words};
use crate::problem::Problem;
use crate::spool::{Form, Part};
use crate::sse::result;
use crate::task_entry::Entry;
use orchestrion_world::budget::Left;
use orchestrion_world::id::{TaskId, TenantId};
use orchestrion_world::protocol::{Class, Determinism, Outcome};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Inputs of one request: as many as OpenAI takes.
pub(crate) const INPUTS_MOST: usize = 2_048;
/// Of one request, at a time, where the queue has places for so many.
pub(crate) const TASKS_AT_ONCE: usize = 8;

/// The request's field that holds the inputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) field: &'static str,
    /// As many as it takes.
    pub(crate) most: usize,
}

/// A request for numbers, read and checked.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) model: String,
    pub(crate) form: Form,
    pub(crate) truncation: Truncation,
    /// At least one, perhaps with a document that is to be told with its score, as JSON.
    pub(crate) inputs: Vec<(Content, Option<String>)>,
    pub(crate) place: Place,
}

/// Names an input that is a problem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) field: &'static str,
    pub(crate) is_list: bool,
}

impl Place {
    /// To preparation each input is a prompt or a document.
    pub(crate) fn of(self, index: usize, problem: Problem) -> Problem {
        let param = if self.is_list { format!("{}[{index}]", self.field) } else { self.field.to_owned() };
        problem.renamed("prompt", &param).renamed("documents", &param)
    }
}

impl Request {
    /// A wish for each input. `ticket` is that of the first.
    pub(crate) fn wishes(self, ticket: &Ticket, ctx: Option<u32>) -> Result<Vec<Wish>, Problem> {
        // Nothing is drawn, so no field says how.
        let sampling = Fields(Map::new()).sampling(seed_of(ticket.task))?;
        let Request { model, form, truncation, inputs, place: _ } = self;
        let count = inputs.len() as u32;
        let wish = |(index, (content, document))| {
            let (of, model) = (ticket.task, model.clone());
            let bare = Words::new(model.clone(), content, sampling, form.output());
            let dimensions = match form {
                Form::Embedding { dimensions, .. } => dimensions,
                Form::Rerank { .. } => None,
            };
            let words = Words { max_tokens: Some(1), truncation, dimensions, ..bare };
            let (task, part) = (Part::id(of, index), Some(Part { of, index, count, model, form, document }));
            // An attempt that is made again comes to the same bits, whoever was shown them.
            let ticket = Ticket { task, part, determinism: Determinism::Strict, ..ticket.clone() };
            Wish { ticket, ctx, words }
        };
        Ok((0..).zip(inputs).map(wish).collect())
    }

    /// Runs it for a client that waits, and tells what it came to.
    pub(crate) async fn answer(
        self,
        door: &Arc<Door>,
        tenant: TenantId,
        ticket: &Ticket,
    ) -> Result<(Value, Left), Problem> {
        let place = self.place;
        let mut wishes = self.wishes(ticket, None)?.into_iter().peekable();
        let (mut parts, mut left): (Vec<Arc<Entry>>, Left) = Default::default();
        while wishes.peek().is_some() {
            let piece = wishes.by_ref().take(TASKS_AT_ONCE.min(door.places(Class::Interactive))).collect();
            let begun = parts.len();
            let admitted = door.admit_choices(tenant, piece, 1).await;
            for admitted in admitted.map_err(|(index, problem)| place.of(begun + index, problem))? {
                left = admitted.left;
                result(&admitted.entry.finished().await)?;
                parts.push(admitted.entry);
            }
        }
        Ok((told(ticket.task, parts.iter())?, left))
    }
}

/// What an input came to.
#[derive(Debug)]
pub(crate) struct Measured<'a> {
    pub(crate) part: &'a Part,
    pub(crate) vector: Vec<f32>,
    pub(crate) dropped: Dropped,
}

impl Measured<'_> {
    /// As its client wants it.
    pub(crate) fn json(&self) -> Value {
        match self.part.form {
            Form::Embedding { base64, dimensions } => embeddings::item(self, base64, dimensions),
            Form::Rerank { raw_scores, .. } => rerank::item(self, raw_scores),
        }
    }
}

/// The answer to a task of which all parts are done, in their order.
pub(crate) fn told<'a>(task: TaskId, parts: impl Iterator<Item = &'a Arc<Entry>>) -> Result<Value, Problem> {
    let (mut all, mut tokens) = (Vec::new(), 0);
    for entry in parts {
        let (Some(part), Some(ending)) = (&entry.part, entry.view().ending) else { return Err(Problem::no_task()) };
        let Outcome::Done(used) = ending.outcome else { return Err(Problem::no_task()) };
        let answer = entry.answer().unwrap_or_default();
        let vector = floats(&answer.vector);
        all.push(Measured { part, vector, dropped: entry.dropped });
        tokens += u64::from(used.tokens_in);
    }
    let Some(Part { form, model, .. }) = all.first().map(|first| first.part) else { return Err(Problem::no_task()) };
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(match form {
        Form::Embedding { .. } => {
            let data: Vec<Value> = all.iter().map(Measured::json).collect();
            json!({"object": "list", "data": data, "model": model, "usage": usage})
        }
        Form::Rerank { top_n, .. } => {
            let (id, results) = (format!("rerank-{task}"), rerank::best(&all, *top_n));
            json!({"id": id, "object": "list", "model": model, "results": results, "usage": usage})
        }
    })
}

pub(crate) fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|bits| f32::from_bits(*bits)).collect()
}

#[cfg(test)]
mod tests;
