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

    pub(crate) fn next(&mut self) -> u64 {
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

    /// An f16 between 2^−`shift` and twice that, with random fraction bits; fewer of them where it is
    /// subnormal.
    fn scale(&mut self, shift: u32) -> f16 {
        let fraction = (self.next() >> 54) as u16;
        f16::from_bits(match F16_BIAS.saturating_sub(shift) as u16 {
            0 => (1 << 10 | fraction) >> (shift + 1 - F16_BIAS).min(10),
            exponent => exponent << 10 | fraction,
        })
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
            // Eight significant bits, which bf16 has: the upper half is all of it.
            TensorKind::BF16 => out.extend(&self.plain(shift).to_le_bytes()[2..]),
            TensorKind::Q8_0 => {
                out.extend(self.scale(shift + 6).to_le_bytes());
                out.extend((0..32).map(|_| self.small() as u8));
            }
            TensorKind::Q4_0 => self.codes::<16>(shift + 2, None, out),
            TensorKind::Q4_1 => self.codes::<16>(shift + 2, Some(-7.5), out),
            TensorKind::Q5_0 => self.codes::<20>(shift + 3, None, out),
            TensorKind::Q5_1 => self.codes::<20>(shift + 3, Some(-15.5), out),
            // Scales and minima of six bits each; a minimum is subtracted.
            TensorKind::Q4_K => self.codes::<140>(shift + 8, Some(7.5), out),
            TensorKind::Q5_K => self.codes::<172>(shift + 9, Some(15.5), out),
            TensorKind::Q2_K => {
                let d = self.scale(shift + 3);
                out.extend((0..80).map(|_| self.next() as u8));
                out.extend(d.to_le_bytes());
                out.extend(f16::from_f32(1.5 * d.to_f32()).to_le_bytes());
            }
            TensorKind::Q3_K => {
                let d = self.scale(shift + 5);
                out.extend((0..108).map(|_| self.next() as u8));
                out.extend(d.to_le_bytes());
            }
            TensorKind::IQ4_NL => self.codes::<16>(shift + 6, None, out),
            TensorKind::IQ4_XS => self.codes::<134>(shift + 10, None, out),
            TensorKind::MXFP4 => {
                // 2^(e − 128) is half a scale.
                out.push(128 - (shift + 2) as u8 - (self.next() >> 63) as u8);
                out.extend((0..16).map(|_| self.next() as u8));
            }
            TensorKind::Q6_K => {
                let d = self.scale(shift + 10);
                out.extend((0..192).map(|_| self.next() as u8));
                out.extend((0..16).map(|_| self.small() as u8));
                out.extend(d.to_le_bytes());
            }
        }
    }

    /// A scale, a minimum of `centre` times that where there is one (it centres the codes on zero, as a
    /// quantizer would), and `N` random bytes.
    fn codes<const N: usize>(&mut self, shift: u32, centre: Option<f32>, out: &mut Vec<u8>) {
        let d = self.scale(shift);
        out.extend(d.to_le_bytes());
        if let Some(centre) = centre {
            out.extend(f16::from_f32(centre * d.to_f32()).to_le_bytes());
        }
        let start = out.len();
        while out.len() < start + N {
            out.extend(self.next().to_le_bytes());
        }
        out.truncate(start + N);
    }

    /// A multiple of 2^−6 · 2^−`shift`: eight significant bits, exact in f16 as well.
    fn plain(&mut self, shift: u32) -> f32 {
        let power = f32::from_bits((127 - (shift + 6).min(126)) << 23);
        f32::from(self.small()) * power
    }
}
