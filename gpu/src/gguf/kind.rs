//! Tensor types: one table of id, name, elements and bytes of a block.
//!
//! [`TensorKind`] has only the types that load, so that no one can hold a tensor nobody can compute with;
//! a second table knows the names of the rest of ggml's types, for the refusal alone. A new quantized
//! type is a variant, a row here, its `Block` in `numerics::block` and its form in `kernel::packed`.

use std::str::FromStr;

/// The type of a tensor's elements. Where quantized, what a stored block holds, in order; `d` and `m` are f16,
/// `numerics::block` says how they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(non_camel_case_types, reason = "ggml's names")]
pub enum TensorKind {
    F32,
    F16,
    BF16,
    /// d, 16 bytes of nibbles (byte i holds elements i and i + 16).
    Q4_0,
    /// d, m, nibbles.
    Q4_1,
    /// d, a word of fifth bits, nibbles.
    Q5_0,
    /// d, m, a word of fifth bits, nibbles.
    Q5_1,
    /// d, 32 × i8.
    Q8_0,
    /// 16 bytes of four-bit scales and minima, 64 of two-bit codes, d, m.
    Q2_K,
    /// 32 bytes of third bits, 64 of two more bits each, 12 of six-bit scales, d.
    Q3_K,
    /// d, m, 12 bytes of scales and minima, 128 of nibbles.
    Q4_K,
    /// d, m, 12 bytes of scales and minima, 32 of fifth bits, 128 of nibbles.
    Q5_K,
    /// 128 bytes of nibbles, 64 of two more bits each, 16 × i8 scales, d.
    Q6_K,
    /// d, nibbles that name one of sixteen integers.
    IQ4_NL,
    /// d, two upper bits of eight scales, their four lower ones, 128 bytes of nibbles as those of `IQ4_NL`.
    IQ4_XS,
    /// A power of two, nibbles that name numbers of four bits (E2M1).
    MXFP4,
}

struct Row {
    kind: TensorKind,
    id: u32,
    name: &'static str,
    block_elems: u64,
    block_bytes: u64,
}

const TABLE: [Row; 16] = [
    Row { kind: TensorKind::F32, id: 0, name: "F32", block_elems: 1, block_bytes: 4 },
    Row { kind: TensorKind::F16, id: 1, name: "F16", block_elems: 1, block_bytes: 2 },
    Row { kind: TensorKind::Q4_0, id: 2, name: "Q4_0", block_elems: 32, block_bytes: 18 },
    Row { kind: TensorKind::Q4_1, id: 3, name: "Q4_1", block_elems: 32, block_bytes: 20 },
    Row { kind: TensorKind::Q5_0, id: 6, name: "Q5_0", block_elems: 32, block_bytes: 22 },
    Row { kind: TensorKind::Q5_1, id: 7, name: "Q5_1", block_elems: 32, block_bytes: 24 },
    Row { kind: TensorKind::Q8_0, id: 8, name: "Q8_0", block_elems: 32, block_bytes: 34 },
    Row { kind: TensorKind::Q2_K, id: 10, name: "Q2_K", block_elems: 256, block_bytes: 84 },
    Row { kind: TensorKind::Q3_K, id: 11, name: "Q3_K", block_elems: 256, block_bytes: 110 },
    Row { kind: TensorKind::Q4_K, id: 12, name: "Q4_K", block_elems: 256, block_bytes: 144 },
    Row { kind: TensorKind::Q5_K, id: 13, name: "Q5_K", block_elems: 256, block_bytes: 176 },
    Row { kind: TensorKind::Q6_K, id: 14, name: "Q6_K", block_elems: 256, block_bytes: 210 },
    Row { kind: TensorKind::IQ4_NL, id: 20, name: "IQ4_NL", block_elems: 32, block_bytes: 18 },
    Row { kind: TensorKind::IQ4_XS, id: 23, name: "IQ4_XS", block_elems: 256, block_bytes: 136 },
    Row { kind: TensorKind::BF16, id: 30, name: "BF16", block_elems: 1, block_bytes: 2 },
    Row { kind: TensorKind::MXFP4, id: 39, name: "MXFP4", block_elems: 32, block_bytes: 17 },
];

/// What [`TABLE`] holds, in words for the refusal.
pub(crate) const LOADABLE: &str =
    "F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, BF16, MXFP4";

const REFUSED: [(u32, &str); 20] = [
    (4, "Q4_2 (withdrawn)"),
    (5, "Q4_3 (withdrawn)"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4 (withdrawn)"),
    (32, "Q4_0_4_8 (withdrawn)"),
    (33, "Q4_0_8_8 (withdrawn)"),
    (34, "TQ1_0"),
];

impl TensorKind {
    /// The type of a ggml id, if it loads.
    pub(crate) fn of_id(id: u32) -> Option<TensorKind> {
        TABLE.iter().find(|row| row.id == id).map(|row| row.kind)
    }

    /// Every type that loads.
    pub fn all() -> impl Iterator<Item = TensorKind> {
        TABLE.iter().map(|row| row.kind)
    }

    /// A word for an id that does not load.
    pub(crate) fn refused_name(id: u32) -> &'static str {
        REFUSED.iter().find(|(known, _)| *known == id).map_or("unknown", |(_, name)| name)
    }

    fn row(self) -> &'static Row {
        match self {
            TensorKind::F32 => &TABLE[0],
            TensorKind::F16 => &TABLE[1],
            TensorKind::Q4_0 => &TABLE[2],
            TensorKind::Q4_1 => &TABLE[3],
            TensorKind::Q5_0 => &TABLE[4],
            TensorKind::Q5_1 => &TABLE[5],
            TensorKind::Q8_0 => &TABLE[6],
            TensorKind::Q2_K => &TABLE[7],
            TensorKind::Q3_K => &TABLE[8],
            TensorKind::Q4_K => &TABLE[9],
            TensorKind::Q5_K => &TABLE[10],
            TensorKind::Q6_K => &TABLE[11],
            TensorKind::IQ4_NL => &TABLE[12],
            TensorKind::IQ4_XS => &TABLE[13],
            TensorKind::BF16 => &TABLE[14],
            TensorKind::MXFP4 => &TABLE[15],
        }
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// ggml's id, as it stands in the file.
    pub fn id(self) -> u32 {
        self.row().id
    }

    /// Elements of a block; a row is a whole number of blocks.
    pub fn block_elems(self) -> u64 {
        self.row().block_elems
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> u64 {
        self.row().block_bytes
    }
}

/// A name that is none of a loadable type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {LOADABLE}, found `{0}`")]
pub struct UnknownKind(String);

impl FromStr for TensorKind {
    type Err = UnknownKind;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        TensorKind::all().find(|kind| kind.name() == s).ok_or_else(|| UnknownKind(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_kind_and_ids_are_unique() {
        for row in &TABLE {
            assert_eq!(row.kind.row().id, row.id);
            assert_eq!(TensorKind::of_id(row.id), Some(row.kind));
            assert!(LOADABLE.split(", ").any(|name| name == row.name));
            assert_eq!(row.name.parse(), Ok(row.kind));
            assert!(REFUSED.iter().all(|(id, _)| *id != row.id));
        }
        assert_eq!(
            "Q8_K".parse::<TensorKind>().unwrap_err().to_string(),
            format!("expected one of {LOADABLE}, found `Q8_K`")
        );
        assert!(REFUSED.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
