//! Instructions of a step, counted by valgrind: the same on a noisy machine as on a quiet one.
//!
//! `cargo bench -p orchestrion-scenarios` runs it where valgrind and `gungraun-runner` are installed, as
//! `.ci/soak` sees to.

#![expect(unused_qualifications, reason = "the macros write them")]

use gungraun::{library_benchmark, library_benchmark_group, main};
use orchestrion_scenarios::bench::{Bench, Size};
use orchestrion_systems::Step;
use orchestrion_world::protocol::Input;
use std::hint::black_box;

/// A cluster and its next inputs; some steps old, so that what grows at first has grown.
fn ready(workers: u32, waiting: u32) -> (Bench, Vec<Input>) {
    let mut bench = Bench::new(Size { workers, waiting });
    for _ in 0..50 {
        let inputs = bench.inputs();
        let step = bench.step(inputs);
        bench.follow(&step);
    }
    let inputs = bench.inputs();
    (bench, inputs)
}

// A hundred inputs, which end 32 tasks.
#[library_benchmark(setup = ready)]
#[bench::busy(1_000, 10_000)]
#[bench::with_free_slots(1_000, 0)]
fn step((mut bench, inputs): (Bench, Vec<Input>)) -> (Bench, Step) {
    let step = bench.step(black_box(inputs));
    (bench, step)
}

#[library_benchmark(setup = ready)]
#[bench::few_wait(1_000, 1_000)]
#[bench::many_wait(1_000, 100_000)]
fn idle_step((mut bench, _): (Bench, Vec<Input>)) -> (Bench, Step) {
    let step = bench.step(black_box(vec![]));
    (bench, step)
}

library_benchmark_group!(name = steps, benchmarks = [step, idle_step]);
main!(library_benchmark_groups = steps);
