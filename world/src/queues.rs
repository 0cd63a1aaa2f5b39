//! What waits, and who is next: a line for each model and class, shared among tenants by their weights.
//!
//! Start-time fair queueing. A line has a virtual time; each tenant's next task has a start tag, and the
//! smallest goes first. Who leaves moves its tenant's tag on by its tokens over the tenant's weight, and the
//! line's time to the smallest tag. A tenant that comes after a rest begins at the line's time: rest earns
//! nothing. Within a tenant it is first come, first served, and a task that is tried again regains its place
//! and costs nothing twice. With one tenant a line is a plain queue.
//!
//! The lines are derived from the tasks and from each model's [`Shares`], which stand in the Ledger.

mod fifo;

use crate::id::{ModelId, TaskId, TenantId};
use crate::protocol::Class;
use crate::store::World;
use crate::task::Task;
use fifo::Fifo;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a line has to remember beside its tasks: how far each tenant is ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The virtual time: no tag of who waits is smaller.
    now: u64,
    /// Sorted by tenant: where its next task begins. Who is not here begins at `now`.
    ahead: Vec<(TenantId, u64)>,
}

impl Shares {
    fn tag(&self, tenant: TenantId) -> u64 {
        self.ahead.binary_search_by_key(&tenant, |a| a.0).map_or(self.now, |at| self.ahead[at].1.max(self.now))
    }

    /// Moves the time on and a tenant ahead; who is not ahead any more is forgotten.
    fn advance(&mut self, now: u64, tenant: TenantId, tag: u64) {
        self.now = now;
        match self.ahead.binary_search_by_key(&tenant, |a| a.0) {
            Ok(at) => self.ahead[at].1 = tag,
            Err(at) => self.ahead.insert(at, (tenant, tag)),
        }
        self.ahead.retain(|a| a.1 > now);
    }
}

/// Virtual time that a token takes at weight 1: large, so that weights divide it well. A year of a million
/// tokens a second is below the end of the tags.
const TOKEN: u64 = 1 << 19;

/// What a task takes of its tenant's share.
fn cost(task: &Task, weight: u32) -> u64 {
    (task.spec.tokens().max(1) * TOKEN).div_ceil(weight.max(1).into())
}

/// Tasks that are looked at behind one that waits for certain workers, and of them those of one tenant: who
/// floods its own part of a line with such tasks holds up nobody else.
const AHEAD: usize = 64;
const AHEAD_OF_TENANT: usize = 16;

/// Every line.
#[derive(Debug, Default)]
pub struct Queues {
    lines: BTreeMap<(ModelId, Class), Line>,
    /// Tasks of each tenant that waits, in all lines.
    waiting: BTreeMap<TenantId, usize>,
}

#[derive(Debug, Default)]
struct Line {
    shares: Shares,
    /// Tenants that were seen here.
    tenants: BTreeMap<TenantId, Fifo>,
    /// Of each tenant that waits: its tag, its first task's ordinal, and who it is.
    next: BTreeSet<(u64, u64, TenantId)>,
    len: usize,
}

impl Line {
    /// Where a tenant stands in `next`; nowhere while nothing of it waits.
    fn place(&self, tenant: TenantId) -> Option<(u64, u64, TenantId)> {
        let (ordinal, _) = self.tenants.get(&tenant)?.front()?;
        Some((self.shares.tag(tenant), ordinal, tenant))
    }

    /// Changes a tenant's tasks or tag and puts it where it then stands.
    fn change<T>(&mut self, tenant: TenantId, change: impl FnOnce(&mut Line) -> T) -> T {
        if let Some(place) = self.place(tenant) {
            self.next.remove(&place);
        }
        let result = change(self);
        self.next.extend(self.place(tenant));
        result
    }

    fn head(&self) -> Option<TaskId> {
        let (_, _, tenant) = self.next.first()?;
        Some(self.tenants.get(tenant)?.front()?.1)
    }
}

impl Queues {
    /// A line's memory, where it was restored from a Ledger: before its tasks come.
    pub fn restore(&mut self, model: ModelId, class: Class, shares: Shares) {
        self.lines.entry((model, class)).or_default().shares = shares;
    }

    /// Tasks waiting in a line.
    pub fn len(&self, model: ModelId, class: Class) -> usize {
        self.lines.get(&(model, class)).map_or(0, |line| line.len)
    }

    /// Tasks of a tenant that wait, in all lines.
    pub fn waiting(&self, tenant: TenantId) -> usize {
        self.waiting.get(&tenant).copied().unwrap_or_default()
    }

    /// Every line that was ever used, and how many wait in it.
    pub fn lines(&self) -> impl Iterator<Item = (ModelId, Class, usize)> {
        self.lines.iter().map(|(&(model, class), line)| (model, class, line.len))
    }

    /// Who waits in a line, and how many of each.
    pub fn tenants(&self, model: ModelId, class: Class) -> impl Iterator<Item = (TenantId, usize)> {
        let tenants = self.lines.get(&(model, class)).into_iter().flat_map(|line| &line.tenants);
        tenants.filter(|(_, tasks)| !tasks.is_empty()).map(|(&tenant, tasks)| (tenant, tasks.len()))
    }

    /// The tasks of a tenant in a line, with their ordinals, in order.
    pub fn tasks(
        &self,
        model: ModelId,
        class: Class,
        tenant: TenantId,
    ) -> impl DoubleEndedIterator<Item = (u64, TaskId)> {
        let tasks = self.lines.get(&(model, class)).and_then(|line| line.tenants.get(&tenant));
        tasks.into_iter().flat_map(Fifo::iter)
    }

    /// The task that is next: interactive before batch, then by share, then by admission.
    pub fn head(&self, model: ModelId) -> Option<TaskId> {
        [Class::Interactive, Class::Batch].iter().find_map(|&class| self.lines.get(&(model, class))?.head())
    }

    /// Who waits in a line, in the order in which they are next.
    pub fn order(&self, model: ModelId, class: Class) -> impl Iterator<Item = TenantId> {
        self.lines.get(&(model, class)).into_iter().flat_map(|line| &line.next).map(|next| next.2)
    }

    /// Those that are looked at while who is next waits for certain workers: of each tenant the first few, in the
    /// order in which tenants are next. Whether that is everybody in the line.
    pub fn ahead(&self, model: ModelId, class: Class) -> (Vec<TaskId>, bool) {
        let of = |tenant| self.tasks(model, class, tenant).take(AHEAD_OF_TENANT).map(|(_, task)| task);
        let ahead: Vec<TaskId> = self.order(model, class).flat_map(of).take(AHEAD).collect();
        let all = ahead.len() == self.len(model, class);
        (ahead, all)
    }

    /// Puts a task in its place.
    pub fn push(&mut self, task: &Task) {
        let line = self.lines.entry((task.spec.model, task.spec.class)).or_default();
        let tenant = task.spec.tenant;
        line.change(tenant, |line| line.tenants.entry(tenant).or_default().insert(task.ordinal, task.id));
        line.len += 1;
        *self.waiting.entry(tenant).or_default() += 1;
    }

    /// Takes out a task that ended while it waited: it costs its tenant nothing.
    pub fn remove(&mut self, task: &Task) {
        let Some(line) = self.lines.get_mut(&(task.spec.model, task.spec.class)) else { return };
        let tenant = task.spec.tenant;
        let gone = line.change(tenant, |line| line.tenants.get_mut(&tenant).is_some_and(|t| t.remove(task.ordinal)));
        line.len -= usize::from(gone);
        self.left(tenant, gone);
    }

    fn left(&mut self, tenant: TenantId, gone: bool) {
        if let Some(waiting) = self.waiting.get_mut(&tenant).filter(|_| gone) {
            *waiting -= 1;
            if *waiting == 0 {
                self.waiting.remove(&tenant);
            }
        }
    }

    /// Takes out a task that goes to a slot, and its cost off its tenant's share where it is the first time.
    fn take(&mut self, task: &Task, weight: u32) -> Option<(u64, u64)> {
        let line = self.lines.get_mut(&(task.spec.model, task.spec.class))?;
        let tenant = task.spec.tenant;
        let now = line.shares.tag(tenant);
        let tag = if task.attempts == 0 { now.saturating_add(cost(task, weight)) } else { now };
        // Those that it goes past do not hold the time back, or who comes anew would be before all others.
        let past: Vec<_> = line.next.iter().copied().take_while(|place| place.0 < now).collect();
        for place in &past {
            line.next.remove(place);
        }
        let gone = line.change(tenant, |line| {
            line.shares.advance(now, tenant, tag);
            line.tenants.get_mut(&tenant).is_some_and(|t| t.remove(task.ordinal))
        });
        line.next.extend(past.into_iter().map(|(_, ordinal, tenant)| (now, ordinal, tenant)));
        line.len -= usize::from(gone);
        self.left(tenant, gone);
        Some((now, tag))
    }
}

/// Takes a task that goes to a slot out of its line.
pub fn dequeue(world: &mut World, task: &Task, weight: u32) {
    let queues = &mut world.queues;
    let Some((time, tag)) = queues.take(task, weight) else { return };
    // Who leaves nobody of its own behind did not stand in a queue.
    let stood = task.attempts == 0 && queues.tasks(task.spec.model, task.spec.class, task.spec.tenant).next().is_some();
    let waited = world.core.now.since(task.admitted);
    if let Some(mut model) = world.model_mut(task.spec.model) {
        let line = model.line_mut(task.spec.class);
        line.shares.advance(time, task.spec.tenant, tag);
        if stood {
            line.delay.note(waited);
        }
    }
}

#[cfg(test)]
mod tests;
