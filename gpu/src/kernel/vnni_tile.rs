//! Matrices at the AVX-512 VNNI level: one group of 16 weight rows, a register's lanes, times up to eight rows of
//! activations.
//!
//! As in `avx2_tile` each lane runs the definition's chain of fma for its row. `vpdpbusd` multiplies unsigned
//! bytes by signed ones and adds fours of them exactly, so every code is made unsigned by an offset here, which
//! is taken off the exact sum again.
#![allow(unsafe_code)]
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::matrix::{Body, GROUP, Matrix};
use super::packed::{Lane, Line, Packed, SUPER_LANES};
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
        TensorKind::Q4_0 | TensorKind::Q4_1 | TensorKind::Q4_K => affine::<T, 4>(w, group, x, out),
        TensorKind::Q5_0 | TensorKind::Q5_1 | TensorKind::Q5_K => affine::<T, 5>(w, group, x, out),
        TensorKind::Q8_0 => affine::<T, 8>(w, group, x, out),
        TensorKind::IQ4_NL | TensorKind::IQ4_XS | TensorKind::MXFP4 => named(w, group, x, out),
        TensorKind::Q2_K => halves_and_mins(w, group, x, out),
        TensorKind::Q3_K => halves::<T, 3>(w, group, x, out),
        TensorKind::Q6_K => halves::<T, 6>(w, group, x, out),
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
        let f = dot::<T, 0, 8>(&codes(q), x);
        std::array::from_fn(|t| {
            let g = _mm512_mul_ps(m, _mm512_set1_ps(x[t].g));
            _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(f[t]), g)
        })
    });
}

/// u = d·f, where codes name integers, which the table here has with `SIGN` added.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn named<const T: usize>(w: &Packed, group: usize, x: &[ActRow<'_>; T], out: &mut [[f32; GROUP]; T]) {
    let (q, s) = (w.codes::<4>(group), Scales::of(w, group));
    let table = broadcast(&w.table().map(|n| (n as u8) ^ 0x80));
    run(q, x, out, |b, q, x| {
        let d = s.at(b).0;
        let f = dot::<T, 0, 8>(&codes(q).map(|code| _mm512_shuffle_epi8(table, code)), x);
        std::array::from_fn(|t| _mm512_mul_ps(d, centred(f[t], SIGN, x[t].g)))
    });
}

/// u = d·(scale₀·f₀ + scale₁·f₁), where all but the product with d is exact.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves<const T: usize, const BITS: usize>(
    w: &Packed,
    group: usize,
    x: &[ActRow<'_>; T],
    out: &mut [[f32; GROUP]; T],
) {
    let (q, s, offset) = (w.codes::<BITS>(group), w.scales::<SUPER_LANES>(group), f32::from(w.offset()));
    run(q, x, out, |b, q, x| {
        let s = &s[b / SEGMENT];
        let (d, [low, high], q) = (widen(&s[0]), small(&s[2 + b % SEGMENT]), codes(q));
        let (below, above) = (dot::<T, 0, 4>(&q, x), dot::<T, 4, 8>(&q, x));
        std::array::from_fn(|t| {
            let [g0, g1] = x[t].halves;
            let above = _mm512_mul_ps(high, centred(above[t], offset, g1));
            _mm512_mul_ps(d, _mm512_fmadd_ps(low, centred(below[t], offset, g0), above))
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
        let (below, above) = (dot::<T, 0, 4>(&q, x), dot::<T, 4, 8>(&q, x));
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
const SIGN: f32 = 128.0;

/// Scales of types with one for each block.
#[derive(Clone, Copy)]
enum Scales<'a> {
    /// d, and what was added to make codes unsigned.
    Centred(&'a [[Lane; 1]], f32),
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
            TensorKind::Q4_0 | TensorKind::Q5_0 => Scales::Centred(w.scales(group), f32::from(w.offset())),
            TensorKind::Q8_0 => Scales::Centred(w.scales(group), SIGN),
            TensorKind::IQ4_NL => Scales::Centred(w.scales(group), 0.0),
            TensorKind::MXFP4 => Scales::Power(w.scales(group)),
            TensorKind::Q2_K
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
            // −offset·d and its product with g are exact (at most 11 + 12 significant bits), so that the sum rounds
            // d·Σ(code − offset)·q once, as the definition does.
            Scales::Centred(s, offset) => {
                let d = widen(&s[b][0]);
                (d, _mm512_mul_ps(d, _mm512_set1_ps(-offset)))
            }
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
    let x: [&[Rounded]; T] = std::array::from_fn(|t| &x[t].blocks[..codes.len()]);
    let mut tot = [_mm512_setzero_ps(); T];
    for start in (0..codes.len()).step_by(SEGMENT) {
        let mut p = [_mm512_setzero_ps(); T];
        for b in start..codes.len().min(start + SEGMENT) {
            let x: [&Rounded; T] = std::array::from_fn(|t| &x[t][b]);
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

/// Σ n·q of Σ code·q: below 2²⁴, and so is what is taken off, so that nothing rounds.
#[inline]
#[target_feature(enable = "avx512f")]
fn centred(f: __m512i, offset: f32, sum: f32) -> __m512 {
    _mm512_fnmadd_ps(_mm512_set1_ps(offset), _mm512_set1_ps(sum), _mm512_cvtepi32_ps(f))
}

/// Σ code·q over the dwords `FROM` to `TO`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot<const T: usize, const FROM: usize, const TO: usize>(codes: &[__m512i; 8], x: [&Rounded; T]) -> [__m512i; T] {
    let mut sum = [_mm512_setzero_si512(); T];
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

/// Four integers of four bits of each row.
#[inline]
#[target_feature(enable = "avx512f")]
fn nibbles(lane: &Lane) -> [__m512; 4] {
    let all = _mm512_cvtepu16_epi32(load_lane(lane));
    std::array::from_fn(|i| {
        let down = _mm512_srl_epi32(all, _mm_cvtsi32_si128(4 * i as i32));
        _mm512_cvtepi32_ps(_mm512_and_si512(down, _mm512_set1_epi32(15)))
    })
}

/// A table of sixteen bytes in each quarter.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(table: &[u8; 16]) -> __m512i {
    // SAFETY: sixteen bytes.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
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
