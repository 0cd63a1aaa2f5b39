//! Hyperparameters that hold for every architecture, checked before a loader multiplies them.
//!
//! Floats are finite, the number of blocks is bounded, heads are a multiple of the key-value heads. Only
//! keys of the file's own architecture (`<general.architecture>.*`) are looked at, and only where they are
//! present: what an architecture needs is `model`'s to say, and so are its tensors' shapes.

use super::header::Pair;
use super::value::Value;
use super::{Gguf, GgufError};

const MAX_BLOCKS: u64 = 512;

pub(crate) fn check(gguf: &Gguf) -> Result<(), GgufError> {
    let Some(arch) = gguf.opt_str("general.architecture")? else { return Ok(()) };
    let prefix = format!("{arch}.");
    for (key, pair) in gguf.keys().zip(&gguf.pairs).filter(|(key, _)| key.starts_with(&prefix)) {
        if let Value::Float(x) = pair.value
            && !x.is_finite()
        {
            let found = if x.is_nan() { "NaN" } else { "an infinity" };
            return Err(GgufError::NonFinite { field: "hyperparameter", offset: pair.offset, found });
        }
        if key[prefix.len()..] == *"block_count" {
            bounded("block_count", pair, 1, MAX_BLOCKS)?;
        }
    }
    let head = |suffix: &str| gguf.pair(&format!("{prefix}attention.{suffix}"));
    let Some(heads) = head("head_count") else { return Ok(()) };
    let Some(count) = bounded("attention.head_count", heads, 1, u32::MAX.into())? else { return Ok(()) };
    if let Some(kv) = head("head_count_kv")
        && let Some(kv_count) = bounded("attention.head_count_kv", kv, 1, u32::MAX.into())?
        && count % kv_count != 0
    {
        let (field, offset) = ("attention.head_count", heads.offset);
        return Err(GgufError::Multiple { field, offset, expected: kv_count, found: count });
    }
    Ok(())
}

/// The number, if it is one (some architectures keep one per layer, which their loader has to check).
fn bounded(field: &'static str, pair: &Pair, least: u64, most: u64) -> Result<Option<u64>, GgufError> {
    let Value::Int(n) = pair.value else { return Ok(None) };
    let found = u64::try_from(n).unwrap_or(u64::MAX);
    if found < least || found > most {
        return Err(GgufError::Range { field, offset: pair.offset, least, most, found });
    }
    Ok(Some(found))
}
