//! Products at the AVX-512 VNNI level: unpacked blocks of weight rows, 16 side by side, times rows of activations.
//!
//! Few rows of activations take each group's blocks as they come from memory, unpacked in registers. Many rows take
//! two groups at a time, unpacked once into memory that stays near: what is loaded of the activations serves both, and
//! twice as many sums are on their way at once. The order of each sum is the definition's either way.
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::drive::Sums;
use super::matrix::GROUP;
use super::packed::{Line, Packed};
use super::vnni_load::{dword, store};
use crate::numerics::linear::{ActRow, Rounded, SEGMENT};
use std::arch::x86_64::*;
use std::borrow::Borrow;
use std::ops::Range;

/// Rows of activations up to which unpacking in registers is not dearer.
const FEW: usize = 64;

/// Of more, the rows at a time.
const WIDE: usize = 6;

/// Groups unpacked together for more.
const PAIR: usize = 2;

/// A block of a group: its codes, dword by dword, and what their sums are multiplied with. How many factors there
/// are says which: d; d, m; d and the scales of both halves; d, m, the scales and the minima of both halves.
#[derive(Clone, Copy)]
pub(super) struct Block<const FACTORS: usize> {
    pub(super) codes: [__m512i; 8],
    pub(super) factors: [__m512; FACTORS],
}

/// What is multiplied with what.
pub(super) struct All<'a> {
    pub(super) w: &'a Packed,
    /// Of a row.
    pub(super) blocks: usize,
    pub(super) groups: Range<usize>,
    pub(super) acts: &'a [ActRow<'a>],
}

/// All groups times all rows of activations; `of` unpacks the blocks of a group, whose codes have `offset` added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn sweep<const F: usize, B: Fn(usize) -> Block<F>>(
    All { w, blocks, mut groups, acts }: All<'_>,
    offset: u32,
    out: &mut Sums<'_>,
    of: impl Fn(usize) -> B,
) {
    let zero = Block { codes: [_mm512_setzero_si512(); 8], factors: [_mm512_setzero_ps(); F] };
    let mut near = Vec::new();
    while acts.len() > FEW && groups.len() >= PAIR {
        let tile = Tile { acts, blocks, first: groups.start, offset };
        groups.start += PAIR;
        near.resize(blocks, [zero; PAIR]);
        for g in 0..PAIR {
            let of = of(tile.first + g);
            for b in 0..blocks {
                near[b][g] = of(b);
            }
        }
        let near = |b: usize| &near[b];
        // What is unpacked next, a part with each tile: unpacking would wait for all of it at once.
        let next = w.lines(groups.start..groups.end.min(groups.start + PAIR));
        let ask = |i: usize| next.iter().for_each(|bytes| ask(bytes, i, acts.len() / WIDE));
        // The two sums of a block with halves need registers of their own.
        let done = if F < 3 { tile.each::<F, PAIR, WIDE, _>(0, out, near, ask) } else { 0 };
        let done = tile.each::<F, PAIR, 4, _>(done, out, near, ask);
        let done = tile.each::<F, PAIR, 2, _>(done, out, near, ask);
        tile.each::<F, PAIR, 1, _>(done, out, near, ask);
    }
    for first in groups {
        let tile = Tile { acts, blocks, first, offset };
        let of = of(first);
        let of = |b: usize| [of(b)];
        let done = tile.each::<F, 1, 8, _>(0, out, of, |_| {});
        let done = tile.each::<F, 1, 4, _>(done, out, of, |_| {});
        let done = tile.each::<F, 1, 3, _>(done, out, of, |_| {});
        let done = tile.each::<F, 1, 2, _>(done, out, of, |_| {});
        tile.each::<F, 1, 1, _>(done, out, of, |_| {});
    }
}

/// Groups from `first` on times all rows of activations.
struct Tile<'a> {
    acts: &'a [ActRow<'a>],
    blocks: usize,
    first: usize,
    offset: u32,
}

impl Tile<'_> {
    /// `G` groups times the rows from `done` on, as many as there are `T` at a time, of which each has a number; answers
    /// with the rows that are done then.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn each<const F: usize, const G: usize, const T: usize, W: Borrow<[Block<F>; G]>>(
        &self,
        done: usize,
        out: &mut Sums<'_>,
        of: impl Fn(usize) -> W,
        begin: impl Fn(usize),
    ) -> usize {
        let tiles = self.acts[done..].as_chunks::<T>().0;
        for (i, x) in tiles.iter().enumerate() {
            begin(done / T + i);
            let sums = run(x, self.blocks, |b, x| u(of(b).borrow(), x, self.offset));
            let mut lanes = [[[0.0; GROUP]; G]; T];
            for t in 0..T {
                for g in 0..G {
                    store(&mut lanes[t][g], sums[g][t]);
                }
            }
            out.put((done + i * T, self.first), &lanes);
        }
        done + tiles.len() * T
    }
}

/// The definition's order over all blocks; `u` is a block's value for each group and each row of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn run<const G: usize, const T: usize>(
    x: &[ActRow<'_>; T],
    blocks: usize,
    u: impl Fn(usize, [&Rounded; T]) -> [[__m512; T]; G],
) -> [[__m512; T]; G] {
    // Of a length the compiler knows to be the loop's, so that no index is checked there.
    let mut rows: [&[Rounded]; T] = [&[]; T];
    for t in 0..T {
        rows[t] = &x[t].blocks[..blocks];
    }
    let mut tot = [[_mm512_setzero_ps(); T]; G];
    for start in (0..blocks).step_by(SEGMENT) {
        let mut p = [[_mm512_setzero_ps(); T]; G];
        for b in start..blocks.min(start + SEGMENT) {
            let mut x = [&rows[0][b]; T];
            for t in 1..T {
                x[t] = &rows[t][b];
            }
            let u = u(b, x);
            for t in 0..T {
                let d = _mm512_set1_ps(x[t].d);
                for g in 0..G {
                    p[g][t] = _mm512_fmadd_ps(d, u[g][t], p[g][t]);
                }
            }
        }
        for g in 0..G {
            for t in 0..T {
                tot[g][t] = _mm512_add_ps(tot[g][t], p[g][t]);
            }
        }
    }
    tot
}

/// Asks for one of so many parts of `bytes`.
#[inline]
#[target_feature(enable = "avx512f")]
fn ask(bytes: &[u8], part: usize, parts: usize) {
    let lines = bytes.len().div_ceil(size_of::<Line>());
    let per_part = lines.div_ceil(parts);
    for line in part * per_part..lines.min((part + 1) * per_part) {
        _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().wrapping_add(line * size_of::<Line>()).cast());
    }
}

/// What a block of weights makes of a block of each row of activations, but for the latter's scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn u<const F: usize, const G: usize, const T: usize>(
    w: &[Block<F>; G],
    x: [&Rounded; T],
    offset: u32,
) -> [[__m512; T]; G] {
    let zero = [_mm512_setzero_si512(); T];
    let mut u = [[_mm512_setzero_ps(); T]; G];
    match F {
        // d·f.
        1 => {
            let f = dot::<F, G, T>(w, x, 0..8, starts(x, 0, offset));
            for g in 0..G {
                for t in 0..T {
                    u[g][t] = _mm512_mul_ps(w[g].factors[0], _mm512_cvtepi32_ps(f[g][t]));
                }
            }
        }
        // d·f + m·g.
        2 => {
            let f = dot::<F, G, T>(w, x, 0..8, zero);
            for t in 0..T {
                let sum = _mm512_set1_ps(x[t].g);
                for g in 0..G {
                    let [d, m] = [w[g].factors[0], w[g].factors[1]];
                    u[g][t] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(f[g][t]), _mm512_mul_ps(m, sum));
                }
            }
        }
        // d·(scale₀·f₀ + scale₁·f₁), where all but the product with d is exact.
        3 => {
            let below = dot::<F, G, T>(w, x, 0..4, starts(x, 1, offset));
            let above = dot::<F, G, T>(w, x, 4..8, starts(x, 2, offset));
            for g in 0..G {
                let [d, low, high] = [w[g].factors[0], w[g].factors[1], w[g].factors[2]];
                for t in 0..T {
                    let above = _mm512_mul_ps(high, _mm512_cvtepi32_ps(above[g][t]));
                    u[g][t] = _mm512_mul_ps(d, _mm512_fmadd_ps(low, _mm512_cvtepi32_ps(below[g][t]), above));
                }
            }
        }
        // d·(scale₀·f₀ + scale₁·f₁) + m·(min₀·g₀ + min₁·g₁), where both sums are exact.
        _ => {
            let below = dot::<F, G, T>(w, x, 0..4, zero);
            let above = dot::<F, G, T>(w, x, 4..8, zero);
            for g in 0..G {
                let factor = |i: usize| w[g].factors[i];
                for t in 0..T {
                    let [g0, g1] = x[t].halves.map(|g| _mm512_set1_ps(g));
                    let h = _mm512_fmadd_ps(factor(4), g0, _mm512_mul_ps(factor(5), g1));
                    let above = _mm512_mul_ps(factor(3), _mm512_cvtepi32_ps(above[g][t]));
                    let f = _mm512_fmadd_ps(factor(2), _mm512_cvtepi32_ps(below[g][t]), above);
                    u[g][t] = _mm512_fmadd_ps(factor(0), f, _mm512_mul_ps(factor(1), h));
                }
            }
        }
    }
    u
}

/// −`offset`·Σ q of a part of the activations: all (0), the lower half (1), the upper one (2).
#[inline]
#[target_feature(enable = "avx512f")]
fn starts<const T: usize>(x: [&Rounded; T], part: usize, offset: u32) -> [__m512i; T] {
    // Four times Σ q is there, and each offset is a power of two.
    let doubled = _mm_cvtsi32_si128(offset.ilog2() as i32 - 2);
    let mut starts = [_mm512_setzero_si512(); T];
    for t in 0..T {
        starts[t] = _mm512_sll_epi32(_mm512_set1_epi32(x[t].starts[part]), doubled);
    }
    starts
}

/// `start` and Σ code·q over so many of the dwords.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot<const F: usize, const G: usize, const T: usize>(
    w: &[Block<F>; G],
    x: [&Rounded; T],
    dwords: Range<usize>,
    start: [__m512i; T],
) -> [[__m512i; T]; G] {
    let mut sum = [start; G];
    for k in dwords {
        for t in 0..T {
            let x = dword(&x[t].q, k);
            for g in 0..G {
                sum[g][t] = _mm512_dpbusd_epi32(sum[g][t], w[g].codes[k], x);
            }
        }
    }
    sum
}
