//! Numbers for tests: the same everywhere, made of integers (SplitMix64, Steele et al., OOPSLA 2014).

use half::f16;

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
    pub(crate) fn weights(&mut self, kind: crate::gguf::TensorKind, elements: usize) -> Vec<u8> {
        let (block, scales) = match kind.name() {
            "F32" => return self.evens(elements).iter().flat_map(|v| v.to_le_bytes()).collect(),
            "F16" => return self.halves(elements).iter().flat_map(|v| v.to_le_bytes()).collect(),
            "Q4_1" => (20, 2),
            _ => (34, 1),
        };
        (0..elements / 32)
            .flat_map(|_| {
                let mut bytes: Vec<u8> = (0..block).map(|_| self.bits() as u8).collect();
                for s in 0..scales {
                    let scale = f16::from_f32(self.even() / 64.0);
                    bytes[2 * s..2 * s + 2].copy_from_slice(&scale.to_le_bytes());
                }
                bytes
            })
            .collect()
    }

    /// Activations of one sign and near their maximum.
    pub(crate) fn loud(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.even() / 8.0 + 2.0).collect()
    }

    /// Quantized weights of one sign in the upper half of their range. With loud activations a block's sum
    /// has 16 bits and more, and its product with a scale no longer fits an f32 exactly.
    pub(crate) fn loud_weights(&mut self, kind: crate::gguf::TensorKind, elements: usize) -> Vec<u8> {
        let mut bytes = self.weights(kind, elements);
        match kind.name() {
            "Q4_1" => bytes.chunks_mut(20).flat_map(|b| &mut b[4..]).for_each(|b| *b |= 0x88),
            "Q8_0" => bytes.chunks_mut(34).flat_map(|b| &mut b[2..]).for_each(|b| *b = *b & 0x7f | 0x40),
            _ => {}
        }
        bytes
    }
}
