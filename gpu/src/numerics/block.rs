//! Blocks of 32 quantized weights: what each type stores, as integers and exact factors.
//!
//! Every type is w_i = (d·scale)·n_i + m·min with an f16 `d` and `m` and small integers, so that one formula
//! serves them all. A product of an f16 and such an integer, or two, has at most 24 significant bits: it is
//! exact in f32, in whichever order it is made. Types with 256 elements in a stored block (K-quants) are
//! eight of these blocks with a scale and a minimum each; Q6_K has a scale for each half.
//!
//! Reads rows as GGUF stores them. Knows no activations but those of one block.

use super::from_f16;
use super::linear::BLOCK;
use crate::gguf::TensorKind;

/// 32 weights of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) n: [i8; BLOCK],
    /// f16.
    pub(crate) d: u16,
    /// Of elements 0..16 and of 16..32.
    pub(crate) scale: [i8; 2],
    /// f16.
    pub(crate) m: u16,
    /// 0 where nothing is added.
    pub(crate) min: i8,
}

impl Block {
    /// Block `b` of a row of a quantized type.
    pub(crate) fn of(kind: TensorKind, row: &[u8], b: usize) -> Block {
        let (per_stored, bytes) = (kind.block_elems() as usize / BLOCK, kind.block_bytes() as usize);
        let (s, j) = (&row[b / per_stored * bytes..][..bytes], b % per_stored);
        match kind {
            TensorKind::Q4_0 => symmetric(half_at(s, 0), nibbles(&s[2..]).map(|n| n - 8)),
            TensorKind::Q4_1 => affine(half_at(s, 0), half_at(s, 2), nibbles(&s[4..])),
            TensorKind::Q5_0 => symmetric(half_at(s, 0), fifth(&s[2..], nibbles(&s[6..])).map(|n| n - 16)),
            TensorKind::Q5_1 => affine(half_at(s, 0), half_at(s, 2), fifth(&s[4..], nibbles(&s[8..]))),
            TensorKind::Q8_0 => symmetric(half_at(s, 0), std::array::from_fn(|i| s[2 + i] as i8)),
            TensorKind::Q4_K => super_block(s, j, quarter(&s[16..], j)),
            TensorKind::Q5_K => {
                let low = quarter(&s[48..], j);
                super_block(s, j, std::array::from_fn(|i| low[i] + (s[16 + i] >> j & 1) as i8 * 16))
            }
            TensorKind::Q6_K => {
                // Halves of 128: sub-blocks 0 and 1 in low nibbles, 2 and 3 in high ones, two bits more each.
                let (half, part) = (j / 4, j % 4);
                let (low, high) = (&s[64 * half + part % 2 * 32..], &s[128 + 32 * half..]);
                let n = |i: usize| (low[i] >> (part / 2 * 4) & 15 | (high[i] >> (2 * part) & 3) << 4) as i8 - 32;
                let scale = [s[192 + 2 * j] as i8, s[193 + 2 * j] as i8];
                Block { scale, ..symmetric(half_at(s, 208), std::array::from_fn(n)) }
            }
            TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => unreachable!("{} has no blocks", kind.name()),
        }
    }

    /// u = d·f + (m·min)·g with f = Σ scale·n·q, an exact integer below 2²⁴, and g = Σ q: one rounding of the
    /// product with g, one of the fma. Without a minimum u = d·f.
    pub(crate) fn dot(&self, q: &[i8; BLOCK], g: f32) -> f32 {
        let (n, q) = (self.n.as_chunks::<16>().0, q.as_chunks::<16>().0);
        let sum = |h: usize| n[h].iter().zip(&q[h]).map(|(n, q)| i32::from(*n) * i32::from(*q)).sum::<i32>();
        self.line((i32::from(self.scale[0]) * sum(0) + i32::from(self.scale[1]) * sum(1)) as f32, g)
    }

    /// The weights: the only rounding is that of the minimum's addition.
    pub(crate) fn dequantize(&self, out: &mut [f32; BLOCK]) {
        for (i, o) in out.iter_mut().enumerate() {
            *o = self.line(f32::from(self.scale[i / 16]) * f32::from(self.n[i]), 1.0);
        }
    }

    fn line(&self, f: f32, g: f32) -> f32 {
        let (d, m) = (from_f16(self.d), from_f16(self.m) * f32::from(self.min));
        if self.min == 0 { d * f } else { d.mul_add(f, m * g) }
    }
}

fn symmetric(d: u16, n: [i8; BLOCK]) -> Block {
    Block { n, d, scale: [1; 2], m: 0, min: 0 }
}

fn affine(d: u16, m: u16, n: [i8; BLOCK]) -> Block {
    Block { n, d, scale: [1; 2], m, min: 1 }
}

/// Sub-block `j` of Q4_K and Q5_K: f16 d and m, then twelve bytes of six-bit scales and minima; those of
/// sub-blocks 4 to 7 have their two upper bits above the others'.
fn super_block(s: &[u8], j: usize, n: [i8; BLOCK]) -> Block {
    let packed = &s[4..16];
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    Block { n, d: half_at(s, 0), scale: [scale as i8; 2], m: half_at(s, 2), min: -(min as i8) }
}

/// Byte i holds elements i and i + 16.
fn nibbles(bytes: &[u8]) -> [i8; BLOCK] {
    std::array::from_fn(|i| (bytes[i % 16] >> (i / 16 * 4) & 15) as i8)
}

/// Bit i of a word is the fifth bit of element i.
fn fifth(word: &[u8], n: [i8; BLOCK]) -> [i8; BLOCK] {
    std::array::from_fn(|i| n[i] + (word[i / 8] >> (i % 8) & 1) as i8 * 16)
}

/// Sub-blocks 2c and 2c + 1 share 32 bytes: low nibbles, high nibbles.
fn quarter(bytes: &[u8], j: usize) -> [i8; BLOCK] {
    std::array::from_fn(|i| (bytes[j / 2 * 32 + i] >> (j % 2 * 4) & 15) as i8)
}

fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
