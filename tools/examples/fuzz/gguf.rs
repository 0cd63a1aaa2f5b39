//! Model files: parser, loader, tokenizer, template. A small valid one with other pairs, tensors and bytes than it
//! should have, refused at one of these stages.

use super::Target;
use orchestrion_gpu::engine::{Engine, EngineOptions, Level};
use orchestrion_gpu::generate::{GenError, GenSpec, generate};
use orchestrion_gpu::gguf::write::{Meta, Writer};
use orchestrion_gpu::gguf::{Gguf, TensorKind};
use orchestrion_gpu::template::{Chat, Message, Template};
use orchestrion_gpu::tokenizer::{Detokenizer, Tokenizer};
use orchestrion_scenarios::storm::draw::Draw;
use std::error::Error;

pub(super) fn target(_: u64) -> Result<Target, Box<dyn Error>> {
    Ok(Target { make: Box::new(|draw| Ok(file(draw)?)), read: Box::new(read) })
}

/// A valid file of one of two kinds, then changed.
fn file(draw: &mut Draw) -> Result<Vec<u8>, GenError> {
    let mut bytes = if draw.index(2) == 0 { byte_level(draw)? } else { sentencepiece(draw) };
    // Some stay as they were written: what is wrong with them is in their pairs.
    for _ in 0..draw.of(&[0, 0, 1, 3]) {
        change(&mut bytes, draw);
    }
    Ok(bytes)
}

fn byte_level(draw: &mut Draw) -> Result<Vec<u8>, GenError> {
    let kinds: Vec<TensorKind> = TensorKind::all().collect();
    let [matrices, embedding] = [draw.of(&kinds), draw.of(&kinds)];
    // A row is a block at least.
    let dim = matrices.block_elems().max(embedding.block_elems()).max(32) as u32;
    let spec = GenSpec::of(draw.of(&ARCHS[..5]))?;
    let spec = GenSpec {
        seed: draw.bits(),
        layers: 1 + draw.index(2) as u32,
        dim,
        heads: 2,
        kv_heads: 1 + draw.index(2) as u32,
        head_dim: spec.head_dim.map(|head| head.max(dim / 2)),
        ffn: dim,
        vocab: 259 + draw.index(60) as u32,
        matrices,
        embedding,
        head: draw.of(&[None, Some(embedding)]),
        ..spec
    };
    generate(&spec)
}

/// The last is none that runs.
const ARCHS: [&str; 6] = ["llama", "qwen2", "qwen3", "phi3", "gemma3", "elephant"];
const PIECES: [&str; 14] = [
    "\u{2581}",
    "a",
    "b",
    "ab",
    "\u{2581}a",
    "<0x0A>",
    "<0xGG>",
    "</s>",
    "<s>",
    "<end_of_turn>",
    "<start_of_turn>",
    "",
    "字",
    "  ",
];
/// All but the first are programs that have to be stopped, so they are drawn seldom.
const TEMPLATES: [&str; 5] = [
    "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for a in range(99999999) %}{{ a }}{% endfor %}",
    "{{ messages[0].content * 99999999 }}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{{ raise_exception('no') }}",
];
const NUMBERS: [u32; 9] = [0, 1, 2, 3, 32, 255, 512, i32::MAX as u32, u32::MAX];
const FLOATS: [f32; 7] = [0.0, -1.0, 1e-6, 10_000.0, f32::MAX, f32::NAN, f32::NEG_INFINITY];

/// A file of SentencePiece's kind, with some keys gone, doubled or of another type, and a tensor or two.
fn sentencepiece(draw: &mut Draw) -> Vec<u8> {
    let arch = draw.of(&ARCHS);
    let mut tokens: Vec<String> = (0..draw.index(40)).map(|_| draw.of(&PIECES).to_owned()).collect();
    if draw.index(4) > 0 {
        tokens.sort();
        tokens.dedup();
    }
    let lengths = [tokens.len(), tokens.len(), tokens.len(), draw.index(50)];
    let text = |s: &str| Meta::Str(s.to_owned());
    let templates = draw.of(&[1, 1, 1, 1, 1, 1, 1, TEMPLATES.len()]);
    let numbers = draw.of(&[&NUMBERS[1..2], &NUMBERS[1..2], &NUMBERS]);
    let floats = draw.of(&[&FLOATS[2..4], &FLOATS[2..4], &FLOATS]);
    let mut pairs: Vec<(String, Meta)> = vec![
        ("general.architecture".to_owned(), text(arch)),
        ("tokenizer.ggml.model".to_owned(), text("llama")),
        ("tokenizer.chat_template".to_owned(), text(draw.of(&TEMPLATES[..templates]))),
        ("tokenizer.ggml.tokens".to_owned(), Meta::Strs(tokens)),
    ];
    let types = (0..draw.of(&lengths)).map(|_| draw.index(8) as i32).collect();
    pairs.push(("tokenizer.ggml.token_type".to_owned(), Meta::I32s(types)));
    let most = draw.of(&[FLOATS.len(), 4, 4, 4]);
    let scores = (0..draw.of(&lengths)).map(|_| draw.of(&FLOATS[..most])).collect();
    pairs.push(("tokenizer.ggml.scores".to_owned(), Meta::F32s(scores)));
    for key in ["bos_token_id", "eos_token_id", "unknown_token_id"] {
        pairs.push((format!("tokenizer.ggml.{key}"), Meta::U32(draw.of(&NUMBERS))));
    }
    pairs.push(("tokenizer.ggml.add_space_prefix".to_owned(), Meta::Bool(draw.index(2) == 0)));
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.sliding_window",
    ] {
        pairs.push((format!("{arch}.{key}"), Meta::U32(draw.of(numbers))));
    }
    for key in ["rope.freq_base", "attention.layer_norm_rms_epsilon"] {
        pairs.push((format!("{arch}.{key}"), Meta::F32(draw.of(floats))));
    }
    for _ in 0..draw.index(3) {
        let at = draw.index(pairs.len());
        match draw.index(4) {
            0 => drop(pairs.remove(at)),
            1 => pairs.push(pairs[at].clone()),
            2 => pairs[at].1 = draw.of(&[Meta::U32(7), Meta::F32(0.5), Meta::Strs(vec![]), Meta::I32s(vec![-1])]),
            _ => pairs.swap(0, at),
        }
    }
    let mut writer = Writer::default();
    pairs.into_iter().for_each(|(key, value)| writer.pair(key, value));
    for name in ["token_embd.weight", "output_norm.weight"].iter().take(draw.index(3)) {
        let ne = [draw.of(&[1, 32, 64, u64::MAX]), draw.of(&[1, 4, 1 << 40])];
        writer.tensor(*name, draw.of(&[TensorKind::F32, TensorKind::Q8_0]), &ne, vec![0; draw.index(4_096)]);
    }
    writer.finish()
}

/// One change: a bit, a number, a piece more or less.
fn change(bytes: &mut Vec<u8>, draw: &mut Draw) {
    const WIDE: [u64; 8] = [0, 1, 256, 65_537, 16 << 20, 1 << 32, 1 << 63, u64::MAX - 7];
    // Most of the time in the head, where the numbers that matter stand: hyperparameters, then tensors' shapes.
    let reach = draw.of(&[1_500, 1_500, 10_000, bytes.len()]).min(bytes.len());
    let at = draw.index(reach.saturating_sub(8));
    let end = (at + 1 + draw.index(64)).min(bytes.len());
    match draw.index(6) {
        _ if bytes.len() < 16 => bytes.extend(draw.bits().to_le_bytes()),
        0 => bytes[at] ^= 1 << draw.index(8),
        1 => bytes[at..at + 8].copy_from_slice(&draw.of(&WIDE).to_le_bytes()),
        2 => bytes[at..at + 4].copy_from_slice(&draw.of(&NUMBERS).to_le_bytes()),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].to_vec();
            let to = draw.index(reach);
            bytes.splice(to..to, piece);
        }
        _ => bytes.truncate(at),
    }
}

/// Reads a file as the server does, and says how far that came; an error is a broken promise.
fn read(bytes: &[u8]) -> Result<&'static str, String> {
    const TEXT: &str = "<start_of_turn>user\nab 字\u{0}  \u{2581}</s><|im_end|> the barrel organ 12";
    let streamed = Gguf::read(bytes, bytes.len() as u64, |_, _| ());
    let gguf = match (Gguf::parse(bytes.to_vec()), streamed) {
        (Ok(gguf), Ok(_)) => gguf,
        (Err(a), Err(b)) if a == b => return Ok("refused in parsing"),
        // A foreign file is refused by its first chunk, a parsed one by its whole.
        (a, b) => return Err(format!("a buffer and a stream differ: {:?}, {:?}", a.err(), b.err())),
    };
    let options = EngineOptions { level: Level::Scalar, threads: 1, ctx_max: 16 };
    let mut end = if Engine::load(&gguf, options).is_ok() { "refused nowhere" } else { "refused in loading" };
    if let Ok(template) = Template::from_gguf(&gguf) {
        let messages = [Message { role: "user", content: TEXT, more: &[] }];
        // A refusal is as good as a prompt; only a panic is neither.
        let _ = template.render(&Chat { messages: &messages, tools: &[], add_generation_prompt: true, now_unix_s: 0 });
    } else {
        end = "refused by its template";
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let (mut detokenizer, mut text) = (Detokenizer::default(), String::new());
        let plain = tokenizer.encode(TEXT, false);
        let chat = tokenizer.encode_chat(&tokenizer.defuse(TEXT));
        for id in plain.iter().chain(&chat) {
            detokenizer.push(&tokenizer, *id, &mut text);
            let unknown = tokenizer.encode("\u{10fffd}", false).contains(id);
            if tokenizer.is_control(*id) && !unknown || *id as usize >= tokenizer.vocab_len() {
                return Err(format!("plain text became token {id}"));
            }
        }
        detokenizer.finish(&mut text);
    } else {
        end = "refused by its tokenizer";
    }
    Ok(end)
}
