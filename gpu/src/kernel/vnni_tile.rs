//! Matrices at the AVX-512 VNNI level: one group of 16 weight rows, a register's lanes, times up to eight rows of
//! activations.
//!
//! As in `avx2_tile` each lane runs the definition's chain of fma for its row. `vpdpbusd` multiplies unsigned
//! bytes by signed ones and adds fours of them exactly, so every code is made unsigned by an offset here, which
//! is taken off the exact sum again.
#![allow(unsafe_code)]
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::TileOut;
use super::matrix::{Body, GROUP, Matrix};
use super::packed::{Lane, Line, Packed, SUPER_LANES};
use crate::gguf::TensorKind;
use crate::numerics::linear::{ActRow, BLOCK, SEGMENT};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile(weights: &Matrix, group: usize, acts: &[ActRow<'_>], out: &mut TileOut) {
    let columns = group * weights.cols..(group + 1) * weights.cols;
    match &weights.body {
        Body::Packed(w) => rows(w, group, acts, out),
        Body::F32(b) => plain(&b[columns], acts, out, load_f32),
        Body::F16(b) => plain(&b[columns], acts, out, load_f16),
        Body::BF16(b) => plain(&b[columns], acts, out, load_bf16),
        Body::Native(..) => unreachable!("the VNNI level loads interleaved rows"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn rows(w: &Packed, group: usize, acts: &[ActRow<'_>], out: &mut [[f32; GROUP]]) {
    match acts {
        [] => {}
        [a] => packed(w, group, [*a], out),
        [a, b] => packed(w, group, [*a, *b], out),
        [a, b, c] => packed(w, group, [*a, *b, *c], out),
        [a, b, c, d] => packed(w, group, [*a, *b, *c, *d], out),
        [a, b, c, d, e, f, g, h] => packed(w, group, [*a, *b, *c, *d, *e, *f, *g, *h], out),
        _ => {
            let (four, rest) = acts.split_at(4);
            rows(w, group, four, &mut out[..4]);
            rows(w, group, rest, &mut out[4..]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn packed<const T: usize>(w: &Packed, group: usize, x: [ActRow<'_>; T], out: &mut [[f32; GROUP]]) {
    // Of a length the compiler knows to be the loop's, so that no index is checked there.
    let n = w.blocks();
    let x = &x.map(|x| ActRow { x: x.x, q: &x.q[..n], d: &x.d[..n], g: &x.g[..n], halves: &x.halves[..n] });
    match w.kind {
        TensorKind::Q4_0 | TensorKind::Q4_1 | TensorKind::Q4_K => {
            let (q, s) = (&w.codes::<4>(group)[..n], Scales::of(w, group));
            run(n, x, out, |b| s.value(dot(&four(&q[b]), x, b), x, b));
        }
        TensorKind::Q5_0 | TensorKind::Q5_1 | TensorKind::Q5_K => {
            let (q, s) = (&w.codes::<5>(group)[..n], Scales::of(w, group));
            run(n, x, out, |b| s.value(dot(&five(&q[b]), x, b), x, b));
        }
        TensorKind::Q8_0 => {
            let (q, s) = (&w.codes::<8>(group)[..n], Scales::Centred(w.scales(group), SIGN));
            run(n, x, out, |b| s.value(dot(&bytes(&q[b]), x, b), x, b));
        }
        TensorKind::Q6_K => {
            let (q, s) = (&w.codes::<8>(group)[..n], w.scales::<SUPER_LANES>(group));
            run(n, x, out, |b| halves(&s[b / SEGMENT], &bytes(&q[b]), SIGN, x, b));
        }
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => unreachable!("{} is not packed", w.kind.name()),
    }
}

/// What `bytes` adds to an i8.
const SIGN: f32 = 128.0;

/// Scales of types with one for each block.
#[derive(Clone, Copy)]
enum Scales<'a> {
    /// d, and what was added to make codes unsigned.
    Centred(&'a [[Lane; 1]], f32),
    Pair(&'a [[Lane; 2]]),
    Super(&'a [[Lane; SUPER_LANES]]),
}

impl Scales<'_> {
    fn of(w: &Packed, group: usize) -> Scales<'_> {
        match w.kind {
            TensorKind::Q4_1 | TensorKind::Q5_1 => Scales::Pair(w.scales(group)),
            TensorKind::Q4_K | TensorKind::Q5_K => Scales::Super(w.scales(group)),
            TensorKind::Q4_0 | TensorKind::Q5_0 => Scales::Centred(w.scales(group), f32::from(w.offset())),
            TensorKind::Q8_0 | TensorKind::Q6_K | TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => {
                unreachable!("{} has no such codes", w.kind.name())
            }
        }
    }

    /// u of a block whose unsigned codes sum to `f`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn value<const T: usize>(self, f: [__m512i; T], x: &[ActRow<'_>; T], b: usize) -> [__m512; T] {
        match self {
            Scales::Centred(s, offset) => {
                let d = widen(&s[b][0]);
                std::array::from_fn(|t| _mm512_mul_ps(d, centred(f[t], offset, x[t].g[b])))
            }
            Scales::Pair(s) => affine(widen(&s[b][0]), widen(&s[b][1]), f, x, b),
            // d·scale and m·min, both exact.
            Scales::Super(s) => {
                let s = &s[b / SEGMENT];
                let [scale, min] = small(&s[2 + b % SEGMENT]);
                affine(_mm512_mul_ps(widen(&s[0]), scale), _mm512_mul_ps(widen(&s[1]), min), f, x, b)
            }
        }
    }
}

/// The definition's order over all blocks; `u(block)` is a block's value for each row of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn run<const T: usize>(blocks: usize, x: &[ActRow<'_>; T], out: &mut [[f32; GROUP]], u: impl Fn(usize) -> [__m512; T]) {
    let mut tot = [_mm512_setzero_ps(); T];
    for start in (0..blocks).step_by(SEGMENT) {
        let mut p = [_mm512_setzero_ps(); T];
        for b in start..blocks.min(start + SEGMENT) {
            let u = u(b);
            for t in 0..T {
                p[t] = _mm512_fmadd_ps(_mm512_set1_ps(x[t].d[b]), u[t], p[t]);
            }
        }
        for t in 0..T {
            tot[t] = _mm512_add_ps(tot[t], p[t]);
        }
    }
    for (out, tot) in out.iter_mut().zip(&tot) {
        store(out, *tot);
    }
}

/// u = d·f + m·g.
#[inline]
#[target_feature(enable = "avx512f")]
fn affine<const T: usize>(d: __m512, m: __m512, f: [__m512i; T], x: &[ActRow<'_>; T], b: usize) -> [__m512; T] {
    std::array::from_fn(|t| {
        let g = _mm512_mul_ps(m, _mm512_set1_ps(x[t].g[b]));
        _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(f[t]), g)
    })
}

/// Σ n·q of Σ code·q: below 2²⁴, and so is what is taken off, so that nothing rounds.
#[inline]
#[target_feature(enable = "avx512f")]
fn centred(f: __m512i, offset: f32, sum: f32) -> __m512 {
    _mm512_fnmadd_ps(_mm512_set1_ps(offset), _mm512_set1_ps(sum), _mm512_cvtepi32_ps(f))
}

/// u of codes whose halves have a scale each: d·(scale₀·f₀ + scale₁·f₁), where all but the product with d is exact.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves<const T: usize>(
    s: &[Lane; SUPER_LANES],
    codes: &[__m512i; 8],
    offset: f32,
    x: &[ActRow<'_>; T],
    b: usize,
) -> [__m512; T] {
    let (d, [low, high]) = (widen(&s[0]), small(&s[2 + b % SEGMENT]));
    let (below, above) = (part(codes, 0, x, b), part(codes, 4, x, b));
    std::array::from_fn(|t| {
        let [g0, g1] = x[t].halves[b];
        let above = _mm512_mul_ps(high, centred(above[t], offset, g1));
        _mm512_mul_ps(d, _mm512_fmadd_ps(low, centred(below[t], offset, g0), above))
    })
}

/// Σ code·q of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot<const T: usize>(codes: &[__m512i; 8], x: &[ActRow<'_>; T], b: usize) -> [__m512i; T] {
    let mut sum = [_mm512_setzero_si512(); T];
    for k in 0..8 {
        for t in 0..T {
            sum[t] = _mm512_dpbusd_epi32(sum[t], codes[k], dword(&x[t].q[b], k));
        }
    }
    sum
}

/// Σ code·q of the half of a block that begins with dword `first`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn part<const T: usize>(codes: &[__m512i; 8], first: usize, x: &[ActRow<'_>; T], b: usize) -> [__m512i; T] {
    let mut sum = [_mm512_setzero_si512(); T];
    for k in first..first + 4 {
        for t in 0..T {
            sum[t] = _mm512_dpbusd_epi32(sum[t], codes[k], dword(&x[t].q[b], k));
        }
    }
    sum
}

/// Codes of four bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn four(q: &[Line; 4]) -> [__m512i; 8] {
    let low = _mm512_set1_epi8(15);
    std::array::from_fn(|k| {
        let v = load(&q[k % 4]);
        _mm512_and_si512(if k < 4 { v } else { _mm512_srli_epi16::<4>(v) }, low)
    })
}

/// Codes of five bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn five(q: &[Line; 5]) -> [__m512i; 8] {
    let (fifth, bit) = (load(&q[4]), _mm512_set1_epi8(16));
    let low = four(&[q[0], q[1], q[2], q[3]]);
    std::array::from_fn(|k| {
        let up = _mm512_sllv_epi16(fifth, _mm512_set1_epi16(4 - k.min(4) as i16));
        let here = _mm512_srlv_epi16(up, _mm512_set1_epi16(k.max(4) as i16 - 4));
        _mm512_or_si512(low[k], _mm512_and_si512(here, bit))
    })
}

/// Codes of eight bits, with their sign's bit turned: 128 is added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes(q: &[Line; 8]) -> [__m512i; 8] {
    std::array::from_fn(|k| _mm512_xor_si512(load(&q[k]), _mm512_set1_epi8(-128)))
}

/// Weights that are no codes: one fma for each column.
#[inline]
#[target_feature(enable = "avx512f")]
fn plain<W>(w: &[[W; GROUP]], acts: &[ActRow<'_>], out: &mut TileOut, load: fn(&[W; GROUP]) -> __m512) {
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

/// A dword of each row.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512i {
    // SAFETY: sixteen u32.
    unsafe { _mm512_loadu_si512(line.0.as_ptr().cast()) }
}

/// Sixteen bits of each row.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_lane(lane: &Lane) -> __m256i {
    // SAFETY: sixteen u16.
    unsafe { _mm256_loadu_si256(lane.as_ptr().cast()) }
}

/// Scales of each row.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(lane: &Lane) -> __m512 {
    _mm512_cvtph_ps(load_lane(lane))
}

/// Two small integers of each row: the lower bytes, the upper ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn small(lane: &Lane) -> [__m512; 2] {
    let both = _mm512_cvtepi16_epi32(load_lane(lane));
    let low = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(both));
    [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srai_epi32::<8>(both))]
}

/// Four activations, the same for all rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn dword(q: &[i8; BLOCK], k: usize) -> __m512i {
    let four = q.as_chunks::<4>().0[k];
    _mm512_set1_epi32(i32::from_le_bytes(four.map(|b| b as u8)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut [f32; GROUP], v: __m512) {
    // SAFETY: sixteen f32.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
}

#[inline(always)]
fn load_f16(w: &[u16; GROUP]) -> __m512 {
    // SAFETY: called by `plain` only, which runs where AVX-512 is.
    unsafe { widen(w) }
}

#[inline(always)]
fn load_bf16(w: &[u16; GROUP]) -> __m512 {
    // SAFETY: called by `plain` only, which runs where AVX-512 is.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_lane(w)))) }
}

#[inline(always)]
fn load_f32(w: &[f32; GROUP]) -> __m512 {
    // SAFETY: sixteen f32; called by `plain` only, which runs where AVX-512 is.
    unsafe { _mm512_loadu_ps(w.as_ptr()) }
}
