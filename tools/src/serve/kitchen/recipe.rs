//! What one model makes of words: rendered, tokenised, and shortened where the request allows it.
//!
//! Refuses what the model is not for and what it has no room for, each with the figures and a way out.

use super::{MAX_TOKENS_DEFAULT, unix_s};
use orchestrion_api::port::{self, Content, Dropped, PrepareError};
use orchestrion_gpu::engine::Makes;
use orchestrion_gpu::grammar::Grammars;
use orchestrion_gpu::template::{Chat, Message, Template, TemplateError};
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_world::payload::Output;
use serde_json::Value;
use std::sync::Arc;

/// What a loaded model lends to preparation.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub tokenizer: Arc<Tokenizer>,
    pub grammars: Arc<Grammars>,
    /// Or why chats are refused; bare prompts need none.
    pub template: Result<Template, TemplateError>,
    pub ctx_max: u32,
    pub makes: Makes,
    /// Numbers of its vectors.
    pub width: u32,
    pub fingerprint: String,
}

impl Recipe {
    /// What comes of chats, for the banner.
    pub(super) fn chats(&self) -> String {
        match (&self.template, self.makes) {
            (Ok(template), _) => template.origin().to_string(),
            (Err(_), Makes::Text) => "no chat template".to_owned(),
            (Err(_), Makes::Vectors) => "makes vectors of texts".to_owned(),
            (Err(_), Makes::Scores) => "scores documents".to_owned(),
        }
    }

    /// What tasks may want of it.
    pub(super) fn workloads(&self) -> &'static [&'static str] {
        match self.makes {
            Makes::Text => &["completion", "embedding"],
            Makes::Vectors => &["embedding"],
            Makes::Scores => &["rerank"],
        }
    }

    /// Refuses an output that the model does not make, with the route or the model that does.
    pub(super) fn makes(&self, output: Output) -> Result<(), PrepareError> {
        let problem = match (output, self.makes) {
            (Output::Text, Makes::Text) | (Output::Embedding, Makes::Text | Makes::Vectors) => return Ok(()),
            (Output::Score, Makes::Scores) => return Ok(()),
            (Output::Text, Makes::Vectors) => {
                "this model makes vectors and no text: ask `POST /v1/embeddings`, or the `workload` `embedding` of \
                 a task, or name a model that answers"
            }
            (Output::Text | Output::Embedding, Makes::Scores) => {
                "this model scores documents and nothing else: ask `POST /v1/rerank`, or the `workload` \
                 `rerank` of a task, or name another model"
            }
            (Output::Score, Makes::Text | Makes::Vectors) => {
                "this model has no head that scores documents: name a reranker (an encoder whose file has \
                 `pooling_type` 4), or compare vectors of `POST /v1/embeddings`"
            }
        };
        Err(PrepareError::Invalid { field: "model", problem: problem.to_owned() })
    }

    /// Refuses more numbers of a vector than there are.
    pub(super) fn has(&self, dimensions: Option<u32>) -> Result<(), PrepareError> {
        match dimensions {
            Some(wanted) if wanted > self.width => {
                let problem = format!("this model's vectors have {}, not {wanted}", self.width);
                Err(PrepareError::Invalid { field: "dimensions", problem })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Tokens that the context has room for after the prompt; none is a refusal.
    pub(super) fn left(&self, prompt: &[u32], content: &Content, output: Output) -> Result<u32, PrepareError> {
        let (takes, ctx) = (prompt.len(), self.ctx_max);
        let left = ctx.saturating_sub(u32::try_from(takes).unwrap_or(u32::MAX));
        if left > 0 {
            return Ok(left);
        }
        // The last place is for the token that carries what it comes to.
        let most = ctx.saturating_sub(1);
        if let Content::Pair { .. } = content {
            self.query_within(prompt, most as usize)?;
        }
        let problem = match output {
            Output::Text => format!(
                "it takes {takes} tokens, and the context is {ctx}; shorten it, or send `truncation: \"auto\"`, which \
                 leaves its oldest part out"
            ),
            Output::Embedding => {
                format!(
                    "it takes {takes} tokens, and this model reads at most {most} at once; cut it up, or send \
                     `truncate: true`, which leaves its end out"
                )
            }
            Output::Score => format!(
                "it takes {takes} tokens with the query, and this model reads at most {most} at once; cut it up, or send \
                 `truncation: \"auto\"`, which leaves its end out"
            ),
        };
        Err(PrepareError::TooLong { field: content.field(), problem })
    }

    /// The prompt, without its oldest part where it and the answer are more than the context holds. What the system
    /// says stays, and what is left begins with a turn of the user.
    pub(super) fn shortened(
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
        let short = |least: usize| PrepareError::TooLong {
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
        if let Content::Pair { .. } = content {
            return self.pair_within(&prompt, room).map(|left| (left, dropped(0, room)));
        }
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

    /// A text to embed without so much of its end that the context has room for it. What the tokenizer puts behind a
    /// text stays.
    pub(super) fn without_end(&self, mut prompt: Vec<u32>) -> (Vec<u32>, Dropped) {
        // The last place is for the token that carries the vector.
        let (takes, room) = (prompt.len(), self.ctx_max.saturating_sub(1) as usize);
        if takes > room {
            let end = prompt.last().copied().filter(|last| Some(*last) == self.tokenizer.eos());
            prompt.truncate(room.saturating_sub(usize::from(end.is_some())));
            prompt.extend(end);
        }
        let tokens = u32::try_from(takes - prompt.len()).unwrap_or(u32::MAX);
        (prompt, Dropped { messages: 0, tokens })
    }

    pub(super) fn tokens(
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
            Content::Pair { query, document } => return self.pair(query, document),
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

    /// As such models are trained: [CLS] query [SEP] document [SEP].
    fn pair(&self, query: &str, document: &str) -> Result<Vec<u32>, PrepareError> {
        let (Some(begins), Some(separates)) = (self.tokenizer.bos(), self.tokenizer.eos()) else {
            let problem = "the model's vocabulary has no tokens to put a query and a document together with";
            return Err(PrepareError::Invalid { field: "model", problem: problem.to_owned() });
        };
        let parts = [query, document].map(|text| self.tokenizer.encode(text, false));
        Ok([begins].into_iter().chain(parts.into_iter().flat_map(|part| part.into_iter().chain([separates]))).collect())
    }

    /// A pair without so much of the document's end that `room` holds it. The query stays, and a part of the document.
    fn pair_within(&self, pair: &[u32], room: usize) -> Result<Vec<u32>, PrepareError> {
        self.query_within(pair, room)?;
        Ok(pair[..room - 1].iter().copied().chain(self.tokenizer.eos()).collect())
    }

    /// Refuses a query beside which `room` holds nothing of a document.
    fn query_within(&self, pair: &[u32], room: usize) -> Result<(), PrepareError> {
        let separates = self.tokenizer.eos();
        let query = pair.iter().position(|token| Some(*token) == separates).map_or(pair.len(), |at| at + 1);
        if query + 2 > room {
            let problem = format!(
                "it takes {query} tokens, and of the {room} that this model reads at once none would be left for a \
                 document; shorten it"
            );
            return Err(PrepareError::TooLong { field: "query", problem });
        }
        Ok(())
    }

    /// Refuses ids of a client's own making that the model does not know.
    pub(super) fn known(&self, field: &'static str, mut tokens: impl Iterator<Item = u32>) -> Result<(), PrepareError> {
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
