//! Rule `errors`: every code a client can meet has a section in docs/errors.md with its cause and its fix,
//! and every section is of a code that exists.

use super::Finding;
use super::tree::Tree;

pub(super) const NAME: &str = "errors";

const TABLE: &str = "api/src/problem.rs";
const PAGE: &str = "docs/errors.md";
/// How a row of the table and a section of the page begin, and what a section must say.
const ROW: &str = "(ErrorCode::";
const SECTION: &str = "## ";
const PARTS: [&str; 2] = ["**Cause.**", "**Fix.**"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let codes = tree.get(TABLE).map(|table| codes(&table.text)).unwrap_or_default();
    if codes.is_empty() {
        let message =
            "has no row `(ErrorCode::X, \"X\", …)` that can be read: tell tools/src/tidy/errors.rs where the table is";
        return vec![Finding::fail(NAME, TABLE, None, message)];
    }
    let page = tree.get(PAGE).map_or("", |page| page.text.as_str());
    let sections = sections(page);
    let mut findings = Vec::new();
    for (code, line) in &codes {
        match sections.iter().find(|(of, _, _)| of == code) {
            None => {
                let message =
                    format!("{code} has no section: add `{SECTION}{code}` with its cause and its fix to {PAGE}");
                findings.push(Finding::fail(NAME, TABLE, Some(*line), message));
            }
            Some((_, line, text)) => {
                for part in PARTS.iter().filter(|part| !text.contains(**part)) {
                    findings.push(Finding::fail(NAME, PAGE, Some(*line), format!("{code} lacks its {part}")));
                }
            }
        }
    }
    for (code, line, _) in sections.iter().filter(|(code, _, _)| is_code(code)) {
        if !codes.iter().any(|(known, _)| known == code) {
            let message = format!("{code} is in no row of {TABLE}: take its section out");
            findings.push(Finding::fail(NAME, PAGE, Some(*line), message));
        }
    }
    findings
}

/// The codes of the table's rows, as on the wire, with their lines.
fn codes(table: &str) -> Vec<(String, usize)> {
    let row = |(at, line): (usize, &str)| {
        let name = line.trim_start().strip_prefix(ROW)?.split('"').nth(1)?;
        is_code(name).then(|| (name.to_owned(), at + 1))
    };
    table.lines().enumerate().filter_map(row).collect()
}

fn is_code(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
}

/// Heading, line and text of each section.
fn sections(page: &str) -> Vec<(String, usize, String)> {
    let mut found: Vec<(String, usize, String)> = Vec::new();
    for (at, line) in page.lines().enumerate() {
        if let Some(heading) = line.strip_prefix(SECTION) {
            found.push((heading.trim().to_owned(), at + 1, String::new()));
        } else if let Some((_, _, text)) = found.last_mut() {
            *text += line;
            *text += "\n";
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::example;

    const ROWS: &str = "const CODES: [A; 2] = [\n    (ErrorCode::NotFound, \"NOT_FOUND\", 404),\n    (ErrorCode::Internal, \"INTERNAL\", 500),\n];";

    fn found(table: &str, page: &str) -> Vec<(String, Option<usize>)> {
        check(&example(&[(TABLE, table), (PAGE, page)])).into_iter().map(|f| (f.path, f.line)).collect()
    }

    #[test]
    fn codes_and_sections_agree() {
        let page = "# Errors\n## How to read this\n## NOT_FOUND\n**Cause.** a\n**Fix.** b\n## INTERNAL\n**Cause.** c **Fix.** d\n";
        assert_eq!(found(ROWS, page), []);
        let stale = format!("{page}## GONE\n**Cause.** e **Fix.** f");
        assert_eq!(found(ROWS, &stale), [(PAGE.to_owned(), Some(8))]);
    }

    #[test]
    fn a_code_without_cause_or_fix_fails() {
        let page = "## NOT_FOUND\n**Cause.** a\n";
        assert_eq!(found(ROWS, page), [(PAGE.to_owned(), Some(1)), (TABLE.to_owned(), Some(3))]);
        assert_eq!(found("", page), [(TABLE.to_owned(), None)]);
    }
}
