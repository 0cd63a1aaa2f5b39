//! The WordPiece vocabulary in `tokenizer.json`, as GGUF writes one; and that the rest of that file is BERT's.

use super::SafetensorsError;
use super::config::Config;
use crate::gguf::write::{Meta, Writer};
use serde::Deserialize;
use std::collections::BTreeMap;

const FILE: &str = "tokenizer.json";
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Truncation and padding are the caller's, and are not read.
#[derive(Debug, Deserialize)]
pub(super) struct Vocabulary {
    added_tokens: Vec<Added>,
    normalizer: Normalizer,
    pre_tokenizer: Named,
    model: Model,
}

#[derive(Debug, Deserialize)]
struct Added {
    id: u32,
    content: String,
    special: bool,
}

#[derive(Debug, Deserialize)]
struct Named {
    r#type: String,
}

#[derive(Debug, Deserialize)]
struct Normalizer {
    r#type: String,
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

#[derive(Debug, Deserialize)]
struct Model {
    /// Older files leave it out.
    r#type: Option<String>,
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: u32,
    vocab: BTreeMap<String, u32>,
}

impl Vocabulary {
    pub(super) fn write(&self, config: &Config, file: &mut Writer) -> Result<(), SafetensorsError> {
        self.check()?;
        let refused = |field: &str, expected| SafetensorsError::Field { file: FILE, field: field.to_owned(), expected };
        let count = self.model.vocab.len();
        if count as u64 != config.vocab_size {
            return Err(refused("model.vocab", "as many tokens as `config.json` says"));
        }
        let (mut tokens, mut types) = (vec![String::new(); count], vec![NORMAL; count]);
        for (text, id) in &self.model.vocab {
            let place = tokens.get_mut(*id as usize).filter(|place| place.is_empty() && !text.is_empty());
            *place.ok_or_else(|| refused("model.vocab", "an id of its own for each token"))? = text.clone();
        }
        for Added { id, content, special } in &self.added_tokens {
            if tokens.get(*id as usize) != Some(content) || !special {
                return Err(refused("added_tokens", "special tokens of the vocabulary"));
            }
            types[*id as usize] = CONTROL;
        }
        for (token, _) in tokens.iter_mut().zip(&types).filter(|(_, kind)| **kind == NORMAL) {
            let goes_on = token.strip_prefix(&self.model.continuing_subword_prefix);
            *token = goes_on.map_or_else(|| format!("\u{2581}{token}"), str::to_owned);
        }
        file.pair("tokenizer.ggml.model", Meta::Str("bert".to_owned()));
        file.pair("tokenizer.ggml.pre", Meta::Str("default".to_owned()));
        file.pair("tokenizer.ggml.tokens", Meta::Strs(tokens));
        file.pair("tokenizer.ggml.token_type", Meta::I32s(types));
        let named = [("bos", "[CLS]"), ("seperator", "[SEP]"), ("padding", "[PAD]"), ("mask", "[MASK]")];
        for (key, name) in named.into_iter().chain([("unknown", self.model.unk_token.as_str())]) {
            let id = self.model.vocab.get(name);
            let id = id.ok_or_else(|| refused("model.vocab", "BERT's [CLS], [SEP], [PAD], [MASK] and [UNK]"))?;
            file.pair(format!("tokenizer.ggml.{key}_token_id"), Meta::U32(*id));
        }
        Ok(())
    }

    /// The settings that `tokenizer::wordpiece` knows.
    fn check(&self) -> Result<(), SafetensorsError> {
        let Vocabulary { normalizer, pre_tokenizer, model, .. } = self;
        let lowers = normalizer.clean_text && normalizer.handle_chinese_chars && normalizer.lowercase;
        for (field, held, expected) in [
            ("normalizer.type", normalizer.r#type == "BertNormalizer", "`BertNormalizer`"),
            ("normalizer", lowers && normalizer.strip_accents != Some(false), "an uncased model's settings"),
            ("pre_tokenizer.type", pre_tokenizer.r#type == "BertPreTokenizer", "`BertPreTokenizer`"),
            ("model.type", model.r#type.as_deref().is_none_or(|kind| kind == "WordPiece"), "`WordPiece`"),
            ("model.continuing_subword_prefix", model.continuing_subword_prefix == "##", "`##`"),
            ("model.max_input_chars_per_word", model.max_input_chars_per_word == 100, "100"),
        ] {
            if !held {
                return Err(SafetensorsError::Field { file: FILE, field: field.to_owned(), expected });
            }
        }
        Ok(())
    }
}
