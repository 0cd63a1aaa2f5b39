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

const CONFIGURATION: &str = "configuration";

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
    verdict(&findings)
}

fn verdict(findings: &[Finding]) -> Result<(), Failure> {
    let wrong = || findings.iter().filter(|finding| finding.verdict == Verdict::Wrong);
    let code = if wrong().any(|finding| finding.what == CONFIGURATION) { Code::BadConfig } else { Code::Failed };
    match wrong().count() {
        0 => Ok(()),
        1 => Err(Failure::new(code, "one thing is wrong; the arrow says how to mend it")),
        wrong => Err(Failure::new(code, format!("{wrong} things are wrong; the arrows say how to mend them"))),
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
                CONFIGURATION,
                failure.to_string(),
                "correct the file or the variable it names",
            ));
            // The rest would be about another server than the one that is wanted.
            return findings;
        }
    };
    let pools = config.pools.len();
    findings
        .push(Finding::ok(CONFIGURATION, format!("can be read; {pools} pool{}", if pools == 1 { "" } else { "s" })));
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

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_gpu::generate::{GenSpec, generate};
    use std::path::PathBuf;

    #[test]
    fn what_would_keep_a_server_from_being_ready_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (file, config) = (dir.path().join("tiny.gguf"), dir.path().join("c.toml"));
        std::fs::write(&file, generate(&GenSpec::default()).unwrap()).unwrap();
        let found = |more: &str, config: Option<PathBuf>| {
            let pool = format!("{more}\n[[pools]]\nid = \"a\"\nmodel = \"{}\"\n", file.display());
            std::fs::write(dir.path().join("c.toml"), pool).unwrap();
            let (bind, journal) = ("127.0.0.1:0".parse().ok(), Some(dir.path().join("journal")));
            let findings = examine(&DoctorArgs { config, bind, journal, output: Output::Text });
            let code = verdict(&findings).err().map(|failure| failure.code());
            (code, findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n"))
        };
        assert_eq!(found("", Some(config.clone())).0, None);
        let (code, text) = found("[models]\nmemory_bytes = 1000", Some(config.clone()));
        assert!(
            code == Some(Code::Failed) && text.contains(" of 1000 B\n") && text.contains("raise `models.memory_bytes`"),
            "{text}"
        );
        // The server goes on without it.
        let (code, text) = found("[[models.loadable]]\nmodel = \"/nope.gguf\"", Some(config));
        assert!(code.is_none() && text.contains("warning  model          `/nope.gguf`"), "{text}");
        assert_eq!(found("", Some(dir.path().join("nope.toml"))).0, Some(Code::BadConfig));
    }
}
