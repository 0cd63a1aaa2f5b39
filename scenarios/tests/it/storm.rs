//! Some seeds of the storm, as `orch storm` runs them by the thousand.

use orchestrion_scenarios::storm::plan::plan;
use orchestrion_scenarios::storm::shrink::shrink;
use orchestrion_scenarios::storm::{Tally, prove};
use std::time::Instant;

#[test]
fn some_seeds_hold() {
    let began = Instant::now();
    let mut total = Tally::default();
    for seed in 0..64 {
        let plan = plan(seed, 20_000);
        let script = plan.text.parse().unwrap_or_else(|error| panic!("{error}\n{}", plan.text));
        match prove(&script, &|_| {}) {
            Ok(tally) => total.add(tally),
            Err(broken) => {
                let shrunk = shrink(&plan.text, &broken, 500, &mut |text| prove(&text.parse().ok()?, &|_| {}).err());
                eprintln!("seed {seed}: {broken}\n{shrunk:#?}\n{}", shrunk.text);
            }
        }
    }
    eprintln!("{total:#?} in {:?}", began.elapsed());
}
