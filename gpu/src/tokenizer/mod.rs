//! Text to token ids and back, as the model's file describes it.
//!
//! Reads `tokenizer.ggml.*` of a GGUF and gives the ids llama.cpp gives: special tokens are split off first
//! (`special`), and what lies between is merged, by byte-level BPE (`byte_level`, after cutting it into words
//! with `pre`), by SentencePiece's scores (`spm`) or into the longest pieces (`wordpiece`). Ids turn back into text as a stream (`detokenizer`). A file
//! with another kind or an unknown pre-tokenizer is refused by name, for wrong ids are worse than none.
//!
//! It does not render chats (see `template`) and adds no token of its own: whoever builds a prompt asks
//! [`Tokenizer::add_bos`].

mod byte_level;
pub(crate) mod bytes;
mod classes;
mod detokenizer;
mod pre;
mod special;
mod spm;
mod vocabulary;
mod wordpiece;

pub use detokenizer::Detokenizer;
pub use vocabulary::TokenizerError;

use byte_level::ByteLevel;
use special::{Fragment, Specials};
use spm::{Prefix, Spm};
use std::collections::BTreeSet;
use vocabulary::{Kind, Vocabulary};
use wordpiece::WordPiece;

/// Cuts a control token's name in what a user wrote. Unicode keeps this one out of all text.
const DEFUSED: char = '\u{fdd0}';

/// The tokenizer of one model file; immutable, shared by threads.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    scheme: Scheme,
    /// Every special token: for text the template made.
    specials: Specials,
    /// Only those that stand for plain text: for text a user wrote.
    user_defined: Specials,
    /// Special tokens that swallow the white space behind them.
    greedy: BTreeSet<u32>,
}

/// How text between special tokens becomes ids.
enum Scheme {
    ByteLevel(Box<ByteLevel>),
    Spm(Box<Spm>),
    WordPiece(Box<WordPiece>),
}

impl Tokenizer {
    /// Token ids of `text`, without a beginning-of-text token.
    ///
    /// With `parse_special` the texts of control tokens (`<|im_start|>`) become those tokens, as in a
    /// rendered chat. Without it they are spelled out like any other text: what a user wrote cannot open
    /// or close a message, not even where llama.cpp would merge its letters into the token. Bytes that the
    /// vocabulary has no token for are left out, as llama.cpp does.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let specials = if parse_special { &self.specials } else { &self.user_defined };
        let mut ids = Vec::with_capacity(text.len() / 4 + 4);
        self.append(text, specials, &mut Prefix::Space, &mut ids);
        ids
    }

    fn append(&self, text: &str, specials: &Specials, prefix: &mut Prefix, ids: &mut Vec<u32>) {
        for fragment in specials.split(text, &self.greedy) {
            match (fragment, &self.scheme) {
                (Fragment::Token(id), _) => {
                    ids.push(id);
                    *prefix = Prefix::Space;
                }
                (Fragment::Text(text), Scheme::ByteLevel(scheme)) => scheme.encode(text, ids),
                (Fragment::Text(text), Scheme::WordPiece(scheme)) => scheme.encode(text, ids),
                (Fragment::Text(text), Scheme::Spm(scheme)) => {
                    scheme.encode(text, *prefix, ids);
                    *prefix = Prefix::None;
                }
            }
        }
    }

    /// A user's words, ready for a chat template: control tokens they spell will stay spelled. Without
    /// this, `<|im_end|>` in a question would end the message and let its author write the next.
    pub fn defuse(&self, words: &str) -> String {
        let mut defused = String::with_capacity(words.len());
        for fragment in self.specials.split(&words.replace(DEFUSED, ""), &BTreeSet::new()) {
            match fragment {
                Fragment::Token(id) if self.is_control(id) => {
                    let name = String::from_utf8_lossy(self.token_bytes(id));
                    // Around all characters: a name can hold another.
                    defused.push(DEFUSED);
                    name.chars().for_each(|c| defused.extend([c, DEFUSED]));
                }
                Fragment::Token(id) => defused += &String::from_utf8_lossy(self.token_bytes(id)),
                Fragment::Text(text) => defused += text,
            }
        }
        defused
    }

    /// Token ids of a rendered chat whose messages were defused: as [`Tokenizer::encode`] with control
    /// tokens parsed, but for those that a user spelled.
    pub fn encode_chat(&self, rendered: &str) -> Vec<u32> {
        let (mut ids, mut prefix) = (Vec::with_capacity(rendered.len() / 4 + 4), Prefix::Space);
        let parts: Vec<&str> = rendered.split(DEFUSED).collect();
        for (i, part) in parts.iter().enumerate() {
            // A character with a mark on both sides is of a name that was defused, and may be a name itself.
            let within = i > 0 && i + 1 < parts.len() && part.chars().nth(1).is_none();
            let specials = if within { &self.user_defined } else { &self.specials };
            self.append(part, specials, &mut prefix, &mut ids);
        }
        ids
    }

    /// The bytes a token stands for: of a normal token its text (perhaps a part of a character), of a
    /// special one its name. Empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id)
    }

    /// Whether the token steers the model and is no text of an answer.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), Some(Kind::Control | Kind::Unknown))
    }

    /// Whether an answer ends with this token: end of text, of a turn, of a message.
    pub fn is_end(&self, id: u32) -> bool {
        self.vocabulary.ends.binary_search(&id).is_ok()
    }

    /// Beginning of text; of an encoder the token that stands before every input.
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// End of text; of an encoder the separator.
    pub fn eos(&self) -> Option<u32> {
        self.vocabulary.eos
    }

    /// End of a turn.
    pub fn eot(&self) -> Option<u32> {
        self.vocabulary.eot
    }

    /// Whether a prompt has to start with [`Tokenizer::bos`]; the file's word, else its family's custom.
    pub fn add_bos(&self) -> bool {
        self.vocabulary.add_bos
    }

    /// Whether a prompt that is no chat ends with [`Tokenizer::eos`]: models that are no chat partners.
    pub fn add_eos(&self) -> bool {
        self.vocabulary.add_eos
    }

    /// Whether the space that `id` begins with is the tokenizer's own; `last` is the token before it.
    fn has_own_space(&self, id: u32, last: Option<u32>) -> bool {
        let Scheme::Spm(spm) = &self.scheme else { return false };
        let is_normal = |id| self.vocabulary.kind(id).is_some_and(|kind| matches!(kind, Kind::Normal | Kind::Byte(_)));
        spm.add_space_prefix && self.vocabulary.kind(id) == Some(Kind::Normal) && !last.is_some_and(is_normal)
    }

    /// Tokens of the vocabulary; each id is below.
    pub fn vocab_len(&self) -> usize {
        self.vocabulary.len()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab", &self.vocab_len()).finish()
    }
}

#[cfg(test)]
mod spm_tests;
#[cfg(test)]
mod tests;
