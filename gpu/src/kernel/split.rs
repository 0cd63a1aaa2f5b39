//! An output head in two halves of its codes, so that its best logit is found by reading one of them.
//!
//! Of Q8_0 only: n + 128 = 16·high + low. The upper halves of all rows stand together, then the lower ones, each as
//! `packed` has codes of four bits; with a block's scale stands how much its lower half can come to.
//!
//! A logit is L = Σ dx·d·(n·q) over its blocks. With n = 16·high − 120.5 + e, where e = low − 7.5, and
//! C = Σ dx·d·(16·(high·q) − 120.5·Σq), it is L = C + Σ dx·d·(e·q), so that by Cauchy and Schwarz
//! |L − C| ≤ R = Σ dx·|d|·‖e‖·‖q‖. That holds for the numbers as they are; what the canonical sum and those of C round
//! is below m·2⁻²⁴·Σ dx·|d|·(‖n‖ + 2·‖n − e‖)·‖q‖ with m = blocks + 12 roundings on the way of a term. ‖n‖ and ‖n − e‖
//! are below 725, so with `MOST` blocks that is as if each ‖e‖ were longer by 0.07, and so it is stored (`SLACK`). What R
//! itself rounds, `reach` makes up for. Products below the normal numbers are off by less than 2⁻¹⁴⁰ each: `TINY`.

use super::arena::Stretch;
use super::matrix::{GROUP, Packing};
use super::packed::{Lane, Line, THREAD_BYTES, put, take};
use crate::gguf::TensorKind;
use crate::numerics::block::Block;
use crate::numerics::from_f16;
use crate::numerics::linear::{self, BLOCK, Rounded};
use crate::seal;

/// Lines of a half of a block.
pub(super) const LINES: usize = 4;
/// Blocks of a row for which the bound is proven.
const MOST: usize = 512;
/// Steps of ‖e‖, which is at most 7.5·√32 = 42.43, in a byte.
const STEPS: f32 = 6.0;
/// See the module's description.
const SLACK: f32 = 0.07;
/// More than all products below the normal numbers can come to; less than what two neighbouring numbers of which it
/// takes nothing off are apart.
pub(super) const TINY: f32 = 1e-30;
/// Scales of activations up to which no sum overflows: times 2¹⁶·2¹¹·2¹⁰, of `MOST` blocks, below 2¹²⁸.
const LOUD: f32 = 1e24;

/// d of each row, and ‖e‖ in steps, rounded up.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Scale {
    pub(super) d: Lane,
    pub(super) rest: [u8; GROUP],
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Split {
    groups: usize,
    codes: Stretch<Line>,
    scales: Stretch<Scale>,
}

/// A row of activations as the search reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(super) blocks: &'a [Rounded],
    /// Of each block, what a step of ‖e‖ is multiplied with.
    pub(super) reach: &'a [f32],
}

/// Of the rows of a group: the largest C, and what no logit is above but by `TINY`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Peak {
    pub(crate) centre: f32,
    pub(crate) upper: f32,
}

impl Split {
    /// Whether heads of this kind and width are split.
    pub(super) fn takes(kind: TensorKind, cols: usize) -> bool {
        kind == TensorKind::Q8_0 && cols / BLOCK <= MOST
    }

    /// Takes rows of `cols` elements as GGUF stores Q8_0.
    pub(super) fn new(packing: &mut Packing, rows: usize, cols: usize, bytes: &[u8]) -> Split {
        let (stored, blocks, groups) = (linear::row_bytes(TensorKind::Q8_0, cols), cols / BLOCK, rows.div_ceil(GROUP));
        let mut codes = packing.arena.take::<Line>(2 * groups * blocks * LINES);
        let mut scales = packing.arena.take::<Scale>(groups * blocks);
        let per = groups.div_ceil(packing.threads);
        let (high, low) = codes.split_at_mut(groups * blocks * LINES);
        let lines = high.chunks_mut(per * blocks * LINES).zip(low.chunks_mut(per * blocks * LINES));
        let parts = lines.zip(scales.chunks_mut(per * blocks));
        std::thread::scope(|scope| {
            for (((high, low), scales), bytes) in parts.zip(bytes.chunks(per * GROUP * stored)) {
                let mut pack = move || {
                    let lines = high.chunks_mut(blocks * LINES).zip(low.chunks_mut(blocks * LINES));
                    let outs = lines.zip(scales.chunks_mut(blocks));
                    for (rows, ((high, low), scales)) in bytes.chunks(GROUP * stored).zip(outs) {
                        pack_group(rows, stored, high, low, scales);
                    }
                };
                if per < groups && bytes.len() >= THREAD_BYTES { drop(scope.spawn(pack)) } else { pack() }
            }
        });
        Split { groups, codes, scales }
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.codes) + size_of_val(&*self.scales)
    }

    /// Its bytes as they lie in memory.
    pub(super) fn stretches(&self) -> [&[u8]; 2] {
        [seal::of(&self.codes), seal::of(&self.scales)]
    }

    pub(super) fn stretches_mut(&mut self) -> [&mut [u8]; 2] {
        [seal::of_mut(&mut self.codes), seal::of_mut(&mut self.scales)]
    }

    /// Bytes read to look at all groups.
    pub(super) fn read_to_look(&self) -> u64 {
        (size_of_val(&*self.codes) / 2 + size_of_val(&*self.scales)) as u64
    }

    /// Bytes read to compute so many groups.
    pub(super) fn read_to_compute(&self, groups: usize) -> u64 {
        (self.bytes() / self.groups * groups) as u64
    }

    /// The upper halves of a group's blocks, and the lower ones.
    pub(super) fn codes(&self, group: usize) -> [&[[Line; LINES]]; 2] {
        let lines = self.codes.len() / 2 / self.groups;
        [group, self.groups + group].map(|at| self.codes[at * lines..][..lines].as_chunks().0)
    }

    pub(super) fn scales(&self, group: usize) -> &[Scale] {
        let blocks = self.scales.len() / self.groups;
        &self.scales[group * blocks..][..blocks]
    }

    /// Row `r` of a group as f32.
    pub(super) fn row(&self, group: usize, r: usize, out: &mut [f32]) {
        let [high, low] = self.codes(group);
        let blocks = high.iter().zip(low).zip(self.scales(group));
        for (((high, low), scale), out) in blocks.zip(out.as_chunks_mut().0) {
            let [high, low] = [high, low].map(|lines| take(lines.as_chunks().0, r));
            let n = std::array::from_fn(|i| (high[i] << 4 | low[i]) as i8 ^ i8::MIN);
            Block { n, d: from_f16(scale.d[r]), scale: [1; 2], m: 0.0, min: [0; 2] }.dequantize(out);
        }
    }
}

fn pack_group(rows: &[u8], stored: usize, high: &mut [Line], low: &mut [Line], scales: &mut [Scale]) {
    let lines = high.as_chunks_mut::<LINES>().0.iter_mut().zip(low.as_chunks_mut::<LINES>().0);
    for (b, ((high, low), scale)) in lines.zip(scales).enumerate() {
        let mut squares = [0; GROUP];
        for (r, row) in rows.chunks_exact(stored).enumerate() {
            let block = row[b * (2 + BLOCK)..].first_chunk::<{ 2 + BLOCK }>().unwrap_or(&[0; 2 + BLOCK]);
            let codes: [u8; BLOCK] = std::array::from_fn(|i| block[2 + i] ^ 0x80);
            scale.d[r] = u16::from_le_bytes([block[0], block[1]]);
            put(LINES, high, r, codes.map(|code| code >> 4));
            put(LINES, low, r, codes.map(|code| code & 15));
            // (2·e)², exactly.
            squares[r] = codes.iter().map(|code| (2 * i32::from(code & 15) - 15).pow(2)).sum();
        }
        scale.rest = squares.map(|squares: i32| (((squares as f32).sqrt() / 2.0 + SLACK) * STEPS).ceil() as u8);
    }
}

/// Of each block dx·‖q‖ for a step of ‖e‖, and a thousandth more than that, which is more than sums of `MOST` products
/// round; `None` where sums might overflow.
pub(super) fn reach(blocks: &[Rounded], out: &mut [f32]) -> Option<()> {
    for (block, out) in blocks.iter().zip(out) {
        let squares: i32 = block.q.iter().map(|q| i32::from(*q).pow(2)).sum();
        *out = block.d * (squares as f32).sqrt() * (1.001 / STEPS);
    }
    blocks.iter().all(|block| block.d < LOUD).then_some(())
}
