//! The storm is tested too: each deliberate bug is found, and soon.

use orchestrion_scenarios::script::Script;
use orchestrion_scenarios::storm::plan::plan;
use orchestrion_scenarios::storm::prove;
use orchestrion_scenarios::storm::shrink::shrink;
use orchestrion_systems::planted::Bug;
use std::collections::BTreeMap;

/// Seeds that a bug has to show itself in.
const SEEDS: u64 = 200;
/// Those of them that showed the bugs when this was written: looked at first, so that it takes seconds.
const LIKELY: [u64; 12] = [1, 2, 0, 3, 5, 9, 4, 11, 31, 44, 52, 74];
const TICKS: u64 = 5_000;

fn breaks(bug: Bug, text: &str) -> Option<String> {
    let script: Script = text.parse().ok()?;
    prove(&script, &|simulation| simulation.plant(bug)).err()
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = vec![];
    let mut sound: BTreeMap<u64, bool> = BTreeMap::new();
    for bug in Bug::ALL {
        let found = LIKELY.into_iter().chain(0..SEEDS).find_map(|seed| {
            let text = plan(seed, TICKS).text;
            let told = breaks(bug, &text)?;
            // What breaks without the bug says nothing of it.
            let holds = || prove(&text.parse().unwrap(), &|_| {}).is_ok();
            sound.entry(seed).or_insert_with(holds).then_some((seed, told))
        });
        match found {
            Some((seed, told)) => println!("{bug:?} at seed {seed}: {told}"),
            None => missed.push(bug),
        }
    }
    assert_eq!(missed, [], "not found in {SEEDS} seeds");
}

#[test]
fn a_finding_is_cut_down_to_a_scenario_that_shows_it() {
    let bug = Bug::RetryBeyondLimit;
    let found = (0..SEEDS).find_map(|seed| {
        let text = plan(seed, TICKS).text;
        Some((breaks(bug, &text)?, text))
    });
    let (told, text) = found.unwrap();
    let shrunk = shrink(&text, &told, 800, &mut |text| breaks(bug, text));
    println!("{shrunk:?}");
    assert!(shrunk.text.lines().count() <= 20, "{} lines of {}", shrunk.text.lines().count(), text.lines().count());
    assert_eq!(breaks(bug, &shrunk.text), Some(shrunk.told));
    assert_eq!(prove(&shrunk.text.parse().unwrap(), &|_| {}).err(), None, "without the bug nothing breaks");
}
