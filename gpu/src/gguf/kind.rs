//! Tensor types: one table of id, name, elements and bytes of a block.
//!
//! [`TensorKind`] has only the types that load, so that no one can hold a tensor nobody can compute with;
//! a second table knows the names of the rest of ggml's types, for the refusal alone. A new quantized
//! format is a variant, a row here, and its file in `quant`.

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TensorKind {
    F32,
    F16,
    /// 32 elements in 20 bytes: f16 d, f16 m, 16 bytes of nibbles (byte i holds elements i and i + 16).
    Q4_1,
    /// 32 elements in 34 bytes: f16 d, 32 × i8.
    Q8_0,
}

struct Row {
    kind: TensorKind,
    id: u32,
    name: &'static str,
    block_elems: u64,
    block_bytes: u64,
}

const TABLE: [Row; 4] = [
    Row { kind: TensorKind::F32, id: 0, name: "F32", block_elems: 1, block_bytes: 4 },
    Row { kind: TensorKind::F16, id: 1, name: "F16", block_elems: 1, block_bytes: 2 },
    Row { kind: TensorKind::Q4_1, id: 3, name: "Q4_1", block_elems: 32, block_bytes: 20 },
    Row { kind: TensorKind::Q8_0, id: 8, name: "Q8_0", block_elems: 32, block_bytes: 34 },
];

/// What [`TABLE`] holds, in words for the refusal.
pub(crate) const LOADABLE: &str = "F32, F16, Q4_1, Q8_0";

const REFUSED: [(u32, &str); 32] = [
    (2, "Q4_0"),
    (4, "Q4_2 (withdrawn)"),
    (5, "Q4_3 (withdrawn)"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (31, "Q4_0_4_4 (withdrawn)"),
    (32, "Q4_0_4_8 (withdrawn)"),
    (33, "Q4_0_8_8 (withdrawn)"),
    (34, "TQ1_0"),
    (39, "MXFP4"),
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
            TensorKind::Q4_1 => &TABLE[2],
            TensorKind::Q8_0 => &TABLE[3],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_kind_and_ids_are_unique() {
        for row in &TABLE {
            assert_eq!(row.kind.row().id, row.id);
            assert_eq!(TensorKind::of_id(row.id), Some(row.kind));
            assert!(LOADABLE.contains(row.name));
            assert!(REFUSED.iter().all(|(id, _)| *id != row.id));
        }
        assert!(REFUSED.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
