//! The schedule is a page of the design: a system that comes, goes or moves shows here.

use orchestrion_scenarios::stage::{Plain, run};
use orchestrion_systems::Simulation;

#[test]
fn the_systems_run_in_this_order() {
    let mut simulation = Simulation::new(1);
    simulation.step(orchestrion_world::time::Tick(0), vec![]);
    insta::assert_snapshot!(simulation.system_names().join("\n"), @r"
    orchestrion_systems::intake::take_in
    orchestrion_systems::health::watch_workers
    orchestrion_systems::progress::follow
    orchestrion_systems::release::release
    orchestrion_systems::jobs::work_off
    orchestrion_systems::sessions::end_sessions
    orchestrion_systems::admission::admit
    orchestrion_systems::eviction::evict
    orchestrion_systems::placement::place
    orchestrion_systems::dispatch::dispatch
    orchestrion_systems::report::report
    ");
}

#[test]
fn a_script_that_cannot_be_read_says_where_and_why() {
    let read = |text: &str| text.parse::<orchestrion_scenarios::script::Script>().unwrap_err().to_string();
    assert_eq!(
        read("> pool a model=m\n> 5 submit t1 promt=3"),
        "line 2: nobody asked for `promt`: `5 submit t1 promt=3`"
    );
    assert_eq!(read("> 9 wait\n> 5 wait"), "line 2: events go forward in time: `5 wait`");
    assert_eq!(read("> worker w1 pool=a"), "line 1: no pool `a`: `worker w1 pool=a`");
    // A rate beyond every rate is the highest one.
    let fast = "> pool a model=m\n> worker w1 pool=a prefill=18446744073709551615 decode=18446744073709551615";
    assert!(fast.parse::<orchestrion_scenarios::script::Script>().is_ok());
    let idle = "> pool a model=m".parse().unwrap();
    assert_eq!(run(&idle, &mut Plain).unwrap().transcript, "");
}
