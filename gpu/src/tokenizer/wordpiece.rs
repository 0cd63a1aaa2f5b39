//! WordPiece (`tokenizer.ggml.model = "bert"`): text is cleaned, lowered and stripped of accents, cut into words, and
//! each word into the longest pieces that the vocabulary has.
//!
//! In GGUF a piece that begins a word is written with a [`SPACE`] before it, and one that goes on without. All work is
//! the `tokenizers` crate's, in the settings of BERT's uncased models, or of its cased ones where the file says so. A word
//! that does not come out, or one of more than 100 characters, is the unknown token.

use super::spm::SPACE;
use super::vocabulary::{Kind, TokenizerError, Vocabulary};
use crate::gguf::Gguf;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece as Pieces;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model as _, NormalizedString, Normalizer as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
};

/// Before a piece that goes on within a word, where no GGUF is concerned.
const GOES_ON: &str = "##";
const LOWERCASE: &str = "tokenizer.ggml.normalizer.lowercase";
const STRIP_ACCENTS: &str = "tokenizer.ggml.normalizer.strip_accents";

pub(crate) struct WordPiece {
    normalizer: BertNormalizer,
    pieces: Pieces,
    unknown: u32,
}

impl WordPiece {
    pub(crate) fn new(gguf: &Gguf, texts: &[&str], vocabulary: &Vocabulary) -> Result<WordPiece, TokenizerError> {
        let normalizer = normalizer(gguf, texts)?;
        let unknown = vocabulary.unknown.ok_or(TokenizerError::Missing { what: "tokenizer.ggml.unknown_token_id" })?;
        // What steers the model is no part of text.
        let normal = (0u32..).zip(texts).filter(|(id, _)| vocabulary.kind(*id) == Some(Kind::Normal));
        let mut vocab: Vocab = normal.map(|(id, text)| (spelled(text), id)).collect();
        let name = texts.get(unknown as usize).copied().unwrap_or_default().to_owned();
        vocab.insert(name.clone(), unknown);
        let built =
            Pieces::builder().vocab(vocab).unk_token(name).continuing_subword_prefix(GOES_ON.to_owned()).build();
        let pieces = built.map_err(|_| TokenizerError::Pieces)?;
        Ok(WordPiece { normalizer, pieces, unknown })
    }

    /// Appends the ids of a text that holds no special token.
    pub(crate) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        // Word by word, for normalising keeps track of every byte. Other white space is cleaned away or cuts later.
        for word in text.split([' ', '\t', '\n', '\r']).filter(|word| !word.is_empty()) {
            if self.encode_word(word, ids).is_err() {
                // It fails where the vocabulary has no unknown token, which `new` has seen to.
                ids.push(self.unknown);
            }
        }
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        let mut normalized = NormalizedString::from(word);
        self.normalizer.normalize(&mut normalized)?;
        let mut words = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut words)?;
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            ids.extend(self.pieces.tokenize(word)?.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// As the file says, and else as for an uncased model. A cased one's file that does not say so, as older converters left
/// it, is refused: lowered, its capitals would never be found.
fn normalizer(gguf: &Gguf, texts: &[&str]) -> Result<BertNormalizer, TokenizerError> {
    let lowercase = gguf.opt_bool(LOWERCASE)?;
    let is_cased = |text: &&&str| {
        let word = text.strip_prefix(SPACE).unwrap_or(text);
        word.bytes().all(|byte| byte.is_ascii_alphabetic()) && word.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    // A name or two slip into uncased ones.
    if lowercase.is_none() && 100 * texts.iter().filter(is_cased).count() > texts.len() {
        return Err(TokenizerError::Cased { key: LOWERCASE });
    }
    let lowercase = lowercase.unwrap_or(true);
    // The custom of the `tokenizers` crate: accents go with capitals.
    let strips = gguf.opt_bool(STRIP_ACCENTS)?.unwrap_or(lowercase);
    Ok(BertNormalizer::new(true, true, Some(strips), lowercase))
}

/// A token of a file as WordPiece writes it.
fn spelled(text: &str) -> String {
    text.strip_prefix(SPACE).map_or_else(|| format!("{GOES_ON}{text}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{GenSpec, generate};
    use crate::gguf::write::{Meta, Writer};
    use crate::tokenizer::Tokenizer;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_gguf(&Gguf::parse(generate(&GenSpec::of("bert").unwrap()).unwrap()).unwrap()).unwrap()
    }

    fn pieces(text: &str) -> Vec<String> {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(text, false);
        ids.iter().map(|id| String::from_utf8(tokenizer.token_bytes(*id).to_vec()).unwrap()).collect()
    }

    #[test]
    fn words_are_cut_into_the_longest_pieces() {
        assert_eq!(pieces("The barrel organ"), [" the", " barrel", " organ"]);
        assert_eq!(pieces("barrels"), [" barrel", "s"]);
        assert_eq!(pieces("  Thé\u{301} \tORGAN,organ"), [" the", " organ", " ,", " organ"]);
        assert_eq!(pieces(""), [""; 0]);
    }

    /// Of a vocabulary of these pieces and BERT's unknown token, with what the file says of capitals and accents.
    fn built(tokens: &[&str], says: [Option<bool>; 2]) -> Result<Tokenizer, TokenizerError> {
        let mut file = Writer::default();
        file.pair("tokenizer.ggml.model", Meta::Str("bert".to_owned()));
        let tokens = tokens.iter().chain(&["[UNK]"]).map(|token| (*token).to_owned()).collect();
        file.pair("tokenizer.ggml.tokens", Meta::Strs(tokens));
        for (key, says) in [LOWERCASE, STRIP_ACCENTS].into_iter().zip(says) {
            says.into_iter().for_each(|says| file.pair(key, Meta::Bool(says)));
        }
        Tokenizer::from_gguf(&Gguf::parse(file.finish()).unwrap())
    }

    #[test]
    fn capitals_and_accents_go_as_the_file_says() {
        let tokens = ["\u{2581}the", "\u{2581}The", "\u{2581}th\u{e9}", "\u{2581}Th\u{e9}"];
        for (says, ids) in [
            ([Some(true), None], [0, 0, 0, 0]),
            ([Some(true), Some(false)], [0, 0, 2, 2]),
            ([Some(false), None], [0, 1, 2, 3]),
            ([Some(false), Some(true)], [0, 1, 0, 1]),
        ] {
            assert_eq!(built(&tokens, says).unwrap().encode("the The th\u{e9} Th\u{e9}", false), ids, "{says:?}");
        }
        let silent = built(&tokens, [None; 2]).unwrap_err();
        assert_eq!(silent, TokenizerError::Cased { key: LOWERCASE });
        assert_eq!(built(&tokens[..1], [None; 2]).unwrap().encode("The th\u{e9}", false), [0, 0]);
    }

    #[test]
    fn a_megabyte_of_one_kind_is_no_trouble() {
        let tokenizer = tokenizer();
        for (unit, tokens) in
            [("a", 1), ("é", 1), ("!", 1 << 20), ("字", (1 << 20) / 3), ("\u{301}", 0), (" a", 1 << 19)]
        {
            assert_eq!(tokenizer.encode(&unit.repeat((1 << 20) / unit.len()), false).len(), tokens, "{unit}");
        }
    }

    #[test]
    fn what_does_not_come_out_is_unknown_and_what_steers_is_spelled_out() {
        assert_eq!(pieces("\u{1f600}"), ["[UNK]"]);
        assert_eq!(pieces(&"a".repeat(101)), ["[UNK]"]);
        assert_eq!(pieces("[SEP]"), [" [", " s", "e", "p", " ]"]);
        let tokenizer = tokenizer();
        assert_eq!(tokenizer.encode("[SEP]", true), [tokenizer.eos().unwrap()]);
        assert!(tokenizer.add_bos() && tokenizer.add_eos());
    }
}
