//! Throws broken texts at everything that reads scenarios.
//!
//! `fuzz_scenarios --target scn --runs N [--seed S] [--first K]` makes N texts: each a drawn storm with lines, words and
//! numbers exchanged, doubled, cut or made huge, or plain noise, drawn from the seed and its number alone, so
//! that a finding is two numbers. Prints how many could be read and how many were in a second; exits with 1 at
//! the first panic, or text that takes longer than [`SLOW`].

use orchestrion_scenarios::script::Script;
use orchestrion_scenarios::storm::draw::Draw;
use orchestrion_scenarios::storm::plan::plan;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

/// Texts are some kilobytes; so long for one is a hang in the making.
const SLOW: Duration = Duration::from_secs(5);
const USAGE: &str = "usage: fuzz_scenarios --target scn --runs N [--seed S] [--first K]";
/// Storms to begin from, drawn once.
const STORMS: u64 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = BTreeMap::from([("--runs", 0u64), ("--seed", 0), ("--first", 0)]);
    let mut target = None;
    for pair in args.chunks(2) {
        match pair {
            [flag, value] if flag == "--target" => target = Some(value.as_str()),
            [flag, value] => *numbers.get_mut(flag.as_str()).ok_or(USAGE)? = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    let (runs, seed, first) = (numbers["--runs"], numbers["--seed"], numbers["--first"]);
    if target != Some("scn") || runs == 0 {
        return Err(USAGE.into());
    }
    let storms: Vec<Vec<String>> =
        (0..STORMS).map(|n| plan(seed.wrapping_add(n), 300).text.lines().map(str::to_owned).collect()).collect();
    let began = Instant::now();
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for run in first..first + runs {
        let started = Instant::now();
        let mut draw = Draw::new(seed, run);
        let text = broken(&storms, &mut draw);
        let finding = match catch_unwind(|| text.parse::<Script>().is_ok()) {
            Ok(read) => {
                *ends.entry(if read { "read" } else { "refused" }).or_default() += 1;
                (started.elapsed() > SLOW).then(|| format!("took {:?}", started.elapsed()))
            }
            Err(_) => Some("panicked".to_owned()),
        };
        if let Some(finding) = finding {
            return Err(format!("{finding}: --target scn --seed {seed} --first {run} --runs 1\n{text}").into());
        }
    }
    let rate = runs as f64 / began.elapsed().as_secs_f64();
    let ends: Vec<String> = ends.iter().map(|(end, count)| format!("{end} {count}")).collect();
    writeln!(std::io::stdout(), "scn: {runs} runs, seed {seed}, {rate:.0} a second; {}", ends.join(", "))?;
    Ok(())
}

const WORDS: [&str; 24] = [
    "submit",
    "cancel",
    "worker",
    "pool",
    "set",
    "queue",
    "restart",
    "heal",
    "t1",
    "w1",
    "t",
    "w",
    "=",
    "a=",
    "=b",
    ">",
    "#",
    "batch",
    "policy=reject",
    "model=",
    "for=1",
    "by=",
    "-1",
    "\u{2581}",
];
const NUMBERS: [&str; 10] = [
    "0",
    "1",
    "-1",
    "65536",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "1e9",
];

/// A storm of a few lines with something wrong in it; now and then noise.
fn broken(storms: &[Vec<String>], draw: &mut Draw) -> String {
    if draw.chance(5) {
        return (0..draw.below(200)).map(|_| char::from(draw.below(128) as u8)).collect();
    }
    let storm = &storms[draw.below(storms.len() as u64) as usize];
    let from = draw.below(storm.len() as u64) as usize;
    let to = (from + draw.below(12) as usize + 1).min(storm.len());
    // Declarations, or most of what follows could not be read at all.
    let head = storm.iter().filter(|line| !line.as_bytes().get(2).is_some_and(u8::is_ascii_digit));
    let mut lines: Vec<String> = head.chain(&storm[from..to]).cloned().collect();
    for _ in 0..draw.within(0, 3) {
        let at = draw.below(lines.len().max(1) as u64) as usize;
        let Some(line) = lines.get(at).cloned() else { break };
        match draw.below(6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(draw.below(lines.len() as u64) as usize, line),
            2 => lines.swap(0, at),
            _ => lines[at] = changed(&line, draw),
        }
    }
    lines.join("\n")
}

/// A word or a number more, less or other.
fn changed(line: &str, draw: &mut Draw) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let at = draw.below(words.len() as u64) as usize;
    match draw.below(5) {
        0 => drop(words.remove(at)),
        1 => words.insert(at, draw.of(&WORDS).to_owned()),
        2 => words[at] = draw.of(&WORDS).to_owned(),
        3 => words[at] = draw.of(&NUMBERS).to_owned(),
        _ => {
            let key = words[at].split('=').next().unwrap_or_default();
            words[at] = format!("{key}={}", draw.of(&NUMBERS));
        }
    }
    words.join(" ")
}
