//! Matrices at the AVX-512 VNNI level: groups of 16 weight rows, a register's lanes, times rows of activations.
//!
//! As in `avx2_tile` each lane runs the definition's chain of fma for its row. `vpdpbusd` multiplies unsigned
//! bytes by signed ones and adds fours of them exactly, so every code is made unsigned by an offset here, and the
//! exact sum begins at what that adds.
//!
//! Here is what the codes and scales of each type are; what they are multiplied with, and how, is in `vnni_sweep`.
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::drive::{Sums, tiles};
use super::matrix::{Body, GROUP, Matrix};
use super::packed::{Lane, Line, Packed, SUPER_LANES};
use super::vnni_load::{broadcast, load, load_bf16, load_f16, load_f32, nibbles, small, store, widen};
use super::vnni_sweep::{All, Block, sweep};
use crate::gguf::TensorKind;
use crate::numerics::linear::{ActRow, BLOCK, SEGMENT};
use std::arch::x86_64::*;
use std::ops::Range;

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
