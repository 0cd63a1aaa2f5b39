//! The words of an answer: tokens become text, and generation ends before a stop string appears.
//!
//! Text that could be the beginning of a stop string is held back until the next token decides, and so
//! are the bytes of an unfinished character. What was handed out is never taken back.

use crate::tokenizer::{Detokenizer, Tokenizer};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Text {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stop: Arc<[Box<str>]>,
    held: String,
}

impl Text {
    /// The answer to a prompt that ends with `last`.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, last: Option<u32>, stop: Arc<[Box<str>]>) -> Self {
        Text { tokenizer, detokenizer: Detokenizer::after(last), stop, held: String::new() }
    }

    /// What a token adds to the text, and whether a stop string ends it here.
    pub(super) fn push(&mut self, token: u32) -> (String, bool) {
        self.detokenizer.push(&self.tokenizer, token, &mut self.held);
        let keep = held_back(&self.stop, &self.held);
        self.release(keep)
    }

    /// The rest, when generation ends by itself.
    pub(super) fn finish(&mut self) -> (String, bool) {
        self.detokenizer.finish(&mut self.held);
        self.release(0)
    }

    /// All but the last `keep` bytes, or what stands before a stop string.
    fn release(&mut self, keep: usize) -> (String, bool) {
        if let Some(at) = first_stop(&self.stop, &self.held) {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let kept = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, kept), false)
    }
}

/// Where the first stop string begins. Empty ones never stop.
fn first_stop(stop: &[Box<str>], text: &str) -> Option<usize> {
    stop.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(&**s)).min()
}

/// Length of the longest end of `text` that a stop string begins with.
fn held_back(stop: &[Box<str>], text: &str) -> usize {
    let longest = |s: &str| {
        let lengths = (1..s.len()).rev().filter(|len| s.is_char_boundary(*len));
        lengths.into_iter().find(|len| text.ends_with(&s[..*len])).unwrap_or(0)
    };
    stop.iter().map(|s| longest(s)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(stop: &[&str]) -> Vec<Box<str>> {
        stop.iter().map(|s| (*s).into()).collect()
    }

    #[test]
    fn beginnings_of_stop_strings_are_held_back() {
        let stop = stops(&["abab", "né", ""]);
        for (text, held) in [("", 0), ("xa", 1), ("xab", 2), ("aba", 3), ("abab!", 0), ("n", 1), ("on", 1), ("oné", 0)]
        {
            assert_eq!(held_back(&stop, text), held, "{text}");
        }
        assert_eq!(first_stop(&stop, "xnéabab"), Some(1));
        assert_eq!(first_stop(&stop, "aba"), None);
    }

    proptest! {
        /// However a text comes in pieces, what is handed out is the text before its first stop string.
        #[test]
        fn pieces_do_not_matter(pieces in prop::collection::vec("[ab]{0,3}", 0..12), stop in prop::collection::vec("[ab]{1,4}", 0..3)) {
            let stop: Vec<Box<str>> = stop.into_iter().map(Into::into).collect();
            let whole = pieces.concat();
            let (mut held, mut out, mut stopped) = (String::new(), String::new(), false);
            for piece in &pieces {
                held.push_str(piece);
                if let Some(at) = first_stop(&stop, &held) {
                    out.push_str(&held[..at]);
                    stopped = true;
                    break;
                }
                let rest = held.split_off(held.len() - held_back(&stop, &held));
                out.push_str(&std::mem::replace(&mut held, rest));
            }
            if !stopped {
                out.push_str(&held);
            }
            // The first to be complete, which need not be the first to begin.
            let end = (0..=whole.len()).find(|end| stop.iter().any(|s| whole[..*end].ends_with(&**s)));
            match end {
                None => prop_assert!(!stopped && out == whole),
                Some(_) => prop_assert!(stopped && whole.starts_with(&out) && first_stop(&stop, &out).is_none()),
            }
        }
    }
}
