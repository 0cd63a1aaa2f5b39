//! Requests from `[[arrivals]]`, by time: each is made when it is wanted, from draws that only its own kind and
//! number decide.

use super::arrivals::{Arrivals, Bursts, Drawn, Every, Length, Poisson};
use super::{FileError, MS_MAX, Reading};
use crate::alike::beginnings;
use crate::clients::{REQUESTS_MAX, Request};
use crate::draw::Draws;
use crate::trace;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{ModelId, TenantId};
use orchestrion_world::protocol::{Determinism, TaskSpec};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Sha256;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
                calls.next().map(|call| (Tick((call.at_ms.saturating_mul(1_000) / *pace).min(MS_MAX)), Some(call)))
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
    /// The tokens that all prompts of the name begin with.
    shared: Option<(String, u32)>,
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
        let mut spec = TaskSpec { prompt_tokens: prompt, max_tokens, ..self.spec.clone() };
        if let Some((name, shared)) = &self.shared {
            spec.prefix = beginnings(name, *shared, prompt);
        }
        if let Some(trace::Call { class, tenant, .. }) = call {
            spec.class = class.unwrap_or(spec.class);
            spec.tenant = tenant.unwrap_or(spec.tenant);
        }
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
        let key = format!("arrivals.{}.placement", entry.name);
        let placement = entry.placement.as_ref().map(|wish| wish.resolve(read, &key, rules)).transpose()?;
        let spec = TaskSpec {
            model: ModelId(read.find("model", &entry.model, &models)? as u16),
            class: entry.class.into(),
            tenant: tenant(read, entry, rules)?,
            session: None,
            prompt_tokens: 1,
            prompt_digest: Sha256::default(),
            prefix: Box::default(),
            max_tokens: 1,
            deadline: entry.deadline_ms.map(Ticks),
            determinism: if entry.strict { Determinism::Strict } else { Determinism::BestEffort },
            seed,
            placement,
        };
        streams.push(Stream {
            group: group as u16,
            times: times(entry, read, rules, draws("times"))?,
            spec,
            prompt: entry.prompt.unwrap_or(Length::Fixed(1)),
            answer: entry.answer.unwrap_or(Length::Fixed(1)),
            shared: entry.prefix.map(|shared| (entry.name.clone(), shared)),
            max_tokens: entry.max_tokens,
            prompts: draws("prompts"),
            answers: draws("answers"),
            number: 0,
        });
    }
    Ok(Box::new(merged(streams)))
}

/// Who may be asked for: those of the rules, and everybody else.
fn tenants(rules: &Rules) -> Vec<&str> {
    let named = rules.tenants.iter().map(|tenant| tenant.name.as_str());
    let mut names: Vec<&str> = named.chain([TenantId::DEFAULT_NAME]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn tenant(read: &Reading<'_>, entry: &Arrivals, rules: &Rules) -> Result<TenantId, FileError> {
    let Some(name) = &entry.tenant else { return Ok(TenantId::DEFAULT) };
    let known = tenants(rules);
    Ok(TenantId::of(known[read.find("tenant", name, &known)?]))
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

/// When requests of the kind come.
fn times(entry: &Arrivals, read: &Reading<'_>, rules: &Rules, draws: Draws) -> Result<Times, FileError> {
    let key = |key: &str| format!("arrivals.{}.{key}", entry.name);
    let span = |name: &str, ms: u64| read.within(&key(name), ms, 0, MS_MAX);
    match (&entry.at_ms, entry.every, entry.poisson, entry.bursts, &entry.trace) {
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
            let tenants = tenants(rules);
            let calls = trace::read(&read.folder.join(name.get_ref()), &tenants).map_err(wrong)?;
            Ok(Times::Trace(calls.into_iter(), entry.trace_pace_permille.unwrap_or(1_000)))
        }
        _ => {
            let problem = "say when they come by exactly one of `at_ms`, `every`, `poisson`, `bursts`, `trace`";
            Err(FileError::Key { key: format!("arrivals.{}", entry.name), problem: problem.to_owned() })
        }
    }
}
