//! Expectations: what a scenario promises, as `p90_first_token_ms of chat from 5000 to 9000 <= 500`.
//!
//! A measure looks at the requests of one group, or of all, that arrived in a span of time, or at the run as a
//! whole. One that has nothing to measure is not met.

use crate::clients::{End, NEVER, Record};
use crate::simulate::{Operation, Outcome};
use orchestrion_world::time::{Tick, Ticks};
use std::fmt;

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    measure: usize,
    group: Option<u16>,
    from: Tick,
    to: Option<Tick>,
    most: bool,
    bound: u64,
    text: String,
}

/// What a measure sees.
struct View<'a> {
    outcome: &'a Outcome,
    records: Vec<&'a Record>,
    from: Tick,
    to: Option<Tick>,
}

type Measure = fn(&View<'_>) -> Option<u64>;

const MEASURES: [(&str, Measure); 30] = [
    ("requests", |view| Some(view.records.len() as u64)),
    ("answered", |view| Some(view.answered())),
    ("good", |view| Some(view.good())),
    ("refused", |view| Some(view.records.len() as u64 - view.answered())),
    ("unfinished", |view| Some(view.outcome.unfinished)),
    ("answered_permille", |view| share(view.answered(), view.records.len() as u64)),
    ("goodput_permille", |view| share(view.good(), view.records.len() as u64)),
    ("goodput_of_peak_permille", |view| view.of_peak()),
    ("retries", |view| Some(view.records.iter().map(|record| u64::from(record.retries)).sum())),
    ("p50_queue_ms", |view| view.quantile(500, |record| record.queued)),
    ("p90_queue_ms", |view| view.quantile(900, |record| record.queued)),
    ("p99_queue_ms", |view| view.quantile(990, |record| record.queued)),
    ("p50_first_token_ms", |view| view.quantile(500, |record| record.first)),
    ("p90_first_token_ms", |view| view.quantile(900, |record| record.first)),
    ("p99_first_token_ms", |view| view.quantile(990, |record| record.first)),
    ("p50_total_ms", |view| view.quantile(500, |record| record.total)),
    ("p90_total_ms", |view| view.quantile(900, |record| record.total)),
    ("p99_total_ms", |view| view.quantile(990, |record| record.total)),
    ("recovery_ms", |view| view.recovery()),
    ("peak_queue", |view| view.outcome.samples.iter().map(|sample| sample.interactive + sample.batch).max()),
    ("peak_vram_mib", |view| view.outcome.samples.iter().map(|sample| sample.used.0 >> 20).max()),
    ("utilisation_permille", |view| view.outcome.utilisation()),
    ("attempts_lost", |view| Some(view.outcome.counts.attempts_lost)),
    ("restarts", |view| Some(view.outcome.counts.restarts)),
    ("restarts_stopped", |view| Some(view.outcome.counts.restarts_stopped)),
    ("loads", |view| Some(view.outcome.counts.loads)),
    ("failed_loads", |view| Some(view.outcome.counts.failed_loads)),
    ("evictions", |view| Some(view.outcome.counts.evictions)),
    ("jobs_done", |view| Some(view.outcome.operations.iter().filter(|job| job.is_done()).count() as u64)),
    ("longest_job_ms", |view| view.outcome.operations.iter().filter_map(Operation::took).max()),
];

/// How long a peak lasts.
const PEAK: u64 = 10_000;

impl Expectation {
    /// Reads one; `group` finds a group by its name.
    pub fn read(text: &str, group: &dyn Fn(&str) -> Option<u16>) -> Result<Expectation, String> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let measure = MEASURES.iter().position(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<_> = MEASURES.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("unknown field `{name}`, expected one of {}", known.join(", "))
        })?;
        let mut read =
            Expectation { measure, group: None, from: Tick(0), to: None, most: true, bound: 0, text: text.to_owned() };
        let number = |word: Option<&str>| -> Result<u64, String> {
            let word = word.unwrap_or_default();
            word.parse().map_err(|_| format!("`{word}` is no whole number in `{text}`"))
        };
        while let Some(word) = words.next() {
            match word {
                "of" => {
                    let name = words.next().unwrap_or_default();
                    read.group = Some(group(name).ok_or_else(|| format!("no arrivals are called `{name}`"))?);
                }
                "from" => read.from = Tick(number(words.next())?),
                "to" => read.to = Some(Tick(number(words.next())?)),
                "<=" | ">=" => {
                    (read.most, read.bound) = (word == "<=", number(words.next())?);
                    return match words.next() {
                        None => Ok(read),
                        Some(word) => Err(format!("nobody asked for `{word}` in `{text}`")),
                    };
                }
                _ => return Err(format!("`{word}` in `{text}`: expected one of `of`, `from`, `to`, `<=`, `>=`")),
            }
        }
        Err(format!("`{text}` lacks its bound, as `<= 500` or `>= 900`"))
    }

    /// What it comes to, and whether that is met.
    pub fn judge(&self, outcome: &Outcome) -> Verdict {
        let seen = |record: &&Record| {
            self.group.is_none_or(|group| record.group == group)
                && record.arrived >= self.from
                && self.to.is_none_or(|to| record.arrived < to)
        };
        let records = outcome.records.iter().filter(seen).collect();
        let view = View { outcome, records, from: self.from, to: self.to };
        let (_, measure) = MEASURES[self.measure];
        let found = measure(&view);
        let met = found.is_some_and(|found| if self.most { found <= self.bound } else { found >= self.bound });
        Verdict { text: self.text.clone(), found, met }
    }
}

/// An expectation held against a run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    #[serde(rename = "expected")]
    pub text: String,
    /// `None` where there was nothing to measure.
    pub found: Option<u64>,
    pub met: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.met { "met   " } else { "BROKEN" };
        let found = self.found.map_or_else(|| "nothing to measure".to_owned(), |found| found.to_string());
        write!(f, "{mark} {}: {found}", self.text)
    }
}

impl View<'_> {
    fn answered(&self) -> u64 {
        self.records.iter().filter(|record| record.end.answered()).count() as u64
    }

    fn good(&self) -> u64 {
        self.records.iter().filter(|record| record.end == End::Good).count() as u64
    }

    fn quantile(&self, permille: usize, of: fn(&Record) -> u32) -> Option<u64> {
        let mut lengths: Vec<u32> =
            self.records.iter().filter(|record| record.end.answered()).map(|record| of(record)).collect();
        quantile(&mut lengths, permille)
    }

    /// How long after `from` the last request came that got no good answer.
    fn recovery(&self) -> Option<u64> {
        let bad = self.records.iter().filter(|record| record.end != End::Good);
        Some(bad.map(|record| record.arrived.since(self.from).0 + 1).max().unwrap_or(0))
    }

    /// Good answers a second that ended in the span, against the best ten seconds of the run.
    fn of_peak(&self) -> Option<u64> {
        let good = self.outcome.records.iter().filter(|record| record.end == End::Good);
        let mut ends: Vec<u64> = good.map(|record| record.arrived.0 + u64::from(record.total)).collect();
        ends.sort_unstable();
        let until = |at: u64| ends.partition_point(|end| *end < at) as u64;
        let peak = ends.iter().map(|&at| until(at + PEAK) - until(at)).max()?;
        let to = self.to.unwrap_or(self.outcome.ended);
        let rate = (until(to.0) - until(self.from.0)) * PEAK * 1000;
        rate.checked_div(to.since(self.from).max(Ticks(1)).0 * peak)
    }
}

impl End {
    /// Whether it came to its whole answer.
    pub fn answered(self) -> bool {
        matches!(self, End::Good | End::Late)
    }
}

/// A value that so many thousandths are at or below; sorts the values.
pub(crate) fn quantile(values: &mut [u32], permille: usize) -> Option<u64> {
    values.sort_unstable();
    let known = &values[..values.partition_point(|value| *value != NEVER)];
    let at = (known.len() * permille).div_ceil(1000).saturating_sub(1);
    known.get(at).map(|value| u64::from(*value))
}

fn share(part: u64, whole: u64) -> Option<u64> {
    (part * 1000).checked_div(whole)
}
