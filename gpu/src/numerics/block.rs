//! Blocks of 32 quantized weights: what each type stores, as integers and exact factors.
//!
//! Every type is w_i = (d·scale)·n_i + m·min with an f16 `d` and `m` and small integers, so that one formula
//! serves them all. A product of an f16 and such an integer, or two, has at most 24 significant bits: it is
//! exact in f32, in whichever order it is made. Types with 256 elements in a stored block (K-quants, IQ4_XS) are
//! eight of these blocks with a scale and a minimum each; some have one for each half. Where a code names an
//! integer of a table, that integer is n. MXFP4's `d` is a power of two, which a bf16 holds.
//!
//! Reads rows as GGUF stores them. Knows no activations but those of one block.

use super::from_f16;
use super::linear::BLOCK;
use crate::gguf::TensorKind;

/// 32 weights of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Block {
    pub(crate) n: [i8; BLOCK],
    pub(crate) d: f32,
    /// Of elements 0..16 and of 16..32.
    pub(crate) scale: [i8; 2],
    pub(crate) m: f32,
    /// Of the halves; 0 where nothing is added.
    pub(crate) min: [i8; 2],
}

/// The integers that codes of IQ4_NL and IQ4_XS name.
pub(crate) const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the numbers of E2M1, by which MXFP4's codes go: a sign, two bits of exponent, one of fraction.
pub(crate) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Block {
    /// Block `b` of a row of a quantized type.
    #[inline(always)]
    pub(crate) fn of(kind: TensorKind, row: &[u8], b: usize) -> Block {
        let (per_stored, bytes) = (kind.block_elems() as usize / BLOCK, kind.block_bytes() as usize);
        let (s, j) = (&row[b / per_stored * bytes..][..bytes], b % per_stored);
        match kind {
            TensorKind::Q4_0 => symmetric(half_at(s, 0), nibbles(&s[2..]).map(|n| n - 8)),
            TensorKind::Q4_1 => affine(half_at(s, 0), half_at(s, 2), nibbles(&s[4..])),
            TensorKind::Q5_0 => symmetric(half_at(s, 0), fifth(&s[2..], nibbles(&s[6..])).map(|n| n - 16)),
            TensorKind::Q5_1 => affine(half_at(s, 0), half_at(s, 2), fifth(&s[4..], nibbles(&s[8..]))),
            TensorKind::Q8_0 => symmetric(half_at(s, 0), std::array::from_fn(|i| s[2 + i] as i8)),
            TensorKind::IQ4_NL => symmetric(half_at(s, 0), nibbles(&s[2..]).map(|n| UNEVEN[n as usize])),
            TensorKind::MXFP4 => symmetric(half_power(s[0]), nibbles(&s[1..]).map(|n| E2M1[n as usize])),
            TensorKind::Q2_K => {
                let sub = [s[2 * j], s[2 * j + 1]];
                let (scale, min) = (sub.map(|b| (b & 15) as i8), sub.map(|b| -((b >> 4) as i8)));
                Block { n: fields(&s[16..], j), d: half_at(s, 80), scale, m: half_at(s, 82), min }
            }
            TensorKind::Q3_K => {
                let (low, scale) = (fields(&s[32..], j), [2 * j, 2 * j + 1].map(|i| third_scale(&s[96..], i)));
                // Where the third bit is not set, four is taken off.
                let n = std::array::from_fn(|i| low[i] + (s[i] >> j & 1) as i8 * 4 - 4);
                Block { scale, ..symmetric(half_at(s, 108), n) }
            }
            TensorKind::IQ4_XS => {
                let (low, high) = (s[4 + j / 2] >> (j % 2 * 4) & 15, u16::from_le_bytes([s[2], s[3]]) >> (2 * j) & 3);
                let scale = (low | (high as u8) << 4) as i8 - 32;
                let n = nibbles(&s[8 + 16 * j..]).map(|n| UNEVEN[n as usize]);
                Block { scale: [scale; 2], ..symmetric(half_at(s, 0), n) }
            }
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

    /// u = d·f + m·h with f = Σ scale·n·q and h = Σ min·q, exact integers below 2²⁴: one rounding of the product
    /// with h, one of the fma. Without a minimum u = d·f.
    pub(crate) fn dot(&self, q: &[i8; BLOCK]) -> f32 {
        let (n, q) = (self.n.as_chunks::<16>().0, q.as_chunks::<16>().0);
        let (mut f, mut h) = (0, 0);
        for half in 0..2 {
            let sum: i32 = n[half].iter().zip(&q[half]).map(|(n, q)| i32::from(*n) * i32::from(*q)).sum();
            f += i32::from(self.scale[half]) * sum;
            h += i32::from(self.min[half]) * q[half].iter().map(|q| i32::from(*q)).sum::<i32>();
        }
        self.line(f as f32, h as f32)
    }

    /// The weights: the only rounding is that of the minimum's addition.
    pub(crate) fn dequantize(&self, out: &mut [f32; BLOCK]) {
        for (i, o) in out.iter_mut().enumerate() {
            *o = self.line(f32::from(self.scale[i / 16]) * f32::from(self.n[i]), f32::from(self.min[i / 16]));
        }
    }

    fn line(&self, f: f32, h: f32) -> f32 {
        if self.min == [0; 2] { self.d * f } else { self.d.mul_add(f, self.m * h) }
    }
}

#[inline(always)]
fn symmetric(d: f32, n: [i8; BLOCK]) -> Block {
    Block { n, d, scale: [1; 2], m: 0.0, min: [0; 2] }
}

#[inline(always)]
fn affine(d: f32, m: f32, n: [i8; BLOCK]) -> Block {
    Block { n, d, scale: [1; 2], m, min: [1; 2] }
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
    Block { n, d: half_at(s, 0), scale: [scale as i8; 2], m: half_at(s, 2), min: [-(min as i8); 2] }
}

/// Byte i holds elements i and i + 16.
#[inline(always)]
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

/// Two bits of each element of sub-block `j`: four sub-blocks share 32 bytes.
fn fields(bytes: &[u8], j: usize) -> [i8; BLOCK] {
    std::array::from_fn(|i| (bytes[j / 4 * 32 + i] >> (j % 4 * 2) & 3) as i8)
}

/// Scale `i` of sixteen in twelve bytes: eight bytes of four lower bits, four of two upper ones.
fn third_scale(packed: &[u8], i: usize) -> i8 {
    let low = packed[i % 8] >> (i / 8 * 4) & 15;
    let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

/// 2^(e − 128), the half of the E8M0 number `e`, since the table holds twice the numbers of E2M1.
fn half_power(e: u8) -> f32 {
    match e {
        // Below the least normal number.
        0 | 1 => f32::from_bits(0x0020_0000 << e),
        _ => f32::from_bits(u32::from(e - 1) << 23),
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    from_f16(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}
