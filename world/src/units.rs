//! Integer quantities. The core computes no floating point, so fractions are permille.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A size in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bytes(pub u64);

impl Bytes {
    /// A share, rounded up: what is booked suffices.
    pub fn share(self, share: Permille) -> Bytes {
        Bytes(u64::try_from((u128::from(self.0) * u128::from(share.0)).div_ceil(1000)).unwrap_or(u64::MAX))
    }

    /// The most of which the share is no more than this.
    pub fn whole(self, share: Permille) -> Bytes {
        Bytes(u64::try_from(u128::from(self.0) * 1000 / u128::from(share.0.max(1))).unwrap_or(u64::MAX))
    }
}

/// Thousandths: 1000 is the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Permille(pub u32);

/// Tokens in a thousand seconds, so that a slow worker's rate still has digits: 38.5 tokens a second
/// is `MilliRate(38_500)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MilliRate(pub u64);

/// A 128-bit digest of state or decisions (XXH3): it finds a difference, it is no seal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A SHA-256, as a model file or a prompt is named by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// People and JSON see hexadecimal digits; journals the 32 bytes.
impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Sha256, D::Error> {
        if !d.is_human_readable() {
            return Deserialize::deserialize(d).map(Sha256);
        }
        let text = String::deserialize(d)?;
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(D::Error::custom("a SHA-256 has 64 hexadecimal digits"));
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(D::Error::custom)?;
            *byte = u8::from_str_radix(digits, 16).map_err(D::Error::custom)?;
        }
        Ok(Sha256(bytes))
    }
}
