//! Rule `headers`: every Rust file begins by saying what it is for, in a `//!` header of a few lines.

use super::Finding;
use super::tree::Tree;

pub(super) const NAME: &str = "headers";

const MAX_LINES: usize = 12;

/// Headers that are a page of reference.
const PAGES: [&str; 1] = ["api/src/journal/mod.rs"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let lines = file.text.lines().take_while(|line| line.starts_with("//!")).count();
        if lines == 0 {
            let message = "begin the file with `//!` lines: what for, what it reads and writes, what it does not do";
            findings.push(Finding::fail(NAME, &file.path, Some(1), message));
        } else if lines > MAX_LINES && !PAGES.contains(&file.path.as_str()) {
            let message =
                format!("a header of {lines} lines: keep it to {MAX_LINES}, the rest belongs beside what it explains");
            findings.push(Finding::warn(NAME, &file.path, Some(1), message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::Severity;
    use crate::tidy::tree::example;

    #[test]
    fn a_header_is_needed_and_short() {
        let long = "//! x\n".repeat(13);
        let tree = example(&[
            ("good.rs", "//! What for.\nfn a() {}"),
            ("late.rs", "\n//! What for."),
            ("long.rs", &long),
            ("none.rs", "fn a() {}"),
            ("none.py", "x"),
        ]);
        let found: Vec<_> = check(&tree).into_iter().map(|f| (f.path, f.severity)).collect();
        let expected = [("late.rs", Severity::Fail), ("long.rs", Severity::Warn), ("none.rs", Severity::Fail)];
        assert_eq!(found, expected.map(|(path, severity)| (path.to_owned(), severity)));
    }
}
