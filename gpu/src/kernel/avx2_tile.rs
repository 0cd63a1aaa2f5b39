//! Matrices at the AVX2 level: one group of 16 weight rows times rows of activations, four at a time.
//!
//! A register's lane is a weight row, so each lane runs the definition's chain of fma for its row and no sum
//! crosses lanes. Weights are unpacked once for all rows of activations. A type is a pair: how its codes become
//! exact sums, and what its scales multiply them with.
//!
//! `maddubs` adds pairs in i16 and saturates; each kind of code says how many pairs fit.
#![allow(unsafe_code)]
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::avx2::widen_eight;
use super::drive::{Sums, tiles};
use super::matrix::{Body, GROUP, Matrix};
use super::packed::{Lane, Line, Packed, SUPER_LANES};
use crate::gguf::TensorKind;
use crate::numerics::linear::{ActRow, BLOCK, Rounded, SEGMENT};
use std::arch::x86_64::*;
use std::ops::Range;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn linear(weights: &Matrix, groups: Range<usize>, acts: &[ActRow<'_>], out: &mut Sums<'_>) {
    tiles(groups, acts, out, |group, acts, out| tile(weights, group, acts, out));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile(weights: &Matrix, group: usize, acts: &[ActRow<'_>], out: &mut [[f32; GROUP]]) {
    let columns = group * weights.cols..(group + 1) * weights.cols;
    match &weights.body {
        Body::Packed(w) => {
            for (acts, out) in acts.chunks(4).zip(out.chunks_mut(4)) {
                rows(w, group, acts, out);
            }
        }
        Body::F32(b) => plain(&b[columns], acts, out, load_f32),
        Body::F16(b) => plain(&b[columns], acts, out, load_f16),
        Body::BF16(b) => plain(&b[columns], acts, out, load_bf16),
        Body::Native(..) => unreachable!("the AVX2 level loads interleaved rows"),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows(w: &Packed, group: usize, acts: &[ActRow<'_>], out: &mut [[f32; GROUP]]) {
    match acts {
        [a] => packed::<1, 2>(w, group, [*a], 0, out),
        [a, b] => packed::<2, 2>(w, group, [*a, *b], 0, out),
        // Three or four rows of activations leave registers for eight weight rows at a time.
        [a, b, c] => {
            for half in 0..2 {
                packed::<3, 1>(w, group, [*a, *b, *c], half, out)
            }
        }
        [a, b, c, d, ..] => {
            for half in 0..2 {
                packed::<4, 1>(w, group, [*a, *b, *c, *d], half, out)
            }
        }
        [] => {}
    }
}

/// `T` rows of activations, `H` halves of the group from `half` on.
#[target_feature(enable = "avx2,fma,f16c")]
fn packed<const T: usize, const H: usize>(
    w: &Packed,
    group: usize,
    x: [ActRow<'_>; T],
    half: usize,
    out: &mut [[f32; GROUP]],
) {
    match w.kind {
        TensorKind::Q4_0 | TensorKind::Q4_1 | TensorKind::Q4_K => affine::<T, H, 4>(w, group, x, half, out),
        TensorKind::Q5_0 | TensorKind::Q5_1 | TensorKind::Q5_K => affine::<T, H, 5>(w, group, x, half, out),
        TensorKind::Q8_0 => {
            let s = Scales::of(w, group);
            run::<T, H, 8>(w.codes(group), x, half, out, |b, h, q, x| {
                scaled(s.at(b, h).0, signed(|k| load_half(&q[k], h), x))
            });
        }
        TensorKind::IQ4_NL | TensorKind::IQ4_XS | TensorKind::MXFP4 => {
            let (s, table) = (Scales::of(w, group), broadcast(w.table()));
            run::<T, H, 4>(w.codes(group), x, half, out, |b, h, q, x| {
                scaled(s.at(b, h).0, signed(|k| _mm256_shuffle_epi8(table, code(q, k, h)), x))
            });
        }
        TensorKind::Q3_K => halves::<T, H, 3>(w, group, x, half, out),
        TensorKind::Q6_K => halves::<T, H, 6>(w, group, x, half, out),
        TensorKind::Q2_K => {
            let s = w.scales::<SUPER_LANES>(group);
            run::<T, H, 2>(w.codes(group), x, half, out, |b, h, q, x| {
                halves_and_mins(&s[b / SEGMENT], &s[b / SEGMENT][2 + b % SEGMENT], q, x, h)
            });
        }
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => unreachable!("{} is not packed", w.kind.name()),
    }
}

/// u = d·f + m·g.
#[target_feature(enable = "avx2,fma,f16c")]
fn affine<const T: usize, const H: usize, const BITS: usize>(
    w: &Packed,
    group: usize,
    x: [ActRow<'_>; T],
    half: usize,
    out: &mut [[f32; GROUP]],
) {
    let s = Scales::of(w, group);
    run::<T, H, BITS>(w.codes(group), x, half, out, |b, h, q, x| {
        let (d, m) = s.at(b, h);
        let f = unsigned(q, x, h);
        std::array::from_fn(|t| {
            let g = _mm256_mul_ps(m, _mm256_set1_ps(x[t].g));
            _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(f[t]), g)
        })
    });
}

/// u = d·(scale₀·f₀ + scale₁·f₁), where all but the product with d is exact.
#[target_feature(enable = "avx2,fma,f16c")]
fn halves<const T: usize, const H: usize, const BITS: usize>(
    w: &Packed,
    group: usize,
    x: [ActRow<'_>; T],
    half: usize,
    out: &mut [[f32; GROUP]],
) {
    let (s, offset) = (w.scales::<SUPER_LANES>(group), _mm256_set1_epi8(w.offset()));
    run::<T, H, BITS>(w.codes(group), x, half, out, |b, h, q, x| {
        let s = &s[b / SEGMENT];
        let small = _mm256_cvtepu16_epi32(load_lane(&s[2 + b % SEGMENT], h));
        // A half's scale as both i16 of a lane: from the upper byte of the lower one.
        let both = |v| _mm256_srai_epi16::<8>(_mm256_or_si256(v, _mm256_slli_epi32::<16>(v)));
        let scales = [both(_mm256_slli_epi16::<8>(small)), both(_mm256_and_si256(small, _mm256_set1_epi32(0xff00)))];
        let mut sum = [_mm256_setzero_si256(); T];
        for part in 0..2 {
            let mut pairs = [_mm256_setzero_si256(); T];
            for k in 4 * part..4 * part + 4 {
                let n = _mm256_sub_epi8(code(q, k, h), offset);
                let a = _mm256_abs_epi8(n);
                // Four pairs in an i16: 4 · 2 · 32 · 127 = 32,512 at most.
                for t in 0..T {
                    let signed = _mm256_sign_epi8(dword(&x[t].q, k), n);
                    pairs[t] = _mm256_add_epi16(pairs[t], _mm256_maddubs_epi16(a, signed));
                }
            }
            for t in 0..T {
                sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(pairs[t], scales[part]));
            }
        }
        scaled(widen_half(&s[0], h), sum)
    });
}

/// u = d·(scale₀·f₀ + scale₁·f₁) − m·(min₀·g₀ + min₁·g₁), where both sums are exact.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves_and_mins<const T: usize>(
    s: &[Lane; SUPER_LANES],
    small: &Lane,
    q: &[Line; 2],
    x: [&Rounded; T],
    h: usize,
) -> [__m256; T] {
    let small = _mm256_cvtepu16_epi32(load_lane(small, h));
    let nibble = |i: usize| {
        let down = _mm256_srl_epi32(small, _mm_cvtsi32_si128(4 * i as i32));
        _mm256_cvtepi32_ps(_mm256_and_si256(down, _mm256_set1_epi32(15)))
    };
    let (scales, mins) = ([nibble(0), nibble(1)], [nibble(2), nibble(3)]);
    let mut sums = [[_mm256_setzero_ps(); T]; 2];
    for part in 0..2 {
        let mut pairs = [_mm256_setzero_si256(); T];
        for k in 4 * part..4 * part + 4 {
            let code = code(q, k, h);
            for t in 0..T {
                pairs[t] = _mm256_add_epi16(pairs[t], _mm256_maddubs_epi16(code, dword(&x[t].q, k)));
            }
        }
        for t in 0..T {
            sums[part][t] = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs[t], _mm256_set1_epi16(1)));
        }
    }
    let (d, m) = (widen_half(&s[0], h), _mm256_sub_ps(_mm256_setzero_ps(), widen_half(&s[1], h)));
    std::array::from_fn(|t| {
        let f = _mm256_fmadd_ps(scales[0], sums[0][t], _mm256_mul_ps(scales[1], sums[1][t]));
        let [g0, g1] = x[t].halves.map(|g| _mm256_set1_ps(g));
        let taken = _mm256_fmadd_ps(mins[0], g0, _mm256_mul_ps(mins[1], g1));
        _mm256_fmadd_ps(d, f, _mm256_mul_ps(m, taken))
    })
}

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
            TensorKind::Q4_0 | TensorKind::Q5_0 | TensorKind::Q8_0 | TensorKind::IQ4_NL => {
                Scales::Centred(w.scales(group), f32::from(w.offset()))
            }
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
    #[target_feature(enable = "avx2,fma,f16c")]
    fn at(self, b: usize, h: usize) -> (__m256, __m256) {
        match self {
            // −offset·d and its product with g are exact (at most 11 + 12 significant bits), so that the sum rounds
            // d·Σ(code − offset)·q once, as the definition does.
            Scales::Centred(s, offset) => {
                let d = widen_half(&s[b][0], h);
                (d, _mm256_mul_ps(d, _mm256_set1_ps(-offset)))
            }
            Scales::Power(s) => {
                let wide = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load_lane(&s[b][0], h)));
                (_mm256_castsi256_ps(wide), _mm256_setzero_ps())
            }
            Scales::Pair(s) => (widen_half(&s[b][0], h), widen_half(&s[b][1], h)),
            // d·scale and m·min, both exact.
            Scales::Super(s) => {
                let s = &s[b / SEGMENT];
                let small = _mm256_cvtepu16_epi32(load_lane(&s[2 + b % SEGMENT], h));
                let scale = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(small));
                let min = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<16>(small));
                let d = _mm256_mul_ps(widen_half(&s[0], h), _mm256_cvtepi32_ps(scale));
                (d, _mm256_mul_ps(widen_half(&s[1], h), _mm256_cvtepi32_ps(min)))
            }
        }
    }
}

/// The definition's order over all blocks; `u` is a block's value for each row of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn run<const T: usize, const H: usize, const BITS: usize>(
    codes: &[[Line; BITS]],
    x: [ActRow<'_>; T],
    half: usize,
    out: &mut [[f32; GROUP]],
    u: impl Fn(usize, usize, &[Line; BITS], [&Rounded; T]) -> [__m256; T],
) {
    // Of a length the compiler knows to be the loop's, so that no index is checked there.
    let x = x.map(|x| &x.blocks[..codes.len()]);
    let mut tot = [[_mm256_setzero_ps(); H]; T];
    for start in (0..codes.len()).step_by(SEGMENT) {
        let mut p = [[_mm256_setzero_ps(); H]; T];
        for b in start..codes.len().min(start + SEGMENT) {
            let x = x.map(|x| &x[b]);
            for h in 0..H {
                let u = u(b, half + h, &codes[b], x);
                for t in 0..T {
                    p[t][h] = _mm256_fmadd_ps(_mm256_set1_ps(x[t].d), u[t], p[t][h]);
                }
            }
        }
        for t in 0..T {
            for h in 0..H {
                tot[t][h] = _mm256_add_ps(tot[t][h], p[t][h]);
            }
        }
    }
    for (out, tot) in out.iter_mut().zip(&tot) {
        for (eight, tot) in out.as_chunks_mut::<8>().0[half..half + H].iter_mut().zip(tot) {
            // SAFETY: `eight` is eight f32.
            unsafe { _mm256_storeu_ps(eight.as_mut_ptr(), *tot) };
        }
    }
}

/// u = d·f.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scaled<const T: usize>(d: __m256, f: [__m256i; T]) -> [__m256; T] {
    std::array::from_fn(|t| _mm256_mul_ps(d, _mm256_cvtepi32_ps(f[t])))
}

/// Dword `k` of the codes of a block, from the planes that `packed` describes.
#[inline]
#[target_feature(enable = "avx2")]
fn code<const BITS: usize>(q: &[Line; BITS], k: usize, h: usize) -> __m256i {
    let (mut code, mut below) = (_mm256_setzero_si256(), 0);
    for width in [4, 2, 1] {
        if BITS & width != 0 {
            let (v, from) = (load_half(&q[below + k % width], h), width * (k / width));
            // From bit `from` of each byte to bit `below`.
            let v = match from.checked_sub(below) {
                Some(down) => _mm256_srl_epi16(v, _mm_cvtsi32_si128(down as i32)),
                None => _mm256_sll_epi16(v, _mm_cvtsi32_si128((below - from) as i32)),
            };
            let mask = _mm256_set1_epi8((((1 << width) - 1) << below) as i8);
            code = _mm256_or_si256(code, _mm256_and_si256(v, mask));
            below += width;
        }
    }
    code
}

/// Σ code·q of codes of four or five bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unsigned<const T: usize, const BITS: usize>(q: &[Line; BITS], x: [&Rounded; T], h: usize) -> [__m256i; T] {
    let (mut below, mut above) = ([_mm256_setzero_si256(); T], [_mm256_setzero_si256(); T]);
    for k in 0..4 {
        let (low, high) = (code(q, k, h), code(q, k + 4, h));
        // Four pairs in an i16: 4 · 2 · 31 · 127 = 31,496 at most.
        for t in 0..T {
            below[t] = _mm256_add_epi16(below[t], _mm256_maddubs_epi16(low, dword(&x[t].q, k)));
            above[t] = _mm256_add_epi16(above[t], _mm256_maddubs_epi16(high, dword(&x[t].q, k + 4)));
        }
    }
    let one = _mm256_set1_epi16(1);
    std::array::from_fn(|t| {
        if BITS == 4 {
            // Eight pairs fit: 8 · 2 · 15 · 127 = 30,480 at most.
            return _mm256_madd_epi16(_mm256_add_epi16(below[t], above[t]), one);
        }
        _mm256_add_epi32(_mm256_madd_epi16(below[t], one), _mm256_madd_epi16(above[t], one))
    })
}

/// Σ n·q of signed bytes, in the sign form: |n| · (q with n's sign), since unsigned bytes of 128 and more
/// would saturate pairs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed<const T: usize>(n: impl Fn(usize) -> __m256i, x: [&Rounded; T]) -> [__m256i; T] {
    let one = _mm256_set1_epi16(1);
    let mut sum = [_mm256_setzero_si256(); T];
    for k in 0..8 {
        let n = n(k);
        let a = _mm256_abs_epi8(n);
        for t in 0..T {
            // A pair is 2 · 128 · 127 = 32,512 at most.
            let pairs = _mm256_maddubs_epi16(a, _mm256_sign_epi8(dword(&x[t].q, k), n));
            sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(pairs, one));
        }
    }
    sum
}

/// Weights that are no codes: one fma for each column.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn plain<W>(w: &[[W; GROUP]], acts: &[ActRow<'_>], out: &mut [[f32; GROUP]], load: fn(&[W; GROUP]) -> [__m256; 2]) {
    for (x, out) in acts.iter().zip(out) {
        let mut tot = [_mm256_setzero_ps(); 2];
        for (w, x) in w.chunks(SEGMENT * BLOCK).zip(x.x.chunks(SEGMENT * BLOCK)) {
            let mut p = [_mm256_setzero_ps(); 2];
            for (w, x) in w.iter().zip(x) {
                let (w, x) = (load(w), _mm256_set1_ps(*x));
                p = [_mm256_fmadd_ps(x, w[0], p[0]), _mm256_fmadd_ps(x, w[1], p[1])];
            }
            tot = [_mm256_add_ps(tot[0], p[0]), _mm256_add_ps(tot[1], p[1])];
        }
        for (eight, tot) in out.as_chunks_mut::<8>().0.iter_mut().zip(tot) {
            // SAFETY: `eight` is eight f32.
            unsafe { _mm256_storeu_ps(eight.as_mut_ptr(), tot) };
        }
    }
}

/// A dword of eight rows.
#[inline]
#[target_feature(enable = "avx2")]
fn load_half(line: &Line, half: usize) -> __m256i {
    let half = &line.0.as_chunks::<8>().0[half];
    // SAFETY: `half` is eight u32.
    unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
}

/// Sixteen bits of eight rows.
#[inline]
#[target_feature(enable = "avx2")]
fn load_lane(lane: &Lane, half: usize) -> __m128i {
    let half = &lane.as_chunks::<8>().0[half];
    // SAFETY: `half` is eight u16.
    unsafe { _mm_loadu_si128(half.as_ptr().cast()) }
}

/// A table of sixteen bytes in both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(table: &[i8; 16]) -> __m256i {
    // SAFETY: sixteen bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// Four activations, the same for all rows.
#[inline]
#[target_feature(enable = "avx2")]
fn dword(q: &[i8; BLOCK], k: usize) -> __m256i {
    let four = q.as_chunks::<4>().0[k];
    _mm256_set1_epi32(i32::from_le_bytes(four.map(|b| b as u8)))
}

/// Scales of eight rows.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_half(lane: &Lane, half: usize) -> __m256 {
    widen_eight(&lane.as_chunks::<8>().0[half])
}

#[inline(always)]
fn load_f16(w: &[u16; GROUP]) -> [__m256; 2] {
    // SAFETY: called by `plain` only, which runs where F16C is.
    unsafe { [widen_half(w, 0), widen_half(w, 1)] }
}

#[inline(always)]
fn load_bf16(w: &[u16; GROUP]) -> [__m256; 2] {
    // SAFETY: called by `plain` only, which runs where AVX2 is.
    unsafe {
        let wide = |half| _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load_lane(w, half)));
        [_mm256_castsi256_ps(wide(0)), _mm256_castsi256_ps(wide(1))]
    }
}

#[inline(always)]
fn load_f32(w: &[f32; GROUP]) -> [__m256; 2] {
    // SAFETY: sixteen f32, eight at a time; called by `plain` only, which runs where AVX2 is.
    unsafe { [_mm256_loadu_ps(w.as_ptr()), _mm256_loadu_ps(w.as_ptr().add(8))] }
}
