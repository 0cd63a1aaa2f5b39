//! The source tree in memory: every file that git knows or would take, and what of the Rust is tests.
//!
//! Where there is no git (a release archive), the folder itself is walked.

use super::TidyError;
use super::code::{blank, items_with, line_at};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders a walk does not enter.
const SKIPPED: [&str; 2] = ["target", ".git"];
/// Folders whose Rust is tests, wherever they stand in a crate.
const TEST_FOLDERS: [&str; 2] = ["tests", "benches"];

/// A workspace's files, sorted by path.
#[derive(Debug)]
pub(super) struct Tree {
    pub root: PathBuf,
    pub files: Vec<File>,
}

/// One file.
#[derive(Debug)]
pub(super) struct File {
    /// From the root, with `/`.
    pub path: String,
    pub text: String,
    /// Rust with comments and literals blanked; empty for other files.
    pub code: String,
    /// The parts of `code` that only tests compile.
    tests: Vec<Range<usize>>,
}

impl Tree {
    pub(super) fn read(root: &Path) -> Result<Tree, TidyError> {
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default();
        if !manifest.contains("[workspace]") {
            return Err(TidyError::NotAWorkspace { root: root.to_owned() });
        }
        let paths = match listed(root) {
            Some(paths) => paths,
            None => walked(root)?,
        };
        let mut files = Vec::new();
        for path in paths {
            let full = root.join(&path);
            match std::fs::read(&full) {
                Ok(bytes) => files.push((path, String::from_utf8_lossy(&bytes).into_owned())),
                // Known to git and deleted here, or a link to nowhere.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(TidyError::Read { path: full, source }),
            }
        }
        Ok(Tree::of(root.to_owned(), files))
    }

    pub(super) fn of(root: PathBuf, files: Vec<(String, String)>) -> Tree {
        let mut files: Vec<File> = files.into_iter().map(|(path, text)| File::new(path, text)).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let only_tests = test_files(&files);
        for file in &mut files {
            if only_tests.contains(&file.path) || in_test_folder(&file.path) {
                file.tests = std::iter::once(0..file.code.len()).collect();
            }
        }
        Tree { root, files }
    }

    pub(super) fn get(&self, path: &str) -> Option<&File> {
        self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok().map(|at| &self.files[at])
    }

    /// The Rust files.
    pub(super) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }
}

impl File {
    fn new(path: String, text: String) -> File {
        let code = if path.ends_with(".rs") { blank(&text) } else { String::new() };
        let tests = items_with(&code, |attribute| {
            attribute == "cfg(test)" || attribute.starts_with("cfg(all(test,") || attribute == "test"
        });
        File { path, text, code, tests }
    }

    /// Whether a place in `code` is compiled for tests only.
    pub(super) fn is_test_at(&self, at: usize) -> bool {
        self.tests.iter().any(|part| part.contains(&at))
    }

    /// Whether all of it is.
    pub(super) fn is_test(&self) -> bool {
        self.tests.contains(&(0..self.code.len()))
    }

    pub(super) fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// The line of a place in `text` or `code`.
    pub(super) fn line_at(&self, at: usize) -> usize {
        line_at(&self.text, at)
    }
}

fn in_test_folder(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(folders, _)| folders.split('/').any(|f| TEST_FOLDERS.contains(&f)))
}

/// Files of modules that are declared under `#[cfg(test)]`, with the modules below them.
fn test_files(files: &[File]) -> BTreeSet<String> {
    let known: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut found = BTreeSet::new();
    let mut pending: Vec<String> = Vec::new();
    for file in files {
        for part in &file.tests {
            pending.extend(modules_in(file, part.clone()).filter(|path| known.contains(path.as_str())));
        }
    }
    while let Some(path) = pending.pop() {
        let Some(file) = files.iter().find(|file| file.path == path) else { continue };
        if found.insert(path) {
            let all = modules_in(file, 0..file.code.len());
            pending.extend(all.filter(|path| known.contains(path.as_str())));
        }
    }
    found
}

/// Where the modules that `part` declares may stand.
fn modules_in(file: &File, part: Range<usize>) -> impl Iterator<Item = String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    let own = if matches!(stem, "mod" | "lib" | "main") { folder.to_owned() } else { format!("{folder}/{stem}") };
    let code = file.code.get(part).unwrap_or_default();
    code.split("mod ")
        .skip(1)
        .filter_map(move |rest| {
            let (name, _) = rest.split_once(';')?;
            let is_name = name.trim().bytes().all(super::code::is_name);
            is_name.then(|| [format!("{own}/{}.rs", name.trim()), format!("{own}/{}/mod.rs", name.trim())])
        })
        .flatten()
        .collect::<Vec<_>>()
        .into_iter()
}

/// What git knows and what it would take; none where it cannot be asked.
fn listed(root: &Path) -> Option<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths: BTreeSet<String> = names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Some(paths.into_iter().collect())
}

fn walked(root: &Path) -> Result<Vec<String>, TidyError> {
    let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let entries = std::fs::read_dir(&path).map_err(|source| TidyError::Read { path: path.clone(), source })?;
        for entry in entries {
            let entry = entry.map_err(|source| TidyError::Read { path: path.clone(), source })?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let below = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let kind = entry.file_type().map_err(|source| TidyError::Read { path: path.clone(), source })?;
            if kind.is_file() {
                found.push(below);
            } else if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                folders.push(below);
            }
        }
    }
    Ok(found)
}

/// A tree of a test's own.
#[cfg(test)]
pub(super) fn example(files: &[(&str, &str)]) -> Tree {
    Tree::of(PathBuf::new(), files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_under_cfg_test_are_tests_with_all_below_them() {
        let tree = example(&[
            ("a/src/lib.rs", "mod real;\n#[cfg(test)]\nmod fixture;\n#[cfg(test)] mod tests { mod inner {} }"),
            ("a/src/fixture.rs", "mod deep;"),
            ("a/src/fixture/deep.rs", ""),
            ("a/src/real.rs", "fn a() {}\n#[cfg(test)] mod tests;"),
            ("a/src/real/tests.rs", ""),
            ("a/tests/it/main.rs", "mod real;"),
        ]);
        let tests: Vec<&str> = tree.files.iter().filter(|f| f.is_test()).map(|f| f.path.as_str()).collect();
        assert_eq!(tests, ["a/src/fixture.rs", "a/src/fixture/deep.rs", "a/src/real/tests.rs", "a/tests/it/main.rs"]);
        let lib = tree.get("a/src/lib.rs").unwrap();
        assert!(!lib.is_test_at(3) && lib.is_test_at(lib.text.len() - 2));
    }

    #[test]
    fn a_walk_finds_what_git_lists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tidy");
        let mut walked = walked(&root).unwrap();
        walked.sort();
        assert!(walked.contains(&"tree.rs".to_owned()) && walked.is_sorted());
        if let Some(listed) = listed(&root) {
            assert_eq!(listed, walked);
        }
    }
}
