//! `orch replay`: is the record true, and what would another rule have decided?

use crate::cli::{Output, ReplayArgs};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use crate::progress::Progress;
use orchestrion_api::replay::{ReplayOptions, replay};
use std::io::Write;

pub(crate) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let path = configuration::journal_or_default(args.path.as_deref())?;
    let mut progress = Progress::default();
    let mut show = |done, total| progress.show("replaying", done, total);
    let options =
        ReplayOptions { from: args.from, to: args.to, overrides: args.set.clone(), progress: Some(&mut show) };
    let report = replay(&path, options).map_err(Failure::of(Code::BadData))?;
    progress.finish();
    match args.output {
        Output::Text => Ok(writeln!(std::io::stdout(), "{report}")?),
        Output::Json => output::json(&report),
    }
}
