//! Cases of what the file says: hyperparameters, shapes, weights, the vocabulary, the template.

use super::Case;
use super::parts::{F32, array, float, floats, int, ints, raw, text, texts};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const TEMPLATE: &str = "tokenizer.chat_template";
const NORM: &str = "output_norm.weight";
const Q: &str = "blk.0.attn_q.weight";

pub(super) const CASES: &[Case] = &[
    // Hyperparameters.
    ("no architecture", |f| f.remove("general.architecture"), "missing general.architecture"),
    ("an architecture of 7", |f| f.set("general.architecture", int(7)), "wrong type general.architecture"),
    ("an architecture that nobody has", |f| f.set("general.architecture", text("elephant")), "architecture elephant"),
    ("no layers", |f| f.set("llama.block_count", int(0)), "range block_count"),
    ("513 layers", |f| f.set("llama.block_count", int(513)), "range block_count"),
    ("2^32 - 1 layers", |f| f.set("llama.block_count", int(u32::MAX)), "range block_count"),
    ("a layer more than the file has", |f| f.set("llama.block_count", int(2)), "no tensor blk.1.attn_norm.weight"),
    ("no block count", |f| f.remove("llama.block_count"), "missing llama.block_count"),
    ("layers in words", |f| f.set("llama.block_count", text("1")), "wrong type llama.block_count"),
    ("no heads", |f| f.set("llama.attention.head_count", int(0)), "range attention.head_count"),
    ("no key-value heads", |f| f.set("llama.attention.head_count_kv", int(0)), "range attention.head_count_kv"),
    (
        "heads of another size than their rotation",
        |f| f.set("llama.attention.head_count", int(1)),
        "hyper llama.rope.dimension_count",
    ),
    (
        "heads that do not fill the width",
        |f| {
            f.remove("llama.rope.dimension_count");
            f.set("llama.attention.head_count", int(3));
        },
        "shape blk.0.attn_q.weight",
    ),
    (
        "more key-value heads than heads",
        |f| f.set("llama.attention.head_count_kv", int(3)),
        "multiple attention.head_count",
    ),
    ("2^32 - 1 heads", |f| f.set("llama.attention.head_count", int(u32::MAX)), "hyper llama.attention.head_count"),
    ("no head count", |f| f.remove("llama.attention.head_count"), "missing llama.attention.head_count"),
    ("no width", |f| f.set("llama.embedding_length", int(0)), "hyper llama.embedding_length"),
    ("a width of 2^32 - 1", |f| f.set("llama.embedding_length", int(u32::MAX)), "hyper llama.embedding_length"),
    (
        "another width than the tensors'",
        |f| {
            f.remove("llama.rope.dimension_count");
            f.set("llama.embedding_length", int(64));
        },
        "shape token_embd.weight",
    ),
    ("another feed-forward length", |f| f.set("llama.feed_forward_length", int(64)), "shape blk.0.ffn_gate.weight"),
    ("no context", |f| f.set("llama.context_length", int(0)), "hyper llama.context_length"),
    ("a frequency base of NaN", |f| f.set("llama.rope.freq_base", float(f32::NAN)), "not finite hyperparameter"),
    (
        "an infinite frequency base",
        |f| f.set("llama.rope.freq_base", float(f32::INFINITY)),
        "not finite hyperparameter",
    ),
    (
        "an epsilon of minus infinity",
        |f| f.set("llama.attention.layer_norm_rms_epsilon", float(f32::NEG_INFINITY)),
        "not finite hyperparameter",
    ),
    ("an unknown hyperparameter of NaN", |f| f.set("llama.x", float(f32::NAN)), "not finite hyperparameter"),
    (
        "no epsilon",
        |f| f.remove("llama.attention.layer_norm_rms_epsilon"),
        "missing llama.attention.layer_norm_rms_epsilon",
    ),
    // Tensors.
    ("no embedding", |f| f.tensor("token_embd.weight").name[0] = b'T', "no tensor token_embd.weight"),
    ("no last norm", |f| f.tensor(NORM).name[0] = b'O', "no tensor output_norm.weight"),
    (
        "a tensor that no model uses",
        |f| {
            let mut extra = f.tensor(NORM).clone();
            extra.name = b"extra".to_vec();
            extra.offset += 128;
            f.data.extend([0; 128]);
            f.tensors.push(extra);
        },
        "1 unknown tensors",
    ),
    ("a norm of another length", |f| f.tensor(NORM).ne = vec![16, 1], "shape output_norm.weight"),
    ("a matrix on its side", |f| f.tensor("blk.0.attn_k.weight").ne = vec![16 * 2, 8], "shape blk.0.attn_k.weight"),
    (
        "a matrix of three dimensions",
        |f| {
            f.tensor(Q).dims = 3;
            f.tensor(Q).ne = vec![32, 16, 2];
        },
        "shape blk.0.attn_q.weight",
    ),
    (
        "a weight of NaN",
        |f| {
            let at = f.tensor(NORM).offset as usize;
            f.data[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        "not finite weight",
    ),
    (
        "an infinite weight",
        |f| {
            let at = f.tensor(NORM).offset as usize + 124;
            f.data[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        },
        "not finite weight",
    ),
    (
        "a scale of NaN",
        |f| {
            let at = f.tensor(Q).offset as usize;
            f.data[at..at + 2].copy_from_slice(&[1, 0x7c]);
        },
        "not finite weight scale",
    ),
    (
        "an infinite minimum",
        |f| {
            let at = f.tensor(Q).offset as usize + 2;
            f.data[at..at + 2].copy_from_slice(&[0, 0xfc]);
        },
        "not finite weight scale",
    ),
    // The vocabulary.
    ("no tokenizer", |f| f.remove("tokenizer.ggml.model"), "missing tokenizer.ggml.model"),
    ("a tokenizer that nobody has", |f| f.set("tokenizer.ggml.model", text("elephant")), "tokenizer elephant"),
    ("a pre-tokenizer that nobody has", |f| f.set("tokenizer.ggml.pre", text("elephant")), "pre elephant"),
    ("a pre-tokenizer of 1", |f| f.set("tokenizer.ggml.pre", int(1)), "wrong type tokenizer.ggml.pre"),
    ("no tokens", |f| f.set(TOKENS, texts(&[])), "range tokens"),
    ("no array of tokens", |f| f.remove(TOKENS), "missing tokenizer.ggml.tokens"),
    ("tokens that are numbers", |f| f.set(TOKENS, ints(&[1, 2])), "wrong type tokenizer.ggml.tokens"),
    ("2^20 + 1 tokens", |f| f.set(TOKENS, array(8, (1 << 20) + 1, &vec![0; 8 * ((1 << 20) + 1)])), "range tokens"),
    ("a token of 4,097 bytes", |f| f.set(TOKENS, texts(&[&"x".repeat(4_097)])), "range bytes of a token"),
    ("a token twice", |f| f.set(TOKENS, texts(&["a", "b", "a"])), "duplicate token 2 of 0"),
    ("a type too few", |f| f.set(TYPES, ints(&[1; 269])), "range token types"),
    ("no types", |f| f.set(TYPES, ints(&[])), "range token types"),
    ("types that are floats", |f| f.set(TYPES, floats(&[1.0; 270])), "wrong type tokenizer.ggml.token_type"),
    (
        "a control token of 257 bytes",
        |f| {
            f.set(TOKENS, texts(&[&"x".repeat(257)]));
            f.set(TYPES, ints(&[3]));
        },
        "range bytes of a special token",
    ),
    ("no merges", |f| f.remove(MERGES), "missing tokenizer.ggml.merges"),
    ("a merge of one token", |f| f.set(MERGES, texts(&["a"])), "merge 0"),
    ("an empty merge", |f| f.set(MERGES, texts(&[""])), "merge 0"),
    ("a merge of a token that is not there", |f| f.set(MERGES, texts(&["字 a"])), "merge 0"),
    ("a merge into a token that is not there", |f| f.set(MERGES, texts(&["Z Z"])), "merge 0"),
    ("merges that are numbers", |f| f.set(MERGES, ints(&[1])), "wrong type tokenizer.ggml.merges"),
    ("2^20 + 1 merges", |f| f.set(MERGES, array(8, (1 << 20) + 1, &vec![0; 8 * ((1 << 20) + 1)])), "range merges"),
    (
        "a beginning of -1",
        |f| f.set("tokenizer.ggml.bos_token_id", [5u32.to_le_bytes(), [0xff; 4]].concat()),
        "wrong type tokenizer.ggml.bos_token_id",
    ),
    (
        "an end in words",
        |f| f.set("tokenizer.ggml.eos_token_id", text("</s>")),
        "wrong type tokenizer.ggml.eos_token_id",
    ),
    (
        "an unknown token of 2^40",
        |f| f.set("tokenizer.ggml.unknown_token_id", [&10u32.to_le_bytes()[..], &(1u64 << 40).to_le_bytes()].concat()),
        "wrong type tokenizer.ggml.unknown_token_id",
    ),
    ("an addition of 1", |f| f.set("tokenizer.ggml.add_bos_token", int(1)), "wrong type tokenizer.ggml.add_bos_token"),
    (
        "no scores",
        |f| {
            f.sentencepiece();
            f.remove(SCORES);
        },
        "missing tokenizer.ggml.scores",
    ),
    (
        "a score too few",
        |f| {
            f.sentencepiece();
            f.set(SCORES, floats(&[0.0; 269]));
        },
        "range scores",
    ),
    (
        "a score too many",
        |f| {
            f.sentencepiece();
            f.set(SCORES, floats(&[0.0; 271]));
        },
        "range scores",
    ),
    (
        "a score of NaN",
        |f| {
            f.sentencepiece();
            f.set(SCORES, floats(&[[0.0; 269].as_slice(), &[f32::NAN]].concat()));
        },
        "score 269",
    ),
    (
        "a score beyond f32",
        |f| {
            f.sentencepiece();
            f.set(SCORES, array(12, 270, &f64::MAX.to_le_bytes().repeat(270)));
        },
        "score 0",
    ),
    (
        "scores that are integers",
        |f| {
            f.sentencepiece();
            f.set(SCORES, ints(&[0; 270]));
        },
        "wrong type tokenizer.ggml.scores",
    ),
    (
        "a piece of 513 bytes",
        |f| {
            f.set(TOKENS, texts(&[&"x".repeat(513)]));
            f.set(TYPES, ints(&[1]));
            f.sentencepiece();
            f.set(SCORES, floats(&[0.0]));
        },
        "range bytes of a token",
    ),
    (
        "a space prefix of 1.0",
        |f| {
            f.sentencepiece();
            f.set("tokenizer.ggml.add_space_prefix", float(1.0));
        },
        "wrong type tokenizer.ggml.add_space_prefix",
    ),
    // The template.
    ("a template of 256 KiB and one", |f| f.set(TEMPLATE, text(&"x".repeat((256 << 10) + 1))), "template too long"),
    ("a template that does not parse", |f| f.set(TEMPLATE, text("a\nb\n{% if %}")), "template line 3"),
    ("a template that does not end", |f| f.set(TEMPLATE, text("{% for m in messages %}")), "template line 1"),
    ("a template of numbers", |f| f.set(TEMPLATE, array(F32, 0, &[])), "wrong type tokenizer.chat_template"),
    ("a template that is not UTF-8", |f| f.set(TEMPLATE, raw(b"{{ \xfe }}")), "utf-8 metadata value"),
    ("a template of brackets", |f| f.set(TEMPLATE, text(&("{{ ".to_owned() + &"(".repeat(50_000)))), "template line 1"),
];
