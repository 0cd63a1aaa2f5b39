//! Rules `bans` and `unsafe`: words that must not stand in code, each with what to write instead.
//!
//! Looks at code only: comments and literals may say what they like. Clippy holds most of these too, but
//! only where it is run with the right configuration; this holds wherever the tests run.

use super::Finding;
use super::code::{items_with, words};
use super::tree::{File, Tree};

pub(super) const NAME: &str = "bans";
pub(super) const UNSAFE: &str = "unsafe";

/// Words banned together for one reason.
struct Ban {
    words: &'static [&'static str],
    /// Folders it holds in; none is everywhere.
    rooms: &'static [&'static str],
    in_tests: bool,
    /// Files that may, and say why.
    except: &'static [&'static str],
    instead: &'static str,
}

impl Ban {
    fn holds_in(&self, file: &File) -> bool {
        (self.rooms.is_empty() || is_in(file, self.rooms)) && !self.except.contains(&file.path.as_str())
    }
}

/// The crates whose every step must come out the same on any machine.
const CORE: &[&str] = &["world/src/", "systems/src/"];

const BANS: [Ban; 6] = [
    Ban {
        words: &["todo!", "unimplemented!", "dbg!"],
        rooms: &[],
        in_tests: true,
        except: &[],
        instead: "write what is missing, or leave out what nothing runs through",
    },
    Ban {
        words: &["#[ignore"],
        rooms: &[],
        in_tests: true,
        except: &[],
        instead: "a test that does not run proves nothing: make it fast enough, or remove it",
    },
    Ban {
        words: &["HashMap", "HashSet"],
        rooms: CORE,
        in_tests: false,
        except: &[],
        instead: "hash order differs between runs: a BTreeMap, a BTreeSet or a Vec sorted by id",
    },
    Ban {
        words: &["Instant", "SystemTime", "std::thread", "std::env", "std::fs", "std::net"],
        rooms: CORE,
        in_tests: false,
        except: &[],
        instead: "the core is a pure function of its inputs: let the caller hand it in as an `Input`",
    },
    Ban {
        words: &["f32", "f64"],
        rooms: CORE,
        in_tests: false,
        except: &["world/src/plain.rs"],
        instead: "the core counts in integers: Permille, MilliRate, Bytes, Ticks",
    },
    Ban {
        words: &["thread_rng"],
        rooms: CORE,
        in_tests: false,
        except: &[],
        instead: "chance is drawn with `world::dice` from the journalled seed",
    },
];

/// What `use std::{…}` must not bring in under the same bans.
const CORE_MODULES: [&str; 4] = ["env", "fs", "net", "thread"];

/// Calls that end the process, and the lint whose expectation says why that cannot happen.
const PANICS: [(&str, &str); 2] = [(".unwrap()", "clippy::unwrap_used"), (".expect(", "clippy::expect_used")];

/// Files that may hold `unsafe`: kernels, what hands them memory and disjoint parts of one buffer, and the tests' counting
/// allocator.
const UNSAFE_FILES: [&str; 12] = [
    "gpu/src/kernel/arena.rs",
    "gpu/src/kernel/avx2.rs",
    "gpu/src/kernel/avx2_attend.rs",
    "gpu/src/kernel/avx2_tile.rs",
    "gpu/src/kernel/ceiling.rs",
    "gpu/src/kernel/drive.rs",
    "gpu/src/kernel/pool.rs",
    "gpu/src/kernel/vnni.rs",
    "gpu/src/kernel/vnni_attend.rs",
    "gpu/src/kernel/vnni_load.rs",
    "gpu/src/gguf/corpus/memory.rs",
    "gpu/src/seal/bytes.rs",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for ban in BANS.iter().filter(|ban| ban.holds_in(file)) {
            for word in ban.words {
                let places = words(&file.code, word).filter(|&at| ban.in_tests || !file.is_test_at(at));
                let message = || format!("no `{word}` here: {}", ban.instead);
                findings.extend(places.map(|at| found(NAME, file, at, message())));
            }
        }
        if is_in(file, CORE) {
            findings.extend(grouped_imports(file));
        }
        findings.extend(unexpected_panics(file));
    }
    findings
}

/// `unsafe` in the listed files only, and in each of them.
pub(super) fn check_unsafe(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let place = words(&file.code, "unsafe").next();
        match (place, UNSAFE_FILES.contains(&file.path.as_str())) {
            (Some(at), false) => {
                let message = "no `unsafe` here: find a safe form, or move it to a file of UNSAFE_FILES in tools/src/tidy/bans.rs";
                findings.push(found(UNSAFE, file, at, message.into()));
            }
            (None, true) => findings.push(stale(&file.path)),
            (Some(_), true) | (None, false) => {}
        }
    }
    findings.extend(UNSAFE_FILES.iter().filter(|path| tree.get(path).is_none()).map(|path| stale(path)));
    findings
}

fn stale(path: &str) -> Finding {
    Finding::fail(UNSAFE, path, None, "holds no `unsafe`: take its row out of UNSAFE_FILES in tools/src/tidy/bans.rs")
}

fn is_in(file: &File, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| file.path.starts_with(room))
}

fn found(rule: &'static str, file: &File, at: usize, message: String) -> Finding {
    Finding::fail(rule, &file.path, Some(file.line_at(at)), message)
}

/// `use std::{env, fs}` says the same as `std::env` and `std::fs`.
fn grouped_imports(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in words(&file.code, "std::{").filter(|&at| !file.is_test_at(at)) {
        let group = file.code[at..].split(';').next().unwrap_or_default();
        for module in CORE_MODULES.iter().filter(|module| words(group, module).next().is_some()) {
            let message = format!("no `std::{module}` here: the core is a pure function of its inputs");
            findings.push(found(NAME, file, at, message));
        }
    }
    findings
}

fn unexpected_panics(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (call, lint) in PANICS {
        let excused = items_with(&file.code, |attribute| attribute.starts_with("expect(") && attribute.contains(lint));
        let places = file.code.match_indices(call).map(|(at, _)| at);
        for at in places.filter(|at| !file.is_test_at(*at) && !excused.iter().any(|item| item.contains(at))) {
            let message = format!(
                "`{call}` outside tests: return the error, or say why it cannot fail with `#[expect({lint}, reason = …)]`"
            );
            findings.push(found(NAME, file, at, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::example;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let mut lines: Vec<usize> = check(&example(&[(path, text)])).into_iter().filter_map(|f| f.line).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn unfinished_code_is_banned_everywhere() {
        let text = "fn a() { todo!() }\n#[cfg(test)] mod t {\n#[ignore]\nfn b() { dbg!(1); unimplemented!() } }";
        assert_eq!(lines("api/src/a.rs", text), [1, 3, 4, 4]);
        assert_eq!(lines("api/tests/a.rs", "#[ignore = \"slow\"] fn a() {}"), [1]);
        assert_eq!(lines("api/src/a.rs", "// todo!()\nfn a() { say(\"dbg!\") }"), [0; 0]);
    }

    #[test]
    fn the_core_has_no_clock_hash_float_or_world_outside() {
        let text = "use std::time::Instant;\nuse std::collections::HashMap;\nfn a(x: f32) {}\nuse std::{fmt, fs};\nuse std::env;";
        assert_eq!(lines("world/src/a.rs", text), [1, 2, 3, 4, 5]);
        assert_eq!(lines("systems/src/placement/a.rs", text), [1, 2, 3, 4, 5]);
        assert_eq!(lines("api/src/a.rs", text), [0; 0]);
        assert_eq!(lines("world/src/a.rs", "use std::{fmt, sync::Arc};\n/// No f64.\nfn f32s() {}"), [0; 0]);
        let test = format!("#[cfg(test)]\nmod tests {{ {text} }}");
        assert_eq!(lines("world/src/a.rs", &test), [0; 0]);
    }

    #[test]
    fn a_panic_needs_its_reason() {
        assert_eq!(lines("api/src/a.rs", "fn a() { b.unwrap(); }\nfn c() { d.expect(\"e\"); }"), [1, 2]);
        let excused = "#[expect(clippy::expect_used, reason = \"a Vec grows\")]\nfn a() { b.expect(\"c\"); }\n";
        assert_eq!(lines("api/src/a.rs", excused), [0; 0]);
        assert_eq!(lines("api/src/a.rs", &format!("{excused}fn d() {{ e.expect(\"f\") }}")), [3]);
        assert_eq!(
            lines("api/src/a.rs", "#[test] fn a() { b.unwrap() }\nfn c() { d.unwrap_or(1); e.unwrap_err() }"),
            [0; 0]
        );
        assert_eq!(lines("api/tests/a.rs", "fn a() { b.unwrap() }"), [0; 0]);
    }

    #[test]
    fn unsafe_stands_in_listed_files_and_in_each() {
        let of = |files: &[(&str, &str)]| -> Vec<(String, Option<usize>)> {
            check_unsafe(&example(files)).into_iter().map(|f| (f.path, f.line)).collect()
        };
        let mut files: Vec<(&str, &str)> = UNSAFE_FILES.iter().map(|path| (*path, "unsafe {}")).collect();
        assert_eq!(of(&files), []);
        files[0].1 = "// unsafe\n#![allow(unsafe_code)]";
        files.push(("world/src/a.rs", "\nunsafe fn a() {}"));
        files.remove(3);
        let expected = [(UNSAFE_FILES[0], None), ("world/src/a.rs", Some(2)), (UNSAFE_FILES[3], None)];
        assert_eq!(of(&files), expected.map(|(path, line)| (path.to_owned(), line)));
    }
}
