//! The AVX2 + FMA + F16C level: its table, activations and everything elementwise.
//!
//! The elementwise kernels are the definition itself, inlined here so that it is compiled for these
//! instructions; matrices are in `avx2_tile`, attention in `avx2_attend`.
//!
//! Only `Kernels::of` hands the table out, after it has asked the processor.
#![allow(unsafe_code)]

use super::drive::Sums;
use super::matrix::Matrix;
use super::{Kernels, Level, Query, avx2_attend, avx2_tile};
use crate::kv::Head;
use crate::numerics::linear::{self, ActRow, NonFinite, Rounded};
use crate::numerics::{self, to_f16};
use std::arch::x86_64::*;
use std::ops::Range;

pub(super) static TABLE: Kernels = Kernels {
    level: Level::Avx2,
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
    narrow,
    attend,
};

/// Safe functions for a table, around bodies that need a level's instructions.
macro_rules! entries {
    ($features:tt: $($vis:vis fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? = $body:path;)*) => {$(
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[target_feature(enable = $features)]
            fn compiled($($arg: $type),*) $(-> $out)? {
                $body($($arg),*)
            }
            // SAFETY: the table is handed out only where its level `is_supported()`.
            unsafe { compiled($($arg),*) }
        }
    )*};
}
pub(super) use entries;

entries! { "avx2,fma,f16c":
    fn quantize(x: &[f32], blocks: &mut [Rounded]) -> Result<(), NonFinite> = linear::quantize;
    fn linear(weights: &Matrix, groups: Range<usize>, acts: &[ActRow<'_>], out: &mut Sums<'_>) = avx2_tile::linear;
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = numerics::rms_norm;
    fn rms_norm_each(x: &mut [f32], weight: &[f32], eps: f32) = numerics::rms_norm_each;
    fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) = numerics::layer_norm;
    fn rope(x: &mut [f32], table: &[[f32; 2]]) = numerics::rope;
    fn rope_halves(x: &mut [f32], table: &[[f32; 2]]) = numerics::rope_halves;
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) = numerics::swiglu;
    fn geglu(gate: &[f32], up: &[f32], out: &mut [f32]) = numerics::geglu;
    fn biased_gelu(x: &[f32], bias: &[f32], out: &mut [f32]) = numerics::biased_gelu;
    pub(super) fn narrow(x: &[f32], out: &mut [u16]) = narrow_body;
    fn attend(queries: &mut [Query<'_>], head: Head<'_>) = avx2_attend::attend;
}

/// Eight f16 as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn widen_eight(f16: &[u16; 8]) -> __m256 {
    // SAFETY: eight u16 are 16 bytes.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(f16.as_ptr().cast()) })
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
