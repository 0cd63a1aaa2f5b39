//! The waiting tasks of one tenant, in the order of their admission.
//!
//! A task comes in at the end and leaves from the front in constant time. One that leaves from the middle (a
//! cancel, a deadline) leaves a gap, found by halving; one that is tried again finds its old place, which is
//! near the front. Gaps are closed when they are more than half.

use crate::id::TaskId;
use std::collections::VecDeque;

/// Below this, closing gaps is not worth the walk.
const GAPS_LEAST: usize = 64;

/// See the module's head. Neither end is a gap.
#[derive(Clone, Debug, Default)]
pub(super) struct Fifo {
    places: VecDeque<(u64, Option<TaskId>)>,
    len: usize,
}

impl Fifo {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Who is next, with its ordinal.
    pub(super) fn front(&self) -> Option<(u64, TaskId)> {
        self.iter().next()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, TaskId)> {
        self.places.iter().filter_map(|&(ordinal, task)| Some((ordinal, task?)))
    }

    /// Puts a task in its place; without effect where it stands there already.
    pub(super) fn insert(&mut self, ordinal: u64, task: TaskId) {
        if self.places.back().is_none_or(|&(last, _)| last < ordinal) {
            self.places.push_back((ordinal, Some(task)));
            self.len += 1;
            return;
        }
        match self.places.binary_search_by_key(&ordinal, |place| place.0) {
            Ok(at) => self.len += usize::from(self.places[at].1.replace(task).is_none()),
            Err(at) => {
                self.places.insert(at, (ordinal, Some(task)));
                self.len += 1;
            }
        }
    }

    /// Takes a task out; false where it was not there.
    pub(super) fn remove(&mut self, ordinal: u64) -> bool {
        // Most leave from the front.
        let at = match self.places.front() {
            Some(first) if first.0 == ordinal => 0,
            _ => match self.places.binary_search_by_key(&ordinal, |place| place.0) {
                Ok(at) => at,
                Err(_) => return false,
            },
        };
        if self.places[at].1.take().is_none() {
            return false;
        }
        self.len -= 1;
        while self.places.front().is_some_and(|place| place.1.is_none()) {
            self.places.pop_front();
        }
        while self.places.back().is_some_and(|place| place.1.is_none()) {
            self.places.pop_back();
        }
        if self.places.len() > 2 * self.len + GAPS_LEAST {
            self.places.retain(|place| place.1.is_some());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map_by_ordinal(moves in prop::collection::vec((any::<bool>(), 0u64..40), 0..200)) {
            let (mut fifo, mut model) = (Fifo::default(), BTreeMap::new());
            for (insert, ordinal) in moves {
                if insert {
                    fifo.insert(ordinal, TaskId(ordinal.into()));
                    model.insert(ordinal, TaskId(ordinal.into()));
                } else {
                    prop_assert_eq!(fifo.remove(ordinal), model.remove(&ordinal).is_some());
                }
                prop_assert!(fifo.iter().eq(model.iter().map(|(&o, &t)| (o, t))));
                prop_assert_eq!((fifo.len(), fifo.front()), (model.len(), model.iter().next().map(|(&o, &t)| (o, t))));
            }
        }
    }

    #[test]
    fn gaps_do_not_pile_up() {
        let mut fifo = Fifo::default();
        (0..100_000).for_each(|n| fifo.insert(n, TaskId(n.into())));
        (1..99_999).for_each(|n| assert!(fifo.remove(n)));
        assert_eq!(fifo.len(), 2);
        assert!(fifo.places.len() <= 2 * 2 + GAPS_LEAST, "{} places", fifo.places.len());
    }
}
