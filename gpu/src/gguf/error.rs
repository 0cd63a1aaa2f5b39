//! What can be wrong with a GGUF file.
//!
//! Each variant names the field, the byte offset, what was expected and what was found. No variant holds
//! contents of the file: keys and tensor names appear only where the caller asked for them by name, and
//! everything else is a number or a word of our own. So an error may be logged and shown to anyone.

use std::io::ErrorKind;

/// A refusal of [`Gguf`](super::Gguf). Offsets are in bytes from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// Fewer bytes remain than the field needs.
    #[error("the file ends within {field} at byte {offset}: expected {expected} more bytes, found {found}")]
    Truncated { field: &'static str, offset: u64, expected: u64, found: u64 },
    /// The reader failed before the end.
    #[error("reading failed at byte {offset} of {expected}: {found}")]
    Read { offset: u64, expected: u64, found: ErrorKind },
    /// The reader had more bytes than the announced length.
    #[error("the file is longer than announced: expected {expected} bytes, found more at byte {offset}")]
    Longer { offset: u64, expected: u64 },
    /// The machine has no room for the file.
    #[error("no memory for a file of {expected} bytes")]
    Memory { expected: u64 },
    /// The first four bytes are not `GGUF`.
    #[error("this is no GGUF file: expected the magic number {expected:#010x} at byte {offset}, found {found:#010x}")]
    Magic { offset: u64, expected: u32, found: u32 },
    /// Neither version 2 nor 3, or a big-endian file.
    #[error("GGUF version at byte {offset}: expected 2 or 3 (little endian), found {found}")]
    Version { offset: u64, found: u32 },
    /// A number outside its bounds; both bounds are inclusive.
    #[error("{field} at byte {offset}: expected {least} to {most}, found {found}")]
    Range { field: &'static str, offset: u64, least: u64, most: u64, found: u64 },
    /// A product or a sum does not fit 64 bits.
    #[error("{field} at byte {offset}: expected a size within 64 bits, found an overflow")]
    Overflow { field: &'static str, offset: u64 },
    /// A string that is not UTF-8.
    #[error("{field} at byte {offset}: expected UTF-8, found an invalid byte at {found}")]
    Utf8 { field: &'static str, offset: u64, found: u64 },
    /// A value type id that GGUF does not define, or an array of arrays.
    #[error("{field} at byte {offset}: expected {expected}, found type id {found}")]
    ValueType { field: &'static str, offset: u64, expected: &'static str, found: u32 },
    /// Two keys or two tensors of one name.
    #[error("duplicate {field} at byte {offset}: the same one stands at byte {found}")]
    Duplicate { field: &'static str, offset: u64, found: u64 },
    /// A number that is not a multiple of what it has to be a multiple of.
    #[error("{field} at byte {offset}: expected a multiple of {expected}, found {found}")]
    Multiple { field: &'static str, offset: u64, expected: u64, found: u64 },
    /// The alignment is no power of two.
    #[error("general.alignment at byte {offset}: expected a power of two, found {found}")]
    Alignment { offset: u64, found: u64 },
    /// Two tensors share bytes. Offsets are of the tensors' data.
    #[error("tensor data at byte {offset} overlaps another tensor: expected to start at {expected} or later")]
    Overlap { offset: u64, expected: u64 },
    /// A tensor type of ggml that this version does not load.
    #[error("tensor type at byte {offset}: expected one of {expected}, found {name} (id {found})")]
    Kind { offset: u64, expected: &'static str, name: &'static str, found: u32 },
    /// A key that the caller needs is absent.
    #[error("the file has no key `{key}`: expected {expected}")]
    Missing { key: String, expected: &'static str },
    /// A key is there with a value of another type.
    #[error("`{key}` at byte {offset}: expected {expected}, found {found}")]
    WrongType { key: String, offset: u64, expected: &'static str, found: &'static str },
    /// A NaN or an infinity.
    #[error("{field} at byte {offset}: expected a finite number, found {found}")]
    NonFinite { field: &'static str, offset: u64, found: &'static str },
    /// A tensor that the caller needs is absent.
    #[error("the file has no tensor `{name}`")]
    MissingTensor { name: String },
    /// A tensor has other dimensions than the model's hyperparameters ask for; `ne[0]` first.
    #[error("tensor `{name}` at byte {offset}: expected dimensions {expected:?}, found {found:?}")]
    Shape { name: String, offset: u64, expected: [u64; 4], found: [u64; 4] },
}
