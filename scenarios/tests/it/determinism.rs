//! Nothing but the inputs decides: not the order in which the schedule was put together, not bevy's entity
//! ids, not whether the world was restored on the way, not whether idle ticks were stepped through.

use crate::cases;
use orchestrion_scenarios::stage::{Handling, Plain, run};
use orchestrion_systems::Simulation;
use orchestrion_world::ledger::{Ledger, full_digest};
use orchestrion_world::time::Tick;

/// Starts from a world that was put together in another order.
struct Shuffled(u64);

impl Handling for Shuffled {
    fn before_step(&mut self, number: u64, simulation: Simulation) -> Simulation {
        match number {
            0 => Simulation::restore_shuffled(&simulation.ledger(), self.0).unwrap(),
            _ => simulation,
        }
    }
}

/// Replaces the world by its restored ledger before every k-th step.
struct Restored(u64);

impl Handling for Restored {
    fn before_step(&mut self, number: u64, simulation: Simulation) -> Simulation {
        match number % self.0 {
            0 => Simulation::restore(&simulation.ledger()).unwrap(),
            _ => simulation,
        }
    }
}

#[test]
fn cases_answer_the_same_under_64_shuffles() {
    for case in cases::all() {
        let plain = run(&case.script, &mut Plain).unwrap();
        for seed in 1..=64u64 {
            let shuffled = run(&case.script, &mut Shuffled(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))).unwrap();
            assert_eq!(shuffled.transcript, plain.transcript, "{} under shuffle {seed}", case.path.display());
            assert!(shuffled.steps == plain.steps, "{}: digests under shuffle {seed}", case.path.display());
        }
    }
}

#[test]
fn a_world_restored_at_every_kth_step_goes_on_as_if_it_had_never_stopped() {
    for case in cases::all() {
        let plain = run(&case.script, &mut Plain).unwrap();
        for k in [1, 2, 3, 7] {
            let restored = run(&case.script, &mut Restored(k)).unwrap();
            assert_eq!(restored.transcript, plain.transcript, "{} restored every {k}", case.path.display());
            assert_eq!(restored.ledger, plain.ledger);
            let digests = |run: &orchestrion_scenarios::stage::Run| -> Vec<_> {
                run.steps.iter().map(|(tick, _, step, state)| (*tick, step.decisions, *state)).collect()
            };
            // A restored alarm may ring later than one that was set before its worker beat: a step fewer.
            let (mut a, mut b) = (digests(&restored), digests(&plain));
            let empty = orchestrion_world::ledger::decisions(&[]);
            a.retain(|d| d.1 != empty);
            b.retain(|d| d.1 != empty);
            assert_eq!(a, b, "{}", case.path.display());
        }
    }
}

/// Skipping is a no-op: a world that is stepped through idle ticks decides what one that skips them does.
#[test]
fn idle_ticks_change_nothing_but_the_time() {
    for case in cases::all() {
        let plain = run(&case.script, &mut Plain).unwrap();
        let mut simulation = Simulation::new(case.script.seed);
        for (tick, inputs, step, _) in &plain.steps {
            let from = simulation.now().0;
            for idle in (from + 1..tick.0).step_by(37) {
                // While the process was down nobody stepped; a tick that something was due at is not idle.
                if simulation.is_due(Tick(idle)) {
                    break;
                }
                let before = Ledger { core: simulation.ledger().core, ..simulation.ledger() };
                let nothing = simulation.step(Tick(idle), vec![]);
                assert!(nothing.effects.is_empty(), "{}: {:?} at {idle}", case.path.display(), nothing.effects);
                let mut after = simulation.ledger();
                after.core.now = before.core.now;
                assert_eq!(after, before);
            }
            assert_eq!(&simulation.step(*tick, inputs.clone()), step, "{}", case.path.display());
        }
        assert_eq!(full_digest(&simulation.ledger()), full_digest(&plain.ledger));
    }
}
