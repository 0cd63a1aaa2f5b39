//! Attention at the AVX2 level: up to four queries that share a head's keys and values.
//!
//! Scores: a lane is a position (keys are interleaved by 16), each runs the definition's chain over the
//! dims. Values: a lane is a dim. Queries of a tile may see different positions: where one sees fewer
//! its weights are +0, and a product with +0 added to a chain changes no bit that is kept
//! (a chain can only hold −0 by underflow, and the segment's sum makes +0 of both).
#![allow(unsafe_code)]

use super::avx2::widen_eight;
use super::{Query, TILE};
use crate::kv::{Head, LANE_POSITIONS, PAGE};
use crate::numerics::attention::{self, Chain, SEGMENT, SPLIT};
use crate::numerics::{exp, tree};
use std::arch::x86_64::*;
use std::ops::Range;

/// Weights of each query for each position of a split.
type Weights<const T: usize> = [[f32; SPLIT]; T];

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attend(queries: &mut [Query<'_>], head: Head<'_>) {
    if !head.dim().is_multiple_of(8) {
        for q in queries {
            attention::attend(q.query, &head, q.seen.clone(), q.out);
        }
        return;
    }
    match queries {
        [a] => tile([a], head),
        [a, b] => tile([a, b], head),
        [a, b, c] => tile([a, b, c], head),
        [a, b, c, d] => tile([a, b, c, d], head),
        _ => queries.chunks_mut(TILE).for_each(|tile| attend(tile, head)),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const T: usize>(queries: [&mut Query<'_>; T], head: Head<'_>) {
    let seen = queries.each_ref().map(|q| (q.seen.start, q.seen.end));
    let asks = queries.each_ref().map(|q| q.query);
    let mut chains = queries.map(|q| Chain::new(&mut *q.out));
    let any = seen.iter().map(|s| s.0).min().unwrap_or(0)..seen.iter().map(|s| s.1).max().unwrap_or(0);
    let mut values = vec![0.0f32; T * head.dim()];
    for split in any.start / SPLIT..any.end.div_ceil(SPLIT) {
        let base = split * SPLIT;
        let here = |(start, end): (usize, usize)| {
            start.max(base).min(base + SPLIT) - base..end.max(base).min(base + SPLIT) - base
        };
        let any = here((any.start, any.end));
        let mut weights: Weights<T> = [[f32::NEG_INFINITY; SPLIT]; T];
        scores(&asks, head, base, any.clone(), &mut weights);
        let mut maxima = [f32::NEG_INFINITY; T];
        for t in 0..T {
            let Range { start, end } = here(seen[t]);
            weights[t][..start].fill(f32::NEG_INFINITY);
            weights[t][end..].fill(f32::NEG_INFINITY);
            maxima[t] = weights[t].iter().fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m });
            for w in &mut weights[t][start / 8 * 8..end.next_multiple_of(8)] {
                *w = exp(*w - maxima[t]);
            }
            weights[t][..start].fill(0.0);
            weights[t][end..].fill(0.0);
        }
        sum_values(&weights, head, base, any, &mut values);
        for (t, chain) in chains.iter_mut().enumerate() {
            if !here(seen[t]).is_empty() {
                let first = base <= seen[t].0;
                chain.add(first, maxima[t], tree(&mut weights[t]), &values[t * head.dim()..][..head.dim()]);
            }
        }
    }
    for chain in chains {
        chain.finish();
    }
}

/// query · key for each position `seen` of the split that begins at `base`, rounded outwards to 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scores<const T: usize>(
    queries: &[&[f32]; T],
    head: Head<'_>,
    base: usize,
    seen: Range<usize>,
    out: &mut Weights<T>,
) {
    for g in seen.start / LANE_POSITIONS..seen.end.div_ceil(LANE_POSITIONS) {
        let dims = head.keys(base / LANE_POSITIONS + g).as_chunks::<LANE_POSITIONS>().0;
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

/// Σ weight · value for each query and dim, in segments of 32 positions, over those `seen` of the split that
/// begins at `base`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_values<const T: usize>(
    weights: &Weights<T>,
    head: Head<'_>,
    base: usize,
    seen: Range<usize>,
    out: &mut [f32],
) {
    let dim = out.len() / T;
    for d in (0..dim).step_by(8) {
        let mut tot = [_mm256_setzero_ps(); T];
        for segment in (seen.start / SEGMENT * SEGMENT..seen.end).step_by(SEGMENT) {
            let mut p = [_mm256_setzero_ps(); T];
            let values = head.values((base + segment) / PAGE);
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
