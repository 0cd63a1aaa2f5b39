//! Data on stdout, for programs.

use crate::failure::{Code, Failure};
use serde::Serialize;
use std::io::Write;

/// As indented JSON and a line's end.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::of(Code::Failed))?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
