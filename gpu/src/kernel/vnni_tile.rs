//! Matrices at the AVX-512 VNNI level: one group of 16 weight rows, a register's lanes, times up to eight rows of
//! activations.
//!
//! As in `avx2_tile` each lane runs the definition's chain of fma for its row. `vpdpbusd` multiplies unsigned
//! bytes by signed ones and adds fours of them exactly, so every code is made unsigned by an offset here, and the
//! exact sum begins at what that adds.
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::matrix::{Body, GROUP, Matrix};
use super::packed::{Lane, Line, Packed, SUPER_LANES};
use super::vnni_load::{broadcast, dword, load, load_bf16, load_f16, load_f32, nibbles, small, store, widen};
use crate::gguf::TensorKind;
use crate::numerics::linear::{ActRow, BLOCK, Rounded, SEGMENT};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile(weights: &Matrix, group: usize, acts: &[ActRow<'_>], out: &mut [[f32; GROUP]]) {
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
    let (acts, out) = each::<8>(w, group, acts, out);
    let (acts, out) = each::<4>(w, group, acts, out);
    let (acts, out) = each::<3>(w, group, acts, out);
    let (acts, out) = each::<2>(w, group, acts, out);
    each::<1>(w, group, acts, out);
}

/// As many rows as there are `T` at a time; answers with those that are left.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn each<'a, 'b, const T: usize>(
    w: &Packed,
    group: usize,
    acts: &'a [ActRow<'b>],
    out: &'a mut [[f32; GROUP]],
) -> (&'a [ActRow<'b>], &'a mut [[f32; GROUP]]) {
    let (acts, rest) = acts.as_chunks::<T>();
    let (out, left) = out.split_at_mut(acts.len() * T);
    for (acts, out) in acts.iter().zip(out.as_chunks_mut::<T>().0) {
        packed(w, group, acts, out);
    }
    (rest, left)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn packed<const T: usize>(w: &Packed, group: usize, x: &[ActRow<'_>; T], out: &mut [[f32; GROUP]; T]) {
    match w.kind {
        TensorKind::Q4_1 | TensorKind::Q4_K => affine::<T, 4>(w, group, x, out),
        TensorKind::Q5_1 | TensorKind::Q5_K => affine::<T, 5>(w, group, x, out),
        TensorKind::Q4_0 => centred::<T, 4, 8>(w, group, x, out),
        TensorKind::Q5_0 => centred::<T, 5, 16>(w, group, x, out),
        TensorKind::Q8_0 => centred::<T, 8, SIGN>(w, group, x, out),
        TensorKind::IQ4_NL | TensorKind::IQ4_XS | TensorKind::MXFP4 => named(w, group, x, out),
        TensorKind::Q2_K => halves_and_mins(w, group, x, out),
        TensorKind::Q3_K => halves::<T, 3, 4>(w, group, x, out),
        TensorKind::Q6_K => halves::<T, 6, 32>(w, group, x, out),
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => unreachable!("{} is not packed", w.kind.name()),
    }
}

/// u = d·f + m·g.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn affine<const T: usize, const BITS: usize>(
    w: &Packed,
    group: usize,
    x: &[ActRow<'_>; T],
    out: &mut [[f32; GROUP]; T],
) {
    let (q, s) = (w.codes::<BITS>(group), Scales::of(w, group));
    run(q, x, out, |b, q, x| {
        let (d, m) = s.at(b);
        let f = dot::<T, 0, 8>(&codes(q), x, [_mm512_setzero_si512(); T]);
        std::array::from_fn(|t| {
            let g = _mm512_mul_ps(m, _mm512_set1_ps(x[t].g));
            _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(f[t]), g)
        })
    });
}

/// u = d·f, where codes have `OFFSET` added.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn centred<const T: usize, const BITS: usize, const OFFSET: i32>(
    w: &Packed,
    group: usize,
    x: &[ActRow<'_>; T],
    out: &mut [[f32; GROUP]; T],
) {
    let (q, s) = (w.codes::<BITS>(group), w.scales::<1>(group));
    run(q, x, out, |b, q, x| {
        let d = widen(&s[b][0]);
        let f = dot::<T, 0, 8>(&codes(q), x, starts::<T, 0, OFFSET>(x));
        std::array::from_fn(|t| _mm512_mul_ps(d, _mm512_cvtepi32_ps(f[t])))
    });
}

/// u = d·f, where codes name integers, which the table here has with `SIGN` added.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn named<const T: usize>(w: &Packed, group: usize, x: &[ActRow<'_>; T], out: &mut [[f32; GROUP]; T]) {
    let (q, s) = (w.codes::<4>(group), Scales::of(w, group));
    let table = broadcast(&w.table().map(|n| (n as u8) ^ 0x80));
    run(q, x, out, |b, q, x| {
        let d = s.at(b).0;
        let named = codes(q).map(|code| _mm512_shuffle_epi8(table, code));
        let f = dot::<T, 0, 8>(&named, x, starts::<T, 0, SIGN>(x));
        std::array::from_fn(|t| _mm512_mul_ps(d, _mm512_cvtepi32_ps(f[t])))
    });
}

/// u = d·(scale₀·f₀ + scale₁·f₁), where all but the product with d is exact and codes have `OFFSET` added.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves<const T: usize, const BITS: usize, const OFFSET: i32>(
    w: &Packed,
    group: usize,
    x: &[ActRow<'_>; T],
    out: &mut [[f32; GROUP]; T],
) {
    let (q, s) = (w.codes::<BITS>(group), w.scales::<SUPER_LANES>(group));
    run(q, x, out, |b, q, x| {
        let s = &s[b / SEGMENT];
        let (d, [low, high], q) = (widen(&s[0]), small(&s[2 + b % SEGMENT]), codes(q));
        let below = dot::<T, 0, 4>(&q, x, starts::<T, 1, OFFSET>(x));
        let above = dot::<T, 4, 8>(&q, x, starts::<T, 2, OFFSET>(x));
        std::array::from_fn(|t| {
            let above = _mm512_mul_ps(high, _mm512_cvtepi32_ps(above[t]));
            _mm512_mul_ps(d, _mm512_fmadd_ps(low, _mm512_cvtepi32_ps(below[t]), above))
        })
    });
}

/// u = d·(scale₀·f₀ + scale₁·f₁) + m·(min₀·g₀ + min₁·g₁), where both sums are exact.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves_and_mins<const T: usize>(w: &Packed, group: usize, x: &[ActRow<'_>; T], out: &mut [[f32; GROUP]; T]) {
    let (q, s) = (w.codes::<2>(group), w.scales::<SUPER_LANES>(group));
    run(q, x, out, |b, q, x| {
        let s = &s[b / SEGMENT];
        let (d, m, q) = (widen(&s[0]), widen(&s[1]), codes(q));
        let [low, high, min, upper] = nibbles(&s[2 + b % SEGMENT]);
        let zero = [_mm512_setzero_si512(); T];
        let (below, above) = (dot::<T, 0, 4>(&q, x, zero), dot::<T, 4, 8>(&q, x, zero));
        std::array::from_fn(|t| {
            let [g0, g1] = x[t].halves.map(|g| _mm512_set1_ps(g));
            let h = _mm512_fmadd_ps(min, g0, _mm512_mul_ps(upper, g1));
            let above = _mm512_mul_ps(high, _mm512_cvtepi32_ps(above[t]));
            let f = _mm512_fmadd_ps(low, _mm512_cvtepi32_ps(below[t]), above);
            // The minima are taken off.
            _mm512_fmadd_ps(d, f, _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), m), h))
        })
    });
}

/// What turning its upper bit adds to an i8.
const SIGN: i32 = 128;

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

/// The definition's order over all blocks; `u` is a block's value for each row of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn run<const T: usize, const BITS: usize>(
    codes: &[[Line; BITS]],
    x: &[ActRow<'_>; T],
    out: &mut [[f32; GROUP]; T],
    u: impl Fn(usize, &[Line; BITS], [&Rounded; T]) -> [__m512; T],
) {
    // Of a length the compiler knows to be the loop's, so that no index is checked there.
    let mut rows: [&[Rounded]; T] = [&[]; T];
    for t in 0..T {
        rows[t] = &x[t].blocks[..codes.len()];
    }
    let mut tot = [_mm512_setzero_ps(); T];
    for start in (0..codes.len()).step_by(SEGMENT) {
        let mut p = [_mm512_setzero_ps(); T];
        for b in start..codes.len().min(start + SEGMENT) {
            let mut x = [&rows[0][b]; T];
            for t in 1..T {
                x[t] = &rows[t][b];
            }
            ahead(&codes[b]);
            let u = u(b, &codes[b], x);
            for t in 0..T {
                p[t] = _mm512_fmadd_ps(_mm512_set1_ps(x[t].d), u[t], p[t]);
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

/// −`OFFSET`·Σ q of a part of the activations: all (0), the lower half (1), the upper one (2).
#[inline]
#[target_feature(enable = "avx512f")]
fn starts<const T: usize, const PART: usize, const OFFSET: i32>(x: [&Rounded; T]) -> [__m512i; T] {
    let mut starts = [_mm512_setzero_si512(); T];
    for t in 0..T {
        let eight = _mm512_set1_epi32(x[t].starts[PART]);
        starts[t] = match OFFSET {
            4 => _mm512_srai_epi32::<1>(eight),
            8 => eight,
            16 => _mm512_slli_epi32::<1>(eight),
            32 => _mm512_slli_epi32::<2>(eight),
            128 => _mm512_slli_epi32::<4>(eight),
            _ => unreachable!("no type has such an offset"),
        };
    }
    starts
}

/// `sum` and Σ code·q over the dwords `FROM` to `TO`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot<const T: usize, const FROM: usize, const TO: usize>(
    codes: &[__m512i; 8],
    x: [&Rounded; T],
    mut sum: [__m512i; T],
) -> [__m512i; T] {
    for k in FROM..TO {
        for t in 0..T {
            sum[t] = _mm512_dpbusd_epi32(sum[t], codes[k], dword(&x[t].q, k));
        }
    }
    sum
}

/// Codes of a block, dword by dword, from the planes that `packed` describes. Those of eight bits are signed: 128
/// is added by turning the upper bit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn codes<const BITS: usize>(q: &[Line; BITS]) -> [__m512i; 8] {
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
