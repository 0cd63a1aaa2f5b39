//! Keys and values of all sequences of a model, in f16.
//!
//! Memory comes in pages of 32 positions, for all layers at once; a sequence's table names its pages in the
//! order of their positions, so that sequences with a common beginning can name the same ones. Eight pages
//! are a split of the attention, one is a segment of its values. In a page keys of 16 positions are
//! interleaved (`[position / 16][dim][position mod 16]`), so that a register's lane is a position; values lie
//! `[position][dim]`, so that a lane is a dim. No score and no value is then summed across lanes.
//!
//! What a page held before is not wiped: no attention lets through what its sequence has not written.
//! Who holds which page, and how many there may be, is `pages`'s; what the numbers mean is
//! `numerics::attention`'s.

mod pages;

pub(crate) use pages::{Block, Pages, pages_of};

use crate::numerics::attention::{Cache, SEGMENT, SPLIT};
use crate::numerics::from_f16;

/// Positions whose keys are interleaved.
pub(crate) const LANE_POSITIONS: usize = 16;
/// Positions in a page: a segment of the values, so that no sum spans two.
pub(crate) const PAGE: usize = SEGMENT;
// The core books contexts by the page and knows beginnings of prompts by it.
const _: () = assert!(PAGE == orchestrion_world::prefix::PAGE as usize);

/// The shape all sequences of a model share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl KvShape {
    /// Bytes of one position: keys and values of all layers.
    pub(crate) fn bytes_per_token(self) -> u64 {
        (self.layers * self.heads * self.head_dim * 2 * size_of::<u16>()) as u64
    }

    /// Halves of one page's keys (or values) of one head.
    fn plane(self) -> usize {
        PAGE * self.head_dim
    }
}

/// A page of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageId(u32);

/// The memory of all pages made so far.
#[derive(Debug)]
pub(crate) struct Store {
    shape: KvShape,
    pages: Vec<Box<[u16]>>,
}

impl Store {
    fn new(shape: KvShape) -> Store {
        Store { shape, pages: Vec::new() }
    }

    /// One more page: zeroed memory that the system fills in when it is touched.
    fn make(&mut self) -> PageId {
        self.pages.push(self.blank());
        PageId(self.pages.len() as u32 - 1)
    }

    fn blank(&self) -> Box<[u16]> {
        vec![0; self.shape.layers * self.shape.heads * 2 * self.shape.plane()].into_boxed_slice()
    }

    /// Gives its memory back, wiped, until it is remade.
    fn empty(&mut self, page: PageId) {
        wipe(&mut self.pages[page.0 as usize]);
        self.pages[page.0 as usize] = Box::default();
    }

    fn remake(&mut self, page: PageId) {
        self.pages[page.0 as usize] = self.blank();
    }

    fn copy(&mut self, from: PageId, to: PageId) {
        let (from, to) = (from.0 as usize, to.0 as usize);
        if let Ok([from, to]) = self.pages.get_disjoint_mut([from, to]) {
            to.copy_from_slice(from);
        }
    }

    /// As a page may be found: full of what is no number.
    #[cfg(test)]
    pub(crate) fn poison(&mut self, page: PageId) {
        self.pages[page.0 as usize].fill(0x7e00);
    }
}

/// What sequences said is nobody's who has the memory next.
impl Drop for Store {
    fn drop(&mut self) {
        self.pages.iter_mut().for_each(|page| wipe(page));
    }
}

fn wipe(page: &mut [u16]) {
    page.fill(0);
    // Somebody might read it: a compiler that thinks otherwise would leave it as it is.
    std::hint::black_box(page);
}

/// What a pass reads and writes: the store, and the tables of its sequences.
#[derive(Debug)]
pub(crate) struct Kvs<'a> {
    pub(crate) store: &'a mut Store,
    pub(crate) tables: Vec<&'a [PageId]>,
}

impl Kvs<'_> {
    /// Writes keys and values of all heads at a position that the sequence's table has a page for.
    pub(crate) fn write(&mut self, sequence: usize, layer: usize, position: usize, keys: &[u16], values: &[u16]) {
        let shape = self.store.shape;
        let (KvShape { heads, head_dim, .. }, plane) = (shape, shape.plane());
        let within = position % PAGE;
        let page = &mut self.store.pages[self.tables[sequence][position / PAGE].0 as usize];
        for head in 0..heads {
            let at = (layer * heads + head) * 2 * plane;
            let (k, v) = page[at..at + 2 * plane].split_at_mut(plane);
            let lanes = &mut k[within / LANE_POSITIONS * LANE_POSITIONS * head_dim..];
            for (d, key) in keys[head * head_dim..][..head_dim].iter().enumerate() {
                lanes[d * LANE_POSITIONS + within % LANE_POSITIONS] = *key;
            }
            v[within * head_dim..][..head_dim].copy_from_slice(&values[head * head_dim..][..head_dim]);
        }
    }

    pub(crate) fn head(&self, sequence: usize, layer: usize, head: usize) -> Head<'_> {
        let at = (layer * self.store.shape.heads + head) * 2 * self.store.shape.plane();
        Head { store: self.store, table: self.tables[sequence], at }
    }
}

/// One head of one layer of one sequence, to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    store: &'a Store,
    table: &'a [PageId],
    at: usize,
}

impl<'a> Head<'a> {
    pub(crate) fn dim(self) -> usize {
        self.store.shape.head_dim
    }

    /// A split of the attention.
    pub(crate) fn split(self, at: usize) -> Split<'a> {
        Split { head: self, first: at * SPLIT }
    }

    /// Keys of the 16 positions from `16 · group` on: `[dim][16]`.
    #[inline(always)]
    fn keys(self, group: usize) -> &'a [u16] {
        const GROUPS: usize = PAGE / LANE_POSITIONS;
        let halves = LANE_POSITIONS * self.dim();
        &self.page(group / GROUPS)[self.at + group % GROUPS * halves..][..halves]
    }

    /// Values of the 32 positions from `32 · segment` on: `[position][dim]`.
    #[inline(always)]
    fn values(self, segment: usize) -> &'a [u16] {
        let plane = self.store.shape.plane();
        &self.page(segment)[self.at + plane..][..plane]
    }

    #[inline(always)]
    fn page(self, at: usize) -> &'a [u16] {
        &self.store.pages[self.table[at].0 as usize]
    }
}

/// The 256 positions of one head from `first` on, which lie in eight pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split<'a> {
    head: Head<'a>,
    first: usize,
}

impl<'a> Split<'a> {
    /// Keys of the split's positions from `16 · group` on: `[dim][16]`.
    #[inline(always)]
    pub(crate) fn keys(self, group: usize) -> &'a [u16] {
        self.head.keys(self.first / LANE_POSITIONS + group)
    }

    /// Values of the page that holds the split's position: `[position][dim]`, from the page's first on.
    #[inline(always)]
    pub(crate) fn values(self, position: usize) -> &'a [u16] {
        self.head.values((self.first + position) / PAGE)
    }
}

impl Cache for Head<'_> {
    fn key(&self, position: usize, dim: usize) -> f32 {
        from_f16(self.keys(position / LANE_POSITIONS)[dim * LANE_POSITIONS + position % LANE_POSITIONS])
    }

    fn value(&self, position: usize, dim: usize) -> f32 {
        from_f16(self.values(position / PAGE)[position % PAGE * self.dim() + dim])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_touched() {
        let shape = KvShape { layers: 2, heads: 3, head_dim: 8 };
        let mut pages = Pages::new(shape);
        let mut tables = [Vec::new(), Vec::new()];
        // Pages of the two lie among each other.
        (0..10).for_each(|_| tables.iter_mut().for_each(|table| table.push(pages.take().unwrap())));
        let code = |layer: usize, position: usize, head: usize, dim: usize, value: bool| {
            // Exact in f16: integers below 2048.
            ((layer * 1009 + position * 31 + head * 7 + dim * 3 + usize::from(value)) % 2048) as f32
        };
        let tables = tables.iter().map(Vec::as_slice).collect();
        let mut kvs = Kvs { store: pages.store_mut(), tables };
        for layer in 0..2 {
            for position in 0..300 {
                for sequence in 0..2 {
                    let row = |value| -> Vec<u16> {
                        let code = |i: usize| code(layer, position + sequence * 77, i / 8, i % 8, value);
                        (0..24).map(|i| crate::numerics::to_f16(code(i))).collect()
                    };
                    kvs.write(sequence, layer, position, &row(false), &row(true));
                }
            }
        }
        for (sequence, layer, head) in [(0, 0, 0), (1, 0, 2), (0, 1, 1), (1, 1, 2)] {
            let view = kvs.head(sequence, layer, head);
            for (position, dim) in (0..300).flat_map(|position| (0..8).map(move |dim| (position, dim))) {
                let code = |value| code(layer, position + sequence * 77, head, dim, value);
                assert_eq!(view.key(position, dim).to_bits(), code(false).to_bits());
                assert_eq!(view.value(position, dim).to_bits(), code(true).to_bits());
            }
        }
        assert_eq!(shape.bytes_per_token(), 2 * 3 * 8 * 4);
    }
}
