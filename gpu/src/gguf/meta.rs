//! Metadata by key, with typed errors.
//!
//! Integers of any width are one type, converted with a range check; floats have to be finite; arrays come
//! as iterators over the file's bytes, so that asking costs no memory. `opt_*` is `None` where the key is
//! absent and still an error where it holds something else.

use super::header::Pair;
use super::value::{Numbers, Scalar, Strs, Value};
use super::{Gguf, GgufError};
use std::ops::Range;

impl Gguf {
    /// A range that was checked as UTF-8 when the file was parsed.
    pub(crate) fn str_at(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.bytes[range.clone()]).unwrap_or_default()
    }

    /// Every key, sorted.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.pairs.iter().map(|pair| self.str_at(&pair.key))
    }

    pub(crate) fn pair(&self, key: &str) -> Option<&Pair> {
        let at = self.pairs.binary_search_by(|pair| self.bytes[pair.key.clone()].cmp(key.as_bytes())).ok()?;
        self.pairs.get(at)
    }

    /// The value under `key` as `pick` sees it; `expected` is what errors say it should have been.
    fn opt<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        pick: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(pair) = self.pair(key) else { return Ok(None) };
        let wrong =
            || GgufError::WrongType { key: key.to_owned(), offset: pair.offset, expected, found: pair.value.name() };
        pick(&pair.value).map(Some).ok_or_else(wrong)
    }

    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.opt(key, "an integer of 0 to 4294967295", |value| match value {
            Value::Int(n) => u32::try_from(*n).ok(),
            _ => None,
        })
    }

    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.opt(key, "an integer of 0 or more", |value| match value {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// Finite after rounding to f32.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.opt(key, "a finite float", |value| match value {
            Value::Float(x) => Some(*x as f32).filter(|x| x.is_finite()),
            _ => None,
        })
    }

    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.opt(key, "a bool", |value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.opt(key, "a string", |value| match value {
            Value::Str(range) => Some(self.str_at(range)),
            _ => None,
        })
    }

    pub fn opt_strs(&self, key: &str) -> Result<Option<Strs<'_>>, GgufError> {
        self.opt(key, "an array of strings", |value| match value {
            Value::Strs { count, range } => Some(Strs::new(&self.bytes, range.start, *count)),
            _ => None,
        })
    }

    /// An array of any integer type.
    pub fn opt_ints(&self, key: &str) -> Result<Option<Numbers<'_, i128>>, GgufError> {
        let pick = |value| match value {
            Value::Int(n) => Some(n),
            _ => None,
        };
        self.opt(key, "an array of integers", |value| match value {
            Value::Scalars { of: Scalar::F32 | Scalar::F64 | Scalar::Bool, .. } => None,
            Value::Scalars { of, count, range } => Some(Numbers::new(&self.bytes, range.start, *of, *count, pick)),
            _ => None,
        })
    }

    /// An array of f32 or f64, as it stands in the file: elements may be NaN.
    pub fn opt_floats(&self, key: &str) -> Result<Option<Numbers<'_, f64>>, GgufError> {
        let pick = |value| match value {
            Value::Float(x) => Some(x),
            _ => None,
        };
        self.opt(key, "an array of floats", |value| match value {
            Value::Scalars { of: of @ (Scalar::F32 | Scalar::F64), count, range } => {
                Some(Numbers::new(&self.bytes, range.start, *of, *count, pick))
            }
            _ => None,
        })
    }

    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        need(key, "an integer", self.opt_u32(key))
    }

    pub fn u64(&self, key: &str) -> Result<u64, GgufError> {
        need(key, "an integer", self.opt_u64(key))
    }

    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        need(key, "a float", self.opt_f32(key))
    }

    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        need(key, "a bool", self.opt_bool(key))
    }

    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        need(key, "a string", self.opt_str(key))
    }

    pub fn strs(&self, key: &str) -> Result<Strs<'_>, GgufError> {
        need(key, "an array of strings", self.opt_strs(key))
    }

    pub fn ints(&self, key: &str) -> Result<Numbers<'_, i128>, GgufError> {
        need(key, "an array of integers", self.opt_ints(key))
    }

    pub fn floats(&self, key: &str) -> Result<Numbers<'_, f64>, GgufError> {
        need(key, "an array of floats", self.opt_floats(key))
    }
}

fn need<T>(key: &str, expected: &'static str, found: Result<Option<T>, GgufError>) -> Result<T, GgufError> {
    found?.ok_or_else(|| GgufError::Missing { key: key.to_owned(), expected })
}
