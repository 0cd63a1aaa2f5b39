//! `orch tidy`: the rules of the house, checked over the source tree; also a test of this crate.
//!
//! A rule is a row of [`RULES`] and a file, or a row of a table in one. Rules read files and ask cargo for
//! its graph; they change nothing and know no types, so they find what the compiler and clippy cannot
//! see. What is wrong becomes a [`Finding`] that says what to do; only a tree that cannot be read is an
//! error.

mod bans;
mod code;
mod edges;
mod errors;
mod headers;
mod invariants;
mod phases;
mod portable;
mod sizes;
mod tree;

use crate::cli::TidyArgs;
use crate::failure::{Code, Failure};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tree::Tree;

/// What the rules say of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// By path and line.
    pub findings: Vec<Finding>,
    pub files: usize,
    /// Of the median source file, tests aside.
    pub median_lines: usize,
}

/// Something to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// A name in [`RULES`].
    pub rule: &'static str,
    /// From the root, with `/`.
    pub path: String,
    /// From 1; none is the whole file.
    pub line: Option<usize>,
    /// What is wrong and what to do.
    pub message: String,
    pub severity: Severity,
}

/// Whether a finding stops a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Warn,
    Fail,
}

/// Why the tree could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TidyError {
    #[error("{} is not the root of a workspace: it has no Cargo.toml with a [workspace]", root.display())]
    NotAWorkspace { root: PathBuf },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{command}` could not be started")]
    Start { command: String, source: io::Error },
    #[error("`{command}` failed: {said}")]
    Failed { command: String, said: String },
    #[error("`{command}` answered something else than was asked for: {problem}")]
    Answer { command: String, problem: String },
}

/// A rule: what it found.
type Rule = fn(&Tree) -> Result<Vec<Finding>, TidyError>;

/// Every rule, by name.
const RULES: [(&str, Rule); 9] = [
    (sizes::NAME, |tree| Ok(sizes::check(tree))),
    (headers::NAME, |tree| Ok(headers::check(tree))),
    (bans::NAME, |tree| Ok(bans::check(tree))),
    (bans::UNSAFE, |tree| Ok(bans::check_unsafe(tree))),
    (edges::NAME, edges::check),
    (phases::NAME, |tree| Ok(phases::check(tree))),
    (invariants::NAME, |tree| Ok(invariants::check(tree))),
    (portable::NAME, |tree| Ok(portable::check(tree))),
    (errors::NAME, |tree| Ok(errors::check(tree))),
];

/// Runs every rule over the workspace at `root`.
pub(crate) fn tidy(root: &Path) -> Result<Report, TidyError> {
    let tree = Tree::read(root)?;
    let mut findings = Vec::new();
    for (_, rule) in RULES {
        findings.extend(rule(&tree)?);
    }
    findings.sort_by(|a, b| (&a.path, a.line, a.rule).cmp(&(&b.path, b.line, b.rule)));
    Ok(Report { findings, files: tree.files.len(), median_lines: sizes::median(&tree) })
}

/// The command: a line for each finding, then the figures. Fails where one of them does.
pub(crate) fn run(args: &TidyArgs) -> Result<(), Failure> {
    let Report { findings, files, median_lines } = tidy(&args.root).map_err(Failure::of(Code::Failed))?;
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let failed = findings.iter().filter(|finding| finding.severity == Severity::Fail).count();
    let warned = findings.len() - failed;
    writeln!(out, "{files} files, median source file {median_lines} lines; {failed} failures, {warned} warnings")?;
    if failed > 0 {
        return Err(Failure::new(Code::BadData, format!("the tree breaks {failed} rules of the house")));
    }
    Ok(())
}

impl Finding {
    fn fail(rule: &'static str, path: &str, line: Option<usize>, message: impl Into<String>) -> Finding {
        Finding { rule, path: path.to_owned(), line, message: message.into(), severity: Severity::Fail }
    }

    fn warn(rule: &'static str, path: &str, line: Option<usize>, message: impl Into<String>) -> Finding {
        Finding { severity: Severity::Warn, ..Finding::fail(rule, path, line, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warn => "warn",
            Severity::Fail => "fail",
        };
        write!(f, "{severity} {}", self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {} [{}]", self.message, self.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let Report { findings, .. } = tidy(&root).unwrap();
        let (failed, warned): (Vec<_>, Vec<_>) = findings.iter().partition(|f| f.severity == Severity::Fail);
        warned.iter().for_each(|finding| println!("{finding}"));
        let lines: Vec<String> = failed.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
    }

    #[test]
    fn every_rule_has_a_name_of_its_own() {
        for (at, (name, _)) in RULES.iter().enumerate() {
            assert_eq!(RULES.iter().position(|(other, _)| other == name), Some(at), "{name}");
        }
    }

    #[test]
    fn a_folder_that_is_no_workspace_is_an_error() {
        let nowhere = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        assert!(matches!(tidy(&nowhere), Err(TidyError::NotAWorkspace { .. })));
    }

    #[test]
    fn a_finding_says_where_and_what() {
        let finding = Finding::fail("bans", "world/src/a.rs", Some(3), "no `f32` here");
        assert_eq!(finding.to_string(), "fail world/src/a.rs:3: no `f32` here [bans]");
        let whole = Finding::warn("sizes", "a.rs", None, "long");
        assert_eq!(whole.to_string(), "warn a.rs: long [sizes]");
    }
}
