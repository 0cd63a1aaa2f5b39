//! `orch bundle`: one task's part of the journal, fit to be shown.

use crate::cli::{BundleArgs, Output};
use crate::configuration;
use crate::explain::task_id;
use crate::failure::{Code, Failure};
use crate::output;
use orchestrion_api::bundle::bundle;
use std::io::Write;

pub(crate) fn run(args: &BundleArgs) -> Result<(), Failure> {
    let path = configuration::journal_or_default(args.path.as_deref())?;
    let manifest = bundle(&path, task_id(&args.around)?, &args.out).map_err(Failure::of(Code::BadData))?;
    match args.output {
        Output::Text => Ok(writeln!(std::io::stdout(), "{manifest}")?),
        Output::Json => output::json(&manifest),
    }
}
