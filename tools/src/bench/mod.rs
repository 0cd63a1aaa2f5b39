//! `orch bench`: how fast the core, its journal and the host engine are on this machine.
//!
//! Each figure is the median of several runs after a warm-up, in CPU time, which other processes distort
//! least; wall time stands beside it. The report names the machine, its load and the build, since a figure
//! without them says nothing.

pub(crate) mod clock;
mod engine;
mod journal;
mod scheduler;

use crate::cli::{BenchArgs, BenchTopic, Output};
use crate::failure::Failure;
use crate::output;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::io::Write;

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let machine = Machine::here();
    if machine.build == DEBUG {
        eprintln!("warning: a debug build is several times slower; build with `cargo build --release` to measure");
    }
    match &args.topic {
        BenchTopic::Engine(args) => tell(args.output, Report { machine, rows: engine::measure(args)? }),
        BenchTopic::Scheduler(args) => tell(args.output, Report { machine, rows: scheduler::measure(args)? }),
        BenchTopic::Journal(args) => tell(args.output, Report { machine, rows: journal::measure(args)? }),
    }
}

fn tell<R: fmt::Display + Serialize>(format: Output, report: Report<R>) -> Result<(), Failure> {
    match format {
        Output::Text => Ok(writeln!(std::io::stdout(), "{}\n{}", report.machine, report.rows)?),
        Output::Json => output::json(&report),
    }
}

#[derive(Debug, Serialize)]
struct Report<R> {
    machine: Machine,
    #[serde(flatten)]
    rows: R,
}

const DEBUG: &str = "debug";

/// What the figures hold for.
#[derive(Debug, Serialize)]
struct Machine {
    processor: String,
    threads: usize,
    /// Processes that wanted a core in the last minute, before the bench began: more than there are cores
    /// make wall time say little.
    load: String,
    build: &'static str,
    version: &'static str,
}

impl Machine {
    fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Machine {
            processor: name.map_or("an unnamed processor", |(_, name)| name).into(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            load: loadavg.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown").into(),
            build: if cfg!(debug_assertions) { DEBUG } else { "release" },
            version: crate::version::line(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, threads, load, build, version } = self;
        write!(f, "orch {version}, {build} build; {processor}, {threads} threads, load {load}")
    }
}
