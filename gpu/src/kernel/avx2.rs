//! The AVX2 + FMA + F16C level: matrices, activations and everything elementwise.
//!
//! A register's lane is a weight row, so each lane runs the definition's chain of fma for its row and
//! no sum crosses lanes. Weights are unpacked once for up to four rows of activations. The elementwise
//! kernels are the definition itself, inlined here so that it is compiled for these instructions.
//!
//! Only `Kernels::of` hands the table out, after it has asked the processor.
#![allow(unsafe_code)]
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::matrix::{Body, GROUP, Matrix, Q4x16, Q8x16};
use super::{Kernels, Level, Query, TileOut, avx2_attend};
use crate::kv::Head;
use crate::numerics::linear::{self, ActRow, BLOCK, NonFinite, SEGMENT};
use crate::numerics::{self, to_f16};
use std::arch::x86_64::*;

pub(super) static TABLE: Kernels = Kernels {
    level: Level::Avx2,
    quantize,
    tile,
    rms_norm,
    rms_norm_each,
    rope,
    rope_halves,
    swiglu,
    geglu,
    narrow,
    attend,
};

/// Safe functions for the table, around bodies that need the instructions.
macro_rules! entries {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? = $body:path;)*) => {$(
        $(#[$doc])*
        fn $name($($arg: $type),*) $(-> $out)? {
            #[target_feature(enable = "avx2,fma,f16c")]
            fn compiled($($arg: $type),*) $(-> $out)? {
                $body($($arg),*)
            }
            // SAFETY: the table is handed out only where `Level::Avx2.is_supported()`.
            unsafe { compiled($($arg),*) }
        }
    )*};
}

entries! {
    fn quantize(x: &[f32], q: &mut [[i8; BLOCK]], d: &mut [f32], g: &mut [f32]) -> Result<(), NonFinite> = linear::quantize;
    fn tile(weights: &Matrix, group: usize, acts: &[ActRow<'_>], out: &mut TileOut) = tile_body;
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = numerics::rms_norm;
    fn rms_norm_each(x: &mut [f32], weight: &[f32], eps: f32) = numerics::rms_norm_each;
    fn rope(x: &mut [f32], table: &[[f32; 2]]) = numerics::rope;
    fn rope_halves(x: &mut [f32], table: &[[f32; 2]]) = numerics::rope_halves;
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) = numerics::swiglu;
    fn geglu(gate: &[f32], up: &[f32], out: &mut [f32]) = numerics::geglu;
    fn narrow(x: &[f32], out: &mut [u16]) = narrow_body;
    fn attend(queries: &mut [Query<'_>], head: Head<'_>) = avx2_attend::attend;
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile_body(weights: &Matrix, group: usize, acts: &[ActRow<'_>], out: &mut TileOut) {
    let blocks = weights.cols / BLOCK;
    match &weights.body {
        Body::Q4(b) => match acts {
            [a] => q4::<1, 2>(&b[group * blocks..][..blocks], [*a], 0, out),
            [a, b2] => q4::<2, 2>(&b[group * blocks..][..blocks], [*a, *b2], 0, out),
            [a, b2, c] => halves(|half| q4::<3, 1>(&b[group * blocks..][..blocks], [*a, *b2, *c], half, out)),
            [a, b2, c, d, ..] => {
                halves(|half| q4::<4, 1>(&b[group * blocks..][..blocks], [*a, *b2, *c, *d], half, out));
            }
            [] => {}
        },
        Body::Q8(b) => match acts {
            [a] => q8::<1, 2>(&b[group * blocks..][..blocks], [*a], 0, out),
            [a, b2] => q8::<2, 2>(&b[group * blocks..][..blocks], [*a, *b2], 0, out),
            [a, b2, c] => halves(|half| q8::<3, 1>(&b[group * blocks..][..blocks], [*a, *b2, *c], half, out)),
            [a, b2, c, d, ..] => {
                halves(|half| q8::<4, 1>(&b[group * blocks..][..blocks], [*a, *b2, *c, *d], half, out));
            }
            [] => {}
        },
        Body::F16(b) => {
            let b = &b[group * weights.cols..][..weights.cols];
            acts.iter().zip(out).for_each(|(a, out)| plain(b, a.x, out, widen));
        }
        Body::F32(b) => {
            let b = &b[group * weights.cols..][..weights.cols];
            acts.iter().zip(out).for_each(|(a, out)| plain(b, a.x, out, load_f32));
        }
        Body::Native(..) => unreachable!("the AVX2 level loads interleaved rows"),
    }
}

/// Three or four rows of activations leave registers for eight weight rows at a time.
#[inline(always)]
fn halves(mut kernel: impl FnMut(usize)) {
    kernel(0);
    kernel(1);
}

/// Q4_1: `T` rows of activations, `H` halves of the group from `half` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4<const T: usize, const H: usize>(w: &[Q4x16], x: [ActRow<'_>; T], half: usize, out: &mut TileOut) {
    let low = _mm256_set1_epi8(15);
    let one = _mm256_set1_epi16(1);
    let mut tot = [[_mm256_setzero_ps(); H]; T];
    for (s, segment) in w.chunks(SEGMENT).enumerate() {
        let mut p = [[_mm256_setzero_ps(); H]; T];
        for (i, block) in segment.iter().enumerate() {
            let b = s * SEGMENT + i;
            for h in 0..H {
                let mut sum = [_mm256_setzero_si256(); T];
                for k in 0..4 {
                    let v = load_half(&block.q[k], half + h);
                    let (lo, hi) = (_mm256_and_si256(v, low), _mm256_and_si256(_mm256_srli_epi16::<4>(v), low));
                    // Eight pairs in an i16: 8 · 2 · 15 · 127 = 30,480 at most.
                    for t in 0..T {
                        sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(lo, dword(&x[t].q[b], k)));
                        sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(hi, dword(&x[t].q[b], k + 4)));
                    }
                }
                let (d, m) = (widen_half(&block.d, half + h), widen_half(&block.m, half + h));
                for t in 0..T {
                    let f = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[t], one));
                    let u = _mm256_fmadd_ps(d, f, _mm256_mul_ps(m, _mm256_set1_ps(x[t].g[b])));
                    p[t][h] = _mm256_fmadd_ps(_mm256_set1_ps(x[t].d[b]), u, p[t][h]);
                }
            }
        }
        add(&mut tot, &p);
    }
    store(&tot, half, out);
}

/// Q8_0, in the sign form: |w| · (x with w's sign), since bytes of 128 and more would saturate pairs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q8<const T: usize, const H: usize>(w: &[Q8x16], x: [ActRow<'_>; T], half: usize, out: &mut TileOut) {
    let one = _mm256_set1_epi16(1);
    let mut tot = [[_mm256_setzero_ps(); H]; T];
    for (s, segment) in w.chunks(SEGMENT).enumerate() {
        let mut p = [[_mm256_setzero_ps(); H]; T];
        for (i, block) in segment.iter().enumerate() {
            let b = s * SEGMENT + i;
            for h in 0..H {
                let mut sum = [_mm256_setzero_si256(); T];
                for k in 0..8 {
                    let v = load_half(&block.q[k], half + h);
                    let a = _mm256_abs_epi8(v);
                    for t in 0..T {
                        // A pair is 2 · 128 · 127 = 32,512 at most.
                        let pairs = _mm256_maddubs_epi16(a, _mm256_sign_epi8(dword(&x[t].q[b], k), v));
                        sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(pairs, one));
                    }
                }
                let d = widen_half(&block.d, half + h);
                for t in 0..T {
                    let u = _mm256_mul_ps(d, _mm256_cvtepi32_ps(sum[t]));
                    p[t][h] = _mm256_fmadd_ps(_mm256_set1_ps(x[t].d[b]), u, p[t][h]);
                }
            }
        }
        add(&mut tot, &p);
    }
    store(&tot, half, out);
}

/// F16 and F32 weights: one fma for each column.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn plain<W>(w: &[[W; GROUP]], x: &[f32], out: &mut [f32; GROUP], load: fn(&[W; GROUP]) -> [__m256; 2]) {
    let mut tot = [[_mm256_setzero_ps(); 2]];
    for (w, x) in w.chunks(SEGMENT * BLOCK).zip(x.chunks(SEGMENT * BLOCK)) {
        let mut p = [[_mm256_setzero_ps(); 2]];
        for (w, x) in w.iter().zip(x) {
            let (w, x) = (load(w), _mm256_set1_ps(*x));
            p[0] = [_mm256_fmadd_ps(x, w[0], p[0][0]), _mm256_fmadd_ps(x, w[1], p[0][1])];
        }
        add(&mut tot, &p);
    }
    let mut tile = [[0.0; GROUP]; super::TILE];
    store(&tot, 0, &mut tile);
    *out = tile[0];
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add<const T: usize, const H: usize>(tot: &mut [[__m256; H]; T], p: &[[__m256; H]; T]) {
    for t in 0..T {
        for h in 0..H {
            tot[t][h] = _mm256_add_ps(tot[t][h], p[t][h]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store<const T: usize, const H: usize>(tot: &[[__m256; H]; T], half: usize, out: &mut TileOut) {
    for (out, tot) in out.iter_mut().zip(tot) {
        for (eight, tot) in out.as_chunks_mut::<8>().0[half..half + H].iter_mut().zip(tot) {
            // SAFETY: `eight` is eight f32.
            unsafe { _mm256_storeu_ps(eight.as_mut_ptr(), *tot) };
        }
    }
}

/// Bytes of eight rows.
#[inline]
#[target_feature(enable = "avx2")]
fn load_half(bytes: &[u8; 64], half: usize) -> __m256i {
    let half = &bytes.as_chunks::<32>().0[half];
    // SAFETY: `half` is 32 bytes.
    unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
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
fn widen_half(f16: &[u16; GROUP], half: usize) -> __m256 {
    widen_eight(&f16.as_chunks::<8>().0[half])
}

/// Eight f16 as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn widen_eight(f16: &[u16; 8]) -> __m256 {
    // SAFETY: eight u16 are 16 bytes.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(f16.as_ptr().cast()) })
}

#[inline(always)]
fn widen(w: &[u16; GROUP]) -> [__m256; 2] {
    // SAFETY: called by `plain` only, which runs where F16C is.
    unsafe { [widen_half(w, 0), widen_half(w, 1)] }
}

#[inline(always)]
fn load_f32(w: &[f32; GROUP]) -> [__m256; 2] {
    // SAFETY: sixteen f32, eight at a time; called by `plain` only, which runs where AVX2 is.
    unsafe { [_mm256_loadu_ps(w.as_ptr()), _mm256_loadu_ps(w.as_ptr().add(8))] }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_body(x: &[f32], out: &mut [u16]) {
    let (x, rest) = x.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<8>();
    let (low, high) = (_mm256_set1_ps(-65504.0), _mm256_set1_ps(65504.0));
    for (x, out) in x.iter().zip(out) {
        // SAFETY: eight f32 are read, eight u16 written.
        unsafe {
            // The second operand is the answer where one is NaN: NaN stays NaN, as in the definition.
            let v = _mm256_min_ps(high, _mm256_max_ps(low, _mm256_loadu_ps(x.as_ptr())));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
        }
    }
    for (x, out) in rest.iter().zip(out_rest) {
        *out = to_f16(*x);
    }
}
