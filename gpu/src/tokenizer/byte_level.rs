//! Byte-level byte-pair encoding (`tokenizer.ggml.model = "gpt2"`): words are cut off the text, and the bytes
//! of each are merged by rank.
//!
//! Every byte is a printable character (`bytes`), so nothing is ever unknown. The merging itself is the
//! `tokenizers` crate's; a merge is looked up before that crate sees it, since it trusts its input.

use super::bytes::printable;
use super::pre::PreTokenizer;
use super::vocabulary::{Kind, TokenizerError, Vocabulary, bounded, shortened};
use crate::gguf::Gguf;
use std::collections::{BTreeMap, BTreeSet};
use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};

const MAX_MERGES: usize = 1 << 20;

pub(crate) struct ByteLevel {
    pub(crate) pre: &'static PreTokenizer,
    bpe: BPE,
    /// The token of each single byte; some vocabularies lack bytes that UTF-8 never uses.
    byte_ids: [Option<u32>; 256],
}

/// The pre-tokenizer that the file names.
pub(crate) fn pre_tokenizer(gguf: &Gguf) -> Result<&'static PreTokenizer, TokenizerError> {
    let name = gguf.opt_str("tokenizer.ggml.pre")?.unwrap_or("default");
    let refused = || TokenizerError::Pre { expected: PreTokenizer::names(), found: shortened(name) };
    PreTokenizer::of_name(name).ok_or_else(refused)
}

impl ByteLevel {
    pub(crate) fn new(
        gguf: &Gguf,
        pre: &'static PreTokenizer,
        ids: &BTreeMap<&str, u32>,
        vocabulary: &Vocabulary,
    ) -> Result<ByteLevel, TokenizerError> {
        // What steers the model is no part of text: neither a byte nor made by merging.
        let is_text = |id: &u32| !matches!(vocabulary.kind(*id), Some(Kind::Control | Kind::Unknown));
        let mut byte_ids = [None; 256];
        for (byte, id) in (0u8..=255).zip(&mut byte_ids) {
            *id = ids.get(printable(byte).encode_utf8(&mut [0; 4]) as &str).copied().filter(is_text);
        }
        let mut merges = merges(gguf, ids)?;
        merges.retain(|(left, right)| {
            [left, right, &format!("{left}{right}")].into_iter().all(|text| ids.get(text.as_str()).is_some_and(is_text))
        });
        let vocab = ids.iter().filter(|(_, id)| is_text(id)).map(|(text, id)| ((*text).to_owned(), *id));
        // No cache: it is one per thread, outlives the tokenizer, and would hold words of users' prompts.
        let builder = BPE::builder().vocab_and_merges(vocab.collect::<Vocab>(), merges);
        let built = builder.cache_capacity(0).ignore_merges(pre.whole_words).build();
        let bpe = built.map_err(|_| TokenizerError::Bpe)?;
        Ok(ByteLevel { pre, bpe, byte_ids })
    }

    /// Appends the ids of a text that holds no special token.
    pub(crate) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        self.pre.split(text, |word| self.encode_word(word, ids));
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) {
        if let [byte] = word.as_bytes() {
            ids.extend(self.byte_ids[usize::from(*byte)]);
            return;
        }
        // A byte without a token ends a run: nothing merges across it.
        for run in word.as_bytes().split(|byte| self.byte_ids[usize::from(*byte)].is_none()) {
            let spelled: String = run.iter().map(|byte| printable(*byte)).collect();
            match self.bpe.tokenize(&spelled) {
                Ok(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                // It fails for dropout and unknown tokens only, and we use neither; bytes lose no text.
                Err(_) => ids.extend(run.iter().filter_map(|byte| self.byte_ids[usize::from(*byte)])),
            }
        }
    }
}

/// The pairs of `tokenizer.ggml.merges`, in the order of their rank.
fn merges(gguf: &Gguf, ids: &BTreeMap<&str, u32>) -> Result<Vec<(String, String)>, TokenizerError> {
    let lines = gguf.strs("tokenizer.ggml.merges")?;
    bounded("merges", lines.len(), 0, MAX_MERGES)?;
    let mut merges = Vec::with_capacity(lines.len());
    let mut seen = BTreeSet::new();
    let mut joined = String::new();
    for (index, line) in lines.enumerate() {
        // A token never holds a space (it is `Ġ`), but may be one byte long: the separator is not the first.
        let mut separators = line.match_indices(' ').filter(|(at, _)| *at > 0);
        let (at, _) = separators.next().ok_or(TokenizerError::Merge { index })?;
        let (left, right) = (&line[..at], &line[at + 1..]);
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if !(ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(joined.as_str())) {
            return Err(TokenizerError::Merge { index });
        }
        // Of equal merges the first counts.
        if seen.insert((left, right)) {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(merges)
}
