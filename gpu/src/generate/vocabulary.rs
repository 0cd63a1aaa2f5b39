//! The generated model's tokens: chat tokens, all bytes, and merges learnt from a built-in text.
//!
//! A small byte-pair training, deterministic by counting in ordered maps and breaking ties by the pair's
//! text. Byte tokens are written in GPT-2's printable alphabet, as GGUF wants them.

use crate::gguf::write::{Meta, Writer};
use crate::tokenizer::bytes::printable;
use std::collections::{BTreeMap, BTreeSet};

/// In SmolLM2's order: 0 ends a text, 1 opens a message, 2 closes it.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Control and byte tokens.
pub(crate) const LEAST: u32 = 259;
pub(super) const NORMAL_TYPE: i32 = 1;
pub(super) const CONTROL_TYPE: i32 = 3;

pub(super) const TEXT: &str = "the barrel organ in the square plays a song that no one wrote down and every child knows the \
    clockwork turns the pinned cylinder moves the levers and the pipes sing in their order when the crank is still \
    there is no music and when it turns there is always the same music this is what we want from a machine that \
    answers questions give it the same words and the same seed and it should say the same thing today tomorrow and \
    on another machine a user asks for something and the assistant answers hello how are you what is your name can \
    you help me with this please write a short story about a cat and a dog who live in a house near the river and \
    explain what happens next thank you very much the quick brown fox jumps over the lazy dog one two three four \
    five six seven eight nine ten system user assistant model token request answer time worker memory";

pub(crate) struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
}

impl Vocabulary {
    /// Exactly `size` tokens, at least [`LEAST`].
    pub(crate) fn new(size: usize) -> Vocabulary {
        let mut tokens: Vec<String> = CONTROL.map(str::to_owned).to_vec();
        let mut types = vec![CONTROL_TYPE; tokens.len()];
        tokens.extend((0..=255).map(|byte| printable(byte).to_string()));
        let mut merges = Vec::new();
        let mut words = words();
        let mut known: BTreeSet<String> = tokens.iter().cloned().collect();
        while tokens.len() < size
            && let Some((left, right)) = most_frequent(&words)
        {
            words.iter_mut().for_each(|word| join(word, &left, &right));
            merges.push(format!("{left} {right}"));
            let merged = left + &right;
            if known.insert(merged.clone()) {
                tokens.push(merged);
            }
        }
        types.resize(tokens.len(), NORMAL_TYPE);
        tokens.extend((tokens.len()..size).map(|id| format!("<|reserved_{id}|>")));
        types.resize(tokens.len(), CONTROL_TYPE);
        Vocabulary { tokens, types, merges }
    }

    pub(crate) fn is_control(&self, id: usize) -> bool {
        self.types.get(id) == Some(&CONTROL_TYPE)
    }

    pub(crate) fn write(&self, file: &mut Writer) {
        file.pair("tokenizer.ggml.model", Meta::Str("gpt2".to_owned()));
        file.pair("tokenizer.ggml.pre", Meta::Str("smollm".to_owned()));
        file.pair("tokenizer.ggml.tokens", Meta::Strs(self.tokens.clone()));
        file.pair("tokenizer.ggml.token_type", Meta::I32s(self.types.clone()));
        file.pair("tokenizer.ggml.merges", Meta::Strs(self.merges.clone()));
        for (key, id) in [("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 2)] {
            file.pair(format!("tokenizer.ggml.{key}_token_id"), Meta::U32(id));
        }
        file.pair("tokenizer.ggml.add_bos_token", Meta::Bool(false));
        file.pair("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    }
}

/// The text's words as the pre-tokenizer would cut them, letter by letter: all but the first with their space.
fn words() -> Vec<Vec<String>> {
    let letters = |word: &str| word.bytes().map(|byte| printable(byte).to_string()).collect::<Vec<_>>();
    TEXT.split_whitespace().map(|word| letters(&format!(" {word}"))).collect()
}

fn most_frequent(words: &[Vec<String>]) -> Option<(String, String)> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for pair in words.iter().flat_map(|word| word.windows(2)) {
        *counts.entry((&pair[0], &pair[1])).or_default() += 1;
    }
    // `max_by` keeps the last of equals, so the order is reversed: the smallest pair wins a tie.
    let ((left, right), _) = counts.iter().rev().max_by(|a, b| a.1.cmp(b.1))?;
    Some(((*left).to_owned(), (*right).to_owned()))
}

fn join(word: &mut Vec<String>, left: &str, right: &str) {
    let mut at = 0;
    while at + 1 < word.len() {
        if word[at] == left && word[at + 1] == right {
            let tail = word.remove(at + 1);
            word[at].push_str(&tail);
        }
        at += 1;
    }
}
