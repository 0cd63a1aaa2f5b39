//! What happens where a queue is full: whether there is a place, and who gives way for a newcomer.
//!
//! Pure, over counts. A model has `interactive_max + batch_max` places. Under `reject` each class keeps
//! to its own. Under the other policies batch work keeps to its own and interactive work may take any:
//! a free one, or one that is given up for it. So interactive work never gives way to batch work.

use orchestrion_world::config::{OverloadPolicy, QueueRules};
use orchestrion_world::protocol::Class;

/// How many wait, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) interactive: u64,
    pub(crate) batch: u64,
}

/// Which of the tasks that wait gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Its client has most likely given up.
    WaitedLongest,
    /// It loses the least.
    CameLast,
}

impl Waiting {
    /// How many of them go before a newcomer of `class`.
    pub(crate) fn ahead(self, class: Class) -> u64 {
        match class {
            Class::Interactive => self.interactive,
            Class::Batch => self.interactive + self.batch,
        }
    }
}

/// Places that a class finds where nobody waits.
pub fn places(rules: &QueueRules, class: Class) -> u32 {
    let QueueRules { interactive_max, batch_max, policy, .. } = *rules;
    match (class, policy) {
        (Class::Interactive, OverloadPolicy::Reject) => interactive_max,
        (Class::Interactive, OverloadPolicy::DropLru | OverloadPolicy::ShedLowPriority) => {
            interactive_max.saturating_add(batch_max)
        }
        (Class::Batch, _) => batch_max,
    }
}

/// The bound that leaves no place for a newcomer; none where there is a place.
pub(crate) fn full(rules: &QueueRules, class: Class, waiting: Waiting) -> Option<u32> {
    let (places, all) = (|class| places(rules, class), waiting.interactive + waiting.batch);
    let (own, shared) = match (class, rules.policy) {
        (Class::Interactive, OverloadPolicy::Reject) => ((places(class), waiting.interactive), None),
        (Class::Batch, OverloadPolicy::Reject) => ((places(class), waiting.batch), None),
        (Class::Interactive, OverloadPolicy::DropLru | OverloadPolicy::ShedLowPriority) => ((places(class), all), None),
        (Class::Batch, OverloadPolicy::DropLru | OverloadPolicy::ShedLowPriority) => {
            ((places(class), waiting.batch), Some((places(Class::Interactive), all)))
        }
    };
    let met = |&(bound, waiting): &(u32, u64)| waiting >= u64::from(bound);
    [Some(own), shared].into_iter().flatten().find(met).map(|(bound, _)| bound)
}

/// Who gives way to a newcomer of `class`: the first that there is.
pub(crate) fn gives_way(policy: OverloadPolicy, class: Class) -> &'static [(Class, Which)] {
    match (policy, class) {
        (OverloadPolicy::Reject, _) | (OverloadPolicy::ShedLowPriority, Class::Batch) => &[],
        (OverloadPolicy::DropLru, Class::Interactive) => {
            &[(Class::Batch, Which::WaitedLongest), (Class::Interactive, Which::WaitedLongest)]
        }
        (OverloadPolicy::DropLru, Class::Batch) => &[(Class::Batch, Which::WaitedLongest)],
        (OverloadPolicy::ShedLowPriority, Class::Interactive) => &[(Class::Batch, Which::CameLast)],
    }
}

/// The policy that a refusal is told under. Interactive work is no low priority: where no batch work is
/// left to shed, it is refused as under `reject`.
pub(crate) fn refuses_by(policy: OverloadPolicy, class: Class) -> OverloadPolicy {
    match (policy, class) {
        (OverloadPolicy::ShedLowPriority, Class::Interactive) => OverloadPolicy::Reject,
        (policy, _) => policy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_world::config::Rules;

    fn bound(policy: OverloadPolicy, class: Class, interactive: u64, batch: u64) -> Option<u32> {
        full(
            &QueueRules { interactive_max: 4, batch_max: 2, policy, ..Rules::default().queue },
            class,
            Waiting { interactive, batch },
        )
    }

    #[test]
    fn under_reject_each_class_keeps_to_its_own() {
        use Class::*;
        let full = |class, interactive, batch| bound(OverloadPolicy::Reject, class, interactive, batch);
        assert_eq!([full(Interactive, 3, 9), full(Interactive, 4, 0)], [None, Some(4)]);
        assert_eq!([full(Batch, 9, 1), full(Batch, 0, 2)], [None, Some(2)]);
    }

    #[test]
    fn interactive_work_may_take_every_place_and_batch_work_its_own() {
        use Class::*;
        for policy in [OverloadPolicy::DropLru, OverloadPolicy::ShedLowPriority] {
            let full = |class, interactive, batch| bound(policy, class, interactive, batch);
            assert_eq!(
                [full(Interactive, 4, 1), full(Interactive, 4, 2), full(Interactive, 6, 0)],
                [None, Some(6), Some(6)]
            );
            assert_eq!([full(Batch, 4, 1), full(Batch, 0, 2), full(Batch, 5, 1)], [None, Some(2), Some(6)]);
        }
    }

    #[test]
    fn nobody_interactive_gives_way_to_batch_work() {
        for policy in OverloadPolicy::ALL {
            let ways = gives_way(policy, Class::Batch);
            assert!(ways.iter().all(|(class, _)| *class == Class::Batch), "{policy:?}");
            // Batch work goes first, where it goes at all.
            assert!(gives_way(policy, Class::Interactive).iter().rev().is_sorted_by_key(|(class, _)| *class));
        }
    }
}
