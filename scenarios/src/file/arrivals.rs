//! `[[arrivals]]`: who asks for what, when. Requests are made as they are needed, never all at once.

use super::{FileError, MS_MAX, NAME_MAX, Reading};
use crate::clients::{Group, Request};
use crate::draw::Draws;
use crate::trace;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{ModelId, TenantId};
use orchestrion_world::protocol::{Class, Determinism, TaskSpec};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Sha256;
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use toml::Spanned;

/// Requests of one kind. When they come is exactly one of `at_ms`, `every`, `poisson`, `bursts` and `trace`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrivals {
    pub name: String,
    pub model: Spanned<String>,
    #[serde(default = "interactive")]
    pub class: ClassName,
    pub tenant: Option<String>,
    /// Tokens; a trace has its own.
    pub prompt: Option<Length>,
    pub answer: Option<Length>,
    /// What the client asks for at most; without it, what it gets.
    pub max_tokens: Option<u32>,
    pub deadline_ms: Option<u64>,
    /// May be run again after its first token, on a worker of the same model.
    #[serde(default)]
    pub strict: bool,
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

/// Each leaves a record of some forty bytes.
const REQUESTS_MAX: u64 = 10_000_000;
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
        }
    }

    fn check(&self, read: &Reading<'_>) -> Result<(), FileError> {
        let key = |key: &str| format!("arrivals.{}.{key}", self.name);
        read.within("length of a name in `arrivals`", self.name.len() as u64, 1, NAME_MAX as u64)?;
        let lengths = [("deadline_ms", self.deadline_ms), ("patience_ms", self.patience_ms)];
        for (name, length) in lengths {
            read.within(&key(name), length.unwrap_or(1), 1, MS_MAX)?;
        }
        read.within(&key("retry.times"), self.retry.times.into(), 0, 1_000)?;
        read.within(&key("retry.backoff_ms"), self.retry.backoff_ms, 0, MS_MAX)?;
        read.within(&key("max_tokens"), self.max_tokens.unwrap_or(1).into(), 1, TOKENS_MAX)?;
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

    /// When its requests come.
    fn times(&self, read: &Reading<'_>, draws: Draws) -> Result<Times, FileError> {
        let key = |key: &str| format!("arrivals.{}.{key}", self.name);
        let span = |name: &str, ms: u64| read.within(&key(name), ms, 0, MS_MAX);
        match (&self.at_ms, self.every, self.poisson, self.bursts, &self.trace) {
            (Some(at), None, None, None, None) => {
                let mut at = at.clone();
                at.sort_unstable();
                span("at_ms", at.last().copied().unwrap_or(0))?;
                Ok(Times::Listed(at.into_iter()))
            }
            (None, Some(Every { ms, count, from_ms }), None, None, None) => {
                read.within(&key("every.count"), count, 1, REQUESTS_MAX)?;
                span("every", from_ms.saturating_add(ms.saturating_mul(count)))?;
                Ok(Times::Bursts(Bursts { size: 1, from_ms, every_ms: ms, times: count }, 0))
            }
            (None, None, Some(poisson), None, None) => {
                let Poisson { per_second, from_ms, to_ms } = poisson;
                span("poisson.to_ms", to_ms)?;
                read.within(&key("poisson.from_ms"), from_ms, 0, to_ms)?;
                let most = REQUESTS_MAX as f64 * 1000.0 / ((to_ms - from_ms).max(1)) as f64;
                if !(per_second > 0.0 && per_second <= most) {
                    let problem = format!("must be above 0 and at most {most:.0}, not {per_second}");
                    return Err(FileError::Key { key: key("poisson.per_second"), problem });
                }
                Ok(Times::Poisson { poisson, draws, now_ns: from_ms as f64 * 1e6, number: 0 })
            }
            (None, None, None, Some(bursts), None) => {
                let Bursts { size, from_ms, every_ms, times } = bursts;
                read.within(&key("bursts.size"), size, 1, REQUESTS_MAX)?;
                read.within(&key("bursts.times"), times, 1, REQUESTS_MAX / size)?;
                span("bursts", from_ms.saturating_add(every_ms.saturating_mul(times)))?;
                Ok(Times::Bursts(bursts, 0))
            }
            (None, None, None, None, Some(name)) => {
                let wrong = |problem: String| FileError::Trace { what: name.get_ref().clone(), problem };
                let calls = trace::read(&read.folder.join(name.get_ref())).map_err(wrong)?;
                Ok(Times::Trace(calls.into_iter(), self.trace_pace_permille.unwrap_or(1_000)))
            }
            _ => {
                let problem = "say when they come by exactly one of `at_ms`, `every`, `poisson`, `bursts`, `trace`";
                Err(FileError::Key { key: format!("arrivals.{}", self.name), problem: problem.to_owned() })
            }
        }
    }
}

enum Times {
    Listed(std::vec::IntoIter<u64>),
    Bursts(Bursts, u64),
    Poisson { poisson: Poisson, draws: Draws, now_ns: f64, number: u128 },
    Trace(std::vec::IntoIter<trace::Call>, u64),
}

impl Times {
    /// When the next one comes, and its lengths where they are known.
    fn next(&mut self) -> Option<(Tick, Option<trace::Call>)> {
        match self {
            Times::Listed(at) => at.next().map(|at| (Tick(at), None)),
            Times::Bursts(Bursts { size, from_ms, every_ms, times }, number) => {
                let burst = *number / *size;
                *number += 1;
                (burst < *times).then(|| (Tick(*from_ms + burst * *every_ms), None))
            }
            Times::Poisson { poisson, draws, now_ns, number } => {
                *now_ns += draws.exponential(*number, 1e9 / poisson.per_second);
                *number += 1;
                let at = (*now_ns / 1e6) as u64;
                (at < poisson.to_ms).then_some((Tick(at), None))
            }
            Times::Trace(calls, pace) => {
                calls.next().map(|call| (Tick((call.at_ms * 1_000 / *pace).min(MS_MAX)), Some(call)))
            }
        }
    }
}

/// Requests of one group.
struct Stream {
    group: u16,
    times: Times,
    spec: TaskSpec,
    prompt: Length,
    answer: Length,
    max_tokens: Option<u32>,
    prompts: Draws,
    answers: Draws,
    number: u128,
}

impl Stream {
    fn next(&mut self) -> Option<Request> {
        let (at, call) = self.times.next()?;
        let n = self.number;
        self.number += 1;
        let prompt = call.map_or_else(|| drawn(self.prompts, n, self.prompt), |call| call.prompt);
        let answer = call.map_or_else(|| drawn(self.answers, n, self.answer), |call| call.answer);
        let max_tokens = self.max_tokens.unwrap_or(answer);
        let spec = TaskSpec { prompt_tokens: prompt, max_tokens, ..self.spec.clone() };
        Some(Request { at, group: self.group, spec, answer })
    }
}

fn drawn(draws: Draws, number: u128, length: Length) -> u32 {
    match length {
        Length::Fixed(tokens) => tokens,
        Length::Drawn(Drawn { median, sigma, max }) => {
            (draws.lognormal(number, median.into(), sigma) as u32).clamp(1, max)
        }
    }
}

/// All requests by time; those of one tick in the order of the file.
pub(super) fn requests(
    read: &Reading<'_>,
    arrivals: &[Arrivals],
    rules: &Rules,
    seed: u64,
) -> Result<Box<dyn Iterator<Item = Request>>, FileError> {
    let models: Vec<&str> = rules.models.iter().map(String::as_str).collect();
    let mut streams = vec![];
    for (group, entry) in arrivals.iter().enumerate() {
        entry.check(read)?;
        let draws = |purpose: &str| Draws::new(seed, &format!("{purpose} of {}", entry.name));
        let spec = TaskSpec {
            model: ModelId(read.find("model", &entry.model, &models)? as u16),
            class: entry.class.into(),
            tenant: entry.tenant.as_deref().map_or(TenantId::DEFAULT, TenantId::of),
            session: None,
            prompt_tokens: 1,
            prompt_digest: Sha256::default(),
            max_tokens: 1,
            deadline: entry.deadline_ms.map(Ticks),
            determinism: if entry.strict { Determinism::Strict } else { Determinism::BestEffort },
            seed,
        };
        streams.push(Stream {
            group: group as u16,
            times: entry.times(read, draws("times"))?,
            spec,
            prompt: entry.prompt.unwrap_or(Length::Fixed(1)),
            answer: entry.answer.unwrap_or(Length::Fixed(1)),
            max_tokens: entry.max_tokens,
            prompts: draws("prompts"),
            answers: draws("answers"),
            number: 0,
        });
    }
    Ok(Box::new(merged(streams)))
}

fn merged(mut streams: Vec<Stream>) -> impl Iterator<Item = Request> {
    let mut heads: Vec<Option<Request>> = streams.iter_mut().map(Stream::next).collect();
    let at = |group: usize, head: &Option<Request>| head.as_ref().map(|request| Reverse((request.at, group)));
    let mut order: BinaryHeap<_> = heads.iter().enumerate().filter_map(|(group, head)| at(group, head)).collect();
    std::iter::from_fn(move || {
        let Reverse((_, group)) = order.pop()?;
        let next = streams[group].next();
        order.extend(at(group, &next));
        std::mem::replace(&mut heads[group], next)
    })
    .take(REQUESTS_MAX as usize)
}
