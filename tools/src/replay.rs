//! `orch replay`: is the record true, and what would another rule have decided?

use crate::cli::{Output, ReplayArgs};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use crate::progress::Progress;
use orchestrion_api::replay::{ReplayError, ReplayOptions, replay};
use std::io::Write;

pub(crate) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let path = configuration::journal_or_default(args.path.as_deref())?;
    let mut progress = Progress::default();
    let mut show = |done, total| progress.show("replaying", done, total);
    let options =
        ReplayOptions { from: args.from, to: args.to, overrides: args.set.clone(), progress: Some(&mut show) };
    let report = replay(&path, options).map_err(|error| Failure::new(code_of(&error), error))?;
    progress.finish();
    match args.output {
        Output::Text => Ok(writeln!(std::io::stdout(), "{report}")?),
        Output::Json => output::json(&report),
    }
}

fn code_of(error: &ReplayError) -> Code {
    match error {
        ReplayError::Override(_) => Code::BadConfig,
        ReplayError::NoSuchStep { .. } | ReplayError::BeyondEnd { .. } | ReplayError::Backwards { .. } => Code::Failed,
        ReplayError::Journal(_)
        | ReplayError::Diverged(_)
        | ReplayError::Ledger { .. }
        | ReplayError::Unrestorable { .. }
        | ReplayError::Breaks { .. }
        | ReplayError::NoLongerBreaks { .. } => Code::BadData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_world::config::{Rules, overrides};

    #[test]
    fn a_rule_that_is_none_is_a_bad_configuration_and_a_step_that_is_none_no_damage() {
        let set = [("queue.size".to_owned(), "1".to_owned())];
        let error = overrides::apply(&mut Rules::default(), &set).unwrap_err();
        assert_eq!(code_of(&error.into()), Code::BadConfig);
        assert_eq!(code_of(&ReplayError::Backwards { from: 2, to: 1 }), Code::Failed);
    }
}
