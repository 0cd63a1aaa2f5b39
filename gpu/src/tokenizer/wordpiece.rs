//! WordPiece (`tokenizer.ggml.model = "bert"`): text is cleaned, lowered and stripped of accents, cut into words, and
//! each word into the longest pieces that the vocabulary has.
//!
//! In GGUF a piece that begins a word is written with a [`SPACE`] before it, and one that goes on without. All work is
//! the `tokenizers` crate's, in the settings of BERT's uncased models; a file cannot ask for others. A word that does
//! not come out, or one of more than 100 characters, is the unknown token.

use super::spm::SPACE;
use super::vocabulary::{Kind, TokenizerError, Vocabulary};
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece as Pieces;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model as _, NormalizedString, Normalizer as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
};

/// Before a piece that goes on within a word, where no GGUF is concerned.
const GOES_ON: &str = "##";

pub(crate) struct WordPiece {
    pieces: Pieces,
    unknown: u32,
}

impl WordPiece {
    pub(crate) fn new(texts: &[&str], vocabulary: &Vocabulary) -> Result<WordPiece, TokenizerError> {
        let unknown = vocabulary.unknown.ok_or(TokenizerError::Missing { what: "tokenizer.ggml.unknown_token_id" })?;
        // What steers the model is no part of text.
        let normal = (0u32..).zip(texts).filter(|(id, _)| vocabulary.kind(*id) == Some(Kind::Normal));
        let mut vocab: Vocab = normal.map(|(id, text)| (spelled(text), id)).collect();
        let name = texts.get(unknown as usize).copied().unwrap_or_default().to_owned();
        vocab.insert(name.clone(), unknown);
        let built =
            Pieces::builder().vocab(vocab).unk_token(name).continuing_subword_prefix(GOES_ON.to_owned()).build();
        let pieces = built.map_err(|_| TokenizerError::Pieces)?;
        Ok(WordPiece { pieces, unknown })
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
        BertNormalizer::default().normalize(&mut normalized)?;
        let mut words = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut words)?;
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            ids.extend(self.pieces.tokenize(word)?.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// A token of a file as WordPiece writes it.
fn spelled(text: &str) -> String {
    text.strip_prefix(SPACE).map_or_else(|| format!("{GOES_ON}{text}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use crate::generate::{GenSpec, generate};
    use crate::gguf::Gguf;
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
