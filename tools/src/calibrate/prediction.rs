//! How true `predicted_start_ms` was: what tasks were told when they were accepted, against what came.

use crate::whatif::figures::{Span, Spread, spread};
use orchestrion_api::recording::{Course, Courses};
use serde::Serialize;
use std::fmt;

/// Errors are absolute, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Prediction {
    pub(crate) tasks: u64,
    pub(crate) error_ms: Spread,
    /// Of tasks that were told to wait, or had to.
    pub(crate) waited: u64,
    pub(crate) waited_error_ms: Spread,
    pub(crate) wait_ms: Spread,
    /// Of those, how many started earlier than they were told.
    pub(crate) early: u64,
}

/// Less is no wait: an order on its way.
const NOTHING_MS: u64 = 20;

impl Prediction {
    pub(crate) fn of(courses: &Courses, span: Span) -> Prediction {
        let counted = courses.iter().map(|(_, course)| course).filter(|course| span.holds(course.came));
        let told = |course: &Course| Some((course.predicted_start?.0, course.wait()?.0));
        let all: Vec<(u64, u64)> = counted.filter_map(told).collect();
        let waited: Vec<(u64, u64)> =
            all.iter().copied().filter(|(told, was)| *told > NOTHING_MS || *was > NOTHING_MS).collect();
        let errors = |of: &[(u64, u64)]| spread(of.iter().map(|(told, was)| told.abs_diff(*was)).collect());
        Prediction {
            tasks: all.len() as u64,
            error_ms: errors(&all),
            waited: waited.len() as u64,
            waited_error_ms: errors(&waited),
            wait_ms: spread(waited.iter().map(|(_, was)| *was).collect()),
            early: waited.iter().filter(|(told, was)| was < told).count() as u64,
        }
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |value: Option<u64>| value.map_or_else(|| "nothing".to_owned(), |ms| format!("{ms} ms"));
        let Prediction { tasks, error_ms, waited, waited_error_ms, wait_ms, early } = self;
        let [p50, p90] = [error_ms.p50, error_ms.p90].map(ms);
        writeln!(f, "# predicted_start_ms of {tasks} tasks: off by {p50} in the median, {p90} at the 90th percentile")?;
        let [p50, p90, waits] = [waited_error_ms.p50, waited_error_ms.p90, wait_ms.p50].map(ms);
        writeln!(
            f,
            "# of the {waited} that waited, {waits} in the median: off by {p50} and {p90}; {early} came earlier"
        )
    }
}
