//! Throws broken files and requests at everything that reads what strangers, disks and crashes may have written.
//!
//! `fuzz --target T --runs N [--seed S] [--first K]` makes N inputs of a target, each a valid one with something
//! wrong in it, drawn from the seed and its number alone, so that a finding is two numbers. Prints how they ended
//! and how many ran in a second; exits with 1 at the first panic, broken promise, or input that takes longer than
//! [`SLOW`], and prints that input.
//!
//! It is guided by structure, not by coverage: that would need a compiler of another channel.

mod gguf;
mod journal;
mod sampler;
mod schema;
mod scn;
mod template;
mod text;
mod toml;

use orchestrion_scenarios::storm::draw::Draw;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Inputs are some hundred kilobytes at most; so long for one is a hang in the making.
const SLOW: Duration = Duration::from_secs(5);
const USAGE: &str =
    "usage: fuzz --target gguf|journal|sampler|schema|scn|template|text|toml --runs N [--seed S] [--first K]";
/// Bytes of a binary input that are printed; its two numbers make all of it again.
const SHOWN: usize = 2_000;

type Made = Result<Vec<u8>, Box<dyn Error>>;
/// How reading an input ended, or which promise was broken.
type End = Result<&'static str, String>;
type Make = dyn Fn(&mut Draw) -> Made;
type Read = dyn Fn(&[u8]) -> End;

/// What makes inputs, and what reads one.
struct Target {
    make: Box<Make>,
    read: Box<Read>,
}

/// From a seed.
type Begin = fn(u64) -> Result<Target, Box<dyn Error>>;

const TARGETS: [(&str, Begin); 8] = [
    ("gguf", gguf::target),
    ("journal", journal::target),
    ("sampler", sampler::target),
    ("schema", schema::target),
    ("scn", scn::target),
    ("template", template::target),
    ("text", text::target),
    ("toml", toml::target),
];

/// What to run.
struct Ask {
    name: &'static str,
    begin: Begin,
    runs: u64,
    seed: u64,
    first: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let ask = ask(&std::env::args().skip(1).collect::<Vec<_>>()).ok_or(USAGE)?;
    // A library's panic that its caller turns into an error is no finding, and there are thousands in a long round;
    // what is one is run again alone, and says where it stands.
    if ask.runs > 1 {
        std::panic::set_hook(Box::new(|_| ()));
    }
    writeln!(std::io::stdout(), "{}", rounds(&ask)?)?;
    Ok(())
}

fn ask(args: &[String]) -> Option<Ask> {
    let mut numbers = BTreeMap::from([("--runs", 0u64), ("--seed", 0), ("--first", 0)]);
    let mut target = None;
    for pair in args.chunks(2) {
        match pair {
            [flag, value] if flag == "--target" => target = TARGETS.into_iter().find(|(name, _)| name == value),
            [flag, value] => *numbers.get_mut(flag.as_str())? = value.parse().ok()?,
            _ => return None,
        }
    }
    let ((name, begin), runs) = (target?, numbers["--runs"]);
    (runs > 0).then_some(Ask { name, begin, runs, seed: numbers["--seed"], first: numbers["--first"] })
}

fn rounds(ask: &Ask) -> Result<String, Box<dyn Error>> {
    let &Ask { name, begin, runs, seed, first } = ask;
    let Target { make, read } = begin(seed)?;
    let began = Instant::now();
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for run in first..first + runs {
        let input = make(&mut Draw::new(seed, run))?;
        let started = Instant::now();
        let finding = match catch_unwind(AssertUnwindSafe(|| read(&input))) {
            Ok(Ok(end)) => {
                *ends.entry(end).or_default() += 1;
                // Once may be the machine's fault.
                let slow = started.elapsed() > SLOW && {
                    let again = Instant::now();
                    read(&input).is_ok() && again.elapsed() > SLOW
                };
                slow.then(|| format!("takes {SLOW:?} and more"))
            }
            Ok(Err(broken)) => Some(broken),
            Err(_) => Some("panicked".to_owned()),
        };
        if let Some(finding) = finding {
            let again = format!("--target {name} --seed {seed} --first {run} --runs 1");
            return Err(format!("{finding}: {again}\n{}", shown(&input)).into());
        }
    }
    let rate = runs as f64 / began.elapsed().as_secs_f64();
    let ends: Vec<String> = ends.iter().map(|(end, count)| format!("{end} {count}")).collect();
    Ok(format!("{name}: {runs} runs, seed {seed}, {rate:.0} a second; {}", ends.join(", ")))
}

fn shown(input: &[u8]) -> String {
    match std::str::from_utf8(input) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{} bytes: {}", input.len(), input[..input.len().min(SHOWN)].escape_ascii()),
    }
}
