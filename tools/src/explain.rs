//! `orch explain`: what happened to a task and why, with the proof.

use crate::cli::{ExplainArgs, Output};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use orchestrion_api::explain::{explain, task_of};
use orchestrion_world::id::TaskId;
use std::io::Write;

pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let path = configuration::journal_or_default(args.journal.as_deref())?;
    let explanation = explain(&path, task_id(&args.task)?, args.input).map_err(Failure::of(Code::BadData))?;
    match args.output {
        Output::Text => Ok(writeln!(std::io::stdout(), "{explanation}")?),
        Output::Json => output::json(&explanation),
    }
}

/// From its own id, or an answer's.
pub(crate) fn task_id(text: &str) -> Result<TaskId, Failure> {
    task_of(text).parse().map_err(Failure::of(Code::Failed))
}
