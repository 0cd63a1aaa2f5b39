//! Who would give a slot to interactive work: batch tasks that may be put back, by model, those that lose least
//! first. And how many slots were called back for it and are not let go of yet.
//!
//! Derived from tasks and leases: not in the Ledger. Kept up task by task, so that nobody walks over workers to
//! find a victim.

use crate::config::Rules;
use crate::id::{ModelId, TaskId};
use crate::protocol::Class;
use crate::store::World;
use crate::task::Task;
use crate::time::Tick;
use crate::worker::Worker;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What a task loses if it is put back: the tokens it made, then the time it has had its slot.
type Loss = (u32, Reverse<Tick>);

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Victims {
    by_model: BTreeMap<ModelId, BTreeSet<(Loss, TaskId)>>,
    places: BTreeMap<TaskId, (ModelId, Loss)>,
    called_back: BTreeMap<ModelId, u32>,
}

impl Victims {
    /// Those of a model, who loses least first.
    pub fn of(&self, model: ModelId) -> impl Iterator<Item = TaskId> {
        self.by_model.get(&model).into_iter().flatten().map(|&(_, id)| id)
    }

    /// Slots of a model's workers that were called back and still are not free.
    pub fn called_back(&self, model: ModelId) -> u32 {
        self.called_back.get(&model).copied().unwrap_or(0)
    }

    /// A slot was called back.
    pub fn call_back(&mut self, model: ModelId) {
        *self.called_back.entry(model).or_default() += 1;
    }

    /// One of them is free, or gone with its worker.
    pub fn let_go(&mut self, model: ModelId) {
        let left = self.called_back(model).saturating_sub(1);
        self.called_back.remove(&model);
        if left > 0 {
            self.called_back.insert(model, left);
        }
    }

    /// Puts a task where it belongs as it stands; nowhere where there is none.
    pub fn place(&mut self, id: TaskId, task: Option<&Task>, rules: Option<&Rules>) {
        if let Some((model, loss)) = self.places.remove(&id)
            && let Some(victims) = self.by_model.get_mut(&model)
        {
            victims.remove(&(loss, id));
            if victims.is_empty() {
                self.by_model.remove(&model);
            }
        }
        if let Some((task, _)) = task.zip(rules).filter(|(task, rules)| may_be_put_back(task, rules)) {
            let (model, loss) = (task.spec.model, (task.made, Reverse(task.placed)));
            self.by_model.entry(model).or_default().insert((loss, id));
            self.places.insert(id, (model, loss));
        }
    }

    /// What tasks and workers call for.
    pub fn of_all<'w>(
        tasks: impl Iterator<Item = &'w Task>,
        workers: impl Iterator<Item = &'w Worker>,
        rules: Option<&Rules>,
    ) -> Victims {
        let mut victims = Victims::default();
        tasks.for_each(|task| victims.place(task.id, Some(task), rules));
        for worker in workers {
            worker.leases.iter().filter(|l| l.called_back).for_each(|l| victims.call_back(l.model));
        }
        victims
    }
}

/// One that holds a slot, was not put back too often, and whose readers would be told the same again.
fn may_be_put_back(task: &Task, rules: &Rules) -> bool {
    task.spec.class == Class::Batch
        && task.life.worker().is_some()
        && task.preempted < rules.placement.preempt_max
        && task.is_repeatable()
}

/// Puts a task where it belongs: to be called wherever its slot or its tokens change.
pub fn reconsider(world: &mut World, id: TaskId) {
    let rules = world.core.rules.clone();
    let mut victims = std::mem::take(&mut world.victims);
    victims.place(id, world.task(id), rules.as_deref());
    world.victims = victims;
}
