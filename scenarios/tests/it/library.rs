//! Every file of the library keeps what it promises, and comes to the figures that were last read. A change
//! of behaviour shows as a difference: read it, then `INSTA_UPDATE=always`.

use orchestrion_scenarios::file::{self, Scenario};
use orchestrion_scenarios::simulate::simulate;
use orchestrion_scenarios::summary::Summary;
use std::path::{Path, PathBuf};

fn library() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("library");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

fn summary(path: &Path) -> Summary {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.starts_with("# "), "{}: prose comes first", path.display());
    let Scenario { title, plan, expectations } = file::read(&text, path.parent().unwrap(), None, &[])
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let seed = plan.seed;
    let outcome = simulate(plan, &mut |_| {}).unwrap_or_else(|broken| panic!("{}: {broken}", path.display()));
    Summary::of(&title, seed, &outcome, &expectations)
}

#[test]
fn every_file_of_the_library_keeps_its_promises() {
    let files = library();
    assert!(files.len() >= 8, "{} files", files.len());
    for path in files {
        let summary = summary(&path);
        assert!(!summary.expectations.is_empty(), "{} promises nothing", path.display());
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = summary.to_string();
        // Steps and digest differ with every change inside; what people would notice stays.
        let text: String =
            text.lines().filter(|line| !line.contains("digest")).map(|line| format!("{line}\n")).collect();
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
        assert_eq!(summary.broken(), 0, "{}", path.display());
    }
}

#[test]
fn a_run_is_a_function_of_its_file_and_seed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("library/failing-worker.toml");
    assert_eq!(summary(&path), summary(&path));
    let text = std::fs::read_to_string(&path).unwrap();
    let digest = |seed| {
        let plan = file::read(&text, path.parent().unwrap(), Some(seed), &[]).unwrap().plan;
        simulate(plan, &mut |_| {}).unwrap().digest
    };
    assert_ne!(digest(2), digest(3));
}
