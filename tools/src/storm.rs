//! `orch storm`: does the scheduler hold, whatever is drawn?
//!
//! Seeds one after the other, each with everything that is demanded of it, or one scenario from a file. The
//! first that breaks is cut down to what it takes and written to disk, with the command that runs it again.

use crate::bench::clock::Mark;
use crate::cli::StormArgs;
use crate::failure::{Code, Failure};
use orchestrion_scenarios::script::Script;
use orchestrion_scenarios::storm::plan::plan;
use orchestrion_scenarios::storm::shrink::shrink;
use orchestrion_scenarios::storm::{Tally, prove};
use orchestrion_systems::Simulation;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Scenarios that a finding may cost to cut down: some minutes at most.
const SHRINK_TRIES: u32 = 2_000;
/// Seeds that show every fault, if there is any to be seen.
const SEEDS_FOR_ALL: u64 = 64;

pub(crate) fn run(args: &StormArgs) -> Result<(), Failure> {
    match &args.file {
        Some(file) => one(file),
        None => seeds(args),
    }
}

/// Nothing is done to the simulations: that is for tests of the storm.
fn plain(_: &mut Simulation) {}

fn one(file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(Code::BadData, format!("the scenario {} cannot be read: {error}", file.display()))
    })?;
    let script: Script = text.parse().map_err(Failure::of(Code::BadData))?;
    let tally = quietly(|| prove(&script, &plain)).map_err(Failure::of(Code::Broken))?;
    Ok(writeln!(std::io::stdout(), "{} holds: {} steps{}", file.display(), tally.steps, listed(&tally.faults))?)
}

fn seeds(args: &StormArgs) -> Result<(), Failure> {
    let out = &mut std::io::stdout();
    let first = args.seed.unwrap_or_else(random);
    let until = args.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let last = match until {
        Some(_) => u64::MAX,
        None => first.saturating_add(args.seeds - 1),
    };
    writeln!(out, "storm: seeds from {first} on, {} ticks each", args.ticks)?;
    let (mark, began) = (Mark::now(), Instant::now());
    let (mut total, mut count) = (Tally::default(), 0);
    for seed in first..=last {
        if until.is_some_and(|until| began.elapsed() >= until) {
            break;
        }
        let plan = plan(seed, args.ticks);
        if args.seeds == 1 && until.is_none() {
            writeln!(out, "{}", plan.options)?;
        }
        let script: Script = plan.text.parse().map_err(Failure::of(Code::Failed))?;
        match quietly(|| prove(&script, &plain)) {
            Ok(tally) => total.add(tally),
            Err(told) => return Err(found(seed, &plan.text, &told, &args.out)),
        }
        count += 1;
    }
    let (virtual_s, cpu_s) = (total.ticks as f64 / 1_000.0, mark.spent().cpu.as_secs_f64());
    writeln!(
        out,
        "{count} seeds hold: {} steps, {virtual_s:.0} s of virtual time in {cpu_s:.1} s of CPU",
        total.steps
    )?;
    writeln!(out, "{:.0} times real time, with every proof of each seed", virtual_s / cpu_s)?;
    writeln!(out, "faults{}", listed(&total.faults))?;
    writeln!(out, "answers{}", listed(&total.answers))?;
    let missing = total.missing();
    if count >= SEEDS_FOR_ALL && !missing.is_empty() {
        return Err(Failure::new(
            Code::Failed,
            format!("no seed had {}: the storm does not draw it", missing.join(", ")),
        ));
    }
    Ok(())
}

/// Cuts it down, keeps it, and says how to run it again.
fn found(seed: u64, text: &str, told: &str, dir: &Path) -> Failure {
    eprintln!("seed {seed}: {told}");
    eprintln!("cutting it down …");
    let breaks = &mut |text: &str| prove(&text.parse().ok()?, &plain).err();
    let shrunk = quietly(|| shrink(text, told, SHRINK_TRIES, breaks));
    let path: PathBuf = dir.join(format!("storm-{seed}.scn"));
    let text =
        format!("# Seed {seed} of the storm, cut down in {} tries.\n# {}\n{}", shrunk.tries, shrunk.told, shrunk.text);
    let kept = match std::fs::write(&path, text) {
        Ok(()) => format!("run it again with `orch storm {}`", path.display()),
        Err(error) => format!("it could not be written to {}: {error}\n{}", path.display(), shrunk.text),
    };
    Failure::new(Code::Broken, format!("seed {seed} breaks: {}; {kept}", shrunk.told))
}

/// What a panic says is in the finding; the hook would say it for every try.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let done = work();
    std::panic::set_hook(hook);
    done
}

fn listed<K: AsRef<str>>(counts: &BTreeMap<K, u64>) -> String {
    let listed: Vec<String> = counts.iter().map(|(kind, n)| format!("{} {n}", kind.as_ref())).collect();
    if listed.is_empty() { String::new() } else { format!(": {}", listed.join(", ")) }
}

/// A seed that nobody chose.
fn random() -> u64 {
    (uuid::Uuid::new_v4().as_u128() >> 64) as u64 % 1_000_000_000
}
