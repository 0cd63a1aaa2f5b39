//! Cases of the file's form: counts, lengths, types, dimensions, offsets, what is cut off.

use super::Case;
use super::parts::{ARRAY, F32, I32, STR, U32, array, int, raw, text};

const NORM: &str = "output_norm.weight";
const Q: &str = "blk.0.attn_q.weight";

pub(super) const CASES: &[Case] = &[
    // Truncations.
    ("nothing", |f| f.cut = 0, "truncated magic number"),
    ("half a magic number", |f| f.cut = 2, "truncated magic number"),
    ("no version", |f| f.cut = 4, "truncated version"),
    ("half a version", |f| f.cut = 7, "truncated version"),
    ("no tensor count", |f| f.cut = 8, "truncated tensor count"),
    ("half a tensor count", |f| f.cut = 12, "truncated tensor count"),
    ("no metadata count", |f| f.cut = 16, "truncated metadata count"),
    ("no first key", |f| f.cut = 24, "truncated metadata key"),
    ("half a key's length", |f| f.cut = 31, "truncated metadata key"),
    ("half a key", |f| f.cut = 36, "truncated metadata key"),
    ("no value type", |f| f.cut = 32 + 20, "truncated metadata value type"),
    ("no value", |f| f.cut = 32 + 20 + 4, "truncated metadata value"),
    ("half a value", |f| f.cut = 32 + 20 + 4 + 8 + 2, "truncated metadata value"),
    ("no last tensor offset", |f| f.cut = f.described().len() - 8, "truncated tensor offset"),
    ("no data", |f| f.cut = f.head(), "truncated tensor data"),
    ("one byte of data short", |f| f.cut = f.bytes().len() - 32, "truncated tensor data"),
    // Magic and version.
    ("another magic number", |f| f.magic = *b"GGML", "magic"),
    ("a big-endian magic number", |f| f.magic = *b"FUGG", "magic"),
    ("no magic number", |f| f.magic = [0; 4], "magic"),
    ("version 0", |f| f.version = 0, "version"),
    ("version 1", |f| f.version = 1, "version"),
    ("version 4", |f| f.version = 4, "version"),
    ("a big-endian version", |f| f.version = 3 << 24, "version"),
    // Counts.
    (
        "a tensor too many announced",
        // Read as the description of one without a name or dimensions.
        |f| {
            f.more_tensors = 1;
            f.data.fill(0);
        },
        "range tensor dimension count",
    ),
    ("a pair too many announced", |f| f.more_pairs = 1, "range tensor name"),
    ("a pair too few announced", |f| f.more_pairs = u64::MAX, "range tensor dimension count"),
    ("too many tensors", |f| f.more_tensors = 65_536, "range tensor count"),
    ("all tensors there can be", |f| f.more_tensors = u64::MAX / 2, "range tensor count"),
    ("too many pairs", |f| f.more_pairs = 65_536, "range metadata count"),
    ("all pairs there can be", |f| f.more_pairs = 1 << 63, "range metadata count"),
    // Names and keys.
    ("a key of 257 bytes", |f| f.pairs[0].0 = vec![b'k'; 257], "range metadata key"),
    ("a tensor name of 257 bytes", |f| f.tensors[0].name = vec![b't'; 257], "range tensor name"),
    ("a key that is not UTF-8", |f| f.pairs[0].0 = b"general.\xff".to_vec(), "utf-8 metadata key"),
    ("a key with half a character", |f| f.pairs[0].0 = b"general.\xe2\x82".to_vec(), "utf-8 metadata key"),
    ("a tensor name that is not UTF-8", |f| f.tensors[0].name = vec![0xc0, 0x80], "utf-8 tensor name"),
    ("a key with a surrogate", |f| f.pairs[0].0 = b"\xed\xa0\x80".to_vec(), "utf-8 metadata key"),
    ("a string that is not UTF-8", |f| f.set("general.name", raw(b"a\xffb")), "utf-8 metadata value"),
    ("an overlong character", |f| f.set("general.name", raw(b"\xe0\x80\xaf")), "utf-8 metadata value"),
    (
        "an array of what is not UTF-8",
        |f| f.set("x", array(STR, 1, b"\x01\0\0\0\0\0\0\0\xff")),
        "utf-8 metadata array string",
    ),
    ("a key twice", |f| f.pairs.push(f.pairs[3].clone()), "duplicate metadata key"),
    ("a key twice with two values", |f| f.pairs.push((f.pairs[0].0.clone(), int(1))), "duplicate metadata key"),
    ("an empty key twice", |f| f.pairs.extend([(vec![], int(1)), (vec![], int(2))]), "duplicate metadata key"),
    ("a tensor twice", |f| f.tensors.push(f.tensors[1].clone()), "duplicate tensor name"),
    ("two tensors of one name", |f| f.tensors[2].name = f.tensors[4].name.clone(), "duplicate tensor name"),
    // Lengths of strings.
    (
        "a string of 2^64 - 1 bytes",
        |f| f.set("x", [&STR.to_le_bytes()[..], &[0xff; 8]].concat()),
        "range metadata value",
    ),
    (
        "a string of 2^63 bytes",
        |f| f.set("x", [&STR.to_le_bytes()[..], &(1u64 << 63).to_le_bytes()].concat()),
        "range metadata value",
    ),
    (
        "a string of more than 16 MiB",
        |f| f.set("x", [STR.to_le_bytes(), [1, 0, 0, 1], [0; 4]].concat()),
        "range metadata value",
    ),
    (
        "a string of 16 MiB",
        |f| f.set("x", [STR.to_le_bytes(), [0, 0, 0, 1], [0; 4]].concat()),
        "truncated metadata value",
    ),
    ("a long string in an array", |f| f.set("x", array(STR, 1, &[0xff; 8])), "range metadata array string"),
    (
        "a string in an array beyond the file",
        |f| f.set("x", array(STR, 1, &[0, 0, 0, 1, 0, 0, 0, 0])),
        "truncated metadata array string",
    ),
    // Types of values.
    ("value type 13", |f| f.set("x", 13u32.to_le_bytes().to_vec()), "type metadata value type"),
    ("value type 2^32 - 1", |f| f.set("x", vec![0xff; 4]), "type metadata value type"),
    ("an array of arrays", |f| f.set("x", array(ARRAY, 1, &array(U32, 0, &[]))), "type metadata array type"),
    ("an array of type 13", |f| f.set("x", array(13, 0, &[])), "type metadata array type"),
    (
        "arrays in arrays in arrays",
        |f| f.set("x", array(ARRAY, 1, &array(ARRAY, 1, &array(ARRAY, 1, &[])))),
        "type metadata array type",
    ),
    ("a bool of 2", |f| f.set("x", [&7u32.to_le_bytes()[..], &[2]].concat()), "range metadata bool"),
    ("a bool of 255", |f| f.set("x", [&7u32.to_le_bytes()[..], &[255]].concat()), "range metadata bool"),
    // Counts of arrays times their elements.
    ("an array of 2^64 - 1 bytes", |f| f.set("x", array(0, u64::MAX, &[])), "range metadata array count"),
    ("an array of 2^61 u64", |f| f.set("x", array(10, 1 << 61, &[])), "range metadata array count"),
    ("an array of 2^62 u32", |f| f.set("x", array(U32, 1 << 62, &[])), "range metadata array count"),
    ("an array of 2^32 strings", |f| f.set("x", array(STR, 1 << 32, &[])), "range metadata array count"),
    ("an array of 2^24 + 1 bytes", |f| f.set("x", array(0, (1 << 24) + 1, &[])), "range metadata array count"),
    ("an array of 2^24 u64", |f| f.set("x", array(10, 1 << 24, &[])), "truncated metadata array"),
    ("an array of 2^24 f64", |f| f.set("x", array(12, 1 << 24, &[])), "truncated metadata array"),
    ("an array of 2^24 strings", |f| f.set("x", array(STR, 1 << 24, &[])), "truncated metadata array"),
    ("an array of 2^24 bools", |f| f.set("x", array(7, 1 << 24, &[])), "truncated metadata array"),
    // Dimensions.
    ("no dimension", |f| f.tensor(NORM).dims = 0, "range tensor dimension count"),
    ("five dimensions", |f| f.tensor(NORM).dims = 5, "range tensor dimension count"),
    ("2^32 - 1 dimensions", |f| f.tensor(NORM).dims = u32::MAX, "range tensor dimension count"),
    ("a row of no elements", |f| f.tensor(Q).ne = vec![0, 32], "range tensor dimension"),
    ("no rows", |f| f.tensor(Q).ne = vec![32, 0], "range tensor dimension"),
    ("half a block", |f| f.tensor(Q).ne = vec![16, 64], "multiple tensor row length"),
    ("a block and one", |f| f.tensor(Q).ne = vec![33, 32], "multiple tensor row length"),
    ("2^64 - 1 elements", |f| f.tensor(NORM).ne = vec![u64::MAX, 1], "overflow tensor size"),
    ("2^62 floats", |f| f.tensor(NORM).ne = vec![1 << 62, 1], "overflow tensor size"),
    ("a product of 2^64", |f| f.tensor(NORM).ne = vec![1 << 32, 1 << 32], "overflow tensor size"),
    ("a product that wraps to little", |f| f.tensor(Q).ne = vec![32, (1 << 63) + 1], "overflow tensor size"),
    ("rows of 2^59 blocks", |f| f.tensor(Q).ne = vec![1 << 63, 32], "overflow tensor size"),
    ("more rows than data", |f| f.tensor(Q).ne = vec![32, 1 << 40], "truncated tensor data"),
    // Types of tensors.
    ("a withdrawn tensor type", |f| f.tensor(Q).kind = 4, "kind 4"),
    ("another withdrawn tensor type", |f| f.tensor(Q).kind = 33, "kind 33"),
    ("a tensor of integers", |f| f.tensor(Q).kind = 26, "kind 26"),
    ("a tensor type that nobody has", |f| f.tensor(Q).kind = 99, "kind 99"),
    ("tensor type 2^32 - 1", |f| f.tensor(Q).kind = u32::MAX, "kind 4294967295"),
    // Offsets.
    ("an odd offset", |f| f.tensor(NORM).offset += 1, "multiple tensor offset"),
    ("an offset of half the alignment", |f| f.tensor(NORM).offset += 16, "multiple tensor offset"),
    ("an offset beyond the file", |f| f.tensor(NORM).offset = 1 << 40, "truncated tensor data"),
    ("an offset at the end", |f| f.tensor(NORM).offset += 128, "truncated tensor data"),
    ("an offset near 2^64", |f| f.tensor(NORM).offset = u64::MAX - 31, "overflow tensor offset"),
    ("an offset of 2^63", |f| f.tensor(NORM).offset = 1 << 63, "truncated tensor data"),
    ("two tensors in one place", |f| f.tensor(NORM).offset = f.tensor(Q).offset, "overlap"),
    ("a tensor within another", |f| f.tensor(NORM).offset = f.tensor(Q).offset + 32, "overlap"),
    ("a tensor over the next", |f| f.tensor(Q).offset -= 32, "overlap"),
    ("all tensors in one place", |f| f.tensors.iter_mut().for_each(|t| t.offset = 0), "overlap"),
    // Alignment.
    ("an alignment of 0", |f| f.set("general.alignment", int(0)), "range general.alignment"),
    ("an alignment of 4", |f| f.set("general.alignment", int(4)), "range general.alignment"),
    ("an alignment of 24", |f| f.set("general.alignment", int(24)), "alignment"),
    ("an alignment of 65,535", |f| f.set("general.alignment", int(65_535)), "alignment"),
    ("an alignment of 131,072", |f| f.set("general.alignment", int(131_072)), "range general.alignment"),
    (
        "an alignment of -32",
        |f| f.set("general.alignment", [I32.to_le_bytes(), (-32i32).to_le_bytes()].concat()),
        "range general.alignment",
    ),
    ("an alignment in words", |f| f.set("general.alignment", text("32")), "wrong type general.alignment"),
    (
        "an alignment of 32.0",
        |f| f.set("general.alignment", [F32.to_le_bytes(), 32f32.to_le_bytes()].concat()),
        "wrong type general.alignment",
    ),
    ("another alignment than the file's", |f| f.set("general.alignment", int(4_096)), "multiple tensor offset"),
];
