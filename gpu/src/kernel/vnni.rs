//! The AVX-512 VNNI level: its table, activations and everything elementwise.
//!
//! As `avx2`, for registers of 512 bits; matrices are in `vnni_tile`, attention in `vnni_attend`.
//!
//! Only `Kernels::of` hands the table out, after it has asked the processor.
#![allow(unsafe_code)]
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::avx2::entries;
use super::drive::Sums;
use super::matrix::Matrix;
use super::{Kernels, Level, Query, avx2, vnni_attend, vnni_tile};
use crate::kv::Head;
use crate::numerics;
use crate::numerics::linear::{ActRow, BLOCK, NonFinite, Rounded, check_finite};
use std::arch::x86_64::*;
use std::ops::Range;

pub(super) static TABLE: Kernels = Kernels {
    level: Level::Vnni,
    quantize,
    linear,
    rms_norm,
    rms_norm_each,
    layer_norm,
    rope,
    rope_halves,
    swiglu,
    geglu,
    biased_gelu,
    narrow: avx2::narrow,
    attend,
};

entries! { "avx512f,avx512bw,avx512vl,avx512vnni":
    fn quantize(x: &[f32], blocks: &mut [Rounded]) -> Result<(), NonFinite> = quantize_body;
    fn linear(weights: &Matrix, groups: Range<usize>, acts: &[ActRow<'_>], out: &mut Sums<'_>) = vnni_tile::linear;
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = numerics::rms_norm;
    fn rms_norm_each(x: &mut [f32], weight: &[f32], eps: f32) = numerics::rms_norm_each;
    fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) = numerics::layer_norm;
    fn rope(x: &mut [f32], table: &[[f32; 2]]) = numerics::rope;
    fn rope_halves(x: &mut [f32], table: &[[f32; 2]]) = numerics::rope_halves;
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) = numerics::swiglu;
    fn geglu(gate: &[f32], up: &[f32], out: &mut [f32]) = numerics::geglu;
    fn biased_gelu(x: &[f32], bias: &[f32], out: &mut [f32]) = numerics::biased_gelu;
    fn attend(queries: &mut [Query<'_>], head: Head<'_>) = vnni_attend::attend;
}

/// As the definition, whose rounding, sums and maximum are one instruction or a few here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn quantize_body(x: &[f32], blocks: &mut [Rounded]) -> Result<(), NonFinite> {
    check_finite(x)?;
    for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        let x: [&[f32; 16]; 2] = [0, 1].map(|half| &x.as_chunks().0[half]);
        // SAFETY: sixteen f32 each.
        let x = x.map(|half| unsafe { _mm512_loadu_ps(half.as_ptr()) });
        let sizes = x.map(|half| _mm512_castps_si512(_mm512_abs_ps(half)));
        let amax = _mm512_reduce_max_epu32(_mm512_max_epu32(sizes[0], sizes[1]));
        if amax < 0x0f80_0000 {
            *block = Rounded::default();
            continue;
        }
        let amax = f32::from_bits(amax);
        block.d = amax / 127.0;
        let id = _mm512_set1_ps(127.0 / amax);
        let (q, _) = block.q.as_chunks_mut::<16>();
        let mut sum = [0; 2];
        for half in 0..2 {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            let n = _mm512_cvt_roundps_epi32::<NEAREST>(_mm512_mul_ps(x[half], id));
            let n = _mm512_cvtepi32_epi8(n);
            // SAFETY: sixteen i8.
            unsafe { _mm_storeu_si128(q[half].as_mut_ptr().cast(), n) };
            // Sums of eight bytes with 128 added.
            let sums = _mm_sad_epu8(_mm_xor_si128(n, _mm_set1_epi8(-128)), _mm_setzero_si128());
            sum[half] = _mm_cvtsi128_si32(sums) + _mm_extract_epi32::<2>(sums) - 16 * 128;
        }
        (block.g, block.halves) = ((sum[0] + sum[1]) as f32, sum.map(|sum| sum as f32));
        block.starts = [sum[0] + sum[1], sum[0], sum[1]].map(|sum| -4 * sum);
    }
    Ok(())
}
