//! The version, as people and journals see it.

use crate::cli::{Output, VersionArgs};
use crate::failure::Failure;
use crate::output;
use orchestrion_gpu::engine::DEFINITION;
use serde_json::json;
use std::io::Write;

/// The package's version.
pub(crate) fn line() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

pub(crate) fn run(args: &VersionArgs) -> Result<(), Failure> {
    match args.output {
        Output::Text => Ok(writeln!(std::io::stdout(), "orch {}", line())?),
        Output::Json => output::json(&json!({"version": line(), "numerics": DEFINITION})),
    }
}
