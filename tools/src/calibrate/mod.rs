//! `orch calibrate`: what a station's work costs, fitted to what a journal recorded.
//!
//! A cost for each pool: its workers run one model on one kind of device. The figures are told with how far the
//! simulated attempts are off the recorded ones, and written as TOML for `orch whatif --cost`.

mod costs;
mod fit;
mod prediction;
mod replay;

pub(crate) use costs::Costs;
pub(crate) use prediction::Prediction;

use crate::cli::{CalibrateArgs, Half, Output};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use crate::whatif::figures::Span;
use orchestrion_api::recording::Recording;
use orchestrion_world::time::Tick;
use serde::Serialize;
use std::io::Write;

/// How far off a pool's simulated attempts are, in thousandths of the recorded length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Residual {
    pub(crate) pool: String,
    pub(crate) attempts: u64,
    pub(crate) prefill_p50_permille: u64,
    pub(crate) prefill_p90_permille: u64,
    pub(crate) decode_p50_permille: u64,
    pub(crate) decode_p90_permille: u64,
}

#[derive(Debug, Serialize)]
struct Told {
    costs: Costs,
    residuals: Vec<Residual>,
    predicted_start: Prediction,
}

pub(crate) fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    let path = configuration::journal_or_default(args.path.as_deref())?;
    let recording = Recording::read(&path).map_err(Failure::of(Code::BadData))?;
    let span = halves(&recording, args.half);
    let (costs, residuals) = Costs::fit(&recording, span)?;
    let predicted_start = Prediction::of(&recording.courses, span);
    let toml = costs.toml();
    if let Some(out) = &args.out {
        std::fs::write(out, &toml)?;
    }
    match args.output {
        Output::Text => {
            let residuals: String = residuals.iter().map(Residual::line).collect();
            Ok(write!(std::io::stdout(), "{toml}\n{residuals}{predicted_start}")?)
        }
        Output::Json => output::json(&Told { costs, residuals, predicted_start }),
    }
}

/// The ticks of a half of the arrivals' time, or of all of it.
pub(crate) fn halves(recording: &Recording, half: Option<Half>) -> Span {
    let came = || recording.courses.iter().map(|(_, course)| course.came);
    let (first, last) = (came().min().unwrap_or_default(), came().max().unwrap_or_default());
    let middle = Tick(first.0 + last.since(first).0 / 2);
    let end = Tick(last.0 + 1);
    match half {
        None => Span { from: first, to: end },
        Some(Half::First) => Span { from: first, to: middle },
        Some(Half::Second) => Span { from: middle, to: end },
    }
}

impl Residual {
    fn line(&self) -> String {
        let percent = |permille: u64| format!("{}.{} %", permille / 10, permille % 10);
        format!(
            "# pool {}: {} attempts; reading prompts is off by {} in the median and {} at the 90th percentile, \
             answering by {} and {}\n",
            self.pool,
            self.attempts,
            percent(self.prefill_p50_permille),
            percent(self.prefill_p90_permille),
            percent(self.decode_p50_permille),
            percent(self.decode_p90_permille),
        )
    }
}
