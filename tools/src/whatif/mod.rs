//! `orch whatif`: what a recorded day would have come to under other rules.
//!
//! Three columns: what was recorded; the same, simulated, which says how true the simulation is; and the
//! simulation under the changed rules. What changed is told between the last two, never between a recorded and a
//! simulated figure.

mod again;
pub(crate) mod figures;
mod table;
#[cfg(test)]
mod tests;

use crate::calibrate::{Costs, Prediction, halves};
use crate::cli::{Output, WhatifArgs};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use again::again;
use figures::Figures;
use orchestrion_api::recording::Recording;
use serde::Serialize;
use std::io::Write;

#[derive(Debug, Serialize)]
struct Told {
    set: Vec<(String, String)>,
    recorded: Figures,
    simulated: Figures,
    changed: Option<Figures>,
    costs: Costs,
    predicted_start: Prediction,
}

pub(crate) fn run(args: &WhatifArgs) -> Result<(), Failure> {
    let path = configuration::journal_or_default(args.path.as_deref())?;
    let recording = Recording::read(&path).map_err(Failure::of(Code::BadData))?;
    let costs = match &args.cost {
        Some(file) => Costs::read(file)?,
        None => Costs::fit(&recording, halves(&recording, None))?.0,
    };
    let span = halves(&recording, args.half);
    let recorded = Figures::of(&recording.courses, recording.peaks, span);
    let figures = |set: &[(String, String)]| {
        again(&recording, set, &costs).map(|again| Figures::of(&again.courses, again.peaks, span))
    };
    let simulated = figures(&[])?;
    let changed = if args.set.is_empty() { None } else { Some(figures(&args.set)?) };
    let predicted_start = Prediction::of(&recording.courses, span);
    let told = Told { set: args.set.clone(), recorded, simulated, changed, costs, predicted_start };
    match args.output {
        Output::Text => Ok(write!(std::io::stdout(), "{}", text(&told, &recording))?),
        Output::Json => output::json(&told),
    }
}

fn text(told: &Told, recording: &Recording) -> String {
    let mut runs = vec![("recorded", &told.recorded), ("simulated", &told.simulated)];
    runs.extend(told.changed.as_ref().map(|figures| ("changed", figures)));
    let mut text = table::table(&runs);
    if !told.set.is_empty() {
        let set: Vec<String> = told.set.iter().map(|(key, value)| format!("{key}={value}")).collect();
        text += &format!("changed: {}\n", set.join(", "));
    }
    if recording.courses.left_out > 0 {
        text += &format!("{} tasks were there before the recording and are left out\n", recording.courses.left_out);
    }
    if let Some(torn) = &recording.torn {
        text += &format!("the journal ends in a record that was not written to its end: {torn}\n");
    }
    text
}
