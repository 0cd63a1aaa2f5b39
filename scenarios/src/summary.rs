//! What a run came to, in figures: for programs as it stands, for people as a table.

use crate::clients::{End, Record};
use crate::expect::{Expectation, Verdict, quantile};
use crate::simulate::{Counts, Operation, Outcome};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub title: String,
    pub seed: u64,
    pub digest: String,
    pub steps: u64,
    pub virtual_ms: u64,
    /// Each group, and all where there are several.
    pub groups: Vec<Row>,
    /// Why requests were not answered.
    pub reasons: BTreeMap<String, u64>,
    pub retries: u64,
    pub attempts_lost: u64,
    pub restarts: u64,
    pub restarts_stopped: u64,
    pub loads: u64,
    pub failed_loads: u64,
    pub evictions: u64,
    pub jobs: Vec<Job>,
    pub unfinished: u64,
    pub peak_queue: u64,
    pub peak_vram_mib: u64,
    pub utilisation_permille: u64,
    pub expectations: Vec<Verdict>,
}

/// What an operator asked of a pool, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Job {
    pub action: &'static str,
    pub pool: String,
    pub at_ms: u64,
    pub state: &'static str,
    /// `None` where it was not over.
    pub took_ms: Option<u64>,
}

/// The requests of a group. Lengths are of those that were answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub name: String,
    pub requests: u64,
    pub answered: u64,
    pub good: u64,
    pub tokens: u64,
    pub queue_ms: Lengths,
    pub first_token_ms: Lengths,
    pub total_ms: Lengths,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
}

impl Outcome {
    /// The share of slots that were in use, over time.
    pub fn utilisation(&self) -> Option<u64> {
        let slots: u64 = self.samples.iter().map(|sample| sample.slots).sum();
        (self.samples.iter().map(|sample| sample.running).sum::<u64>() * 1000).checked_div(slots)
    }
}

impl Job {
    fn of(job: &Operation, pools: &[String]) -> Job {
        Job {
            action: job.action.label(),
            pool: pools.get(usize::from(job.pool.0)).cloned().unwrap_or_default(),
            at_ms: job.begun.0,
            state: job.label(),
            took_ms: job.took(),
        }
    }
}

impl Summary {
    pub fn of(title: &str, seed: u64, outcome: &Outcome, expectations: &[Expectation]) -> Summary {
        let records = |group: usize| outcome.records.iter().filter(move |record| usize::from(record.group) == group);
        let rows = outcome.groups.iter().enumerate().map(|(n, group)| row(&group.name, records(n)));
        let mut groups: Vec<Row> = rows.collect();
        if groups.len() > 1 {
            groups.push(row("all", outcome.records.iter()));
        }
        let mut reasons = BTreeMap::new();
        for record in &outcome.records {
            if let End::Not(reason) = record.end {
                *reasons.entry(outcome.reasons[usize::from(reason)].clone()).or_default() += 1;
            }
        }
        let Counts { attempts_lost, restarts, restarts_stopped, loads, failed_loads, evictions } = outcome.counts;
        let peak = |of: fn(&crate::sample::Sample) -> u64| outcome.samples.iter().map(of).max().unwrap_or(0);
        Summary {
            title: title.to_owned(),
            seed,
            digest: outcome.digest.to_string(),
            steps: outcome.steps,
            virtual_ms: outcome.ended.0,
            groups,
            reasons,
            retries: outcome.retries,
            attempts_lost,
            restarts,
            restarts_stopped,
            loads,
            failed_loads,
            evictions,
            jobs: outcome.operations.iter().map(|job| Job::of(job, &outcome.pools)).collect(),
            unfinished: outcome.unfinished,
            peak_queue: peak(|sample| sample.interactive + sample.batch),
            peak_vram_mib: peak(|sample| sample.used.0 >> 20),
            utilisation_permille: outcome.utilisation().unwrap_or(0),
            expectations: expectations.iter().map(|expectation| expectation.judge(outcome)).collect(),
        }
    }

    /// Expectations that were not met.
    pub fn broken(&self) -> usize {
        self.expectations.iter().filter(|verdict| !verdict.met).count()
    }
}

fn row<'r>(name: &str, records: impl Iterator<Item = &'r Record> + Clone) -> Row {
    let count = |of: fn(&Record) -> bool| records.clone().filter(|record| of(record)).count() as u64;
    let lengths = |of: fn(&Record) -> u32| {
        let answered = records.clone().filter(|record| record.end.answered());
        let mut lengths: Vec<u32> = answered.map(of).collect();
        let mut at = |permille| quantile(&mut lengths, permille).unwrap_or(0);
        Lengths { p50: at(500), p90: at(900), p99: at(990) }
    };
    Row {
        name: name.to_owned(),
        requests: count(|_| true),
        answered: count(|record| record.end.answered()),
        good: count(|record| record.end == End::Good),
        tokens: records.clone().map(|record| u64::from(record.tokens)).sum(),
        queue_ms: lengths(|record| record.queued),
        first_token_ms: lengths(|record| record.first),
        total_ms: lengths(|record| record.total),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        writeln!(
            f,
            "{:<16}{:>9}{:>9}{:>7}  {:>17}  {:>19}  {:>19}",
            "", "requests", "answered", "good", "queue ms", "first token ms", "total ms"
        )?;
        writeln!(
            f,
            "{:<16}{:>9}{:>9}{:>7}  {:>17}  {:>19}  {:>19}",
            "", "", "", "%", "p50/p90/p99", "p50/p90/p99", "p50/p90/p99"
        )?;
        for row in &self.groups {
            let good = (row.good * 1000).checked_div(row.requests).unwrap_or(0);
            let good = format!("{}.{}", good / 10, good % 10);
            let Row { name, requests, answered, queue_ms, first_token_ms, total_ms, .. } = row;
            let [queue, first, total] = [queue_ms, first_token_ms, total_ms].map(Lengths::to_string);
            writeln!(f, "{name:<16}{requests:>9}{answered:>9}{good:>7}  {queue:>17}  {first:>19}  {total:>19}")?;
        }
        writeln!(f)?;
        for (reason, count) in &self.reasons {
            writeln!(f, "not answered: {reason} {count}")?;
        }
        let Summary { retries, attempts_lost, restarts, unfinished, peak_queue, peak_vram_mib, .. } = self;
        writeln!(
            f,
            "retries by clients {retries}, attempts lost {attempts_lost}, restarts of workers {restarts}, unfinished {unfinished}"
        )?;
        for Job { action, pool, at_ms, state, took_ms } in &self.jobs {
            let took = took_ms.map_or_else(String::new, |took| format!(" after {took} ms"));
            writeln!(f, "{action} of {pool} at {at_ms} ms: {state}{took}")?;
        }
        let Summary { loads, failed_loads, evictions, .. } = self;
        // Where workers load nothing on order, there is nothing to say.
        if loads + failed_loads + evictions > 0 {
            writeln!(f, "models loaded {loads}, not loaded {failed_loads}, evicted {evictions}")?;
        }
        let used = self.utilisation_permille;
        writeln!(
            f,
            "queue at most {peak_queue}, VRAM at most {peak_vram_mib} MiB, slots in use {}.{} %",
            used / 10,
            used % 10
        )?;
        writeln!(f, "{} ms in {} steps, seed {}, digest {}", self.virtual_ms, self.steps, self.seed, self.digest)?;
        self.expectations.iter().try_for_each(|verdict| writeln!(f, "{verdict}"))
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.p50, self.p90, self.p99)
    }
}
