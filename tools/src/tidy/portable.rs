//! Rule `portable`: the tree builds anywhere, so no file of it names a registry's host or a place on the
//! machine it was written on.

use super::Finding;
use super::tree::Tree;

pub(super) const NAME: &str = "portable";

/// Where a machine takes packages from is its own configuration's business.
const HOSTS: [&str; 8] = [
    "crates.io",
    "pypi.org",
    "pythonhosted.org",
    "npmjs.org",
    "npmjs.com",
    "yarnpkg.com",
    "proxy.golang.org",
    "rubygems.org",
];

/// In a lock file this is the registry's name, whatever host stands behind it.
const INDEX_NAME: &str = "crates.io-index";

/// Folders of one machine. In Rust only those that no test can mean as an example.
const FOLDERS: [&str; 5] = ["/work/", "/tmp/", "/home/", "/root/", "/Users/"];
const FOLDERS_IN_RUST: [&str; 1] = ["/work/"];

/// The one file that has to name them.
const SELF: &str = "tools/src/tidy/portable.rs";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path != SELF) {
        let folders: &[&str] = if file.path.ends_with(".rs") { &FOLDERS_IN_RUST } else { &FOLDERS };
        for (at, line) in file.text.lines().enumerate() {
            let plain = line.replace(INDEX_NAME, "");
            for host in HOSTS.iter().filter(|host| plain.contains(**host)) {
                let message =
                    format!("names the registry host {host}: leave the registry to the machine's configuration");
                findings.push(Finding::fail(NAME, &file.path, Some(at + 1), message));
            }
            for folder in folders.iter().filter(|folder| begins_path(line, folder)) {
                let message = format!(
                    "a path below {folder} exists on one machine: make it relative, an argument, or `mktemp -d`"
                );
                findings.push(Finding::fail(NAME, &file.path, Some(at + 1), message));
            }
        }
    }
    findings
}

/// Whether an absolute path begins with `folder`; `target/tmp/x`, `~/work/` and `$X/tmp/` are none.
fn begins_path(line: &str, folder: &str) -> bool {
    let goes_on = |b: u8| b.is_ascii_alphanumeric() || b"_-.~}*)]>".contains(&b);
    line.match_indices(folder).any(|(at, _)| at == 0 || !goes_on(line.as_bytes()[at - 1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::example;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&example(&[(path, text)])).into_iter().filter_map(|f| f.line).collect()
    }

    #[test]
    fn hosts_of_registries_are_named_nowhere() {
        assert_eq!(lines("README.md", "x\nhttps://crates.io/crates/a\nsee PyPI"), [2]);
        assert_eq!(lines("a.py", "index = 'https://pypi.org/simple'"), [1]);
        assert_eq!(lines("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\""), [0; 0]);
    }

    #[test]
    fn folders_of_one_machine_are_named_nowhere() {
        assert_eq!(lines("run.sh", "cp /tmp/a b\ncd /home/me\n/work/x"), [1, 2, 3]);
        assert_eq!(
            lines("run.sh", "cp target/tmp/a b\ncd \"$HOME/work/x\"\ncat \"${dir}/tmp/x\" /worker/plan"),
            [0; 0]
        );
        assert_eq!(lines("a/src/b.rs", "let example = \"/home/me/model.gguf\";\nlet x = \"/work/a\";"), [2]);
        assert_eq!(lines(SELF, "/work/ crates.io"), [0; 0]);
    }
}
