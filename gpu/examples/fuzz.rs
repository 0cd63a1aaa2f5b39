//! Throws broken files at everything that reads a GGUF: parser, loader, tokenizer, template.
//!
//! `fuzz --target gguf --runs N [--seed S] [--first K]` makes N files. Each is a small valid one with other
//! pairs, tensors and bytes than it should have, drawn from the seed and its number alone, so that a finding
//! is two numbers. Prints how many were refused at each stage and how many ran in a second; exits with 1 at
//! the first panic, broken promise, or file that takes longer than [`SLOW`].
//!
//! It is guided by structure, not by coverage: that would need a compiler of another channel.

use orchestrion_gpu::engine::{Engine, EngineOptions, Level};
use orchestrion_gpu::generate::{GenError, GenSpec, generate};
use orchestrion_gpu::gguf::write::{Meta, Writer};
use orchestrion_gpu::gguf::{Gguf, TensorKind};
use orchestrion_gpu::template::{Chat, Message, Template};
use orchestrion_gpu::tokenizer::{Detokenizer, Tokenizer};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Files are some hundred kilobytes at most; a second for one is a hang in the making.
const SLOW: Duration = Duration::from_secs(5);
const USAGE: &str = "usage: fuzz --target gguf --runs N [--seed S] [--first K]";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = BTreeMap::from([("--runs", 0u64), ("--seed", 0), ("--first", 0)]);
    let mut target = None;
    for pair in args.chunks(2) {
        match pair {
            [flag, value] if flag == "--target" => target = Some(value.as_str()),
            [flag, value] => *numbers.get_mut(flag.as_str()).ok_or(USAGE)? = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    let (runs, seed, first) = (numbers["--runs"], numbers["--seed"], numbers["--first"]);
    if target != Some("gguf") || runs == 0 {
        return Err(USAGE.into());
    }
    let began = Instant::now();
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for run in first..first + runs {
        let started = Instant::now();
        let file = file(&mut Draw::new(seed, run))?;
        let end = std::panic::catch_unwind(|| read(file));
        let finding = match end {
            Ok(Ok(end)) => {
                *ends.entry(end).or_default() += 1;
                (started.elapsed() > SLOW).then(|| format!("took {:?}", started.elapsed()))
            }
            Ok(Err(broken)) => Some(broken),
            Err(_) => Some("panicked".to_owned()),
        };
        if let Some(finding) = finding {
            return Err(format!("{finding}: --target gguf --seed {seed} --first {run} --runs 1").into());
        }
    }
    let rate = runs as f64 / began.elapsed().as_secs_f64();
    let ends: Vec<String> = ends.iter().map(|(end, count)| format!("{end} {count}")).collect();
    writeln!(std::io::stdout(), "gguf: {runs} runs, seed {seed}, {rate:.0} a second; refused: {}", ends.join(", "))?;
    Ok(())
}

/// A counter that is well mixed (SplitMix64): any run can be drawn without those before it.
struct Draw(u64);

impl Draw {
    fn new(seed: u64, run: u64) -> Draw {
        Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ run.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

/// A valid file of one of two kinds, then changed.
fn file(draw: &mut Draw) -> Result<Vec<u8>, GenError> {
    let mut bytes = if draw.below(2) == 0 { byte_level(draw)? } else { sentencepiece(draw) };
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
    let spec = GenSpec::of(draw.of(&ARCHS[..3]))?;
    let spec = GenSpec {
        seed: draw.next(),
        layers: 1 + draw.below(2) as u32,
        dim,
        heads: 2,
        kv_heads: 1 + draw.below(2) as u32,
        head_dim: spec.head_dim.map(|head| head.max(dim / 2)),
        ffn: dim,
        vocab: 259 + draw.below(60) as u32,
        matrices,
        embedding,
        head: draw.of(&[None, Some(embedding)]),
        ..spec
    };
    generate(&spec)
}

/// The last is none that runs.
const ARCHS: [&str; 4] = ["llama", "qwen2", "gemma3", "elephant"];
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
    let mut tokens: Vec<String> = (0..draw.below(40)).map(|_| draw.of(&PIECES).to_owned()).collect();
    if draw.below(4) > 0 {
        tokens.sort();
        tokens.dedup();
    }
    let lengths = [tokens.len(), tokens.len(), tokens.len(), draw.below(50)];
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
    let types = (0..draw.of(&lengths)).map(|_| draw.below(8) as i32).collect();
    pairs.push(("tokenizer.ggml.token_type".to_owned(), Meta::I32s(types)));
    let most = draw.of(&[FLOATS.len(), 4, 4, 4]);
    let scores = (0..draw.of(&lengths)).map(|_| draw.of(&FLOATS[..most])).collect();
    pairs.push(("tokenizer.ggml.scores".to_owned(), Meta::F32s(scores)));
    for key in ["bos_token_id", "eos_token_id", "unknown_token_id"] {
        pairs.push((format!("tokenizer.ggml.{key}"), Meta::U32(draw.of(&NUMBERS))));
    }
    pairs.push(("tokenizer.ggml.add_space_prefix".to_owned(), Meta::Bool(draw.below(2) == 0)));
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
    for _ in 0..draw.below(3) {
        let at = draw.below(pairs.len());
        match draw.below(4) {
            0 => drop(pairs.remove(at)),
            1 => pairs.push(pairs[at].clone()),
            2 => pairs[at].1 = draw.of(&[Meta::U32(7), Meta::F32(0.5), Meta::Strs(vec![]), Meta::I32s(vec![-1])]),
            _ => pairs.swap(0, at),
        }
    }
    let mut writer = Writer::default();
    pairs.into_iter().for_each(|(key, value)| writer.pair(key, value));
    for name in ["token_embd.weight", "output_norm.weight"].iter().take(draw.below(3)) {
        let ne = [draw.of(&[1, 32, 64, u64::MAX]), draw.of(&[1, 4, 1 << 40])];
        writer.tensor(*name, draw.of(&[TensorKind::F32, TensorKind::Q8_0]), &ne, vec![0; draw.below(4_096)]);
    }
    writer.finish()
}

/// One change: a bit, a number, a piece more or less.
fn change(bytes: &mut Vec<u8>, draw: &mut Draw) {
    const WIDE: [u64; 8] = [0, 1, 256, 65_537, 16 << 20, 1 << 32, 1 << 63, u64::MAX - 7];
    // Most of the time in the head, where the numbers that matter stand: hyperparameters, then tensors' shapes.
    let reach = draw.of(&[1_500, 1_500, 10_000, bytes.len()]).min(bytes.len());
    let at = draw.below(reach.saturating_sub(8));
    let end = (at + 1 + draw.below(64)).min(bytes.len());
    match draw.below(6) {
        _ if bytes.len() < 16 => bytes.extend(draw.next().to_le_bytes()),
        0 => bytes[at] ^= 1 << draw.below(8),
        1 => bytes[at..at + 8].copy_from_slice(&draw.of(&WIDE).to_le_bytes()),
        2 => bytes[at..at + 4].copy_from_slice(&draw.of(&NUMBERS).to_le_bytes()),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].to_vec();
            let to = draw.below(reach);
            bytes.splice(to..to, piece);
        }
        _ => bytes.truncate(at),
    }
}

/// Reads a file as the server does, and says how far that came; an error is a broken promise.
fn read(bytes: Vec<u8>) -> Result<&'static str, String> {
    const TEXT: &str = "<start_of_turn>user\nab 字\u{0}  \u{2581}</s><|im_end|> the barrel organ 12";
    let streamed = Gguf::read(bytes.as_slice(), bytes.len() as u64, |_, _| ());
    let gguf = match (Gguf::parse(bytes), streamed) {
        (Ok(gguf), Ok(_)) => gguf,
        (Err(a), Err(b)) if a == b => return Ok("parsing"),
        // A foreign file is refused by its first chunk, a parsed one by its whole.
        (a, b) => return Err(format!("a buffer and a stream differ: {:?}, {:?}", a.err(), b.err())),
    };
    let options = EngineOptions { level: Level::Scalar, threads: 1, ctx_max: 16 };
    let mut end = if Engine::load(&gguf, options).is_ok() { "nowhere" } else { "loading" };
    if let Ok(template) = Template::from_gguf(&gguf) {
        let messages = [Message { role: "user", content: TEXT }];
        // A refusal is as good as a prompt; only a panic is neither.
        let _ = template.render(&Chat { messages: &messages, add_generation_prompt: true, now_unix_s: 0 });
    } else {
        end = "template";
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
        end = "tokenizer";
    }
    Ok(end)
}
