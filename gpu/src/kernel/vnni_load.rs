//! Registers of AVX-512 from packed weights and back: a lane is a weight row.
#![allow(unsafe_code)]

use super::matrix::GROUP;
use super::packed::{Lane, Line};
use crate::numerics::linear::BLOCK;
use std::arch::x86_64::*;

/// A dword of each row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(line: &Line) -> __m512i {
    // SAFETY: sixteen u32.
    unsafe { _mm512_loadu_si512(line.0.as_ptr().cast()) }
}

/// Sixteen bits of each row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_lane(lane: &Lane) -> __m256i {
    // SAFETY: sixteen u16.
    unsafe { _mm256_loadu_si256(lane.as_ptr().cast()) }
}

/// Scales of each row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn widen(lane: &Lane) -> __m512 {
    _mm512_cvtph_ps(load_lane(lane))
}

/// Two small integers of each row: the lower bytes, the upper ones.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn small(lane: &Lane) -> [__m512; 2] {
    let both = _mm512_cvtepi16_epi32(load_lane(lane));
    let low = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(both));
    [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srai_epi32::<8>(both))]
}

/// Four integers of four bits of each row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn nibbles(lane: &Lane) -> [__m512; 4] {
    let all = _mm512_cvtepu16_epi32(load_lane(lane));
    std::array::from_fn(|i| {
        let down = _mm512_srl_epi32(all, _mm_cvtsi32_si128(4 * i as i32));
        _mm512_cvtepi32_ps(_mm512_and_si512(down, _mm512_set1_epi32(15)))
    })
}

/// A table of sixteen bytes in each quarter.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn broadcast(table: &[u8; 16]) -> __m512i {
    // SAFETY: sixteen bytes.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// Four activations, the same for all rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn dword(q: &[i8; BLOCK], k: usize) -> __m512i {
    let four = q.as_chunks::<4>().0[k];
    _mm512_set1_epi32(i32::from_le_bytes(four.map(|b| b as u8)))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(out: &mut [f32; GROUP], v: __m512) {
    // SAFETY: sixteen f32.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
}

#[inline(always)]
pub(super) fn load_f16(w: &[u16; GROUP]) -> __m512 {
    // SAFETY: called by `vnni_tile::plain` only, which runs where AVX-512 is.
    unsafe { widen(w) }
}

#[inline(always)]
pub(super) fn load_bf16(w: &[u16; GROUP]) -> __m512 {
    // SAFETY: called by `vnni_tile::plain` only, which runs where AVX-512 is.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_lane(w)))) }
}

#[inline(always)]
pub(super) fn load_f32(w: &[f32; GROUP]) -> __m512 {
    // SAFETY: sixteen f32; called by `vnni_tile::plain` only, which runs where AVX-512 is.
    unsafe { _mm512_loadu_ps(w.as_ptr()) }
}
