//! Turns a request's words into tokens, with the tokenizer and the template of the model it names.
//!
//! Fills the door's `Prepare` port. A model is put on the shelf when it is loaded; until then requests
//! for it are told to come back.

use orchestrion_api::port::{
    self, Content, Dropped, ModelCard, Prepare, PrepareError, Prepared, Shape, Truncation, Words,
};
use orchestrion_gpu::grammar::{GrammarError, Grammars};
use orchestrion_gpu::template::{Chat, Message, Template, TemplateError};
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_world::id::ModelId;
use orchestrion_world::payload::{CallForm, Output, Payload};
use orchestrion_world::prefix;
use orchestrion_world::protocol::Class;
use orchestrion_world::units::Sha256;
use serde_json::Value;
use sha2::{Digest, Sha256 as Hasher};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// Answers of requests that name no length: long enough for a page, short enough for a queue.
const MAX_TOKENS_DEFAULT: u32 = 1_024;

/// What a loaded model lends to preparation.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub tokenizer: Arc<Tokenizer>,
    pub grammars: Arc<Grammars>,
    /// Or why chats are refused; bare prompts need none.
    pub template: Result<Template, TemplateError>,
    pub ctx_max: u32,
    /// Whether it makes vectors of texts, and no text.
    pub is_encoder: bool,
    pub fingerprint: String,
}

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
        let card = |name: &String| ModelCard { name: name.clone(), created: self.opened_unix_s };
        self.names.iter().map(card).collect()
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
            tools,
            opening,
            truncation,
        } = words;
        let (id, recipe) = self.recipe(&model)?;
        if recipe.is_encoder && output == Output::Text {
            let problem =
                "this model makes vectors and no text: ask `POST /v1/embeddings`, or name a model that answers";
            return Err(PrepareError::Invalid { field: "model", problem: problem.to_owned() });
        }
        let tokens = |content: &Content| recipe.tokens(content, output, &tools, opening);
        let (mut prompt, mut dropped) = (tokens(&content)?, Dropped::default());
        if truncation == Truncation::Auto {
            (prompt, dropped) = recipe.shortened(prompt, &content, max_tokens, &tokens)?;
        }
        let left = recipe.ctx_max.saturating_sub(u32::try_from(prompt.len()).unwrap_or(u32::MAX));
        if left == 0 {
            let problem = match output {
                Output::Text => format!("it takes {} tokens, and the context is {}", prompt.len(), recipe.ctx_max),
                // The last place is for the token that carries the vector.
                Output::Embedding => {
                    let most = recipe.ctx_max.saturating_sub(1);
                    format!("it takes {} tokens, and this model reads at most {most} at once; cut it up", prompt.len())
                }
            };
            return Err(PrepareError::Invalid { field: content.field(), problem });
        }
        recipe.known("logit_bias", bias.iter().map(|bias| bias.token))?;
        if let Some(Shape { grammar, field }) = &shape {
            let invalid = |error: GrammarError| PrepareError::Invalid { field, problem: error.to_string() };
            recipe.grammars.check(grammar).map_err(invalid)?;
        }
        let prompt_digest = digest(&prompt);
        let prefix = match output {
            Output::Text => prefix::of_prompt(&prompt),
            // Every token of it is read.
            Output::Embedding => Box::default(),
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

impl Recipe {
    /// The prompt, without its oldest part where it and the answer are more than the context holds. What the system
    /// says stays, and what is left begins with a turn of the user.
    fn shortened(
        &self,
        prompt: Vec<u32>,
        content: &Content,
        max_tokens: Option<u32>,
        tokens: &dyn Fn(&Content) -> Result<Vec<u32>, PrepareError>,
    ) -> Result<(Vec<u32>, Dropped), PrepareError> {
        let answer = max_tokens.unwrap_or(MAX_TOKENS_DEFAULT.min(self.ctx_max / 4));
        let room = self.ctx_max.saturating_sub(answer) as usize;
        if prompt.len() <= room {
            return Ok((prompt, Dropped::default()));
        }
        let short = |least: usize| PrepareError::Invalid {
            field: content.field(),
            problem: format!(
                "the context of {} tokens has room for {room} beside the answer's {answer}, and no less than {least} can \
                 be left of it; ask for fewer tokens or shorten what is said last",
                self.ctx_max
            ),
        };
        let dropped = |messages: usize, left: usize| Dropped {
            messages: messages as u32,
            tokens: u32::try_from(prompt.len() - left).unwrap_or(u32::MAX),
        };
        let Content::Messages(messages) = content else {
            let bos = usize::from(prompt.first() == self.tokenizer.bos().as_ref());
            if room <= bos {
                return Err(short(bos + 1));
            }
            let left = [&prompt[..bos], &prompt[prompt.len() - (room - bos)..]].concat();
            return Ok((left, dropped(0, room)));
        };
        let system = messages.iter().take_while(|message| message.role == "system").count();
        let begins: Vec<usize> = (system + 1..messages.len()).filter(|at| messages[*at].role == "user").collect();
        let from = |at: usize| tokens(&Content::Messages([&messages[..system], &messages[at..]].concat()));
        // The more is left out the less there is: the first that fits is found by halves.
        let (mut low, mut high) = (0, begins.len());
        while low < high {
            let middle = low.midpoint(high);
            if from(begins[middle])?.len() <= room { high = middle } else { low = middle + 1 }
        }
        let Some(at) = begins.get(low) else {
            return Err(short(begins.last().map_or(Ok(prompt.len()), |last| from(*last).map(|left| left.len()))?));
        };
        let left = from(*at)?;
        let dropped = dropped(at - system, left.len());
        Ok((left, dropped))
    }

    fn tokens(
        &self,
        content: &Content,
        output: Output,
        tools: &[Value],
        opening: &str,
    ) -> Result<Vec<u32>, PrepareError> {
        let mut tokens = match content {
            Content::Tokens(tokens) => {
                self.known("prompt", tokens.iter().copied())?;
                return Ok(tokens.clone());
            }
            // A bare prompt is taken as it stands: who writes one may have rendered a chat of their own.
            // A text to embed is nothing but text.
            Content::Prompt(text) => self.tokenizer.encode(text, output == Output::Text),
            Content::Messages(messages) => self.tokenizer.encode_chat(&(self.render(messages, tools)? + opening)),
        };
        if self.tokenizer.add_bos()
            && let Some(bos) = self.tokenizer.bos()
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        // A chat's template places its own ends.
        if matches!(content, Content::Prompt(_)) && self.tokenizer.add_eos() {
            tokens.extend(self.tokenizer.eos());
        }
        if tokens.is_empty() {
            let problem = "it comes to no token at all".to_owned();
            return Err(PrepareError::Invalid { field: content.field(), problem });
        }
        Ok(tokens)
    }

    /// Refuses ids of a client's own making that the model does not know.
    fn known(&self, field: &'static str, mut tokens: impl Iterator<Item = u32>) -> Result<(), PrepareError> {
        let known = self.tokenizer.vocab_len();
        match tokens.find(|token| *token as usize >= known) {
            None => Ok(()),
            Some(token) => {
                let problem =
                    format!("there is no token {token}; this model's go from 0 to {}", known.saturating_sub(1));
                Err(PrepareError::Invalid { field, problem })
            }
        }
    }

    fn render(&self, messages: &[port::Message], tools: &[Value]) -> Result<String, PrepareError> {
        let messages: Vec<port::Message> = messages
            .iter()
            .map(|port::Message { role, content, more }| port::Message {
                role: self.tokenizer.defuse(role),
                content: self.tokenizer.defuse(content),
                more: more.iter().map(|(name, value)| (*name, self.defused(value))).collect(),
            })
            .collect();
        let messages: Vec<Message<'_>> =
            messages.iter().map(|port::Message { role, content, more }| Message { role, content, more }).collect();
        let tools: Vec<Value> = tools.iter().map(|tool| self.defused(tool)).collect();
        let chat = Chat { messages: &messages, tools: &tools, add_generation_prompt: true, now_unix_s: unix_s() };
        let invalid = |error: TemplateError| PrepareError::Invalid { field: "messages", problem: error.to_string() };
        self.template.as_ref().map_err(Clone::clone).and_then(|template| template.render(&chat)).map_err(invalid)
    }
}

impl Recipe {
    /// All texts of a client's JSON, defused. It is no deeper than a body may be.
    fn defused(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.tokenizer.defuse(text)),
            Value::Array(items) => items.iter().map(|item| self.defused(item)).collect(),
            Value::Object(members) => {
                let defused = members.iter().map(|(name, value)| (self.tokenizer.defuse(name), self.defused(value)));
                Value::Object(defused.collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
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
mod tests {
    use super::*;
    use orchestrion_gpu::generate::{GenSpec, generate};
    use orchestrion_gpu::gguf::Gguf;

    #[test]
    fn without_a_template_chats_are_refused_and_prompts_are_served() {
        let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
        let template = Err(TemplateError::Absent { known: "chatml".to_owned() });
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
        let recipe =
            Recipe { tokenizer, grammars, template, ctx_max: 64, is_encoder: false, fingerprint: String::new() };
        let hello = port::Message { role: "user".to_owned(), content: "hello".to_owned(), more: Vec::new() };
        let chat = recipe.tokens(&Content::Messages(vec![hello]), Output::Text, &[], "");
        let Err(PrepareError::Invalid { field: "messages", problem }) = chat else {
            panic!("a chat without a template became {chat:?}");
        };
        assert!(problem.contains("no chat template") && problem.contains("completions"), "{problem}");
        let prompt = recipe.tokens(&Content::Prompt("hello".to_owned()), Output::Text, &[], "");
        assert!(prompt.is_ok_and(|tokens| !tokens.is_empty()));
    }

    #[test]
    fn an_encoder_reads_texts_up_to_its_limit_and_answers_none() {
        let gguf = Gguf::parse(generate(&GenSpec::of("bert").unwrap()).unwrap()).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
        let template = Err(TemplateError::Absent { known: String::new() });
        let recipe = Recipe { tokenizer, grammars, template, ctx_max: 7, is_encoder: true, fingerprint: String::new() };
        let kitchen = Kitchen::new(vec!["m".to_owned()]);
        assert!(kitchen.put("m", recipe));
        let prepare = |text: &str, output| {
            let sampling = orchestrion_world::payload::Sampling {
                seed: 0,
                temperature: orchestrion_world::units::Permille(0),
                top_k: 0,
                top_p: orchestrion_world::units::Permille(1000),
                min_p: orchestrion_world::units::Permille(0),
                repetition_penalty: orchestrion_world::units::Permille(1000),
            };
            let (model, content, stop) = ("m".to_owned(), Content::Prompt(text.to_owned()), Vec::new());
            let (bias, logprobs, shape, tools, max_tokens) = (Vec::new(), None, None, Vec::new(), Some(1));
            let words = Words {
                model,
                content,
                max_tokens,
                stop,
                sampling,
                bias,
                logprobs,
                shape,
                output,
                tools,
                opening: "",
                truncation: Truncation::Disabled,
            };
            kitchen.prepare(words)
        };
        // [CLS] the cat and a dog [SEP]: one too many.
        assert_eq!(prepare("the cat and a", Output::Embedding).unwrap().payload.prompt.len(), 6);
        let long = prepare("the cat and a dog", Output::Embedding).unwrap_err().to_string();
        assert_eq!(long, "prompt: it takes 7 tokens, and this model reads at most 6 at once; cut it up");
        let chat = prepare("hello", Output::Text).unwrap_err().to_string();
        assert!(chat.contains("/v1/embeddings"), "{chat}");
    }

    #[test]
    fn what_is_oldest_is_left_out_and_what_the_system_says_stays() {
        let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
        let template = Template::from_gguf(&gguf);
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
        let recipe =
            Recipe { tokenizer, grammars, template, ctx_max: 200, is_encoder: false, fingerprint: String::new() };
        let tokens = |content: &Content| recipe.tokens(content, Output::Text, &[], "");
        let shortened =
            |content: &Content, answer| recipe.shortened(tokens(content).unwrap(), content, Some(answer), &tokens);
        let message = |role: &str, content: String| port::Message { role: role.to_owned(), content, more: Vec::new() };
        let turn = |n: usize| [message("user", format!("question {n}?")), message("assistant", format!("answer {n}."))];
        let chat: Vec<port::Message> = [message("system", "be brief".to_owned())]
            .into_iter()
            .chain((0..20).flat_map(turn))
            .chain([message("user", "and now?".to_owned())])
            .collect();
        let all = Content::Messages(chat.clone());
        let (left, dropped) = shortened(&all, 50).unwrap();
        assert_eq!(left.len() + dropped.tokens as usize, tokens(&all).unwrap().len());
        assert!(left.len() <= 150 && dropped.messages % 2 == 0 && dropped.messages > 0);
        let kept = [&chat[..1], &chat[1 + dropped.messages as usize..]].concat();
        assert_eq!(left, tokens(&Content::Messages(kept)).unwrap());
        // One turn more would have been too many.
        let more = [&chat[..1], &chat[dropped.messages as usize - 1..]].concat();
        assert!(tokens(&Content::Messages(more)).unwrap().len() > 150);
        // What fits is left alone; what never fits is refused with the numbers.
        let short = Content::Messages(chat[..2].to_vec());
        assert_eq!(shortened(&short, 50).unwrap(), (tokens(&short).unwrap(), Dropped::default()));
        let Err(PrepareError::Invalid { field: "messages", problem }) = shortened(&all, 199) else { panic!() };
        assert!(problem.contains("room for 1 beside the answer's 199"), "{problem}");
        let prompt = Content::Tokens((0..300).map(|i| i % 100).collect());
        let (left, dropped) = shortened(&prompt, 50).unwrap();
        let bos = usize::from(recipe.tokenizer.bos() == Some(0));
        assert_eq!((left.len(), dropped), (150, Dropped { messages: 0, tokens: 150 }));
        assert_eq!(left[bos..], tokens(&prompt).unwrap()[150 + bos..]);
    }
}
