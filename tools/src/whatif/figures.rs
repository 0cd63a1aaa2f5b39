//! What a day came to, in figures: how long tasks waited, when they spoke, when they ended, and what was lost.
//!
//! The same figures of a recorded and of a simulated day, so that they can stand side by side.

use orchestrion_api::recording::{Course, Courses, Gauged};
use orchestrion_world::protocol::{Class, Outcome};
use orchestrion_world::time::{Tick, Ticks};
use serde::Serialize;

/// Milliseconds; none where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: Option<u64>,
    pub(crate) p90: Option<u64>,
    pub(crate) p99: Option<u64>,
}

/// Of tasks of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ClassFigures {
    pub(crate) class: &'static str,
    pub(crate) tasks: u64,
    pub(crate) done: u64,
    pub(crate) refused: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed: u64,
    /// From coming to being taken up, to the first token, to the end. Of tasks that were done.
    pub(crate) wait_ms: Spread,
    pub(crate) first_token_ms: Spread,
    pub(crate) total_ms: Spread,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Figures {
    pub(crate) classes: Vec<ClassFigures>,
    /// Tasks done and tokens made for them, in a thousand seconds.
    pub(crate) done_per_1000_s: u64,
    pub(crate) tokens_per_1000_s: u64,
    pub(crate) attempts_lost: u64,
    pub(crate) loads: u64,
    pub(crate) evictions: u64,
    pub(crate) queued_most: u64,
    pub(crate) vram_most_mib: u64,
}

/// The ticks in which a task must have come to count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Tick,
    pub(crate) to: Tick,
}

impl Span {
    pub(crate) fn holds(&self, came: Tick) -> bool {
        (self.from..self.to).contains(&came)
    }
}

impl Figures {
    pub(crate) fn of(courses: &Courses, gauged: &Gauged, span: Span) -> Figures {
        let counted: Vec<&Course> =
            courses.iter().map(|(_, course)| course).filter(|course| span.holds(course.came)).collect();
        let class = |name, class: Class| {
            let of: Vec<&Course> = counted.iter().filter(|course| course.spec.class == class).copied().collect();
            (!of.is_empty()).then(|| ClassFigures::of(name, &of))
        };
        let all = Some(ClassFigures::of("all", &counted));
        let done: Vec<_> = counted.iter().filter_map(|course| course.done()).collect();
        // Until the last of them ended: a slower run does as much in more time.
        let last = done.iter().map(|(at, _)| *at).max().unwrap_or(span.to).max(span.to);
        let length = last.since(span.from).0.max(1);
        let per_1000_s = |count: u64| count.saturating_mul(1_000_000) / length;
        Figures {
            classes: [all, class("interactive", Class::Interactive), class("batch", Class::Batch)]
                .into_iter()
                .flatten()
                .collect(),
            done_per_1000_s: per_1000_s(done.len() as u64),
            tokens_per_1000_s: per_1000_s(done.iter().map(|(_, usage)| u64::from(usage.tokens_out)).sum()),
            attempts_lost: counted.iter().map(|course| course.tries.len().saturating_sub(1) as u64).sum(),
            loads: courses.loads,
            evictions: courses.evictions,
            queued_most: gauged.queued_most,
            vram_most_mib: gauged.vram_most >> 20,
        }
    }
}

impl ClassFigures {
    fn of(class: &'static str, courses: &[&Course]) -> ClassFigures {
        let count = |is: fn(&Course) -> bool| courses.iter().filter(|course| is(course)).count() as u64;
        let spread = |length: fn(&Course) -> Option<Ticks>| {
            let done = courses.iter().filter(|course| course.done().is_some());
            spread(done.filter_map(|course| length(course)).map(|ticks| ticks.0).collect())
        };
        ClassFigures {
            class,
            tasks: courses.len() as u64,
            done: count(|course| course.done().is_some()),
            refused: count(|course| course.refused.is_some()),
            cancelled: count(|course| matches!(course.end, Some((_, Outcome::Cancelled { .. })))),
            failed: count(|course| matches!(course.end, Some((_, Outcome::Failed { .. })))),
            wait_ms: spread(Course::wait),
            first_token_ms: spread(|course| course.first_token.map(|at| at.since(course.came))),
            total_ms: spread(|course| course.end.map(|(at, _)| at.since(course.came))),
        }
    }
}

/// By nearest rank.
pub(crate) fn spread(mut values: Vec<u64>) -> Spread {
    values.sort_unstable();
    let at = |permille: usize| {
        let rank = (values.len() * permille).div_ceil(1000);
        values.get(rank.saturating_sub(1)).copied()
    };
    Spread { p50: at(500), p90: at(900), p99: at(990) }
}
