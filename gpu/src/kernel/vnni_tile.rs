//! Matrices at the AVX-512 VNNI level: groups of 16 weight rows, a register's lanes, times rows of activations.
//!
//! As in `avx2_tile` each lane runs the definition's chain of fma for its row. `vpdpbusd` multiplies unsigned
//! bytes by signed ones and adds fours of them exactly, so every code is made unsigned by an offset here, and the
//! exact sum begins at what that adds.
//!
//! Few rows of activations take each group's blocks as they come from memory, unpacked in registers. Many rows take
//! two groups at a time, unpacked once into memory that stays near: what is loaded of the activations serves both, and
//! twice as many sums are on their way at once.
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::drive::{Sums, tiles};
use super::matrix::{Body, GROUP, Matrix};
use super::packed::{Lane, Line, Packed, SUPER_LANES};
use super::vnni_load::{broadcast, dword, load, load_bf16, load_f16, load_f32, nibbles, small, store, widen};
use crate::gguf::TensorKind;
use crate::numerics::linear::{ActRow, BLOCK, Rounded, SEGMENT};
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
struct Block<const FACTORS: usize> {
    codes: [__m512i; 8],
    factors: [__m512; FACTORS],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn linear(weights: &Matrix, groups: Range<usize>, acts: &[ActRow<'_>], out: &mut Sums<'_>) {
    let columns = |group: usize| group * weights.cols..(group + 1) * weights.cols;
    match &weights.body {
        Body::Packed(w) => packed(w, weights.cols / BLOCK, groups, acts, out),
        Body::F32(b) => tiles(groups, acts, out, |group, x, out| plain(&b[columns(group)], x, out, load_f32)),
        Body::F16(b) => tiles(groups, acts, out, |group, x, out| plain(&b[columns(group)], x, out, load_f16)),
        Body::BF16(b) => tiles(groups, acts, out, |group, x, out| plain(&b[columns(group)], x, out, load_bf16)),
        Body::Native(..) => unreachable!("the VNNI level loads interleaved rows"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn packed(w: &Packed, blocks: usize, groups: Range<usize>, acts: &[ActRow<'_>], out: &mut Sums<'_>) {
    let all = All { w, blocks, groups, acts };
    match w.kind {
        TensorKind::Q4_1 | TensorKind::Q4_K => affine::<4>(w, all, out),
        TensorKind::Q5_1 | TensorKind::Q5_K => affine::<5>(w, all, out),
        TensorKind::Q4_0 => centred::<4>(w, all, 8, out),
        TensorKind::Q5_0 => centred::<5>(w, all, 16, out),
        TensorKind::Q8_0 => centred::<8>(w, all, SIGN, out),
        TensorKind::IQ4_NL | TensorKind::IQ4_XS | TensorKind::MXFP4 => named(w, all, out),
        TensorKind::Q2_K => halves_and_mins(w, all, out),
        TensorKind::Q3_K => halves::<3>(w, all, 4, out),
        TensorKind::Q6_K => halves::<6>(w, all, 32, out),
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => unreachable!("{} is not packed", w.kind.name()),
    }
}

/// What is multiplied with what.
struct All<'a> {
    w: &'a Packed,
    /// Of a row.
    blocks: usize,
    groups: Range<usize>,
    acts: &'a [ActRow<'a>],
}

/// d and m.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn affine<const BITS: usize>(w: &Packed, all: All<'_>, out: &mut Sums<'_>) {
    let blocks = all.blocks;
    sweep(all, 0, out, |group| {
        let (q, s) = (&w.codes::<BITS>(group)[..blocks], Scales::of(w, group));
        move |b| {
            let (d, m) = s.at(b);
            Block { codes: codes(&q[b]), factors: [d, m] }
        }
    });
}

/// d, where codes have `offset` added.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn centred<const BITS: usize>(w: &Packed, all: All<'_>, offset: u32, out: &mut Sums<'_>) {
    let blocks = all.blocks;
    sweep(all, offset, out, |group| {
        let (q, s) = (&w.codes::<BITS>(group)[..blocks], &w.scales::<1>(group)[..blocks]);
        move |b| Block { codes: codes(&q[b]), factors: [widen(&s[b][0])] }
    });
}

/// d, where codes name integers, which the table here has with `SIGN` added.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn named(w: &Packed, all: All<'_>, out: &mut Sums<'_>) {
    let (blocks, table) = (all.blocks, broadcast(&w.table().map(|n| (n as u8) ^ 0x80)));
    sweep(all, SIGN, out, |group| {
        let (q, s) = (&w.codes::<4>(group)[..blocks], Scales::of(w, group));
        move |b| {
            let codes = codes(&q[b]).map(|code| _mm512_shuffle_epi8(table, code));
            Block { codes, factors: [s.at(b).0] }
        }
    });
}

/// d and two scales, where codes have `offset` added.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves<const BITS: usize>(w: &Packed, all: All<'_>, offset: u32, out: &mut Sums<'_>) {
    let blocks = all.blocks;
    sweep(all, offset, out, |group| {
        let (q, s) = (&w.codes::<BITS>(group)[..blocks], w.scales::<SUPER_LANES>(group));
        move |b| {
            let s = &s[b / SEGMENT];
            let [low, high] = small(&s[2 + b % SEGMENT]);
            Block { codes: codes(&q[b]), factors: [widen(&s[0]), low, high] }
        }
    });
}

/// d, −m, two scales and two minima.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves_and_mins(w: &Packed, all: All<'_>, out: &mut Sums<'_>) {
    let blocks = all.blocks;
    sweep(all, 0, out, |group| {
        let (q, s) = (&w.codes::<2>(group)[..blocks], w.scales::<SUPER_LANES>(group));
        move |b| {
            let s = &s[b / SEGMENT];
            // The minima are taken off.
            let m = _mm512_sub_ps(_mm512_setzero_ps(), widen(&s[1]));
            let [low, high, min, upper] = nibbles(&s[2 + b % SEGMENT]);
            Block { codes: codes(&q[b]), factors: [widen(&s[0]), m, low, high, min, upper] }
        }
    });
}

/// What turning its upper bit adds to an i8.
const SIGN: u32 = 128;

/// Scales of types with one for each block that `affine` and `named` take.
#[derive(Clone, Copy)]
enum Scales<'a> {
    /// d.
    Single(&'a [[Lane; 1]]),
    /// d as bf16.
    Power(&'a [[Lane; 1]]),
    Pair(&'a [[Lane; 2]]),
    Super(&'a [[Lane; SUPER_LANES]]),
}

impl Scales<'_> {
    fn of(w: &Packed, group: usize) -> Scales<'_> {
        match w.kind {
            TensorKind::Q4_1 | TensorKind::Q5_1 => Scales::Pair(w.scales(group)),
            TensorKind::Q4_K | TensorKind::Q5_K | TensorKind::IQ4_XS => Scales::Super(w.scales(group)),
            TensorKind::IQ4_NL => Scales::Single(w.scales(group)),
            TensorKind::MXFP4 => Scales::Power(w.scales(group)),
            TensorKind::Q4_0
            | TensorKind::Q5_0
            | TensorKind::Q8_0
            | TensorKind::Q2_K
            | TensorKind::Q3_K
            | TensorKind::Q6_K
            | TensorKind::F32
            | TensorKind::F16
            | TensorKind::BF16 => unreachable!("{} has no such scales", w.kind.name()),
        }
    }

    /// What a block's sums are multiplied by, and what its Σ q is.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn at(self, b: usize) -> (__m512, __m512) {
        match self {
            Scales::Single(s) => (widen(&s[b][0]), _mm512_setzero_ps()),
            Scales::Power(s) => (load_bf16(&s[b][0]), _mm512_setzero_ps()),
            Scales::Pair(s) => (widen(&s[b][0]), widen(&s[b][1])),
            // d·scale and m·min, both exact.
            Scales::Super(s) => {
                let s = &s[b / SEGMENT];
                let [scale, min] = small(&s[2 + b % SEGMENT]);
                (_mm512_mul_ps(widen(&s[0]), scale), _mm512_mul_ps(widen(&s[1]), min))
            }
        }
    }
}

/// All groups times all rows of activations; `of` unpacks the blocks of a group, whose codes have `offset` added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sweep<const F: usize, B: Fn(usize) -> Block<F>>(
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

/// Asks for the lines a small page further on, which the processor's own prefetcher has not reached: it stops at the
/// end of each. Those of the next group, or of the next matrix, which lies behind this one, come in turn.
#[inline]
#[target_feature(enable = "avx512f")]
fn ahead<const BITS: usize>(lines: &[Line; BITS]) {
    const DISTANCE: usize = 4096 / size_of::<Line>();
    for line in lines {
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).wrapping_add(DISTANCE).cast());
    }
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

/// Codes of a block, dword by dword, from the planes that `packed` describes. Those of eight bits are signed: 128
/// is added by turning the upper bit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn codes<const BITS: usize>(q: &[Line; BITS]) -> [__m512i; 8] {
    ahead(q);
    if BITS == 8 {
        return std::array::from_fn(|k| _mm512_xor_si512(load(&q[k]), _mm512_set1_epi8(-128)));
    }
    std::array::from_fn(|k| {
        let (mut code, mut below) = (_mm512_setzero_si512(), 0);
        for width in [4, 2, 1] {
            if BITS & width != 0 {
                let (v, from) = (load(&q[below + k % width]), width * (k / width));
                // From bit `from` of each byte to bit `below`.
                let v = match from.checked_sub(below) {
                    Some(down) => _mm512_srl_epi16(v, _mm_cvtsi32_si128(down as i32)),
                    None => _mm512_sll_epi16(v, _mm_cvtsi32_si128((below - from) as i32)),
                };
                let mask = _mm512_set1_epi8((((1 << width) - 1) << below) as i8);
                code = _mm512_or_si512(code, _mm512_and_si512(v, mask));
                below += width;
            }
        }
        code
    })
}

/// Weights that are no codes: one fma for each column.
#[inline]
#[target_feature(enable = "avx512f")]
fn plain<W>(w: &[[W; GROUP]], acts: &[ActRow<'_>], out: &mut [[f32; GROUP]], load: fn(&[W; GROUP]) -> __m512) {
    for (x, out) in acts.iter().zip(out) {
        let mut tot = _mm512_setzero_ps();
        for (w, x) in w.chunks(SEGMENT * BLOCK).zip(x.x.chunks(SEGMENT * BLOCK)) {
            let mut p = _mm512_setzero_ps();
            for (w, x) in w.iter().zip(x) {
                p = _mm512_fmadd_ps(_mm512_set1_ps(*x), load(w), p);
            }
            tot = _mm512_add_ps(tot, p);
        }
        store(out, tot);
    }
}
