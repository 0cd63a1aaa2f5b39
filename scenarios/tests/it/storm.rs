//! Some seeds of the storm, as `orch storm` runs them by the thousand.

use orchestrion_scenarios::storm::plan::plan;
use orchestrion_scenarios::storm::shrink::shrink;
use orchestrion_scenarios::storm::{Tally, prove};

#[test]
fn some_seeds_hold_and_show_every_fault() {
    let mut total = Tally::default();
    for seed in 0..16 {
        let plan = plan(seed, 20_000);
        let script = plan.text.parse().unwrap_or_else(|error| panic!("{error}\n{}", plan.text));
        match prove(&script, &|_| {}) {
            Ok(tally) => total.add(tally),
            Err(broken) => {
                let breaks = &mut |text: &str| prove(&text.parse().ok()?, &|_| {}).err();
                let shrunk = shrink(&plan.text, &broken, 300, breaks);
                panic!("seed {seed}: {broken}\nin short: {}\n{}", shrunk.told, shrunk.text);
            }
        }
    }
    assert_eq!(total.missing(), [""; 0], "{total:?}");
}

#[test]
fn a_seed_is_the_same_storm_each_time() {
    let [a, b] = [(); 2].map(|()| plan(7, 5_000));
    assert_eq!(a.text, b.text);
    assert_ne!(a.text, plan(8, 5_000).text);
    let script = a.text.parse().unwrap();
    let [a, b] = [(); 2].map(|()| prove(&script, &|_| {}).unwrap());
    assert_eq!(a, b);
}
