//! Rule `invariants`: each numbered invariant of ARCHITECTURE.md names a guard, and the guard exists; likewise those
//! of `docs/invariants.md`, where there is one.
//!
//! A guard stands as `` guard: `path` ``, `` `path#name` `` or `` `command` ``; several are parted by commas. A
//! path is a file of the tree, a name a word in it (a test, a rule, an audit), and a command, which has a
//! space, must be one that `.ci/run` runs.

use super::Finding;
use super::code::words;
use super::tree::Tree;

pub(super) const NAME: &str = "invariants";

const PAGE: &str = "ARCHITECTURE.md";
const CORE: &str = "docs/invariants.md";
const RUN: &str = ".ci/run";

/// One numbered paragraph.
#[derive(Debug, Default)]
struct Invariant {
    line: usize,
    text: String,
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let pages = [PAGE, CORE].into_iter().filter(|page| *page == PAGE || tree.get(page).is_some());
    pages.flat_map(|page| check_page(tree, page)).collect()
}

fn check_page(tree: &Tree, name: &str) -> Vec<Finding> {
    let invariants = tree.get(name).map(|page| invariants(&page.text)).unwrap_or_default();
    if invariants.is_empty() {
        return vec![Finding::fail(NAME, name, None, "has no numbered list under a heading `Invariants`: write one")];
    }
    let mut findings = Vec::new();
    for Invariant { line, text } in invariants {
        let guards = guards(&text);
        if guards.is_empty() {
            let message = "an invariant without a guard: add guard: `path#test`, or it is only a wish";
            findings.push(Finding::fail(NAME, name, Some(line), message));
        }
        let missing = guards.iter().filter_map(|guard| Some(format!("the guard `{guard}` {}", problem(tree, guard)?)));
        findings.extend(missing.map(|message| Finding::fail(NAME, name, Some(line), message)));
    }
    findings
}

/// What is wrong with a guard.
fn problem(tree: &Tree, guard: &str) -> Option<String> {
    if guard.contains(' ') {
        let runs = tree.get(RUN).is_some_and(|run| run.text.contains(guard));
        return (!runs).then(|| format!("is not run: {RUN} has no such command"));
    }
    let (path, name) = guard.split_once('#').map_or((guard, None), |(path, name)| (path, Some(name)));
    let Some(file) = tree.get(path) else { return Some(format!("is missing: there is no file {path}")) };
    match name {
        Some(name) if words(&file.text, name).next().is_none() => Some(format!("is missing: {path} has no `{name}`")),
        Some(_) | None => None,
    }
}

/// The items of the numbered list under the heading, each with its further lines.
fn invariants(page: &str) -> Vec<Invariant> {
    let mut found: Vec<Invariant> = Vec::new();
    let lines = page.lines().enumerate().skip_while(|(_, line)| !is_heading(line)).skip(1);
    for (at, line) in lines.take_while(|(_, line)| !line.starts_with("# ") && !line.starts_with("## ")) {
        let number = line.split_once(". ").is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if number {
            found.push(Invariant { line: at + 1, text: String::new() });
        }
        if let Some(invariant) = found.last_mut() {
            invariant.text += line;
            invariant.text += "\n";
        }
    }
    found
}

fn is_heading(line: &str) -> bool {
    line.starts_with("## ") && line.contains("Invariants")
}

/// What stands in backquotes after `guard:`, up to the paragraph's end.
fn guards(text: &str) -> Vec<&str> {
    let Some((_, after)) = text.split_once("guard:") else { return vec![] };
    after.split('`').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::example;

    fn messages(page: &str) -> Vec<String> {
        let tree = example(&[(PAGE, page), ("a/b.rs", "fn it_holds() {}"), (RUN, "cargo test --workspace\n")]);
        check(&tree).into_iter().map(|f| format!("{}: {}", f.line.unwrap_or(0), f.message)).collect()
    }

    #[test]
    fn guards_that_exist_pass() {
        let page = "# A\n## Invariants\nProse.\n1. One,\n   over lines. guard: `a/b.rs#it_holds`\n2. Two. guard: `a/b.rs`, `cargo test --workspace`\n## Next\n3. Not one.";
        assert_eq!(messages(page), [""; 0]);
    }

    #[test]
    fn guards_that_do_not_fail() {
        let page = "## Invariants\n1. None.\n2. File. guard: `a/c.rs`\n3. Name. guard: `a/b.rs#it_hold`\n4. Command. guard: `cargo bench`";
        let expected = [
            "2: an invariant without a guard: add guard: `path#test`, or it is only a wish",
            "3: the guard `a/c.rs` is missing: there is no file a/c.rs",
            "4: the guard `a/b.rs#it_hold` is missing: a/b.rs has no `it_hold`",
            "5: the guard `cargo bench` is not run: .ci/run has no such command",
        ];
        assert_eq!(messages(page), expected);
    }

    #[test]
    fn a_page_without_the_list_fails() {
        assert_eq!(messages("# A\n1. One. guard: `a/b.rs`").len(), 1);
        assert_eq!(check(&example(&[])).len(), 1);
    }
}
