//! SentencePiece-style merging by score (`tokenizer.ggml.model = "llama"`), as llama.cpp does it.
//!
//! Spaces become `▁`, the text falls into characters, and of all neighbours that make a token together those
//! with the highest score join first, the leftmost of equals. A character that is no token is spelled in byte
//! tokens. Control and byte tokens are never made by merging: a text that spells one is only text. (llama.cpp
//! does make them, where the pieces of a name happen to be tokens; here that would let a message end itself.)
//!
//! This merges over scores instead of deriving a byte-pair table from them, which the design preferred: for
//! Gemma's 262,144 tokens that table has 514,847 pairs of strings to find, copy and hash at every start. A heap
//! for each word does it in O(n log n), each step bounded by the longest token, in bounded memory.

use super::vocabulary::{Kind, TokenizerError, Vocabulary, bounded};
use crate::gguf::Gguf;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

/// A space inside of a token.
pub(crate) const SPACE: char = '\u{2581}';
/// Of one token's text; Gemma's longest has 48.
const MAX_PIECE: usize = 512;

/// Bytes that are merged at once, however long a text without a space is; some 150 bytes of memory for each.
const MAX_WORD: usize = 1 << 18;

#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    /// The score, as an integer of the same order.
    rank: i32,
}

pub(crate) struct Spm {
    /// Tokens that text can become. Hashed with a secret of the process, so no vocabulary can make it slow.
    pieces: HashMap<Box<str>, Piece>,
    longest: usize,
    /// What stands before a space inside of a token; all other spaces begin a word that nothing joins to the last.
    before_space: BTreeSet<char>,
    byte_ids: [Option<u32>; 256],
    unknown: Option<u32>,
    /// Whether a text, and what follows a special token, gets a space in front.
    pub(crate) add_space_prefix: bool,
}

/// A run of characters that is a token or a single character; `end` is `start` once it has joined its left.
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that make a token: highest rank first, then the leftmost.
type Candidate = (i32, Reverse<usize>, usize, usize);

impl Spm {
    pub(crate) fn new(gguf: &Gguf, texts: &[&str], vocabulary: &Vocabulary) -> Result<Spm, TokenizerError> {
        let scores = gguf.floats("tokenizer.ggml.scores")?;
        bounded("scores", scores.len(), texts.len(), texts.len())?;
        let add_space_prefix = gguf.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let (mut pieces, mut longest) = (HashMap::with_capacity(texts.len()), 0);
        let (mut byte_ids, mut before_space) = ([None; 256], BTreeSet::new());
        for ((id, text), score) in (0u32..).zip(texts).zip(scores) {
            bounded("bytes of a token", text.len(), 0, MAX_PIECE)?;
            let score = score as f32;
            if !score.is_finite() {
                return Err(TokenizerError::Score { id });
            }
            match vocabulary.kind(id) {
                Some(Kind::Byte(byte)) => byte_ids[usize::from(byte)] = Some(id),
                Some(Kind::Normal | Kind::UserDefined) if !text.is_empty() => {
                    longest = longest.max(text.len());
                    let pairs = text.chars().zip(text.chars().skip(1));
                    before_space.extend(pairs.filter(|(_, second)| *second == SPACE).map(|(first, _)| first));
                    pieces.insert((*text).into(), Piece { id, rank: rank(score) });
                }
                Some(Kind::Normal | Kind::UserDefined | Kind::Control | Kind::Unknown) | None => {}
            }
        }
        Ok(Spm { pieces, longest, before_space, byte_ids, unknown: vocabulary.unknown, add_space_prefix })
    }

    /// Appends the ids of a text that holds no special token.
    pub(crate) fn encode(&self, text: &str, prefix: Prefix, ids: &mut Vec<u32>) {
        let mut spelled = String::with_capacity(text.len() + 8);
        if prefix == Prefix::Space && self.add_space_prefix {
            spelled.push(SPACE);
        }
        text.chars().for_each(|c| spelled.push(if c == ' ' { SPACE } else { c }));
        let (mut start, mut last) = (0, SPACE);
        for (at, c) in spelled.char_indices() {
            let begins = c == SPACE && !self.before_space.contains(&last) && at > 0;
            if begins || at - start >= MAX_WORD {
                self.encode_word(&spelled[start..at], ids);
                start = at;
            }
            last = c;
        }
        self.encode_word(&spelled[start..], ids);
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) {
        for symbol in self.merged(word) {
            let piece = &word[symbol.start..symbol.end];
            match self.pieces.get(piece) {
                Some(piece) => ids.push(piece.id),
                None => self.spell(piece, ids),
            }
        }
    }

    /// The symbols that are left when nothing joins any more, in order.
    fn merged(&self, text: &str) -> impl Iterator<Item = Symbol> {
        let last = text.chars().count().checked_sub(1);
        let mut symbols: Vec<Symbol> = Vec::with_capacity(last.map_or(0, |last| last + 1));
        for (i, (start, c)) in text.char_indices().enumerate() {
            let (end, next) = (start + c.len_utf8(), Some(i + 1).filter(|_| Some(i) != last));
            symbols.push(Symbol { start, end, previous: i.checked_sub(1), next });
        }
        let mut queue = BinaryHeap::new();
        (1..symbols.len()).for_each(|right| self.propose(text, &symbols, right - 1, right, &mut queue));
        while let Some((_, Reverse(left), right, len)) = queue.pop() {
            let (a, b) = (&symbols[left], &symbols[right]);
            // One of them has joined another since: this is not the pair that was proposed.
            if a.start == a.end || b.start == b.end || b.end - a.start != len {
                continue;
            }
            let (end, previous, next) = (b.end, a.previous, b.next);
            symbols[left].end = end;
            symbols[left].next = next;
            symbols[right].end = symbols[right].start;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
                self.propose(text, &symbols, left, next, &mut queue);
            }
            if let Some(previous) = previous {
                self.propose(text, &symbols, previous, left, &mut queue);
            }
        }
        symbols.into_iter().filter(|symbol| symbol.start < symbol.end)
    }

    fn propose(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, queue: &mut BinaryHeap<Candidate>) {
        let (start, end) = (symbols[left].start, symbols[right].end);
        if end - start <= self.longest
            && let Some(piece) = self.pieces.get(&text[start..end])
        {
            queue.push((piece.rank, Reverse(left), right, end - start));
        }
    }

    /// A character that is no token: its bytes, or one unknown token where the vocabulary lacks them.
    fn spell(&self, character: &str, ids: &mut Vec<u32>) {
        let bytes: Option<Vec<u32>> = character.bytes().map(|byte| self.byte_ids[usize::from(byte)]).collect();
        match bytes {
            Some(bytes) => ids.extend(bytes),
            None => ids.extend(self.unknown),
        }
    }
}

/// Whether a text begins here, or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// At the start, and after a special token.
    Space,
    None,
}

/// The byte that a byte token (`<0x0A>`) stands for.
pub(crate) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

/// Finite floats as integers in the same order; both zeros are one.
fn rank(score: f32) -> i32 {
    let bits = (score + 0.0).to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_in_the_order_of_scores() {
        let scores = [f32::MIN, -1000.0, -1.0, -f32::MIN_POSITIVE, 0.0, f32::MIN_POSITIVE, 0.5, f32::MAX];
        assert!(scores.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
        assert_eq!(rank(-0.0), rank(0.0));
    }

    #[test]
    fn byte_tokens_are_known_by_their_form() {
        assert_eq!((byte_of("<0x0A>"), byte_of("<0xff>")), (Some(10), Some(255)));
        for text in ["<0x0>", "<0x0AA>", "0x0A", "<0xGG>", "<0x+1>", "<0x字>"] {
            assert_eq!(byte_of(text), None, "{text}");
        }
    }
}
