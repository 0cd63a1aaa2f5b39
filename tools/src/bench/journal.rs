//! Inputs a second into a journal, and how long it takes to execute a million of them again.
//!
//! The record is that of `scenarios::bench`: steps of a hundred inputs, written as the server writes them,
//! one record and at most one sync for a step. The folder is removed afterwards.

use super::clock::{Mark, Spent, median, rate};
use crate::cli::BenchJournalArgs;
use crate::failure::{Code, Failure};
use crate::progress::Progress;
use orchestrion_api::journal::{Fsync, JournalConfig, Outcome, Record, STATE_EVERY, Writer};
use orchestrion_api::replay::{ReplayOptions, replay};
use orchestrion_scenarios::bench::{Bench, INPUTS, Size};
use orchestrion_world::ledger::Ledger;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The cluster that is recorded: large enough that its steps are ordinary ones.
const SIZE: Size = Size { workers: 100, waiting: 10_000 };

/// One setting of `journal.fsync`.
#[derive(Debug, Serialize)]
struct Row {
    fsync: Fsync,
    /// Written in a second of wall time, in which the disk's share counts, and of CPU time.
    inputs_per_s: f64,
    inputs_per_s_cpu: f64,
    bytes_per_input: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Rows {
    runs: u32,
    journal: Vec<Row>,
    /// To execute a million recorded inputs again and compare every digest: CPU time, and wall time.
    recovery_s_per_million: f64,
    recovery_s_per_million_wall: f64,
}

pub(super) fn measure(args: &BenchJournalArgs) -> Result<Rows, Failure> {
    let folder = Folder::new(args.dir.as_deref())?;
    let (ledger, records) = record(args.inputs.div_ceil(INPUTS));
    let mut progress = Progress::default();
    let mut rows = vec![];
    for (done, fsync) in (0..).zip([Fsync::Never, Fsync::Interval, Fsync::Always]) {
        progress.show("writing the journal", done, 3);
        rows.push(write(&folder, fsync, &ledger, &records, args.runs)?);
    }
    let mut spent = vec![];
    for _ in 0..args.runs {
        let mark = Mark::now();
        let options = ReplayOptions { from: None, to: None, overrides: vec![], progress: None };
        replay(&folder.0, options).map_err(Failure::of(Code::BadData))?;
        spent.push(mark.spent());
    }
    progress.finish();
    let inputs = records.iter().map(|record| record.inputs.len()).sum::<usize>();
    let per_million = |time: f64| time * 1e6 / inputs as f64;
    Ok(Rows {
        runs: args.runs,
        journal: rows,
        recovery_s_per_million: per_million(median(spent.iter().map(|s| s.cpu.as_secs_f64()).collect())),
        recovery_s_per_million_wall: per_million(median(spent.iter().map(|s| s.wall.as_secs_f64()).collect())),
    })
}

/// A full cluster's next steps, and the state they start from.
fn record(steps: usize) -> (Ledger, Vec<Record>) {
    let mut bench = Bench::new(SIZE);
    let ledger = bench.simulation().ledger();
    let records = (1..=steps as u64).map(|seq| {
        let inputs = bench.inputs();
        let step = bench.step(inputs.clone());
        bench.follow(&step);
        let state = seq.is_multiple_of(STATE_EVERY).then(|| bench.state());
        let outcome = Outcome::Stepped { decisions: step.decisions, state };
        Record { seq, tick: bench.simulation().now(), inputs, outcome }
    });
    let records = records.collect();
    (ledger, records)
}

fn write(folder: &Folder, fsync: Fsync, ledger: &Ledger, records: &[Record], runs: u32) -> Result<Row, Failure> {
    let failed = |error| Failure::new(Code::Failed, error);
    let (mut spent, mut bytes) = (vec![], 0);
    // The first run is the warm-up.
    for _ in 0..=runs {
        folder.clear()?;
        let mut writer = Writer::open(folder.config(fsync), crate::version::line(), ledger.clone())
            .map_err(Failure::of(Code::Failed))?;
        let before = fs::metadata(writer.path())?.len();
        let mark = Mark::now();
        records.iter().try_for_each(|record| writer.append(record)).map_err(failed)?;
        writer.sync().map_err(failed)?;
        spent.push(mark.spent());
        bytes = fs::metadata(writer.path())?.len() - before;
    }
    let inputs = records.iter().map(|record| record.inputs.len()).sum::<usize>();
    let middle =
        |time: fn(&Spent) -> std::time::Duration| median(spent[1..].iter().map(|s| rate(inputs, time(s))).collect());
    let (inputs_per_s, inputs_per_s_cpu) = (middle(|spent| spent.wall), middle(|spent| spent.cpu));
    Ok(Row { fsync, inputs_per_s, inputs_per_s_cpu, bytes_per_input: bytes as f64 / inputs as f64 })
}

/// A folder of our own, which is removed in the end.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new(parent: Option<&Path>) -> Result<Folder, Failure> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let dir = parent.join(format!("orch-bench-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|error| {
            Failure::new(Code::Failed, format!("cannot create {}: {error}; name a folder with `--dir`", dir.display()))
        })?;
        Ok(Folder(dir))
    }

    fn clear(&self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.0)?;
        Ok(fs::create_dir(&self.0)?)
    }

    /// One segment, whatever its size: a rotation is not what is measured.
    fn config(&self, fsync: Fsync) -> JournalConfig {
        JournalConfig {
            dir: self.0.clone(),
            segment_bytes: u64::MAX,
            segment_records: u64::MAX,
            fsync,
            retain_bytes: None,
            retain_age: None,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is a temporary folder that stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rows { runs, journal, recovery_s_per_million, recovery_s_per_million_wall } = self;
        writeln!(f, "medians of {runs} runs; one record, and under `always` one sync, for a step of {INPUTS} inputs")?;
        writeln!(f)?;
        writeln!(f, "{:>9} {:>13} {:>13} {:>12}", "fsync", "inputs/s", "by CPU time", "bytes/input")?;
        for Row { fsync, inputs_per_s, inputs_per_s_cpu, bytes_per_input } in journal {
            let fsync = format!("{fsync:?}").to_lowercase();
            writeln!(f, "{fsync:>9} {inputs_per_s:>13.0} {inputs_per_s_cpu:>13.0} {bytes_per_input:>12.1}")?;
        }
        writeln!(f)?;
        write!(
            f,
            "recovery: {recovery_s_per_million:.2} s of CPU for a million inputs, {recovery_s_per_million_wall:.2} s \
             by wall time"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;

    #[test]
    fn what_is_written_is_executed_again_and_the_folder_goes() {
        let dir = std::env::temp_dir();
        let args = BenchJournalArgs { inputs: 500, runs: 1, dir: Some(dir.clone()), output: Output::Text };
        let rows = measure(&args).unwrap_or_else(|failure| unreachable!("{failure}"));
        assert_eq!(rows.journal.len(), 3);
        assert!(rows.journal.iter().all(|row| row.inputs_per_s > 0.0 && row.bytes_per_input > 10.0));
        assert!(rows.recovery_s_per_million > 0.0);
        assert!(!dir.join(format!("orch-bench-{}", std::process::id())).exists());
    }
}
