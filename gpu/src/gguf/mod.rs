//! GGUF files, read as hostile input.
//!
//! [`Gguf`] owns the bytes of one file, hashed while they were read, and hands out metadata and tensors that
//! were checked before anything was trusted or allocated: limits, products and sums, UTF-8, alignment,
//! disjoint tensor data, sane hyperparameters. Beyond the file itself it holds a few megabytes at most: an
//! index of keys and tensors, never a copy of a value.
//!
//! It does not know architectures (see `model`) nor vocabularies (see `tokenizer`); [`write`] is the other
//! direction, for tests and `orch gen`.

#[cfg(test)]
mod corpus;
mod cursor;
mod error;
mod header;
#[cfg(test)]
mod hostile_tests;
mod hyper;
mod kind;
mod layout;
mod meta;
mod read;
mod value;
pub mod write;

pub use error::GgufError;
pub use kind::{TensorKind, UnknownKind};
pub use layout::{Tensor, check_finite};
pub use value::{Numbers, Strs};

use header::Pair;
use layout::TensorEntry;
use orchestrion_world::units::Sha256;
use sha2::Digest as _;

/// One parsed file; see the module's description.
pub struct Gguf {
    bytes: Vec<u8>,
    digest: Sha256,
    /// Sorted by key.
    pairs: Vec<Pair>,
    /// In the file's order.
    tensors: Vec<TensorEntry>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<u32>,
}

impl Gguf {
    /// Checks `bytes` and keeps them.
    pub fn parse(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
        let digest = Sha256(sha2::Sha256::digest(&bytes).into());
        Gguf::with_digest(bytes, digest)
    }

    pub(crate) fn with_digest(bytes: Vec<u8>, digest: Sha256) -> Result<Gguf, GgufError> {
        let header = header::read(&bytes)?;
        let (tensors, by_name) = layout::place(&bytes, header.tensors, header.end, header.alignment)?;
        let gguf = Gguf { bytes, digest, pairs: header.pairs, tensors, by_name };
        hyper::check(&gguf)?;
        Ok(gguf)
    }

    /// SHA-256 of the whole file: the model's name.
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// Length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// A summary: a derived one would print the weights.
impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("digest", &format_args!("{}", self.digest))
            .field("bytes", &self.bytes.len())
            .field("pairs", &self.pairs.len())
            .field("tensors", &self.tensors.len())
            .finish()
    }
}
