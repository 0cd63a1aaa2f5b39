//! The version, as people and journals see it.

use crate::Failure;
use std::io::Write;

/// The package's version.
pub(crate) fn line() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

pub(crate) fn run() -> Result<(), Failure> {
    writeln!(std::io::stdout(), "orch {}", line())?;
    Ok(())
}
