//! Cases of what only some architectures have: biases, norms within attention, windows.

use super::parts::int;
use super::{Case, Parts, valid};

fn qwen2(file: &mut Parts) -> &mut Parts {
    *file = valid("qwen2");
    file
}

fn gemma3(file: &mut Parts) -> &mut Parts {
    *file = valid("gemma3");
    file
}

const WINDOW: &str = "gemma3.attention.sliding_window";
const PATTERN: &str = "gemma3.attention.sliding_window_pattern";
const HEAD: &str = "gemma3.attention.key_length";

pub(super) const CASES: &[Case] = &[
    ("no bias", |f| qwen2(f).tensor("blk.0.attn_k.bias").name[0] = b'B', "no tensor blk.0.attn_k.bias"),
    ("a bias of half the values", |f| qwen2(f).tensor("blk.0.attn_v.bias").ne[0] = 8, "shape blk.0.attn_v.bias"),
    ("a bias of halves", |f| qwen2(f).tensor("blk.0.attn_q.bias").kind = 1, "hyper blk.0.attn_q.bias"),
    (
        "no norm of queries",
        |f| gemma3(f).tensor("blk.0.attn_q_norm.weight").name[0] = b'B',
        "no tensor blk.0.attn_q_norm.weight",
    ),
    (
        "a norm of half a head",
        |f| gemma3(f).tensor("blk.0.attn_k_norm.weight").ne[0] = 16,
        "shape blk.0.attn_k_norm.weight",
    ),
    (
        "no norm behind attention",
        |f| gemma3(f).tensor("blk.0.post_attention_norm.weight").name[0] = b'B',
        "no tensor blk.0.post_attention_norm.weight",
    ),
    ("heads of an odd size", |f| gemma3(f).set(HEAD, int(31)), "hyper gemma3.attention.key_length"),
    ("heads of 2^32 - 2", |f| gemma3(f).set(HEAD, int(u32::MAX - 1)), "hyper gemma3.attention.key_length"),
    ("keys of another size than values", |f| gemma3(f).set(HEAD, int(16)), "hyper gemma3.attention.value_length"),
    (
        "heads of another size than the tensors'",
        |f| {
            gemma3(f).set(HEAD, int(16));
            f.set("gemma3.attention.value_length", int(16));
            f.set("gemma3.rope.dimension_count", int(16));
        },
        "shape blk.0.attn_q_norm.weight",
    ),
    ("no window", |f| gemma3(f).remove(WINDOW), "missing gemma3.attention.sliding_window"),
    ("a window of nothing", |f| gemma3(f).set(WINDOW, int(0)), "hyper gemma3.attention.sliding_window"),
    ("a window in no layer", |f| gemma3(f).set(PATTERN, int(0)), "hyper gemma3.attention.sliding_window_pattern"),
    (
        "a window in 512 layers of 513",
        |f| gemma3(f).set(PATTERN, int(513)),
        "hyper gemma3.attention.sliding_window_pattern",
    ),
];
