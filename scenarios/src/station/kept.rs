//! What a simulated station keeps of prompts that it has read, so that the next one that begins alike is not read
//! from its first token. Real stations keep whole pages (`gpu/src/kv/pages.rs`), here they are kept by the doubling
//! lengths that the scheduler knows them by. What running contexts need goes, the longest unused first.

use orchestrion_world::id::ModelId;
use orchestrion_world::prefix::{PAGE, PrefixId, length};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    known: BTreeMap<PrefixId, Beginning>,
    /// By when it was used, the longer ones of one prompt first: none is of use without those before it.
    by_age: BTreeSet<(u64, Reverse<u8>, PrefixId)>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Beginning {
    used: u64,
    place: u8,
    /// Of context memory, beyond what the next shorter one takes.
    bytes: u64,
}

impl Kept {
    /// Tokens that are known of a prompt that begins so.
    pub(super) fn known(&self, beginnings: &[PrefixId]) -> u32 {
        let longest = beginnings.iter().rposition(|id| self.known.contains_key(id));
        longest.map_or(0, length)
    }

    /// A prompt that begins so was read or looked up, in pages of so many bytes.
    pub(super) fn keep(&mut self, now: u64, beginnings: &[PrefixId], page: u64) {
        for (place, id) in beginnings.iter().enumerate() {
            self.forget(*id);
            let pages = (length(place) - if place > 0 { length(place - 1) } else { 0 }) / PAGE;
            let beginning = Beginning { used: now, place: place as u8, bytes: u64::from(pages) * page };
            self.known.insert(*id, beginning);
            self.by_age.insert((now, Reverse(beginning.place), *id));
            self.bytes += beginning.bytes;
        }
    }

    /// No more memory than this is left for it.
    pub(super) fn shrink(&mut self, bytes: u64) {
        while self.bytes > bytes
            && let Some(&(.., id)) = self.by_age.first()
        {
            self.forget(id);
        }
    }

    /// A model is gone.
    pub(super) fn lose(&mut self, model: ModelId) {
        let of_it: Vec<PrefixId> = self.known.keys().filter(|id| id.model == model).copied().collect();
        of_it.into_iter().for_each(|id| self.forget(id));
    }

    fn forget(&mut self, id: PrefixId) {
        if let Some(Beginning { used, place, bytes }) = self.known.remove(&id) {
            self.by_age.remove(&(used, Reverse(place), id));
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_world::id::TenantId;
    use orchestrion_world::prefix::PrefixKey;

    #[test]
    fn the_longest_that_is_known_counts_and_what_was_not_used_goes_first() {
        let of = |name: u64, model| -> Vec<PrefixId> {
            let id =
                |place| PrefixId { model: ModelId(model), tenant: TenantId(0), prefix: PrefixKey(name * 100 + place) };
            (0..3).map(id).collect()
        };
        let (a, b, other) = (of(1, 0), of(2, 0), of(3, 1));
        let mut kept = Kept::default();
        assert_eq!(kept.known(&a), 0);
        kept.keep(1, &a, 10);
        kept.keep(2, &b[..2], 10);
        kept.keep(3, &other, 10);
        assert_eq!((kept.known(&a), kept.known(&b), kept.bytes), (128, 64, 100));
        kept.shrink(80);
        assert_eq!([kept.known(&a), kept.known(&b)], [64, 64], "its longest part first");
        kept.keep(4, &a[..2], 10);
        kept.shrink(40);
        assert_eq!([kept.known(&a), kept.known(&b), kept.known(&other)], [64, 0, 64]);
        kept.lose(ModelId(1));
        assert_eq!((kept.known(&other), kept.bytes), (0, 20));
    }
}
