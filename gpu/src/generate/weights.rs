//! Random weights, drawn as integers and assembled bit by bit.
//!
//! Magnitudes follow the row length (a standard deviation near 1/√inputs), so that activations neither
//! vanish nor blow up over the layers. No float operation here can round differently somewhere: products
//! with powers of two and of few bits are exact.

use crate::gguf::TensorKind;
use half::f16;

/// SplitMix64 over one stream; tensors draw in the order they are written.
pub(crate) struct Weights {
    state: u64,
}

/// By how many powers of two rows of control tokens are smaller: their logits stay below the others.
const QUIET: u32 = 4;
const F16_BIAS: u32 = 15;

impl Weights {
    pub(crate) fn new(seed: u64) -> Weights {
        Weights { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// −127 to 127.
    fn small(&mut self) -> i8 {
        ((self.next() >> 32) % 255) as i8 // the wrap is the point: 128..=254 become −128..=−2
    }

    /// An f16 between 2^−`shift` and twice that, with random fraction bits.
    fn scale(&mut self, shift: u32) -> f16 {
        let exponent = F16_BIAS.saturating_sub(shift).max(1) as u16;
        f16::from_bits(exponent << 10 | (self.next() >> 54) as u16)
    }

    /// A norm's weights: 1 ± 1/8, as f32.
    pub(crate) fn norm(&mut self, len: u64) -> Vec<u8> {
        (0..len).flat_map(|_| (1.0 + f32::from(self.small()) / 1024.0).to_le_bytes()).collect()
    }

    /// `outputs` rows of `inputs` elements (whole blocks); rows of which `quiet` is true are scaled down.
    pub(crate) fn matrix(
        &mut self,
        kind: TensorKind,
        inputs: u64,
        outputs: u64,
        quiet: impl Fn(u64) -> bool,
    ) -> Vec<u8> {
        let blocks = inputs / kind.block_elems();
        let mut out = Vec::with_capacity((outputs * blocks * kind.block_bytes()) as usize);
        for row in 0..outputs {
            // log2 √inputs: what a scale of 1 has to be divided by.
            let shift = inputs.max(1).ilog2() / 2 + if quiet(row) { QUIET } else { 0 };
            for _ in 0..blocks {
                self.block(kind, shift, &mut out);
            }
        }
        out
    }

    /// One block with a standard deviation near 2^−`shift`.
    fn block(&mut self, kind: TensorKind, shift: u32, out: &mut Vec<u8>) {
        match kind {
            TensorKind::F32 => out.extend(self.plain(shift).to_le_bytes()),
            TensorKind::F16 => out.extend(f16::from_f32(self.plain(shift)).to_le_bytes()),
            TensorKind::Q8_0 => {
                out.extend(self.scale(shift + 6).to_le_bytes());
                out.extend((0..32).map(|_| self.small() as u8));
            }
            TensorKind::Q4_1 => {
                let d = self.scale(shift + 2);
                // Centres the nibbles 0..=15 on zero, as a quantizer would.
                let m = f16::from_f32(-7.5 * d.to_f32());
                out.extend(d.to_le_bytes());
                out.extend(m.to_le_bytes());
                out.extend(self.next().to_le_bytes());
                out.extend(self.next().to_le_bytes());
            }
        }
    }

    /// A multiple of 2^−6 · 2^−`shift`: eight significant bits, exact in f16 as well.
    fn plain(&mut self, shift: u32) -> f32 {
        let power = f32::from_bits((127 - (shift + 6).min(126)) << 23);
        f32::from(self.small()) * power
    }
}
