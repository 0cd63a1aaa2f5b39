//! Does this machine compute what the definition says, and the same whatever shares a step?
//!
//! [`ops`] compares every operation of every level that the processor has with the scalar definition, and that with a
//! digest frozen here. [`determinism`] answers prompts under many settings (level, threads, chunks of the prompt,
//! neighbours that come, go and are cancelled) and compares every logit of every step with those of the first.
//!
//! Numbers only: draws no conclusions and prints nothing.

mod matrix;
mod ops;

pub use matrix::{Coverage, Determinism, Difference, Plan, Setting, determinism};
pub use ops::{Op, ops};

use sha2::Digest as _;

/// A digest of numbers, bit by bit.
fn digest(numbers: &[f32]) -> [u8; 32] {
    let mut hash = sha2::Sha256::new();
    numbers.iter().for_each(|n| hash.update(n.to_bits().to_le_bytes()));
    hash.finalize().into()
}
