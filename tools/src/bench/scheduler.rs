//! Full lifecycles a second through the core, and what a step costs in which nothing happens.
//!
//! The load is that of `scenarios::bench`: a hundred inputs a step, every slot busy, so many tasks waiting.
//! Counted is the step alone: decisions, effects, digests, and the freeing of its inputs.

use super::clock::{Mark, Spent, median, rate};
use crate::cli::BenchSchedulerArgs;
use crate::failure::Failure;
use crate::progress::Progress;
use orchestrion_api::journal::STATE_EVERY;
use orchestrion_scenarios::bench::{Bench, Size};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// One cluster.
#[derive(Debug, Serialize)]
struct Row {
    workers: u32,
    waiting: u32,
    /// Tasks that ended in a second of CPU time, and of wall time.
    lifecycles_per_s: f64,
    lifecycles_per_s_wall: f64,
    /// CPU time of a step of a hundred inputs, and of one without any.
    step_us: f64,
    idle_step_us: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Rows {
    runs: u32,
    scheduler: Vec<Row>,
}

/// Steps of a run without inputs; the clock is read before the first and after the last.
const IDLE_STEPS: u32 = 1_000;

pub(super) fn measure(args: &BenchSchedulerArgs) -> Result<Rows, Failure> {
    let mut progress = Progress::default();
    let sizes = args.waiting.iter().flat_map(|&waiting| args.workers.iter().map(move |&workers| (workers, waiting)));
    let total = (args.workers.len() * args.waiting.len()) as u64;
    let rows = (0..).zip(sizes).map(|(done, (workers, waiting))| {
        progress.show("measuring the scheduler", done, total);
        measure_one(Size { workers, waiting }, args)
    });
    let rows = Rows { runs: args.runs, scheduler: rows.collect() };
    progress.finish();
    Ok(rows)
}

fn measure_one(size: Size, args: &BenchSchedulerArgs) -> Row {
    let length = Duration::from_millis(args.millis);
    let mut bench = Bench::new(size);
    run(&mut bench, length);
    let runs: Vec<Run> = (0..args.runs).map(|_| run(&mut bench, length)).collect();
    let middle = |figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    Row {
        workers: size.workers,
        waiting: size.waiting,
        lifecycles_per_s: middle(|run| rate(run.ended, run.spent.cpu)),
        lifecycles_per_s_wall: middle(|run| rate(run.ended, run.spent.wall)),
        step_us: middle(|run| run.spent.cpu.as_secs_f64() * 1e6 / f64::from(run.steps)),
        idle_step_us: middle(|run| run.idle.as_secs_f64() * 1e6 / f64::from(IDLE_STEPS)),
    }
}

struct Run {
    steps: u32,
    ended: usize,
    spent: Spent,
    idle: Duration,
}

fn run(bench: &mut Bench, length: Duration) -> Run {
    let mut run = Run { steps: 0, ended: 0, spent: Spent::default(), idle: Duration::ZERO };
    while run.spent.cpu < length {
        let inputs = bench.inputs();
        let mark = Mark::now();
        let step = bench.step(inputs);
        run.steps += 1;
        // As often as the journal asks for it.
        if u64::from(run.steps).is_multiple_of(STATE_EVERY) {
            bench.state();
        }
        run.spent += mark.spent();
        run.ended += bench.follow(&step);
    }
    let mark = Mark::now();
    (0..IDLE_STEPS).for_each(|_| drop(bench.step(vec![])));
    run.idle = mark.spent().cpu;
    run
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "medians of {} runs; lifecycle = submitted, placed, started, ended", self.runs)?;
        writeln!(f)?;
        let heads = ["workers", "waiting", "lifecycles/s", "by wall time", "step of 100", "idle step"];
        write!(
            f,
            "{:>8} {:>9} {:>13} {:>13} {:>12} {:>11}",
            heads[0], heads[1], heads[2], heads[3], heads[4], heads[5]
        )?;
        for row in &self.scheduler {
            let Row { workers, waiting, lifecycles_per_s, lifecycles_per_s_wall, step_us, idle_step_us } = row;
            write!(
                f,
                "\n{workers:>8} {waiting:>9} {lifecycles_per_s:>13.0} {lifecycles_per_s_wall:>13.0} {step_us:>9.1} µs \
                 {idle_step_us:>8.2} µs"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;

    #[test]
    fn each_cluster_is_a_row_of_the_table_and_of_the_json() {
        let (workers, waiting) = (vec![1, 3], vec![0, 10]);
        let args = BenchSchedulerArgs { workers, waiting, runs: 1, millis: 1, output: Output::Text };
        let rows = measure(&args).unwrap_or_else(|_| unreachable!("nothing can fail"));
        let sizes: Vec<_> = rows.scheduler.iter().map(|row| (row.workers, row.waiting)).collect();
        assert_eq!(sizes, [(1, 0), (3, 0), (1, 10), (3, 10)]);
        assert!(rows.scheduler.iter().all(|row| row.lifecycles_per_s > 0.0 && row.idle_step_us > 0.0));
        assert_eq!(rows.to_string().lines().count(), 3 + 4);
    }
}
