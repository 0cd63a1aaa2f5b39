//! Where the beginnings of prompts were read last: a worker that may still know one has less to read of the next
//! prompt that begins alike. Written when a task's first token says that its prompt was read; read by placement.
//!
//! There are so many at most, and the oldest goes first. What a worker knew goes with its life and with the model.
//! An engine that needs its memory forgets earlier than this: then a prediction was too short, and nothing else.

use orchestrion_world::config::Rules;
use orchestrion_world::id::{ModelId, TaskId, TenantId, WorkerId};
use orchestrion_world::prefix::{Prefix, PrefixId, PrefixKey, length};
use orchestrion_world::protocol::TaskSpec;
use orchestrion_world::store::{Key, World};

/// A worker that may know the beginning of a prompt, so many tokens of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub worker: WorkerId,
    pub tokens: u32,
}

/// Who may know how much of a task's prompt; nobody twice.
pub(crate) fn known(world: &World, spec: &TaskSpec) -> Vec<Known> {
    let mut known: Vec<Known> = vec![];
    for (place, id) in spec.beginnings().enumerate().rev() {
        let Some(prefix) = world.prefix(id) else { continue };
        if known.iter().all(|longer| longer.worker != prefix.worker) {
            let tokens = length(place).min(spec.prompt_tokens.saturating_sub(1));
            known.push(Known { worker: prefix.worker, tokens });
        }
    }
    known
}

/// The worker has read the task's prompt.
pub(crate) fn remember(world: &mut World, worker: WorkerId, task: TaskId) {
    let Some(task) = world.task(task) else { return };
    let most = world.core.rules.as_ref().map_or(0, |rules| rules.placement.prefixes_max as usize);
    let (ids, read): (Vec<_>, _) = (task.spec.beginnings().collect(), world.core.now);
    for id in ids.into_iter().filter(|_| most > 0) {
        let prefix = Prefix { id, worker, read };
        if let Some(mut known) = world.prefix_mut(id) {
            let before = std::mem::replace(&mut *known, prefix);
            world.prefixes.remove(&before);
        } else {
            keep(world, most - 1);
            world.enlist(Key::Prefix(id), prefix);
        }
        world.prefixes.add(&prefix);
    }
}

/// A worker has a model no more, and nothing of what it read for it.
pub(crate) fn forget(world: &mut World, worker: WorkerId, model: ModelId) {
    let first = |model| PrefixId { model, tenant: TenantId(0), prefix: PrefixKey(0) };
    let all = (worker, first(model))..(worker, first(ModelId(model.0.saturating_add(1))));
    let known: Vec<PrefixId> = world.prefixes.by_worker.range(all).map(|(_, id)| *id).collect();
    known.into_iter().for_each(|id| drop_one(world, id));
}

/// Rules may allow fewer than there are.
pub(crate) fn renew(world: &mut World, rules: &Rules) {
    keep(world, rules.placement.prefixes_max as usize);
}

/// No more than these are left.
fn keep(world: &mut World, most: usize) {
    while world.prefixes.by_age.len() > most
        && let Some(&(_, oldest)) = world.prefixes.by_age.first()
    {
        drop_one(world, oldest);
    }
}

fn drop_one(world: &mut World, id: PrefixId) {
    let Some(prefix) = world.prefix(id).copied() else { return };
    world.prefixes.remove(&prefix);
    world.discharge(Key::Prefix(id));
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_world::config::PlacementRules;
    use orchestrion_world::ledger::{Ledger, digest, full_digest, update_digest};
    use orchestrion_world::prefix::of_prompt;
    use orchestrion_world::protocol::{Class, Determinism};
    use orchestrion_world::task::{Task, TaskTimers};
    use orchestrion_world::time::Tick;
    use orchestrion_world::units::Sha256;

    fn spec(prompt: &[u32], tenant: u64) -> TaskSpec {
        TaskSpec {
            model: ModelId(0),
            class: Class::Interactive,
            tenant: TenantId(tenant),
            session: None,
            prompt_tokens: prompt.len() as u32,
            prompt_digest: Sha256::default(),
            prefix: of_prompt(prompt),
            max_tokens: 1,
            deadline: None,
            seed: 0,
            determinism: Determinism::BestEffort,
            placement: None,
        }
    }

    fn world(most: u32) -> World {
        let mut world = Ledger::empty(1).restore();
        let placement = PlacementRules { prefixes_max: most, ..Rules::default().placement };
        world.core.set_rules(Rules { placement, ..Rules::default() });
        world
    }

    fn reads(world: &mut World, at: u64, worker: u32, spec: &TaskSpec) {
        world.core.now = Tick(at);
        let id = TaskId(at.into());
        world.enlist(Key::Task(id), (Task::queued(id, at, spec.clone(), Tick(at)), TaskTimers::default()));
        remember(world, WorkerId(worker), id);
        world.discharge(Key::Task(id));
    }

    fn told(world: &World, spec: &TaskSpec) -> Vec<(u32, u32)> {
        known(world, spec).iter().map(|known| (known.worker.0, known.tokens)).collect()
    }

    #[test]
    fn the_longest_beginning_that_each_worker_read_last_counts_for_its_tenant() {
        let mut world = world(100);
        let (long, mut other): (Vec<u32>, Vec<u32>) = ((0..600).collect(), (0..600).collect());
        other[100] = 7;
        reads(&mut world, 1, 1, &spec(&long, 0));
        reads(&mut world, 2, 2, &spec(&other, 0));
        // The first 64 tokens are the same, and the second worker read those last.
        assert_eq!(told(&world, &spec(&long, 0)), [(1, 512), (2, 64)]);
        assert_eq!(told(&world, &spec(&long[..200], 0)), [(1, 128), (2, 64)]);
        assert_eq!(told(&world, &spec(&long, 1)), [], "another tenant's");
        forget(&mut world, WorkerId(1), ModelId(1));
        forget(&mut world, WorkerId(1), ModelId(0));
        assert_eq!(told(&world, &spec(&long, 0)), [(2, 64)]);
        // A world that is restored knows the same.
        update_digest(&mut world);
        let ledger = Ledger::of(&world);
        let restored = ledger.restore();
        assert_eq!((digest(&restored), restored.prefixes == world.prefixes), (Some(full_digest(&ledger)), true));
        assert_eq!(digest(&world), digest(&restored));
    }

    #[test]
    fn there_are_so_many_and_the_oldest_goes() {
        let mut world = world(3);
        let prompt = |n: u32| spec(&[n; 40], 0);
        for n in 0..10 {
            reads(&mut world, n.into(), n, &prompt(n));
            assert!(world.prefixes.by_age.len() <= 3);
        }
        assert_eq!((told(&world, &prompt(6)), told(&world, &prompt(7))), (vec![], vec![(7, 32)]));
        reads(&mut world, 20, 1, &prompt(7));
        reads(&mut world, 21, 1, &prompt(1));
        assert_eq!((told(&world, &prompt(8)), told(&world, &prompt(7))), (vec![], vec![(1, 32)]), "used again");
        let placement = PlacementRules { prefixes_max: 1, ..Rules::default().placement };
        renew(&mut world, &Rules { placement, ..Rules::default() });
        assert_eq!((told(&world, &prompt(7)), told(&world, &prompt(1))), (vec![], vec![(1, 32)]));
        let mut none = self::world(0);
        reads(&mut none, 1, 1, &prompt(1));
        assert_eq!(none.prefixes.by_age.len(), 0);
    }
}
