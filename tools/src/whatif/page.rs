//! Several runs of a day as one HTML page, in the form in which `orch simulate` has its own.

use super::figures::Span;
use orchestrion_api::recording::{Course, Courses, Gauged};
use orchestrion_scenarios::clients::{End, Group, NEVER, Record};
use orchestrion_scenarios::report::{self, Side};
use orchestrion_scenarios::sample::Sample;
use orchestrion_scenarios::simulate::{Counts, Outcome};
use orchestrion_scenarios::summary::Summary;
use orchestrion_world::protocol;
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::{Bytes, Digest};

/// One run, recorded or simulated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Day<'a> {
    pub(super) name: &'a str,
    pub(super) courses: &'a Courses,
    pub(super) gauged: &'a Gauged,
    pub(super) steps: u64,
    pub(super) state: Digest,
    pub(super) begun: Tick,
    pub(super) ended: Tick,
}

pub(super) fn page(title: &str, seed: u64, days: &[Day<'_>], span: Span) -> String {
    let outcomes: Vec<Outcome> = days.iter().map(|day| outcome(day, span)).collect();
    let summaries: Vec<Summary> = outcomes.iter().map(|outcome| Summary::of(title, seed, outcome, &[])).collect();
    let sides = days.iter().zip(&outcomes).zip(&summaries);
    let sides: Vec<Side<'_>> =
        sides.map(|((day, outcome), summary)| Side { name: day.name, outcome, summary }).collect();
    report::html(title, &sides)
}

const REASONS: [&str; 3] = ["refused", "cancelled", "failed"];

fn outcome(day: &Day<'_>, span: Span) -> Outcome {
    let counted = || day.courses.iter().map(|(_, course)| course).filter(|course| span.holds(course.came));
    let group = |name: &str| Group { name: name.to_owned(), ..Group::default() };
    let sample = |(at, gauges): &(Tick, orchestrion_systems::Gauges)| Sample {
        at: since(*at, day.begun),
        interactive: gauges.queued_interactive,
        batch: gauges.queued_batch,
        running: gauges.leases,
        slots: gauges.slots,
        used: Bytes(gauges.vram_used_bytes),
        devices: vec![],
        turnover: None,
    };
    let Courses { loads, evictions, restarts, restarts_stopped, .. } = *day.courses;
    let attempts_lost = counted().map(|course| course.tries.len().saturating_sub(1) as u64).sum();
    Outcome {
        digest: day.state,
        steps: day.steps,
        ended: since(day.ended, day.begun),
        groups: vec![group("interactive"), group("batch")],
        pools: vec![],
        records: counted().filter_map(|course| record(course, day.begun)).collect(),
        reasons: REASONS.map(str::to_owned).to_vec(),
        samples: day.gauged.samples().map(sample).collect(),
        retries: 0,
        counts: Counts { attempts_lost, restarts, restarts_stopped, loads, failed_loads: 0, evictions },
        operations: vec![],
        unfinished: counted().filter(|course| course.refused.is_none() && course.end.is_none()).count() as u64,
    }
}

fn since(at: Tick, begun: Tick) -> Tick {
    Tick(at.since(begun).0)
}

/// None where it has not ended.
fn record(course: &Course, begun: Tick) -> Option<Record> {
    let length = |ticks: Option<Ticks>| ticks.map_or(NEVER, |ticks| u32::try_from(ticks.0).unwrap_or(NEVER));
    let (ended, end, tokens) = match (course.refused, course.end) {
        (Some(_), _) => (course.came, End::Not(0), 0),
        (None, Some((at, protocol::Outcome::Done(usage)))) => (at, End::Good, usage.tokens_out),
        (None, Some((at, protocol::Outcome::Cancelled { tokens_out, .. }))) => (at, End::Not(1), tokens_out),
        (None, Some((at, protocol::Outcome::Failed { tokens_out, .. }))) => (at, End::Not(2), tokens_out),
        (None, None) => return None,
    };
    Some(Record {
        arrived: since(course.came, begun),
        group: u16::from(course.spec.class == protocol::Class::Batch),
        end,
        retries: 0,
        queued: length(course.wait()),
        first: length(course.first_token.map(|at| at.since(course.came))),
        total: length(Some(ended.since(course.came))),
        tokens,
    })
}
