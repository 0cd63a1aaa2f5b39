//! Keys and values of one sequence, in f16.
//!
//! Memory comes in pages of 256 positions, one split of the attention, for all layers at once; a page is
//! zeroed memory the system fills in when it is touched. In a page keys of 16 positions are interleaved
//! (`[position / 16][dim][position mod 16]`), so that a register's lane is a position; values lie
//! `[position][dim]`, so that a lane is a dim. No score and no value is then summed across lanes.
//!
//! Knows its length and its bound; what the numbers mean is `numerics::attention`'s.

use crate::numerics::attention::{Cache, SPLIT};
use crate::numerics::from_f16;

/// Positions whose keys are interleaved.
pub(crate) const LANE_POSITIONS: usize = 16;

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
        SPLIT * self.head_dim
    }
}

/// One sequence's cache.
#[derive(Debug)]
pub(crate) struct Kv {
    shape: KvShape,
    pages: Vec<Box<[u16]>>,
}

impl Kv {
    pub(crate) fn new(shape: KvShape) -> Self {
        Kv { shape, pages: Vec::new() }
    }

    /// Makes room for positions below `count`.
    pub(crate) fn grow(&mut self, count: usize) {
        let page = self.shape.layers * self.shape.heads * 2 * self.shape.plane();
        while self.pages.len() * SPLIT < count {
            self.pages.push(vec![0; page].into_boxed_slice());
        }
    }

    /// Writes keys and values of all heads at a position within the room made.
    pub(crate) fn write(&mut self, layer: usize, position: usize, keys: &[u16], values: &[u16]) {
        let KvShape { heads, head_dim, .. } = self.shape;
        let plane = self.shape.plane();
        let within = position % SPLIT;
        let page = &mut self.pages[position / SPLIT];
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

    pub(crate) fn head(&self, layer: usize, head: usize) -> Head<'_> {
        Head { kv: self, at: (layer * self.shape.heads + head) * 2 * self.shape.plane() }
    }
}

/// One head of one layer, to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    kv: &'a Kv,
    at: usize,
}

impl<'a> Head<'a> {
    pub(crate) fn dim(self) -> usize {
        self.kv.shape.head_dim
    }

    /// Keys and values of a split: `[position / 16][dim][16]` and `[position][dim]`.
    pub(crate) fn split(self, split: usize) -> (&'a [u16], &'a [u16]) {
        let plane = self.kv.shape.plane();
        self.kv.pages[split][self.at..self.at + 2 * plane].split_at(plane)
    }
}

impl Cache for Head<'_> {
    fn key(&self, position: usize, dim: usize) -> f32 {
        let within = position % SPLIT;
        let group = within / LANE_POSITIONS * self.dim();
        from_f16(self.split(position / SPLIT).0[(group + dim) * LANE_POSITIONS + within % LANE_POSITIONS])
    }

    fn value(&self, position: usize, dim: usize) -> f32 {
        from_f16(self.split(position / SPLIT).1[position % SPLIT * self.dim() + dim])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_touched() {
        let shape = KvShape { layers: 2, heads: 3, head_dim: 8 };
        let mut kv = Kv::new(shape);
        kv.grow(300);
        let code = |layer: usize, position: usize, head: usize, dim: usize, value: bool| {
            // Exact in f16: integers below 2048.
            ((layer * 1009 + position * 31 + head * 7 + dim * 3 + usize::from(value)) % 2048) as f32
        };
        for layer in 0..2 {
            for position in 0..300 {
                let row = |value| -> Vec<u16> {
                    (0..24).map(|i| crate::numerics::to_f16(code(layer, position, i / 8, i % 8, value))).collect()
                };
                kv.write(layer, position, &row(false), &row(true));
            }
        }
        for (layer, head) in [(0, 0), (0, 2), (1, 1), (1, 2)] {
            let view = kv.head(layer, head);
            for position in 0..300 {
                for dim in 0..8 {
                    assert_eq!(view.key(position, dim).to_bits(), code(layer, position, head, dim, false).to_bits());
                    assert_eq!(view.value(position, dim).to_bits(), code(layer, position, head, dim, true).to_bits());
                }
            }
        }
        assert_eq!(shape.bytes_per_token(), 2 * 3 * 8 * 4);
    }
}
