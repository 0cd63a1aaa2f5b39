//! The Unicode classes that pre-tokenizers speak of: letters, numbers, punctuation, white space.
//!
//! Tables come from `regex-syntax` (general categories L, N and P), expanded once; `std` has no such
//! categories (`is_alphabetic` is a wider property). They stand still at the Unicode version of llama.cpp's
//! tables: a newer crate must not change anybody's ids. ASCII is answered without them.

use regex_syntax::hir::{Class as HirClass, HirKind};
use std::sync::LazyLock;

/// Inclusive ranges of code points, sorted.
type Ranges = Vec<(u32, u32)>;

static LETTERS: LazyLock<Ranges> = LazyLock::new(|| ranges(r"[\p{L}&&\p{Age:15.1}]"));
static NUMBERS: LazyLock<Ranges> = LazyLock::new(|| ranges(r"[\p{N}&&\p{Age:15.1}]"));
static PUNCTUATION: LazyLock<Ranges> = LazyLock::new(|| ranges(r"[\p{P}&&\p{Age:15.1}]"));

fn ranges(pattern: &str) -> Ranges {
    match regex_syntax::parse(pattern).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(HirClass::Unicode(class))) => {
            class.iter().map(|range| (range.start().into(), range.end().into())).collect()
        }
        _ => Ranges::new(), // these patterns are classes, and a test says so
    }
}

fn within(ranges: &Ranges, c: char) -> bool {
    let code = u32::from(c);
    let after = ranges.partition_point(|(start, _)| *start <= code);
    after.checked_sub(1).is_some_and(|at| code <= ranges[at].1)
}

/// What a character is to a pre-tokenizer; the classes are disjoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Letter,
    Number,
    Space,
    Other,
}

pub(crate) fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Number,
        _ if c.is_whitespace() => Class::Space,
        _ if c.is_ascii() => Class::Other,
        _ if within(&LETTERS, c) => Class::Letter,
        _ if within(&NUMBERS, c) => Class::Number,
        _ => Class::Other,
    }
}

pub(crate) fn is_punctuation(c: char) -> bool {
    within(&PUNCTUATION, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_unicode() {
        for (c, expected) in [
            ('x', Class::Letter),
            ('字', Class::Letter),
            ('ª', Class::Letter),
            ('٣', Class::Number),
            ('Ⅷ', Class::Number),
            ('½', Class::Number),
            ('\u{85}', Class::Space),
            ('\u{3000}', Class::Space),
            ('\u{301}', Class::Other), // a combining mark: alphabetic to `std`, no letter
            ('ⓐ', Class::Other),
            ('🦀', Class::Other),
            ('\u{200d}', Class::Other),
            ('_', Class::Other),
            ('\u{105c0}', Class::Other), // a letter since Unicode 16
        ] {
            assert_eq!(class(c), expected, "{c:?}");
        }
        assert!(is_punctuation('_') && is_punctuation('—') && !is_punctuation('+'));
    }
}
