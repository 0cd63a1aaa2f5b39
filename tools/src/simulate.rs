//! `orch simulate`: a cluster that nobody has, under a load that nobody sent, in virtual time.

use crate::cli::{Output, SimulateArgs};
use crate::failure::{Code, Failure};
use crate::nearest::meant;
use crate::output;
use crate::progress::Progress;
use orchestrion_scenarios::file::{self, FILE_MAX, FileError};
use orchestrion_scenarios::report::{Side, html};
use orchestrion_scenarios::simulate::simulate;
use orchestrion_scenarios::summary::Summary;
use std::io::{Read, Write};
use std::path::Path;

pub(crate) fn run(args: &SimulateArgs) -> Result<(), Failure> {
    let folder = args.file.parent().unwrap_or(Path::new("."));
    let scenario = file::read(&text(&args.file)?, folder, args.seed, &args.set).map_err(|error| bad(args, &error))?;
    let seed = scenario.plan.seed;
    let mut progress = Progress::default();
    let outcome = simulate(scenario.plan, &mut |done| progress.count("simulating requests", done));
    progress.finish();
    let outcome = outcome.map_err(Failure::of(Code::Broken))?;
    let summary = Summary::of(&scenario.title, seed, &outcome, &scenario.expectations);
    if let Some(path) = &args.report {
        let side = Side { name: "", outcome: &outcome, summary: &summary };
        let wrong = |error: std::io::Error| Failure::new(Code::Failed, format!("{}: {error}", path.display()));
        std::fs::write(path, html(&scenario.title, &[side])).map_err(wrong)?;
    }
    match args.output {
        Output::Text => write!(std::io::stdout(), "{summary}")?,
        Output::Json => output::json(&summary)?,
    }
    match summary.broken() {
        0 => Ok(()),
        1 => Err(Failure::new(Code::Failed, "an expectation is not met")),
        broken => Err(Failure::new(Code::Failed, format!("{broken} expectations are not met"))),
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    let wrong = |error: std::io::Error| Failure::new(Code::BadConfig, format!("{}: {error}", path.display()));
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
    if read.map_err(wrong)? as u64 > FILE_MAX {
        let problem = format!("{}: a scenario has {FILE_MAX} bytes at most", path.display());
        return Err(Failure::new(Code::BadConfig, problem));
    }
    Ok(text)
}

fn bad(args: &SimulateArgs, error: &FileError) -> Failure {
    let error = error.to_string();
    let hint = meant(&error).map(|name| format!(". Did you mean `{name}`?")).unwrap_or_default();
    Failure::new(Code::BadConfig, format!("{}: {error}{hint}", args.file.display()))
}
