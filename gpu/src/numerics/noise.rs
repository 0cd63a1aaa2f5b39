//! Numbers for tests: the same everywhere, made of integers (SplitMix64, Steele et al., OOPSLA 2014).

use crate::gguf::TensorKind;
use half::f16;
use std::ops::Range;

pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in [−2, 2), a multiple of 2⁻²².
    pub(crate) fn even(&mut self) -> f32 {
        ((self.bits() >> 40) as i32 - (1 << 23)) as f32 / 4_194_304.0
    }

    pub(crate) fn evens(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.even()).collect()
    }

    /// Like activations: mostly moderate, some large, some zero, some tiny.
    pub(crate) fn wild(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| match self.bits() % 16 {
                0 => self.even() * 100.0,
                1 => 0.0,
                2 => self.even() * 1e-9,
                3 => self.even() * f32::from_bits(0x0080_0001),
                _ => self.even(),
            })
            .collect()
    }

    pub(crate) fn halves(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| f16::from_f32(self.even()).to_bits()).collect()
    }

    pub(crate) fn below(&mut self, n: u64) -> usize {
        (self.bits() % n) as usize
    }

    /// Rows of weights: random bytes with moderate finite scales.
    pub(crate) fn weights(&mut self, kind: TensorKind, elements: usize) -> Vec<u8> {
        let upper = |v: &f32| (v.to_bits() >> 16) as u16;
        match kind {
            TensorKind::F32 => return self.evens(elements).iter().flat_map(|v| v.to_le_bytes()).collect(),
            TensorKind::F16 => return self.halves(elements).iter().flat_map(|v| v.to_le_bytes()).collect(),
            TensorKind::BF16 => return self.evens(elements).iter().flat_map(|v| upper(v).to_le_bytes()).collect(),
            _ => {}
        }
        (0..elements / kind.block_elems() as usize)
            .flat_map(|_| {
                let mut bytes: Vec<u8> = (0..kind.block_bytes()).map(|_| self.bits() as u8).collect();
                if kind == TensorKind::MXFP4 {
                    bytes[0] = 112 + bytes[0] % 16;
                }
                for at in scales(kind) {
                    let scale = f16::from_f32(self.even() / 64.0);
                    bytes[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                bytes
            })
            .collect()
    }

    /// Activations of one sign and near their maximum.
    pub(crate) fn loud(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.even() / 8.0 + 2.0).collect()
    }

    /// Quantized weights with codes (and some types' scales) in the upper half of their range. With loud activations
    /// a block's sum has 16 bits and more, and its product with a scale no longer fits an f32 exactly.
    pub(crate) fn loud_weights(&mut self, kind: TensorKind, elements: usize) -> Vec<u8> {
        let mut bytes = self.weights(kind, elements);
        for block in bytes.chunks_mut(kind.block_bytes() as usize) {
            for (range, keep, put) in codes(kind) {
                block[range.clone()].iter_mut().for_each(|b| *b = *b & keep | put);
            }
        }
        bytes
    }
}

/// Where the f16 numbers of a quantized block stand.
pub(crate) fn scales(kind: TensorKind) -> &'static [usize] {
    match kind {
        TensorKind::Q4_0 | TensorKind::Q5_0 | TensorKind::Q8_0 | TensorKind::IQ4_NL | TensorKind::IQ4_XS => &[0],
        TensorKind::Q4_1 | TensorKind::Q5_1 | TensorKind::Q4_K | TensorKind::Q5_K => &[0, 2],
        TensorKind::Q2_K => &[80, 82],
        TensorKind::Q3_K => &[108],
        TensorKind::Q6_K => &[208],
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 | TensorKind::MXFP4 => &[],
    }
}

/// Where its codes stand, and what makes them large: bits to keep, bits to set.
fn codes(kind: TensorKind) -> &'static [(Range<usize>, u8, u8)] {
    match kind {
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => &[],
        TensorKind::Q4_0 => &[(2..18, 0xff, 0x88)],
        TensorKind::Q4_1 => &[(4..20, 0xff, 0x88)],
        TensorKind::Q5_0 => &[(2..6, 0xff, 0xff), (6..22, 0xff, 0x88)],
        TensorKind::Q5_1 => &[(4..8, 0xff, 0xff), (8..24, 0xff, 0x88)],
        TensorKind::Q8_0 => &[(2..34, 0x7f, 0x40)],
        TensorKind::Q2_K => &[(0..16, 0xff, 0x88), (16..80, 0xff, 0xaa)],
        TensorKind::Q3_K => &[(0..32, 0, 0), (32..96, 0x55, 0), (104..108, 0, 0)],
        TensorKind::IQ4_NL => &[(2..18, 0xff, 0x88)],
        TensorKind::IQ4_XS => &[(2..4, 0xff, 0xff), (8..136, 0xff, 0x88)],
        TensorKind::MXFP4 => &[(1..17, 0x77, 0x44)],
        TensorKind::Q4_K => &[(16..144, 0xff, 0x88)],
        TensorKind::Q5_K => &[(16..48, 0xff, 0xff), (48..176, 0xff, 0x88)],
        TensorKind::Q6_K => &[(128..192, 0xff, 0xff), (192..208, 0x7f, 0x40)],
    }
}
