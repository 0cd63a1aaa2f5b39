//! Special tokens in a text: found by their names and split off before anything else is cut.
//!
//! Longer names win over shorter ones wherever they stand, then the earlier place wins; so `<|im_end|>` is
//! never read as a shorter token's name inside it. Bounded for a hostile vocabulary: a name is at most 256
//! bytes long, and the text is scanned once for each length that occurs. Some families' tokens swallow the white
//! space behind them (phi-3's).

use super::vocabulary::{TokenizerError, bounded};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const MAX_NAME: usize = 256;

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

/// A set of special tokens, by the length of their names.
#[derive(Debug, Default)]
pub(crate) struct Specials {
    by_length: BTreeMap<usize, Names>,
}

/// Names of one length. First and last bytes tell most places apart without hashing them.
#[derive(Debug)]
struct Names {
    ids: HashMap<Box<str>, u32>,
    firsts: [bool; 256],
    lasts: [bool; 256],
}

impl Specials {
    pub(crate) fn new<'a>(names: impl Iterator<Item = (&'a str, u32)>) -> Result<Specials, TokenizerError> {
        let mut specials = Specials::default();
        for (name, id) in names {
            let (Some(first), Some(last)) = (name.as_bytes().first(), name.as_bytes().last()) else { continue };
            bounded("bytes of a special token", name.len(), 1, MAX_NAME)?;
            let empty = || Names { ids: HashMap::new(), firsts: [false; 256], lasts: [false; 256] };
            let names = specials.by_length.entry(name.len()).or_insert_with(empty);
            names.firsts[usize::from(*first)] = true;
            names.lasts[usize::from(*last)] = true;
            names.ids.insert(name.into(), id);
        }
        Ok(specials)
    }

    /// The parts of `text` in order, without the white space behind a token of `greedy`; no `Text` is empty.
    pub(crate) fn split<'t>(&self, text: &'t str, greedy: &BTreeSet<u32>) -> Vec<Fragment<'t>> {
        let mut fragments = vec![Fragment::Text(text)];
        fragments.retain(|_| !text.is_empty());
        for (length, names) in self.by_length.iter().rev() {
            let mut finer = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => names.split(text, *length, greedy, &mut finer),
                    token => finer.push(token),
                }
            }
            fragments = finer;
        }
        fragments
    }
}

impl Names {
    fn at(&self, text: &str, at: usize, length: usize) -> Option<u32> {
        let (first, last) = (text.as_bytes()[at], text.as_bytes()[at + length - 1]);
        if !(self.firsts[usize::from(first)] && self.lasts[usize::from(last)]) {
            return None;
        }
        self.ids.get(text.get(at..at + length)?).copied()
    }

    fn split<'t>(&self, text: &'t str, length: usize, greedy: &BTreeSet<u32>, out: &mut Vec<Fragment<'t>>) {
        let (mut start, mut at) = (0, 0);
        while at + length <= text.len() {
            let Some(id) = self.at(text, at, length) else {
                at += 1;
                continue;
            };
            if start < at {
                out.push(Fragment::Text(&text[start..at]));
            }
            out.push(Fragment::Token(id));
            at += length;
            if greedy.contains(&id) {
                // What C calls space.
                at += text[at..].bytes().take_while(|b| matches!(b, b' ' | 9..=13)).count();
            }
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
        let none = BTreeSet::new();
        assert_eq!(specials.split("é<a><b>x<a>", &none), [Text("é"), Token(2), Text("x"), Token(1)]);
        assert_eq!(specials.split("<a>b><a>", &none), [Token(1), Token(3), Text("a>")]);
        assert_eq!(specials.split("plain", &none), [Text("plain")]);
        assert_eq!(specials.split("", &none), []);
    }

    #[test]
    fn a_greedy_token_takes_the_white_space_behind_it() {
        let specials = Specials::new([("<a>", 1), ("<b>", 2)].into_iter()).unwrap();
        let greedy = BTreeSet::from([1]);
        assert_eq!(
            specials.split(" <a> \n\t\u{a0}x<b> <a>\r\n", &greedy),
            [Text(" "), Token(1), Text("\u{a0}x"), Token(2), Text(" "), Token(1)]
        );
    }

    #[test]
    fn endless_names_are_refused() {
        let name = "x".repeat(257);
        assert!(Specials::new([(name.as_str(), 1)].into_iter()).is_err());
    }
}
