//! Special tokens in a text: found by their names and split off before anything else is cut.
//!
//! Longer names win over shorter ones wherever they stand, then the earlier place wins; so `<|im_end|>` is
//! never read as a shorter token's name inside it. Bounded for a hostile vocabulary: a name is at most 256
//! bytes long, and the text is scanned once for each length that occurs.

use super::vocabulary::{TokenizerError, bounded};
use std::collections::{BTreeMap, BTreeSet};

const MAX_NAME: usize = 256;

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

/// A set of special tokens.
#[derive(Debug)]
pub(crate) struct Specials {
    ids: BTreeMap<Box<str>, u32>,
    lengths: BTreeSet<usize>,
    /// By a name's first byte: whether there is one.
    starts: [bool; 256],
}

impl Specials {
    pub(crate) fn new<'a>(names: impl Iterator<Item = (&'a str, u32)>) -> Result<Specials, TokenizerError> {
        let mut specials = Specials { ids: BTreeMap::new(), lengths: BTreeSet::new(), starts: [false; 256] };
        for (name, id) in names {
            let Some(first) = name.as_bytes().first() else { continue };
            bounded("bytes of a special token", name.len(), 1, MAX_NAME)?;
            specials.starts[usize::from(*first)] = true;
            specials.lengths.insert(name.len());
            specials.ids.insert(name.into(), id);
        }
        Ok(specials)
    }

    /// The parts of `text` in order; no `Text` is empty.
    pub(crate) fn split<'t>(&self, text: &'t str) -> Vec<Fragment<'t>> {
        let mut fragments = vec![Fragment::Text(text)];
        fragments.retain(|_| !text.is_empty());
        if !text.bytes().any(|byte| self.starts[usize::from(byte)]) {
            return fragments;
        }
        for length in self.lengths.iter().rev() {
            let mut finer = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => self.split_one(text, *length, &mut finer),
                    token => finer.push(token),
                }
            }
            fragments = finer;
        }
        fragments
    }

    /// Splits names of one length off a text.
    fn split_one<'t>(&self, text: &'t str, length: usize, out: &mut Vec<Fragment<'t>>) {
        let (mut start, mut at) = (0, 0);
        while at + length <= text.len() {
            let starts = self.starts[usize::from(text.as_bytes()[at])];
            let id = text.get(at..at + length).filter(|_| starts).and_then(|name| self.ids.get(name));
            let Some(id) = id else {
                at += 1;
                continue;
            };
            if start < at {
                out.push(Fragment::Text(&text[start..at]));
            }
            out.push(Fragment::Token(*id));
            at += length;
            start = at;
        }
        if start < text.len() {
            out.push(Fragment::Text(&text[start..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    #[test]
    fn longer_names_win_then_earlier_places() {
        let specials = Specials::new([("<a>", 1), ("<a><b>", 2), ("b><", 3), ("", 9)].into_iter()).unwrap();
        assert_eq!(specials.split("é<a><b>x<a>"), [Text("é"), Token(2), Text("x"), Token(1)]);
        assert_eq!(specials.split("<a>b><a>"), [Token(1), Token(3), Text("a>")]);
        assert_eq!(specials.split("plain"), [Text("plain")]);
        assert_eq!(specials.split(""), []);
    }

    #[test]
    fn endless_names_are_refused() {
        let name = "x".repeat(257);
        assert!(Specials::new([(name.as_str(), 1)].into_iter()).is_err());
    }
}
