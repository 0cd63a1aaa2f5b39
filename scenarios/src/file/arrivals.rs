//! `[[arrivals]]`: who asks for what, when, as it stands in a file.

use super::placement::Wish;
use super::{FileError, MS_MAX, NAME_MAX, Reading};
use crate::clients::Group;
use orchestrion_world::protocol::Class;
use orchestrion_world::time::Ticks;
use serde::Deserialize;
use toml::Spanned;

/// Requests of one kind. When they come is exactly one of `at_ms`, `every`, `poisson`, `bursts` and `trace`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrivals {
    pub name: String,
    pub model: Spanned<String>,
    #[serde(default = "interactive")]
    pub class: ClassName,
    /// One of the rules, or `default`.
    pub tenant: Option<Spanned<String>>,
    /// Each request begins a conversation.
    pub session: Option<Talk>,
    /// Tokens; a trace has its own.
    pub prompt: Option<Length>,
    pub answer: Option<Length>,
    /// Of each prompt, the first so many tokens are the same.
    pub prefix: Option<u32>,
    /// What the client asks for at most; without it, what it gets.
    pub max_tokens: Option<u32>,
    pub deadline_ms: Option<u64>,
    /// May be run again after its first token, on a worker of the same model.
    #[serde(default)]
    pub strict: bool,
    pub placement: Option<Wish>,
    pub at_ms: Option<Vec<u64>>,
    pub every: Option<Every>,
    pub poisson: Option<Poisson>,
    pub bursts: Option<Bursts>,
    /// A file beside the scenario.
    pub trace: Option<Spanned<String>>,
    /// Thousandths of the trace's pace: 2000 plays it twice as fast.
    pub trace_pace_permille: Option<u64>,
    /// What makes an answer good.
    #[serde(default)]
    pub objective: Objective,
    #[serde(default)]
    pub retry: Retry,
    /// A client without a first token after this long goes away.
    pub patience_ms: Option<u64>,
}

/// After each answer the client thinks, and asks again with all that was said: as many prompt tokens more as its
/// first question had, and the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Talk {
    pub turns: u32,
    /// A fifth more or less.
    pub think_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassName {
    Interactive,
    Batch,
}

fn interactive() -> ClassName {
    ClassName::Interactive
}

impl From<ClassName> for Class {
    fn from(name: ClassName) -> Class {
        match name {
            ClassName::Interactive => Class::Interactive,
            ClassName::Batch => Class::Batch,
        }
    }
}

/// A length in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number of tokens or `{ median = 200, sigma = 0.5, max = 2000 }`")]
pub enum Length {
    Fixed(u32),
    /// Lognormal.
    Drawn(Drawn),
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    pub median: u32,
    pub sigma: f64,
    pub max: u32,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Every {
    pub ms: u64,
    pub count: u64,
    #[serde(default)]
    pub from_ms: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poisson {
    pub per_second: f64,
    #[serde(default)]
    pub from_ms: u64,
    pub to_ms: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bursts {
    pub size: u64,
    #[serde(default)]
    pub from_ms: u64,
    #[serde(default)]
    pub every_ms: u64,
    #[serde(default = "super::one")]
    pub times: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    pub first_token_ms: Option<u64>,
    pub total_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub times: u32,
    /// Doubles with each; a longer `retry_after` of the server wins.
    pub backoff_ms: u64,
}

const TOKENS_MAX: u64 = 1 << 24;

impl Arrivals {
    pub(super) fn group(&self) -> Group {
        Group {
            name: self.name.clone(),
            first_token_most: self.objective.first_token_ms.map(Ticks),
            total_most: self.objective.total_ms.map(Ticks),
            retries: self.retry.times,
            backoff: Ticks(self.retry.backoff_ms),
            patience: self.patience_ms.map(Ticks),
            talk: self.session.map(|talk| (talk.turns, Ticks(talk.think_ms))),
        }
    }

    pub(super) fn check(&self, read: &Reading<'_>) -> Result<(), FileError> {
        let key = |key: &str| format!("arrivals.{}.{key}", self.name);
        read.within("length of a name in `arrivals`", self.name.len() as u64, 1, NAME_MAX as u64)?;
        let lengths = [("deadline_ms", self.deadline_ms), ("patience_ms", self.patience_ms)];
        for (name, length) in lengths {
            read.within(&key(name), length.unwrap_or(1), 1, MS_MAX)?;
        }
        read.within(&key("retry.times"), self.retry.times.into(), 0, 1_000)?;
        read.within(&key("retry.backoff_ms"), self.retry.backoff_ms, 0, MS_MAX)?;
        if let Some(Talk { turns, think_ms }) = self.session {
            read.within(&key("session.turns"), turns.into(), 1, 1_000)?;
            read.within(&key("session.think_ms"), think_ms, 0, MS_MAX)?;
        }
        read.within(&key("max_tokens"), self.max_tokens.unwrap_or(1).into(), 1, TOKENS_MAX)?;
        read.within(&key("prefix"), self.prefix.unwrap_or(1).into(), 1, TOKENS_MAX)?;
        read.within(&key("trace_pace_permille"), self.trace_pace_permille.unwrap_or(1), 1, 1_000_000)?;
        for (name, length) in [("prompt", self.prompt), ("answer", self.answer)] {
            let (least, most) = match length {
                Some(Length::Fixed(tokens)) => (tokens, tokens),
                Some(Length::Drawn(Drawn { median, sigma, max })) => {
                    if !(0.0..=10.0).contains(&sigma) {
                        let problem = format!("must be between 0 and 10, not {sigma}");
                        return Err(FileError::Key { key: key(&format!("{name}.sigma")), problem });
                    }
                    (median, max)
                }
                None if self.trace.is_some() => (1, 1),
                None => return Err(FileError::Key { key: key(name), problem: "is missing".to_owned() }),
            };
            read.within(&key(name), least.into(), 1, TOKENS_MAX)?;
            read.within(&key(name), most.into(), least.into(), TOKENS_MAX)?;
        }
        Ok(())
    }
}
