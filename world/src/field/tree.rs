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
        let children = self.children(level, at);
        let mut keys = [None; WIDTH];
        for (key, offer) in keys.iter_mut().zip(children) {
            *key = first(offer, (below == 0).then_some(offer.worker));
        }
        let order = |a: (K, &Offer), b: (K, &Offer)| a.0.cmp(&b.0).then_with(|| then(a.1, b.1));
        // The most promising first: it may make the others needless.
        loop {
            let open = keys.iter().zip(children).enumerate().filter_map(|(n, (key, offer))| Some((n, (*key)?, offer)));
            let Some((n, key, offer)) = open.min_by(|a, b| order((a.1, a.2), (b.1, b.2))) else { return };
            if best.is_some_and(|best| order((key, offer), best).is_ge()) {
                return;
            }
            keys[n] = None;
            if below > 0 {
                self.search((below, at * WIDTH + n), first, then, takes, best);
            } else if takes(offer.worker) {
                *best = Some((key, offer));
                return;
            }
        }
    }
}
