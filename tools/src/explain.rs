//! `orch explain`: what happened to a task and why, with the proof.

use crate::cli::{ExplainArgs, Output};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use orchestrion_api::explain::explain;
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

/// The id of an answer is its task's behind a prefix.
pub(crate) fn task_id(text: &str) -> Result<TaskId, Failure> {
    let bare = ["chatcmpl-", "cmpl-", "rerank-"].iter().find_map(|prefix| text.strip_prefix(prefix));
    bare.unwrap_or(text).parse().map_err(Failure::of(Code::Failed))
}
