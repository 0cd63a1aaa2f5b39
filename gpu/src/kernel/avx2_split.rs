//! A head's groups by the upper halves of their codes, at the AVX2 level: bounds, as `split` defines them.
#![allow(unsafe_code)]
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::avx2_tile::{unsigned, widen_half};
use super::split::{Asker, Peak, Split};
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn look(head: &Split, group: usize, askers: &[Asker<'_>], peaks: &mut [Peak]) {
    let (fours, rest) = askers.as_chunks::<4>();
    let (outs, peaks) = peaks.split_at_mut(fours.len() * 4);
    for (askers, peaks) in fours.iter().zip(outs.as_chunks_mut().0) {
        each::<4>(head, group, askers, peaks);
    }
    for (asker, peak) in rest.as_chunks::<1>().0.iter().zip(peaks.as_chunks_mut().0) {
        each::<1>(head, group, asker, peak);
    }
}

/// Eight rows of the group, then the other eight.
#[target_feature(enable = "avx2,fma,f16c")]
fn each<const T: usize>(head: &Split, group: usize, askers: &[Asker<'_>; T], peaks: &mut [Peak; T]) {
    let ([high, _], scales) = (head.codes(group), head.scales(group));
    *peaks = [Peak { centre: f32::NEG_INFINITY, upper: f32::NEG_INFINITY }; T];
    for half in 0..2 {
        let (mut centre, mut reach) = ([_mm256_setzero_ps(); T], [_mm256_setzero_ps(); T]);
        for (b, (high, scale)) in high.iter().zip(scales).enumerate() {
            let d = widen_half(&scale.d, half);
            let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), d);
            let bytes = i64::from_le_bytes(scale.rest.as_chunks().0[half]);
            let rest = _mm256_mul_ps(size, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes))));
            let x: [_; T] = std::array::from_fn(|t| &askers[t].blocks[b]);
            let sums = unsigned(high, x, half);
            for t in 0..T {
                let (by, off) = (_mm256_set1_ps(16.0 * x[t].d), _mm256_set1_ps(-120.5 * x[t].d * x[t].g));
                let of = _mm256_fmadd_ps(by, _mm256_cvtepi32_ps(sums[t]), off);
                centre[t] = _mm256_fmadd_ps(d, of, centre[t]);
                reach[t] = _mm256_fmadd_ps(_mm256_set1_ps(askers[t].reach[b]), rest, reach[t]);
            }
        }
        for t in 0..T {
            let largest = |v: __m256| {
                let mut lanes = [0.0; 8];
                // SAFETY: eight f32.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), v) };
                lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
            };
            let Peak { centre: best, upper } = peaks[t];
            let above = largest(_mm256_add_ps(centre[t], reach[t]));
            peaks[t] = Peak { centre: best.max(largest(centre[t])), upper: upper.max(above) };
        }
    }
}
