//! How long results stay, of a task of several parts together, and what an earlier process left of them.
//!
//! Reads and writes entries and the list of what is kept. A result goes when its time or the byte cap is over, the
//! oldest first.

use super::{Switchboard, locked};
use crate::clock::wall_ms;
use crate::recovery::Past;
use crate::spool::Part;
use crate::task_entry::{Entry, Phase};
use orchestrion_world::id::TaskId;
use orchestrion_world::protocol::Outcome;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an entry takes besides its text, so that the byte cap bounds the count as well.
pub(super) const ENTRY_BYTES: usize = 768;

#[derive(Debug, Default)]
pub(super) struct Kept {
    oldest_first: VecDeque<(Instant, TaskId, usize)>,
    pub(super) bytes: usize,
}

impl Switchboard {
    /// Keeps a result: of a task of several parts when all of them have ended.
    pub(crate) fn keep(&self, ended: &Arc<Entry>, since: Instant) {
        let task = match &ended.part {
            Some(part) => self.find(part.of),
            None => Some(Arc::clone(ended)),
        };
        if let Some(task) = task.filter(Entry::claim_keep) {
            let bytes = task.parts().map(|part| ENTRY_BYTES + part.bytes()).sum();
            self.retain(Some((since, task.task, bytes)));
        }
    }

    /// Takes back what was never told to be there; not what came in its place.
    pub(crate) fn take_back(&self, entry: &Arc<Entry>) {
        let mut shard = locked(self.shard(entry.task));
        if shard.get(&entry.task).is_some_and(|found| Arc::ptr_eq(found, entry)) {
            shard.remove(&entry.task);
        }
    }

    /// With a part that fails, its task does.
    pub(super) fn note(&self, ended: &Entry, outcome: &Outcome) {
        if let (Some(part), Outcome::Cancelled { .. } | Outcome::Failed { .. }) = (&ended.part, outcome) {
            locked(&self.spoilt).push((part.of, part.index));
        }
    }

    /// Parts that run for nobody, since what stands before them has failed.
    pub(crate) fn idle_parts(&self) -> Vec<Arc<Entry>> {
        let spoilt = std::mem::take(&mut *locked(&self.spoilt));
        let mut idle: Vec<Arc<Entry>> = Vec::new();
        for (task, index) in spoilt {
            let Some(task) = self.find(task) else { continue };
            let behind = task.parts().skip(index as usize + 1);
            idle.extend(behind.filter(|part| !matches!(part.phase(), Phase::Ended(_))).cloned());
        }
        idle
    }

    /// Makes room for a result, and drops the oldest that are over their time or over the cap. Called with none now
    /// and then by the door, so that an idle server gives memory back too.
    pub(crate) fn retain(&self, result: Option<(Instant, TaskId, usize)>) {
        let now = Instant::now();
        let mut dropped = Vec::new();
        {
            let mut kept = locked(&self.kept);
            if let Some((since, task, bytes)) = result {
                kept.bytes += bytes;
                kept.oldest_first.push_back((since, task, bytes));
            }
            while let Some(&(since, oldest, size)) = kept.oldest_first.front() {
                if kept.bytes <= self.keep.bytes && now.duration_since(since) < self.keep.ttl {
                    break;
                }
                kept.oldest_first.pop_front();
                kept.bytes -= size;
                dropped.push(oldest);
            }
        }
        for task in dropped.into_iter().filter_map(|task| self.find(task)) {
            task.parts().for_each(|part| self.remove(part.task));
        }
    }

    /// What an earlier process kept: tasks that go on, and results of the age they have by now.
    pub(super) fn recall(&self, Past { unfinished, finished }: Past) {
        let (now, wall) = (Instant::now(), wall_ms());
        // What ended came first, as far as anybody still knows.
        for result in finished {
            let (age, outcome) = (Duration::from_millis(wall.saturating_sub(result.wall_ms)), result.outcome);
            let entry = self.put_back(Entry::ended(result, self.number()));
            self.note(&entry, &outcome);
            // Before the machine was there is long ago: the least that is known of its age is none.
            self.keep(&entry, now.checked_sub(age).unwrap_or(now));
        }
        for task in unfinished {
            self.put_back(Entry::unfinished(task, self.number()));
        }
    }

    /// With the last of its parts a task is whole.
    fn put_back(&self, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        locked(self.shard(entry.task)).insert(entry.task, Arc::clone(&entry));
        if let Some(Part { of, count, .. }) = entry.part
            && let Some(first) = self.find(of)
        {
            let others: Vec<_> = (1..count).map_while(|index| self.find(Part::id(of, index))).collect();
            if others.len() + 1 == count as usize {
                first.lead(others);
            }
        }
        entry
    }
}
