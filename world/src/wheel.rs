//! The timer wheel: deadlines, backoffs and beat timeouts, armed and disarmed in constant time.
//!
//! Eleven levels of 64 slots; a timer sits at the level of the highest six-bit digit in which its due
//! tick differs from now, and moves down a level whenever time enters its slot. Timers that become due
//! in one step fire in the order of their keys, so the wheel can be rebuilt from the entities that armed
//! it: it is derived state and not in the Ledger. Their due ticks decide nothing within a step: a beat
//! that was heard since its alarm was set rings early and is set anew, and a world that was restored
//! has it set to the later tick at once.

use crate::id::{JobId, ModelId, SessionId, TaskId, WorkerId};
use crate::time::Tick;
use bevy_ecs::prelude::Component;
use slotmap::{SlotMap, new_key_type};

new_key_type! {
    /// Where an armed timer stands, to disarm it by.
    pub struct TimerHandle;
}

/// Whose timer it is and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKey {
    /// The task has to end.
    Deadline(TaskId),
    /// The task may be tried again.
    Retry(TaskId),
    /// The worker ought to have been heard, or is to be told to begin again: its state says which.
    Beat(WorkerId),
    /// The worker's breaker has been open, or proven, for its time.
    Breaker(WorkerId),
    /// The job's step has taken its time, or the job that is over was kept for long enough.
    Job(JobId),
    /// The model's queued tasks have waited long enough for a worker to come.
    Stranded(ModelId),
    /// Loading the model is weighed again. It is never disarmed.
    Weigh(ModelId),
    /// The task's attempt ought to have got on.
    Patience(TaskId),
    /// The session's time is over.
    Session(SessionId),
}

/// A worker's breaker, while it has a time. Derived: not in the Ledger.
#[derive(Component, Clone, Copy, Debug, Default)]
pub struct Fuse(pub Option<TimerHandle>);

/// The one timer of a worker (its next beat or restart), of a model (its strandedness) or of a session (its time),
/// while it is armed. Derived: not in the Ledger.
#[derive(Component, Clone, Copy, Debug, Default)]
pub struct Alarm(pub Option<TimerHandle>);

const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
/// Enough digits for every u64.
const LEVELS: usize = 11;

#[derive(Clone, Copy, Debug)]
struct Node {
    due: Tick,
    key: TimerKey,
    level: u8,
    slot: u8,
    prev: Option<TimerHandle>,
    next: Option<TimerHandle>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Wheel {
    now: Tick,
    nodes: SlotMap<TimerHandle, Node>,
    heads: Box<[[Option<TimerHandle>; SLOTS]; LEVELS]>,
    /// Bit s of level l is set while heads[l][s] has a timer.
    occupied: [u64; LEVELS],
}

impl Default for Wheel {
    fn default() -> Self {
        Self::starting_at(Tick(0))
    }
}

impl Wheel {
    /// An empty wheel whose time is `now`.
    pub fn starting_at(now: Tick) -> Self {
        Self { now, nodes: SlotMap::with_key(), heads: Box::new([[None; SLOTS]; LEVELS]), occupied: [0; LEVELS] }
    }

    /// Arms a timer. One that is due already fires with the next tick.
    pub fn arm(&mut self, due: Tick, key: TimerKey) -> TimerHandle {
        let due = due.max(Tick(self.now.0.saturating_add(1)));
        let handle = self.nodes.insert(Node { due, key, level: 0, slot: 0, prev: None, next: None });
        self.link(handle, due);
        handle
    }

    /// Disarms a timer; one that fired already is none.
    pub fn disarm(&mut self, handle: TimerHandle) {
        if self.nodes.contains_key(handle) {
            self.unlink(handle);
            self.nodes.remove(handle);
        }
    }

    /// How many timers are armed.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Moves time to `to` and returns what became due, by key.
    pub fn advance(&mut self, to: Tick) -> Vec<TimerKey> {
        let mut fired = Vec::new();
        while let Some((start, level, slot)) = self.next_slot()
            && start <= to
        {
            self.now = start;
            let mut at = self.heads[level][slot].take();
            self.occupied[level] &= !(1 << slot);
            while let Some(handle) = at {
                let node = self.nodes[handle];
                at = node.next;
                if node.due <= start {
                    self.nodes.remove(handle);
                    fired.push(node.key);
                } else {
                    self.link(handle, node.due);
                }
            }
        }
        self.now = self.now.max(to);
        fired.sort_unstable();
        fired
    }

    /// A tick before which nothing is due: the start of the first occupied slot.
    pub fn next_due(&self) -> Option<Tick> {
        self.next_slot().map(|(start, _, _)| start)
    }

    /// Whether a timer is due at `to`. Turns the wheel up to the tick before, which fires nothing.
    pub fn is_due(&mut self, to: Tick) -> bool {
        loop {
            match self.next_slot() {
                Some((start, _, _)) if start > to => return false,
                None => return false,
                // At level 0 a slot is one tick wide, so what stands in it is due.
                Some((_, 0, _)) => return true,
                Some((start, level, slot)) => {
                    if self.slot_has(level, slot, start) {
                        return true;
                    }
                    self.advance(start);
                }
            }
        }
    }

    /// Every armed timer, in the order of due tick and key.
    pub fn armed(&self) -> Vec<(Tick, TimerKey)> {
        let mut all: Vec<_> = self.nodes.values().map(|n| (n.due, n.key)).collect();
        all.sort_unstable();
        all
    }

    fn slot_has(&self, level: usize, slot: usize, due: Tick) -> bool {
        let mut at = self.heads[level][slot];
        while let Some(handle) = at {
            let node = &self.nodes[handle];
            if node.due <= due {
                return true;
            }
            at = node.next;
        }
        false
    }

    /// The first occupied slot as (start, level, slot). Lower levels hold nearer ticks, always.
    fn next_slot(&self) -> Option<(Tick, usize, usize)> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = DIGIT_BITS * level as u32;
        // The digits above `level` are those of now; below, the slot starts at zero.
        let above = (u128::from(self.now.0) >> (shift + DIGIT_BITS)) << (shift + DIGIT_BITS);
        Some((Tick((above | (slot as u128) << shift) as u64), level, slot))
    }

    fn link(&mut self, handle: TimerHandle, due: Tick) {
        // At the end of time a timer can be due now: it stands in now's own slot.
        let level = (63 - ((due.0 ^ self.now.0) | 1).leading_zeros()) / DIGIT_BITS;
        let slot = (due.0 >> (DIGIT_BITS * level)) as usize % SLOTS;
        let level = level as usize;
        let head = self.heads[level][slot].replace(handle);
        self.occupied[level] |= 1 << slot;
        if let Some(head) = head {
            self.nodes[head].prev = Some(handle);
        }
        let node = &mut self.nodes[handle];
        (node.level, node.slot, node.prev, node.next) = (level as u8, slot as u8, None, head);
    }

    fn unlink(&mut self, handle: TimerHandle) {
        let Node { level, slot, prev, next, .. } = self.nodes[handle];
        if let Some(next) = next {
            self.nodes[next].prev = prev;
        }
        match prev {
            Some(prev) => self.nodes[prev].next = next,
            None => {
                self.heads[level as usize][slot as usize] = next;
                if next.is_none() {
                    self.occupied[level as usize] &= !(1 << slot);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key(n: u32) -> TimerKey {
        TimerKey::Beat(WorkerId(n))
    }

    #[test]
    fn timers_that_fire_together_do_so_by_key_whenever_each_was_due() {
        let mut wheel = Wheel::default();
        for (n, due) in [(3, 4_000), (1, 5_000), (2, 4_900)] {
            wheel.arm(Tick(due), key(n));
        }
        assert_eq!(wheel.advance(Tick(5_000)), [key(1), key(2), key(3)]);
    }

    #[test]
    fn the_end_of_time_is_a_tick_like_any_other() {
        let mut wheel = Wheel::starting_at(Tick(7));
        wheel.arm(Tick(u64::MAX), key(1));
        assert!(!wheel.is_due(Tick(u64::MAX - 1)));
        assert_eq!(wheel.advance(Tick(u64::MAX)), [key(1)]);
        wheel.arm(Tick(3), key(2));
        assert!(wheel.is_due(Tick(u64::MAX)), "there is no later tick for it");
    }

    proptest! {
        /// The wheel against a sorted set: the same timers in the same order, and no wake that is late.
        #[test]
        fn it_fires_what_a_sorted_set_would(
            script in prop::collection::vec((0u8..4, 0u64..1 << 40, 0u32..40), 1..200)
        ) {
            let mut wheel = Wheel::default();
            let mut model = BTreeSet::new();
            let mut handles = vec![];
            let mut now = 0u64;
            for (n, (kind, length, pick)) in script.into_iter().enumerate() {
                let length = length >> (pick % 40);
                match kind {
                    0 | 1 => {
                        let due = Tick((now + length).max(now + 1));
                        handles.push((wheel.arm(due, key(n as u32)), due, key(n as u32)));
                        model.insert((due, key(n as u32)));
                    }
                    2 if !handles.is_empty() => {
                        let (handle, due, key) = handles.swap_remove(pick as usize % handles.len());
                        wheel.disarm(handle);
                        model.remove(&(due, key));
                    }
                    _ => {
                        now += length;
                        let due_now = model.first().is_some_and(|f| f.0.0 <= now);
                        prop_assert_eq!(wheel.is_due(Tick(now)), due_now);
                        let late = model.split_off(&(Tick(now + 1), key(0)));
                        let due = std::mem::replace(&mut model, late);
                        let expected: BTreeSet<_> = due.into_iter().map(|(_, key)| key).collect();
                        prop_assert_eq!(wheel.advance(Tick(now)), expected.into_iter().collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!(wheel.armed(), model.iter().copied().collect::<Vec<_>>());
                prop_assert!(wheel.next_due() <= model.first().map(|f| f.0), "a wake after the first due tick");
                prop_assert_eq!(wheel.is_empty(), model.is_empty());
            }
        }
    }
}
