//! Attention at the AVX-512 level: the sums of up to eight queries, sixteen positions or sixteen dims at a time.
//!
//! As in `avx2_attend` no sum crosses lanes. Heads whose dims fill no register go there.
#![allow(unsafe_code)]

use super::attend::{Weights, tile};
use super::{Query, avx2_attend};
use crate::kv::{Head, LANE_POSITIONS, Split};
use crate::numerics::attention::SEGMENT;
use std::arch::x86_64::*;
use std::ops::Range;

/// Of a segment of dims.
const HALF: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn attend(queries: &mut [Query<'_>], head: Head<'_>) {
    if !head.dim().is_multiple_of(16) {
        return avx2_attend::attend(queries, head);
    }
    match queries {
        [] => {}
        [a] => whole([a], head),
        [a, b] => whole([a, b], head),
        [a, b, c] => whole([a, b, c], head),
        [a, b, c, d] => whole([a, b, c, d], head),
        [a, b, c, d, e, f, g, h] => whole([a, b, c, d, e, f, g, h], head),
        _ => {
            let (four, rest) = queries.split_at_mut(4);
            attend(four, head);
            attend(rest, head);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn whole<const T: usize>(queries: [&mut Query<'_>; T], head: Head<'_>) {
    tile(
        queries,
        head,
        |queries, split, seen, out| scores(queries, split, seen, out),
        |weights, split, seen, out| sum_values(weights, split, seen, out),
    );
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn scores<const T: usize>(queries: &[&[f32]; T], split: Split<'_>, seen: Range<usize>, out: &mut Weights<T>) {
    for g in seen.start / LANE_POSITIONS..seen.end.div_ceil(LANE_POSITIONS) {
        // Sixteen dims at a time, a length the compiler knows: no index is checked within.
        let dims = split.keys(g).as_chunks::<LANE_POSITIONS>().0.as_chunks::<HALF>().0;
        let mut tot = [_mm512_setzero_ps(); T];
        for (s, segment) in dims.chunks(SEGMENT / HALF).enumerate() {
            let mut p = [_mm512_setzero_ps(); T];
            for (half, dims) in segment.iter().enumerate() {
                let asks = queries.map(|query| &query.as_chunks::<HALF>().0[s * SEGMENT / HALF + half]);
                for i in 0..HALF {
                    let k = widen(&dims[i]);
                    for t in 0..T {
                        p[t] = _mm512_fmadd_ps(_mm512_set1_ps(asks[t][i]), k, p[t]);
                    }
                }
            }
            for t in 0..T {
                tot[t] = _mm512_add_ps(tot[t], p[t]);
            }
        }
        for t in 0..T {
            store(&mut out[t].as_chunks_mut().0[g], tot[t]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum_values<const T: usize>(weights: &Weights<T>, split: Split<'_>, seen: Range<usize>, out: &mut [f32]) {
    let lanes = out.len() / T / 16;
    let out = out.as_chunks_mut::<16>().0;
    for d in 0..lanes {
        let mut tot = [_mm512_setzero_ps(); T];
        for segment in (seen.start / SEGMENT * SEGMENT..seen.end).step_by(SEGMENT) {
            let mut p = [_mm512_setzero_ps(); T];
            let values = split.values(segment).as_chunks::<16>().0;
            for position in segment.max(seen.start)..seen.end.min(segment + SEGMENT) {
                let v = widen(&values[(position - segment) * lanes + d]);
                for t in 0..T {
                    p[t] = _mm512_fmadd_ps(_mm512_set1_ps(weights[t][position]), v, p[t]);
                }
            }
            for t in 0..T {
                tot[t] = _mm512_add_ps(tot[t], p[t]);
            }
        }
        for t in 0..T {
            store(&mut out[t * lanes + d], tot[t]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(f16: &[u16; 16]) -> __m512 {
    // SAFETY: sixteen u16.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(f16.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut [f32; 16], v: __m512) {
    // SAFETY: sixteen f32.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
}
