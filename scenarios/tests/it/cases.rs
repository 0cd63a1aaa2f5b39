//! The committed cases: each a file with its question and its answer.

use orchestrion_scenarios::script::Script;
use std::path::{Path, PathBuf};

pub(crate) struct Case {
    pub path: PathBuf,
    pub text: String,
    pub script: Script,
}

impl Case {
    /// Prose and cluster, up to the first thing that happened.
    pub(crate) fn head(&self) -> String {
        let happens =
            |line: &str| line.starts_with("< ") || line.starts_with("> ") && line.as_bytes()[2].is_ascii_digit();
        let lines = self.text.lines().take_while(|line| !happens(line));
        let mut head: Vec<&str> = lines.collect();
        // Prose right above the first event is that event's.
        while head.last().is_some_and(|line| line.starts_with('#')) && head.iter().any(|l| l.starts_with("> ")) {
            head.pop();
        }
        head.into_iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Every case, by path.
pub(crate) fn all() -> Vec<Case> {
    let mut paths = vec![];
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let script = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Case { path, text, script }
    };
    paths.into_iter().map(read).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|e| e == "scn") {
            paths.push(path);
        }
    }
}
