//! Texts for tokenizers: names of special tokens, whole and cut, characters of every width, white space, long words.
//! What a user wrote spells no control token, and the ids are the text again.

use super::Target;
use orchestrion_gpu::generate::{GenSpec, generate};
use orchestrion_gpu::gguf::Gguf;
use orchestrion_gpu::tokenizer::{Detokenizer, Tokenizer};
use orchestrion_scenarios::storm::draw::Draw;
use std::error::Error;

const PIECES: [&str; 36] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<unk>",
    "<0x0A>",
    "<|",
    "|>",
    "user",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "'s",
    "'LL",
    "1",
    "2026",
    "x",
    "Hello",
    " the",
    "é",
    "e\u{301}",
    "ß",
    "中文",
    "日",
    "👩\u{200d}👧",
    "\u{202e}",
    "\u{fdd0}",
    "\u{2581}",
    "\u{feff}",
    "\u{d7ff}",
    "\u{10ffff}",
];

pub(super) fn target(_: u64) -> Result<Target, Box<dyn Error>> {
    // One with byte-level merges, one with SentencePiece's scores.
    let tokenizers = ["llama", "gemma3"].map(tokenizer).into_iter().collect::<Result<Vec<_>, _>>()?;
    let make = Box::new(|draw: &mut Draw| Ok(text(draw).into_bytes()));
    Ok(Target { make, read: Box::new(move |text| read(&tokenizers, text)) })
}

pub(super) fn tokenizer(arch: &str) -> Result<Tokenizer, Box<dyn Error>> {
    let spec = GenSpec::of(arch)?;
    Ok(Tokenizer::from_gguf(&Gguf::parse(generate(&spec)?)?)?)
}

fn read(tokenizers: &[Tokenizer], text: &[u8]) -> Result<&'static str, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let mut is_whole = true;
    for tokenizer in tokenizers {
        let ids = tokenizer.encode(text, false);
        if ids.iter().any(|id| *id as usize >= tokenizer.vocab_len()) {
            return Err("an id is outside the vocabulary".to_owned());
        }
        let (mut found, mut stream) = (String::new(), Detokenizer::default());
        ids.iter().for_each(|id| stream.push(tokenizer, *id, &mut found));
        stream.finish(&mut found);
        is_whole &= found == text;
        let words = tokenizer.defuse(text);
        if tokenizer.encode_chat(&words).iter().any(|id| tokenizer.is_control(*id) && !is_unknown(tokenizer, *id)) {
            return Err("a user's words became a control token".to_owned());
        }
        tokenizer.encode(text, true);
    }
    Ok(if is_whole { "the text again" } else { "with losses" })
}

/// SentencePiece has a token for what it has no token for.
fn is_unknown(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.token_bytes(id) == b"<unk>"
}

pub(super) fn text(draw: &mut Draw) -> String {
    let mut text = String::new();
    for _ in 0..draw.below(12) {
        let piece = draw.of(&PIECES);
        match draw.below(8) {
            0 => text.extend(char::from_u32(draw.below(0x11_0000) as u32)),
            1 => text += &piece.repeat(draw.index(40)),
            2 => text.extend(piece.chars().take(draw.index(8))),
            3 => text.extend(piece.chars().rev()),
            _ => text += piece,
        }
    }
    text
}
