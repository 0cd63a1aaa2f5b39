//! A tree in which the best of many is found without looking at all: a leaf is one of them, a node what none below
//! it can beat.

use super::offer::Offer;
use crate::id::WorkerId;
use std::cmp::Ordering;

/// What a node is made of.
pub trait Best: Copy + PartialEq {
    /// Nobody's.
    const NONE: Self;

    /// The best of two in every respect at once.
    #[must_use]
    fn best(self, other: Self) -> Self;
}

/// Children of a node: the tree stays flat, and one node's children share few cache lines.
const WIDTH: usize = 4;

/// The workers of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree<T> {
    /// The leaves, their parents, and so on up to the root, alone.
    levels: Vec<Vec<T>>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree { levels: vec![] }
    }
}

impl<T: Best> Tree<T> {
    /// What none of them can beat.
    pub fn root(&self) -> T {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or(T::NONE)
    }

    /// What stands at a leaf.
    pub fn leaf(&self, at: usize) -> Option<T> {
        self.levels.first()?.get(at).copied()
    }

    /// Adds a leaf of nobody's, and says where.
    pub fn push(&mut self) -> usize {
        if self.levels.is_empty() {
            self.levels = vec![vec![], vec![T::NONE]];
        }
        let at = self.levels[0].len();
        let mut len = at + 1;
        self.levels[0].push(T::NONE);
        for level in 1.. {
            len = len.div_ceil(WIDTH);
            if level == self.levels.len() {
                // The root has too many children: they get parents, and those a new root.
                self.levels.push(vec![]);
            }
            while self.levels[level].len() < len {
                let n = self.levels[level].len();
                let value = self.best_of(level, n);
                self.levels[level].push(value);
            }
            if len == 1 {
                break;
            }
        }
        at
    }

    /// Writes a leaf and what changes above it.
    pub fn set(&mut self, leaf: usize, value: T) {
        let (mut at, mut value) = (leaf, value);
        for level in 0..self.levels.len() {
            if std::mem::replace(&mut self.levels[level][at], value) == value {
                return;
            }
            at /= WIDTH;
            if level + 1 < self.levels.len() {
                value = self.best_of(level + 1, at);
            }
        }
    }

    /// Whether each node is the best of its children.
    pub fn adds_up(&self) -> bool {
        (1..self.levels.len()).all(|level| {
            let parents = self.levels[level - 1].len().div_ceil(WIDTH);
            parents == self.levels[level].len()
                && (0..parents).all(|at| self.levels[level][at] == self.best_of(level, at))
        })
    }

    /// Of a node: the nodes below it, or leaves.
    fn children(&self, level: usize, at: usize) -> &[T] {
        let below = &self.levels[level - 1];
        let from = at * WIDTH;
        &below[from..below.len().min(from + WIDTH)]
    }

    fn best_of(&self, level: usize, at: usize) -> T {
        self.children(level, at).iter().copied().fold(T::NONE, T::best)
    }
}

impl Tree<Offer> {
    /// The worker that comes first by `first` and, among equals, by `then`, of those that take the task. `first`
    /// is told who it is where an offer is one worker's; where it gives nothing, no worker below takes the task,
    /// and what either says of a node is at most what it says of the workers below. `takes` is asked of those
    /// alone that would be the best so far.
    pub fn least<K: Ord + Copy>(
        &self,
        first: impl Fn(&Offer, Option<WorkerId>) -> Option<K>,
        then: impl Fn(&Offer, &Offer) -> Ordering,
        takes: impl Fn(WorkerId) -> bool,
    ) -> Option<WorkerId> {
        let mut best = None;
        if let Some(top) = self.levels.len().checked_sub(1) {
            self.search((top, 0), &first, &then, &takes, &mut best);
        }
        best.map(|(_, offer)| offer.worker)
    }

    fn search<'t, K: Ord + Copy>(
        &'t self,
        (level, at): (usize, usize),
        first: &impl Fn(&Offer, Option<WorkerId>) -> Option<K>,
        then: &impl Fn(&Offer, &Offer) -> Ordering,
        takes: &impl Fn(WorkerId) -> bool,
        best: &mut Option<(K, &'t Offer)>,
    ) {
        let Some(below) = level.checked_sub(1) else { return };
        let children = (at * WIDTH..).zip(self.children(level, at));
        let order = |a: &(K, usize, &Offer), b: &(K, usize, &Offer)| a.0.cmp(&b.0).then_with(|| then(a.2, b.2));
        let mut open: [Option<(K, usize, &Offer)>; WIDTH] = [None; WIDTH];
        let mut len = 0;
        // The most promising first: it may make the others needless.
        for (n, offer) in children {
            let Some(key) = first(offer, (below == 0).then_some(offer.worker)) else { continue };
            let new = (key, n, offer);
            let place = open[..len].iter().flatten().take_while(|known| order(known, &new).is_le()).count();
            open[place..=len].rotate_right(1);
            open[place] = Some(new);
            len += 1;
        }
        for (key, n, offer) in open.into_iter().flatten() {
            let before = best.is_none_or(|(least, of)| key.cmp(&least).then_with(|| then(offer, of)).is_lt());
            if before && below > 0 {
                self.search((below, n), first, then, takes, best);
            } else if before && takes(offer.worker) {
                *best = Some((key, offer));
            }
        }
    }
}
