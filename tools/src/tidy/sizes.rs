//! Rule `sizes`: a file is a topic that fits a reading. Lines of `.rs` and `.cu`, tests and listed tables
//! exempt; and the median, so that many files just under the limit do not pass for short ones.

use super::Finding;
use super::tree::{File, Tree};

pub(super) const NAME: &str = "sizes";

const WARN_LINES: usize = 400;
const FAIL_LINES: usize = 600;
const MEDIAN_LINES: usize = 150;

/// Files of data rather than of thought.
const TABLES: [&str; 0] = [];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in sources(tree) {
        let lines = file.lines();
        let message = || format!("{lines} lines: split it by topic (topics are 60 to 300 lines)");
        if lines > FAIL_LINES {
            findings.push(Finding::fail(NAME, &file.path, None, message()));
        } else if lines > WARN_LINES {
            findings.push(Finding::warn(NAME, &file.path, None, message()));
        }
    }
    let median = median(tree);
    if median > MEDIAN_LINES {
        let message = format!(
            "the median source file has {median} lines, at most {MEDIAN_LINES} are wanted: split the long ones"
        );
        findings.push(Finding::fail(NAME, "Cargo.toml", None, message));
    }
    findings
}

/// Lines of the median source file; 0 without any.
pub(super) fn median(tree: &Tree) -> usize {
    let mut lines: Vec<usize> = sources(tree).map(File::lines).collect();
    lines.sort_unstable();
    lines.get(lines.len() / 2).copied().unwrap_or(0)
}

fn sources(tree: &Tree) -> impl Iterator<Item = &File> {
    let is_source = |file: &&File| file.path.ends_with(".rs") && !file.is_test() || file.path.ends_with(".cu");
    tree.files.iter().filter(is_source).filter(|file| !TABLES.contains(&file.path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::Severity;
    use crate::tidy::tree::example;

    fn severities(files: &[(&str, &str)]) -> Vec<(String, Severity)> {
        check(&example(files)).into_iter().map(|f| (f.path, f.severity)).collect()
    }

    #[test]
    fn long_files_warn_and_very_long_ones_fail() {
        let of = |lines: usize| "x\n".repeat(lines);
        let (good, long, very_long) = (of(400), of(401), of(601));
        let short: Vec<(String, String)> = (0..9).map(|n| (format!("s{n}.rs"), "x".to_owned())).collect();
        let mut files: Vec<(&str, &str)> = short.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        files.extend([("a.rs", good.as_str()), ("b.rs", &long), ("c.cu", &very_long), ("tests/d.rs", &very_long)]);
        assert_eq!(severities(&files), [("b.rs".into(), Severity::Warn), ("c.cu".into(), Severity::Fail)]);
    }

    #[test]
    fn a_high_median_fails() {
        let (good, bad) = ("x\n".repeat(150), "x\n".repeat(151));
        assert_eq!(severities(&[("a.rs", &good), ("b.rs", &good)]), []);
        assert_eq!(severities(&[("a.rs", &bad), ("b.rs", &bad)]), [("Cargo.toml".into(), Severity::Fail)]);
        assert_eq!(median(&example(&[("a.rs", "1"), ("b.rs", "1\n2"), ("c.rs", &bad)])), 2);
    }
}
