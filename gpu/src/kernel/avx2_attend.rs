//! Attention at the AVX2 level: up to four queries that share a head's keys and values.
//!
//! Scores: a lane is a position (keys are interleaved by 16), each runs the definition's chain over the
//! dims. Values: a lane is a dim.
#![allow(unsafe_code)]

use super::Query;
use super::attend::{Weights, tile};
use super::avx2::widen_eight;
use crate::kv::{Head, LANE_POSITIONS, Split};
use crate::numerics::attention::{self, SEGMENT};
use std::arch::x86_64::*;
use std::ops::Range;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attend(queries: &mut [Query<'_>], head: Head<'_>) {
    if !head.dim().is_multiple_of(8) {
        for q in queries {
            attention::attend(q.query, &head, q.seen.clone(), q.out);
        }
        return;
    }
    match queries {
        [a] => whole([a], head),
        [a, b] => whole([a, b], head),
        [a, b, c] => whole([a, b, c], head),
        [a, b, c, d] => whole([a, b, c, d], head),
        _ => queries.chunks_mut(4).for_each(|tile| attend(tile, head)),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn whole<const T: usize>(queries: [&mut Query<'_>; T], head: Head<'_>) {
    tile(
        queries,
        head,
        |queries, split, seen, out| scores(queries, split, seen, out),
        |weights, split, seen, out| sum_values(weights, split, seen, out),
    );
}

/// query · key for each position of the split in `seen`, rounded outwards to 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scores<const T: usize>(queries: &[&[f32]; T], split: Split<'_>, seen: Range<usize>, out: &mut Weights<T>) {
    for g in seen.start / LANE_POSITIONS..seen.end.div_ceil(LANE_POSITIONS) {
        let dims = split.keys(g).as_chunks::<LANE_POSITIONS>().0;
        let mut tot = [[_mm256_setzero_ps(); 2]; T];
        for (s, segment) in dims.chunks(SEGMENT).enumerate() {
            let mut p = [[_mm256_setzero_ps(); 2]; T];
            let asks: [&[f32]; T] = std::array::from_fn(|t| &queries[t][s * SEGMENT..][..segment.len()]);
            for (i, lanes) in segment.iter().enumerate() {
                let (low, high) = lanes.split_at(8);
                let k = [low, high].map(|half| widen(half));
                for t in 0..T {
                    let q = _mm256_set1_ps(asks[t][i]);
                    p[t] = [_mm256_fmadd_ps(q, k[0], p[t][0]), _mm256_fmadd_ps(q, k[1], p[t][1])];
                }
            }
            for t in 0..T {
                tot[t] = [_mm256_add_ps(tot[t][0], p[t][0]), _mm256_add_ps(tot[t][1], p[t][1])];
            }
        }
        for t in 0..T {
            let (low, high) = out[t][g * LANE_POSITIONS..][..LANE_POSITIONS].split_at_mut(8);
            store(low, tot[t][0]);
            store(high, tot[t][1]);
        }
    }
}

/// Σ weight · value for each query and dim, in segments of 32 positions, over those in `seen`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_values<const T: usize>(weights: &Weights<T>, split: Split<'_>, seen: Range<usize>, out: &mut [f32]) {
    let dim = out.len() / T;
    for d in (0..dim).step_by(8) {
        let mut tot = [_mm256_setzero_ps(); T];
        for segment in (seen.start / SEGMENT * SEGMENT..seen.end).step_by(SEGMENT) {
            let mut p = [_mm256_setzero_ps(); T];
            let values = split.values(segment);
            for position in segment.max(seen.start)..seen.end.min(segment + SEGMENT) {
                let v = widen(&values[(position - segment) * dim + d..][..8]);
                for t in 0..T {
                    p[t] = _mm256_fmadd_ps(_mm256_set1_ps(weights[t][position]), v, p[t]);
                }
            }
            for t in 0..T {
                tot[t] = _mm256_add_ps(tot[t], p[t]);
            }
        }
        for t in 0..T {
            store(&mut out[t * dim + d..][..8], tot[t]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen(eight: &[u16]) -> __m256 {
    widen_eight(&eight.as_chunks::<8>().0[0])
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(eight: &mut [f32], v: __m256) {
    // SAFETY: the chunk is eight f32.
    unsafe { _mm256_storeu_ps(eight.as_chunks_mut::<8>().0[0].as_mut_ptr(), v) };
}
