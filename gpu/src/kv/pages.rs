//! Who holds which page: the engine's pages have a bound, and each is held by the sequences whose tables name
//! it, or is known, or is free.
//!
//! A known page holds a whole block of tokens that follows another block, or the beginning: a digest over
//! both says which. A page that is known is not written. One that nobody holds is kept for the next prompt that
//! begins alike, until its memory is needed: then the one that was let go longest ago is forgotten first.
//!
//! Counts and names pages; reads no token and no number in them.

use super::{KvShape, PAGE, PageId, Store};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A block of tokens and everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block([u8; 32]);

impl Block {
    /// The beginning of all sequences that may share.
    pub(crate) fn root(salt: u64) -> Block {
        Block(Sha256::digest(salt.to_le_bytes()).into())
    }

    /// The block that follows with these tokens.
    pub(crate) fn then(self, tokens: &[u32]) -> Block {
        let mut hash = Sha256::new_with_prefix(self.0);
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        Block(hash.finalize().into())
    }
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// Tables that name it.
    holders: u32,
    known: Option<Block>,
    /// While nobody holds it: when it was let go.
    idle: Option<u64>,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Pages {
    store: Store,
    bound: usize,
    /// Pages that may take memory as it is shared now.
    room: usize,
    pages: Vec<Page>,
    free: Vec<PageId>,
    /// Without memory.
    bare: Vec<PageId>,
    held: usize,
    known: BTreeMap<Block, PageId>,
    idle: BTreeMap<u64, PageId>,
    /// How often a known page was let go.
    clock: u64,
}

impl Pages {
    pub(crate) fn new(shape: KvShape) -> Pages {
        let (pages, free, bare) = (Vec::new(), Vec::new(), Vec::new());
        let (known, idle) = (BTreeMap::new(), BTreeMap::new());
        // As many as a page's name can tell apart.
        let bound = u32::MAX as usize;
        Pages { store: Store::new(shape), bound, room: bound, pages, free, bare, held: 0, known, idle, clock: 0 }
    }

    /// From here on no more pages than these are made.
    pub(crate) fn limit(&mut self, pages: usize) {
        self.bound = pages.min(u32::MAX as usize);
    }

    /// Until it is said again, no more than these take memory: what is kept for later prompts makes way.
    pub(crate) fn make_do(&mut self, pages: usize) {
        self.room = pages;
    }

    pub(crate) fn bound(&self) -> usize {
        self.bound
    }

    /// Pages that some table names.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Pages that nobody holds and that are kept for prompts that begin alike.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Pages that can be taken. Those that have memory need no room.
    pub(crate) fn available(&self) -> usize {
        self.bound.min(self.room.max(self.made())).saturating_sub(self.held)
    }

    pub(crate) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// A page to write to: an empty one, a new one, or the one that was let go longest ago.
    pub(crate) fn take(&mut self) -> Option<PageId> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.made() < self.bound.min(self.room) => self.make(),
            None => self.forget()?,
        };
        self.held += 1;
        self.pages[page.0 as usize].holders = 1;
        Some(page)
    }

    fn make(&mut self) -> PageId {
        if let Some(page) = self.bare.pop() {
            self.store.remake(page);
            return page;
        }
        self.pages.push(Page::default());
        self.store.make()
    }

    /// Pages that take memory.
    pub(crate) fn made(&self) -> usize {
        self.pages.len() - self.bare.len()
    }

    /// Gives the memory of up to so many pages back that nobody holds; what is known goes last, the longest let go
    /// first.
    pub(crate) fn give_back(&mut self, pages: usize) {
        for _ in 0..pages {
            let Some(page) = self.free.pop().or_else(|| self.forget()) else { return };
            self.store.empty(page);
            self.bare.push(page);
        }
    }

    fn forget(&mut self) -> Option<PageId> {
        let (_, page) = self.idle.pop_first()?;
        let forgotten = std::mem::take(&mut self.pages[page.0 as usize]);
        forgotten.known.and_then(|block| self.known.remove(&block));
        Some(page)
    }

    /// One more table names the page.
    fn hold(&mut self, page: PageId) {
        let of = &mut self.pages[page.0 as usize];
        of.holders += 1;
        if let Some(since) = of.idle.take() {
            self.idle.remove(&since);
            self.held += 1;
        }
    }

    /// One table less names the page.
    pub(crate) fn let_go(&mut self, page: PageId) {
        let of = &mut self.pages[page.0 as usize];
        of.holders -= 1;
        if of.holders > 0 {
            return;
        }
        self.held -= 1;
        if of.known.is_none() {
            return self.free.push(page);
        }
        self.clock += 1;
        of.idle = Some(self.clock);
        self.idle.insert(self.clock, page);
    }

    /// A table's pages go. Of a sequence's blocks the last is forgotten first: none is of use without those
    /// before it.
    pub(crate) fn let_all_go(&mut self, table: &[PageId]) {
        table.iter().rev().for_each(|page| self.let_go(*page));
    }

    /// The page of a block, held from here on.
    pub(crate) fn find(&mut self, block: Block) -> Option<PageId> {
        let page = *self.known.get(&block)?;
        self.hold(page);
        Some(page)
    }

    /// The held page is full and holds this block. Gives the one page that does so from here on, held instead of it:
    /// where two sequences made the same block, its bits are the same.
    pub(crate) fn learn(&mut self, page: PageId, block: Block) -> PageId {
        if self.pages[page.0 as usize].known.is_some() {
            return page;
        }
        if let Some(same) = self.find(block) {
            self.let_go(page);
            return same;
        }
        self.known.insert(block, page);
        self.pages[page.0 as usize].known = Some(block);
        page
    }

    /// Whether one table alone names the held page.
    pub(crate) fn is_own(&self, page: PageId) -> bool {
        self.pages[page.0 as usize].holders == 1
    }

    /// A page to be written in the place of a held one: itself, no longer known, or a copy where others read it.
    pub(crate) fn own(&mut self, page: PageId) -> Option<PageId> {
        if self.is_own(page) {
            self.pages[page.0 as usize].known.take().and_then(|block| self.known.remove(&block));
            return Some(page);
        }
        let copy = self.take()?;
        self.store.copy(page, copy);
        self.let_go(page);
        Some(copy)
    }
}

/// Pages that so many positions take.
pub(crate) fn pages_of(positions: u32) -> usize {
    (positions as usize).div_ceil(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(bound: usize) -> Pages {
        let mut pool = Pages::new(KvShape { layers: 1, heads: 1, head_dim: 2 });
        pool.limit(bound);
        pool
    }

    #[test]
    fn what_is_known_stays_until_its_memory_is_needed() {
        let mut pool = pool(3);
        let block = |n| Block::root(7).then(&[n]);
        let pages: Vec<PageId> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert_eq!((pool.take(), pool.available()), (None, 0));
        for (n, page) in (0..).zip(&pages) {
            assert_eq!(pool.learn(*page, block(n)), *page);
        }
        pool.let_all_go(&pages);
        assert_eq!((pool.held(), pool.idle(), pool.available()), (0, 3, 3));
        // The last of the three goes first.
        let taken = pool.take().unwrap();
        assert_eq!((pool.find(block(2)), pool.find(block(0))), (None, Some(pages[0])));
        assert_eq!((pool.held(), pool.idle()), (2, 1));
        // The same block again is the same page.
        assert_eq!(pool.learn(taken, block(0)), pages[0]);
        assert_eq!((pool.held(), pool.idle(), pool.available()), (1, 1, 2));
        // Two tables name it: who writes gets a copy. Then one does, which writes to it, and it is known no more.
        let copy = pool.own(pages[0]).unwrap();
        assert!(copy != pages[0] && pool.is_own(copy) && pool.is_own(pages[0]));
        assert_eq!((pool.own(pages[0]), pool.find(block(0))), (Some(pages[0]), None));
    }

    #[test]
    fn where_there_is_no_room_for_a_new_page_one_that_is_kept_makes_way() {
        let mut pool = pool(8);
        let pages = [0; 2].map(|_| pool.take().unwrap());
        assert_eq!(pool.learn(pages[0], Block::root(7)), pages[0]);
        pool.let_go(pages[0]);
        assert_eq!(pool.available(), 7);
        pool.make_do(2);
        assert_eq!(pool.available(), 1);
        assert_eq!((pool.take(), pool.idle(), pool.made()), (Some(pages[0]), 0, 2));
        assert_eq!((pool.available(), pool.take()), (0, None));
        pool.make_do(3);
        assert_eq!(pool.available(), 1);
        assert!(pool.take().is_some() && pool.made() == 3);
    }

    #[test]
    fn blocks_tell_apart_who_shares_what_stands_before_and_what_is_in_them() {
        let blocks = [
            Block::root(1).then(&[1, 2]),
            Block::root(2).then(&[1, 2]),
            Block::root(1).then(&[2, 1]),
            Block::root(1).then(&[1]).then(&[2]),
        ];
        assert_eq!(blocks.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }

    proptest! {
        /// Whatever is done, every page is held, idle or free, no two tables have one to write, and what is said to be
        /// available can be taken.
        #[test]
        fn pages_add_up(acts in prop::collection::vec((0u8..8, 0usize..4, 0u32..6), 1..200)) {
            let mut pool = pool(8);
            let mut tables = vec![Vec::<PageId>::new(); 4];
            for (act, of, n) in acts {
                let block = Block::root(0).then(&[n]);
                match act {
                    0 | 1 => {
                        let (there, taken) = (pool.available(), pool.take());
                        prop_assert_eq!(taken.is_some(), there > 0);
                        tables[of].extend(taken);
                    }
                    2 => tables[of].extend(pool.find(block)),
                    3 => {
                        if let Some(last) = tables[of].last_mut() {
                            *last = pool.learn(*last, block);
                        }
                    }
                    4 => {
                        if let Some(last) = tables[of].last_mut() {
                            *last = pool.own(*last).unwrap_or(*last);
                        }
                    }
                    5 => pool.give_back(of),
                    6 => pool.make_do(pool.made() + n as usize),
                    _ => pool.let_all_go(&std::mem::take(&mut tables[of])),
                }
                let named: std::collections::BTreeSet<PageId> = tables.iter().flatten().copied().collect();
                prop_assert_eq!(named.len(), pool.held());
                prop_assert_eq!(pool.held() + pool.idle() + pool.free.len(), pool.made());
                let with_memory = pool.store.pages.iter().filter(|page| !page.is_empty()).count();
                prop_assert!(with_memory == pool.made() && pool.made() <= 8 && pool.available() <= 8 - pool.held());
                for page in &named {
                    let holders = tables.iter().flatten().filter(|p| *p == page).count();
                    prop_assert_eq!(pool.is_own(*page), holders == 1);
                }
            }
        }
    }
}
