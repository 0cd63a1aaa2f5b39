//! A cursor over untrusted bytes: each read checks what remains first, and nothing here allocates.
//!
//! It reads little-endian scalars and GGUF strings out of a borrowed slice and fails with the name of the
//! field and its offset. It knows nothing of keys, tensors or what a number means.

use super::error::GgufError;
use std::ops::Range;

/// No string of a file is longer, whatever it is for.
pub(crate) const MAX_STRING: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// A cursor that stands at `at` (or at the end, whichever comes first).
    pub(crate) fn at(bytes: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { bytes, at: at.min(bytes.len()) }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn offset(&self) -> u64 {
        self.at as u64
    }

    pub(crate) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The range of the next `len` bytes; the cursor moves behind them.
    pub(crate) fn skip(&mut self, len: u64, field: &'static str) -> Result<Range<usize>, GgufError> {
        let found = self.remaining();
        if len > found {
            return Err(GgufError::Truncated { field, offset: self.offset(), expected: len, found });
        }
        let start = self.at;
        self.at += len as usize; // no more than remains, so within usize
        Ok(start..self.at)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], GgufError> {
        let range = self.skip(N as u64, field)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[range]);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, GgufError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, GgufError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, GgufError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, GgufError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A u64 that must lie within `least..=most`.
    pub(crate) fn bounded(&mut self, field: &'static str, least: u64, most: u64) -> Result<u64, GgufError> {
        let offset = self.offset();
        let found = self.u64(field)?;
        if found < least || found > most {
            return Err(GgufError::Range { field, offset, least, most, found });
        }
        Ok(found)
    }

    /// A string of at most `most` bytes: its range, after its length and its UTF-8 were checked.
    pub(crate) fn string(&mut self, field: &'static str, most: u64) -> Result<Range<usize>, GgufError> {
        let len = self.bounded(field, 0, most)?;
        let offset = self.offset();
        let range = self.skip(len, field)?;
        match std::str::from_utf8(&self.bytes[range.clone()]) {
            Ok(_) => Ok(range),
            Err(e) => Err(GgufError::Utf8 { field, offset, found: offset + e.valid_up_to() as u64 }),
        }
    }
}
