//! `orch whatif`: what a recorded day would have come to under other rules.
//!
//! Three columns: what was recorded; the same, simulated, which says how true the simulation is; and the
//! simulation under the changed rules. What changed is told between the last two, never between a recorded and a
//! simulated figure.

mod again;
pub(crate) mod figures;
mod page;
mod table;
#[cfg(test)]
mod tests;

use crate::calibrate::{Costs, Prediction, halves};
use crate::cli::{Output, WhatifArgs};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use again::{Again, again, changed};
use figures::Figures;
use orchestrion_api::recording::Recording;
use page::{Day, page};
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
    // Before anything that takes long, or that a short day is not enough for.
    changed(&recording.rules, &args.set)?;
    let costs = match &args.cost {
        Some(file) => Costs::read(file)?,
        None => Costs::fit(&recording, halves(&recording, None))?.0,
    };
    let span = halves(&recording, args.half);
    let simulated = again(&recording, &[], &costs)?;
    let changed = if args.set.is_empty() { None } else { Some(again(&recording, &args.set, &costs)?) };
    if let Some(file) = &args.report {
        let mut days = vec![recorded_day(&recording), simulated.day("simulated", &recording)];
        days.extend(changed.as_ref().map(|again| again.day("changed", &recording)));
        let title = format!("What if: {}", settings(&args.set));
        let wrong = |error: std::io::Error| Failure::new(Code::Failed, format!("{}: {error}", file.display()));
        std::fs::write(file, page(&title, recording.seed, &days, span)).map_err(wrong)?;
    }
    let figures = |again: &Again| Figures::of(&again.courses, &again.gauged, span);
    let told = Told {
        set: args.set.clone(),
        recorded: Figures::of(&recording.courses, &recording.gauged, span),
        simulated: figures(&simulated),
        changed: changed.as_ref().map(figures),
        costs,
        predicted_start: Prediction::of(&recording.courses, span),
    };
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
        text += &format!("changed: {}\n", settings(&told.set));
    }
    if recording.courses.left_out > 0 {
        text += &format!("{} tasks were there before the recording and are left out\n", recording.courses.left_out);
    }
    if let Some(torn) = &recording.torn {
        text += &format!("the journal ends in a record that was not written to its end: {torn}\n");
    }
    text
}

fn settings(set: &[(String, String)]) -> String {
    if set.is_empty() {
        return "nothing changed".to_owned();
    }
    set.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn recorded_day(recording: &Recording) -> Day<'_> {
    let Recording { courses, gauged, steps, state, begins, ends, .. } = recording;
    Day { name: "recorded", courses, gauged, steps: *steps, state: *state, begun: *begins, ended: *ends }
}

impl Again {
    fn day<'a>(&'a self, name: &'a str, recording: &Recording) -> Day<'a> {
        let Again { courses, gauged, steps, state, ended } = self;
        Day { name, courses, gauged, steps: *steps, state: *state, begun: recording.begins, ended: *ended }
    }
}
