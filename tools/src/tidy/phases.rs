//! Rule `phases`: the phases of `systems/src/tick.rs` are the files beside it, in the same words.

use super::Finding;
use super::code::line_at;
use super::tree::Tree;

pub(super) const NAME: &str = "phases";

const TICK: &str = "systems/src/tick.rs";
const FOLDER: &str = "systems/src/";

/// What stands in the folder and is no phase.
const BESIDE: [&str; 8] = ["audit", "estimate", "lib", "memory", "planted", "prefixes", "tick", "view"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(tick) = tree.get(TICK) else {
        return vec![Finding::fail(NAME, TICK, None, "is missing: it is the page on which every system has its place")];
    };
    let phases = phases(&tick.code);
    let mut findings = Vec::new();
    if phases.is_empty() {
        findings.push(Finding::fail(NAME, TICK, None, "has no `enum Phase` that can be read: list the phases in it"));
    }
    for (phase, line) in &phases {
        let files = [format!("{FOLDER}{phase}.rs"), format!("{FOLDER}{phase}/mod.rs")];
        if files.iter().all(|path| tree.get(path).is_none()) {
            let message = format!("a phase without its file: write {}, or take the phase out", files[0]);
            findings.push(Finding::fail(NAME, TICK, Some(*line), message));
        }
    }
    let known = |module: &str| BESIDE.contains(&module) || phases.iter().any(|(phase, _)| phase == module);
    for file in tree.rust() {
        let Some(below) = file.path.strip_prefix(FOLDER) else { continue };
        let module = below.split('/').next().unwrap_or(below).trim_end_matches(".rs");
        if !known(module) && !file.is_test() {
            let message = "is no phase of tick.rs: give it one, or a place in BESIDE of tools/src/tidy/phases.rs";
            findings.push(Finding::fail(NAME, &file.path, None, message));
        }
    }
    for module in BESIDE.iter().filter(|module| tree.get(&format!("{FOLDER}{module}.rs")).is_none()) {
        let message = format!("`{module}` is gone: take it out of BESIDE in tools/src/tidy/phases.rs");
        findings.push(Finding::fail(NAME, TICK, None, message));
    }
    findings
}

/// The variants of `enum Phase` as file names, with their lines.
fn phases(code: &str) -> Vec<(String, usize)> {
    let Some(start) = code.find("enum Phase") else { return vec![] };
    let Some(open) = code[start..].find('{').map(|at| start + at + 1) else { return vec![] };
    let body = code[open..].split('}').next().unwrap_or_default();
    let mut found = Vec::new();
    let mut at = open;
    for variant in body.split(',') {
        let name = variant.trim();
        if !name.is_empty() {
            let place = at + variant.find(name).unwrap_or(0);
            found.push((snake(name), line_at(code, place)));
        }
        at += variant.len() + 1;
    }
    found
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::example;

    const PAGE: &str = "/// Phases.\npub enum Phase {\n    Intake,\n    /// With a folder.\n    LongName,\n}";

    fn found(files: &[&str]) -> Vec<(String, Option<usize>)> {
        let beside = BESIDE.map(|module| format!("{FOLDER}{module}.rs"));
        let mut all: Vec<(&str, &str)> = beside.iter().map(|path| (path.as_str(), "")).collect();
        all.retain(|(path, _)| *path != TICK);
        all.push((TICK, PAGE));
        all.extend(files.iter().map(|path| (*path, "")));
        check(&example(&all)).into_iter().map(|f| (f.path, f.line)).collect()
    }

    #[test]
    fn phases_and_files_agree() {
        let whole = ["systems/src/intake.rs", "systems/src/long_name/mod.rs", "systems/src/long_name/part.rs"];
        assert_eq!(found(&whole), []);
        assert_eq!(found(&whole[..1]), [(TICK.to_owned(), Some(5))]);
        let more = [whole.as_slice(), &["systems/src/other.rs"]].concat();
        assert_eq!(found(&more), [("systems/src/other.rs".to_owned(), None)]);
    }

    #[test]
    fn a_page_without_phases_fails() {
        assert_eq!(check(&example(&[])).len(), 1);
        assert!(!check(&example(&[(TICK, "fn a() {}")])).is_empty());
    }
}
