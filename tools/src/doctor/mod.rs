//! `orch doctor`: would `orch serve` work here, and if not, what is wrong and how to mend it.
//!
//! Looks at the machine, the processor, the configuration, the model cache, the journal's folder and its disk,
//! the port and the clock. Changes nothing but a file of its own that it removes again. A finding that
//! would keep the server from starting makes the command fail.

mod machine;
mod places;

use crate::cli::{DoctorArgs, Output, ServeArgs};
use crate::configuration::Config;
use crate::failure::{Code, Failure};
use crate::output;
use crate::serve::keys;
use serde::Serialize;
use std::fmt;
use std::io::Write;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    /// It works, worse than it could.
    Warning,
    /// The server would not start, or lose something.
    Wrong,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do, where something is not as it should be.
    mend: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Ok, found: found.into(), mend: None }
    }

    fn warning(what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Warning, found: found.into(), mend: Some(mend.into()) }
    }

    fn wrong(what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Wrong, found: found.into(), mend: Some(mend.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { what, verdict, found, mend } = self;
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Wrong => "WRONG",
        };
        write!(f, "{verdict:8} {what:14} {found}")?;
        match mend {
            Some(mend) => write!(f, "\n{:23} → {mend}", ""),
            None => Ok(()),
        }
    }
}

pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let findings = examine(args);
    match args.output {
        Output::Json => output::json(&findings)?,
        Output::Text => {
            let mut out = std::io::stdout().lock();
            findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
        }
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count() {
        0 => Ok(()),
        1 => Err(Failure::new(Code::Failed, "one thing is wrong; the arrow says how to mend it")),
        wrong => Err(Failure::new(Code::Failed, format!("{wrong} things are wrong; the arrows say how to mend them"))),
    }
}

fn examine(args: &DoctorArgs) -> Vec<Finding> {
    let mut findings = vec![machine::memory(), machine::processor(), machine::gpu(), machine::open_files()];
    let DoctorArgs { config, bind, journal, .. } = args;
    let (config, journal) = (config.clone(), journal.clone());
    let serve = ServeArgs { config, bind: *bind, journal, ..ServeArgs::default() };
    let config = match Config::layered(&serve) {
        Ok(config) => config,
        Err(failure) => {
            findings.push(Finding::wrong(
                "configuration",
                failure.to_string(),
                "correct the file or the variable it names",
            ));
            // The rest would be about another server than the one that is wanted.
            return findings;
        }
    };
    let pools = config.pools.len();
    findings
        .push(Finding::ok("configuration", format!("can be read; {pools} pool{}", if pools == 1 { "" } else { "s" })));
    findings.push(auth(&config));
    findings.extend(places::models(&config));
    findings.extend(places::journal(&config));
    findings.push(places::port(config.server.bind));
    findings
}

/// Who may ask, and whether that is enough for where the server listens.
fn auth(config: &Config) -> Finding {
    let bind = config.server.bind;
    match keys::auth(&config.auth, bind, &keys::Sources::of(&config.auth)) {
        Err(failure) => Finding::wrong("tokens", failure.to_string(), "see the README on who may ask from where"),
        Ok(auth) if auth.keyring.is_empty() => Finding::ok("tokens", format!("none; {bind} is for this machine alone")),
        Ok(auth) => Finding::ok("tokens", format!("{} for clients", auth.keyring.listed().count())),
    }
}
