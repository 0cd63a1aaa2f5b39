//! Turns a request's words into tokens, with the tokenizer and the template of the model it names.
//!
//! Fills the door's `Prepare` port; what a model makes of words is its `recipe`. A model is put on the shelf when it is
//! loaded; until then requests for it are told to come back.

mod recipe;

use orchestrion_api::port::{Content, Dropped, ModelCard, Prepare, PrepareError, Prepared, Shape, Truncation, Words};
use orchestrion_gpu::grammar::{GrammarError, Grammars};
use orchestrion_gpu::template::Template;
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_world::id::ModelId;
use orchestrion_world::payload::{CallForm, Output, Payload};
use orchestrion_world::prefix;
use orchestrion_world::protocol::Class;
use orchestrion_world::units::Sha256;
use sha2::{Digest, Sha256 as Hasher};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use recipe::Recipe;

/// Answers of requests that name no length: long enough for a page, short enough for a queue.
const MAX_TOKENS_DEFAULT: u32 = 1_024;

/// The models of the rules, in `ModelId` order.
#[derive(Debug)]
pub(crate) struct Kitchen {
    names: Vec<String>,
    shelf: Vec<OnceLock<Recipe>>,
    opened_unix_s: u64,
}

impl Kitchen {
    pub(crate) fn new(names: Vec<String>) -> Kitchen {
        let shelf = names.iter().map(|_| OnceLock::new()).collect();
        Kitchen { names, shelf, opened_unix_s: unix_s() }
    }

    /// From here on the model's requests can be prepared. Only the first recipe is kept; false where this one
    /// is of another file or engine.
    pub(crate) fn put(&self, model: &str, recipe: Recipe) -> bool {
        let Ok(at) = self.names.binary_search_by(|name| name.as_str().cmp(model)) else { return false };
        let fingerprint = recipe.fingerprint.clone();
        self.shelf[at].get_or_init(|| recipe).fingerprint == fingerprint
    }

    /// What was put there, if it is of this fingerprint: a model that comes again needs no second tokenizer.
    pub(crate) fn lends(&self, model: &str, fingerprint: &str) -> Option<(Arc<Tokenizer>, Arc<Grammars>)> {
        let at = self.names.binary_search_by(|name| name.as_str().cmp(model)).ok()?;
        let recipe = self.shelf[at].get().filter(|recipe| recipe.fingerprint == fingerprint)?;
        Some((Arc::clone(&recipe.tokenizer), Arc::clone(&recipe.grammars)))
    }

    /// What comes of chats with a model that was put there, for the banner.
    pub(crate) fn chats(&self, model: &str) -> String {
        self.recipe(model).map_or_else(|_| String::new(), |(_, recipe)| recipe.chats())
    }

    /// What the core calls a model.
    pub(crate) fn id_of(&self, model: &str) -> Option<ModelId> {
        let at = self.names.binary_search_by(|name| name.as_str().cmp(model)).ok()?;
        Some(ModelId(at as u16))
    }

    fn recipe(&self, model: &str) -> Result<(ModelId, &Recipe), PrepareError> {
        let at = self
            .names
            .binary_search_by(|name| name.as_str().cmp(model))
            .map_err(|_| PrepareError::UnknownModel { asked: model.to_owned(), known: self.names.join(", ") })?;
        let recipe = self.shelf[at].get().ok_or_else(|| PrepareError::NotLoaded { model: model.to_owned() })?;
        Ok((ModelId(at as u16), recipe))
    }
}

impl Prepare for Kitchen {
    fn models(&self) -> Vec<ModelCard> {
        let cards = self.names.iter().zip(&self.shelf).map(|(name, recipe)| ModelCard {
            name: name.clone(),
            created: self.opened_unix_s,
            workloads: recipe.get().map(Recipe::workloads),
        });
        cards.collect()
    }

    fn call_form(&self, model: &str) -> Result<CallForm, PrepareError> {
        let (_, recipe) = self.recipe(model)?;
        let unknown = "the model's chat template tells it of no tools, or in a way that is not known here";
        let form = recipe.template.as_ref().ok().and_then(Template::calls);
        form.ok_or_else(|| PrepareError::Invalid { field: "tools", problem: unknown.to_owned() })
    }

    fn prepare(&self, words: Words) -> Result<Prepared, PrepareError> {
        let Words {
            model,
            content,
            max_tokens,
            stop,
            sampling,
            bias,
            logprobs,
            shape,
            output,
            dimensions,
            tools,
            opening,
            truncation,
        } = words;
        let (id, recipe) = self.recipe(&model)?;
        recipe.makes(output)?;
        recipe.has(dimensions)?;
        let tokens = |content: &Content| recipe.tokens(content, output, &tools, opening);
        let (mut prompt, mut dropped) = (tokens(&content)?, Dropped::default());
        if truncation == Truncation::Auto {
            (prompt, dropped) = match output {
                Output::Embedding => recipe.without_end(prompt),
                Output::Text | Output::Score => recipe.shortened(prompt, &content, max_tokens, &tokens)?,
            };
        }
        let left = recipe.left(&prompt, &content, output)?;
        recipe.known("logit_bias", bias.iter().map(|bias| bias.token))?;
        if let Some(Shape { grammar, field }) = &shape {
            let invalid = |error: GrammarError| PrepareError::Invalid { field, problem: error.to_string() };
            recipe.grammars.check(grammar).map_err(invalid)?;
        }
        let prompt_digest = digest(&prompt);
        let prefix = match output {
            Output::Text => prefix::of_prompt(&prompt),
            // Every token of it is read.
            Output::Embedding | Output::Score => Box::default(),
        };
        let payload = Payload {
            prompt: prompt.into(),
            stop: stop.into_iter().map(String::into_boxed_str).collect(),
            sampling,
            bias: bias.into(),
            logprobs,
            grammar: shape.map(|shape| shape.grammar.into()),
            max_tokens: max_tokens.unwrap_or(left.min(MAX_TOKENS_DEFAULT)),
            // Of the request, not of its words: the door knows them.
            class: Class::Interactive,
            salt: None,
            output,
        };
        let fingerprint = recipe.fingerprint.clone();
        Ok(Prepared { model: id, payload, prompt_digest, prefix, fingerprint, dropped })
    }
}

/// SHA-256 over the token ids, little endian.
fn digest(tokens: &[u32]) -> Sha256 {
    let mut hasher = Hasher::new();
    tokens.iter().for_each(|token| hasher.update(token.to_le_bytes()));
    Sha256(hasher.finalize().into())
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
