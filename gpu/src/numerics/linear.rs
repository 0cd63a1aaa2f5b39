//! Linear layers: rows of weights against one row of activations, and the int8 form of activations.
//!
//! A row's sum runs over segments of 256 elements: each segment is one chain of fma from +0, segments
//! are added in ascending order. The block dot inside is an exact integer, so any instruction that
//! multiplies bytes gives the same value. The order needs two accumulators for each output and lets a
//! GPU split a row by segments. F32, F16 and BF16 weights use the same segments with one fma per element
//! and activations that stay f32. All quantized types read the same int8 blocks, so that a layer whose
//! matrices differ in type quantizes its input once.
//!
//! Reads rows as GGUF stores them. Does not repack, tile or thread: see `kernel`.

use super::block::Block;
use super::from_f16;
use crate::gguf::TensorKind;

/// Elements in a block: one scale for weights and for activations.
pub(crate) const BLOCK: usize = 32;
/// Blocks in a segment.
pub(crate) const SEGMENT: usize = 8;

/// Whether activations are quantized for weights of this kind.
pub(crate) fn is_quantized(kind: TensorKind) -> bool {
    plain(kind).is_none()
}

/// Bytes of a row of `cols` elements, a whole number of blocks.
pub(crate) fn row_bytes(kind: TensorKind, cols: usize) -> usize {
    cols / kind.block_elems() as usize * kind.block_bytes() as usize
}

/// One row of activations: as it came, and in int8 blocks (none where no weight needs them).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActRow<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) blocks: &'a [Rounded],
}

/// 32 activations in int8.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rounded {
    pub(crate) q: [i8; BLOCK],
    /// The scale.
    pub(crate) d: f32,
    /// Σ q.
    pub(crate) g: f32,
    /// Σ q of elements 0..16 and of 16..32.
    pub(crate) halves: [f32; 2],
    /// −4·Σ q of all elements, of 0..16 and of 16..32. A code is its weight plus an offset, 4 or so many times a power of
    /// two: a sum of codes that begins at −offset·Σ q is that of the weights.
    pub(crate) starts: [i32; 3],
}

/// What `quantize` answers for a row that holds an infinity or a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NonFinite;

/// Whether all of `x` is finite.
#[inline(always)]
pub(crate) fn check_finite(x: &[f32]) -> Result<(), NonFinite> {
    let largest = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
    if largest >= 0x7f80_0000 { Err(NonFinite) } else { Ok(()) }
}

/// x ≈ d · q in blocks of 32: d = amax/127, q = x · (127/amax) rounded to nearest even, within ±127.
/// A block below 2⁻⁹⁶ is zero, so that 127/amax stays finite.
#[inline(always)]
pub(crate) fn quantize(x: &[f32], blocks: &mut [Rounded]) -> Result<(), NonFinite> {
    check_finite(x)?;
    for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        let amax = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
        if amax < 0x0f80_0000 {
            *block = Rounded::default();
            continue;
        }
        let amax = f32::from_bits(amax);
        block.d = amax / 127.0;
        let id = 127.0 / amax;
        let mut sums = [0; 2];
        for (i, (q, v)) in block.q.iter_mut().zip(x).enumerate() {
            // SAFE RANGE: |v · id| ≤ 127 · (1 + 2⁻²³), which rounds to 127 at most.
            let n = (*v * id).round_ties_even() as i32;
            sums[i / (BLOCK / 2)] += n;
            *q = n as i8;
        }
        (block.g, block.halves) = ((sums[0] + sums[1]) as f32, sums.map(|sum| sum as f32));
        block.starts = [sums[0] + sums[1], sums[0], sums[1]].map(|sum| -4 * sum);
    }
    Ok(())
}

/// One output of a linear layer.
pub(crate) fn dot(kind: TensorKind, row: &[u8], x: ActRow<'_>) -> f32 {
    match plain(kind) {
        Some(at) => segments(x.x.len(), SEGMENT * BLOCK, |i, p| x.x[i].mul_add(at(row, i), p)),
        None => segments(x.blocks.len(), SEGMENT, |b, p| {
            x.blocks[b].d.mul_add(Block::of(kind, row, b).dot(&x.blocks[b].q), p)
        }),
    }
}

/// tot = +0; for each segment { p = +0; for each of its items: p = step(item, p); tot = tot + p }.
fn segments(items: usize, per_segment: usize, step: impl Fn(usize, f32) -> f32) -> f32 {
    let mut tot = 0.0;
    for start in (0..items).step_by(per_segment) {
        let end = items.min(start + per_segment);
        tot += (start..end).fold(0.0, |p, i| step(i, p));
    }
    tot
}

/// A row as f32.
pub(crate) fn dequantize(kind: TensorKind, row: &[u8], out: &mut [f32]) {
    match plain(kind) {
        Some(at) => out.iter_mut().enumerate().for_each(|(i, o)| *o = at(row, i)),
        None => {
            for (b, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
                Block::of(kind, row, b).dequantize(out);
            }
        }
    }
}

/// How element `i` of a row is read, exactly, where rows are numbers one after another.
fn plain(kind: TensorKind) -> Option<fn(&[u8], usize) -> f32> {
    match kind {
        TensorKind::F32 => Some(|row, i| f32::from_bits(u32::from_le_bytes(row.as_chunks().0[i]))),
        TensorKind::F16 => Some(|row, i| from_f16(u16::from_le_bytes(row.as_chunks().0[i]))),
        TensorKind::BF16 => Some(|row, i| from_bf16(u16::from_le_bytes(row.as_chunks().0[i]))),
        TensorKind::Q4_0
        | TensorKind::Q4_1
        | TensorKind::Q5_0
        | TensorKind::Q5_1
        | TensorKind::Q8_0
        | TensorKind::Q2_K
        | TensorKind::Q3_K
        | TensorKind::Q4_K
        | TensorKind::Q5_K
        | TensorKind::Q6_K
        | TensorKind::IQ4_NL
        | TensorKind::IQ4_XS
        | TensorKind::MXFP4 => None,
    }
}

/// The exact value of bf16 bits: the upper half of an f32.
#[inline(always)]
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
