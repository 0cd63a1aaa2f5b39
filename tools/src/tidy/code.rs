//! Rust source as the rules read it: comments and literals blanked, and the extent of an attribute's item.
//!
//! A lexer of a page, not a parser: it keeps every byte's place, so that a match in the blanked text has
//! the line of the original. What it cannot see (macros that build code, `#[path]`) no rule depends on.

use std::ops::Range;

/// The text with comments, strings and characters blanked; newlines and all other code stay in place.
pub(super) fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if let Some(len) = raw_string(bytes, at) {
            at + len
        } else if rest[0] == b'"' {
            at + quoted(rest)
        } else if rest[0] == b'\'' {
            at + character(rest)
        } else {
            at += 1;
            continue;
        };
        out[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a raw string that begins here, as `r#"…"#`.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    if at > 0 && is_name(bytes[at - 1]) && !matches!(bytes[at - 1], b'b' | b'c') {
        return None;
    }
    let rest = bytes[at..].strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|&&b| b == b'#').count();
    let body = rest[hashes..].strip_prefix(b"\"")?;
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let len = body.windows(close.len()).position(|w| w == close).map_or(body.len(), |p| p + close.len());
    Some(2 + hashes + len)
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character's length; 1 where it is a lifetime.
fn character(rest: &[u8]) -> usize {
    let close = |from: usize| rest[from..].iter().position(|&b| b == b'\'').map_or(1, |p| from + p + 1);
    match rest.get(1) {
        // The quote after a backslash is the character itself.
        Some(b'\\') if rest.len() > 3 => close(3),
        // At most four bytes of one character; an ASCII name is a lifetime.
        Some(_) if rest.get(2) == Some(&b'\'') => 3,
        Some(b) if b.is_ascii() => 1,
        Some(_) => close(2),
        None => 1,
    }
}

pub(super) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands by itself: not as a part of a longer name.
pub(super) fn words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let ends_in_name = |b: Option<&u8>| b.is_some_and(|b| is_name(*b));
    let (first, last) = (ends_in_name(word.as_bytes().first()), ends_in_name(word.as_bytes().last()));
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).and_then(|b| text.as_bytes().get(b));
        let after = text.as_bytes().get(at + word.len());
        !(first && ends_in_name(before) || last && ends_in_name(after))
    })
}

/// The line of a place, from 1.
pub(super) fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1
}

/// The extent of every item that an attribute `wanted` stands on; the whole text for an inner one.
/// `blanked` is the output of [`blank`]; `wanted` sees an attribute's words without spaces.
pub(super) fn items_with(blanked: &str, wanted: impl Fn(&str) -> bool) -> Vec<Range<usize>> {
    let bytes = blanked.as_bytes();
    let mut items = Vec::new();
    for (at, _) in blanked.match_indices('#') {
        let inner = bytes.get(at + 1) == Some(&b'!');
        let open = at + 1 + usize::from(inner);
        if bytes.get(open) != Some(&b'[') {
            continue;
        }
        let close = closing(bytes, open);
        let words: String = blanked[open + 1..close].split_whitespace().collect();
        if !wanted(&words) {
            continue;
        }
        items.push(if inner { 0..bytes.len() } else { at..item_end(bytes, close + 1) });
    }
    items
}

/// The place of the bracket that closes the one at `open`.
fn closing(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len().saturating_sub(1)
}

/// The end of the item that begins after `from`: its `;`, its `}`, or the end of what it stands in.
fn item_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    let mut to_semicolon = None;
    while at < bytes.len() {
        match bytes[at] {
            b'#' if bytes.get(at + 1) == Some(&b'[') => {
                at = closing(bytes, at + 1) + 1;
                continue;
            }
            b';' => return at + 1,
            b'}' | b')' | b']' => return at,
            byte if !byte.is_ascii_whitespace() => {
                let through = *to_semicolon.get_or_insert_with(|| ends_in_semicolon(&bytes[at..]));
                if matches!(byte, b'(' | b'[' | b'{') {
                    let close = closing(bytes, at);
                    if byte == b'{' && !through {
                        return close + 1;
                    }
                    at = close;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Whether braces do not end the item that begins here.
fn ends_in_semicolon(item: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&item[..item.len().min(80)]).into_owned();
    let mut words = text.split_whitespace().filter(|word| !word.starts_with("pub"));
    match words.next() {
        Some("let" | "static" | "use" | "type") => true,
        Some("const") => !matches!(words.next(), Some("fn" | "unsafe" | "async" | "extern")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_in_place() {
        let check = |before: &str, after: &str| assert_eq!(blank(before), after, "{before}");
        check("a // unsafe\nb", "a          \nb");
        check("a /* x /* y */ z */ b", "a                   b");
        check(r#"f("un\"safe", b)"#, "f(          , b)");
        check(r###"f(r#"a"b"#, br"c")"###, "f(        , b    )");
        check("let a: &'static str = 'b';", "let a: & static str =    ;");
        check("('\\'', '\\n', 'a', b'b')", "(    ,     ,    , b   )");
        check("for r in 'a'..='z' {}", "for r in    ..=    {}");
    }

    #[test]
    fn words_stand_by_themselves() {
        let count = |text: &str, word: &str| words(text, word).count();
        assert_eq!(count("f32 af32 f32x f32;", "f32"), 2);
        assert_eq!(count("todo!() my_todo!()", "todo!"), 1);
        assert_eq!(count("std::envy std::env::var", "std::env"), 1);
    }

    #[test]
    fn an_attribute_covers_its_item_and_no_more() {
        let covered = |text: &str| -> Vec<String> {
            items_with(&blank(text), |a| a == "cfg(test)").into_iter().map(|r| text[r].to_owned()).collect()
        };
        assert_eq!(covered("a; #[cfg(test)] mod t { b {} } c"), ["#[cfg(test)] mod t { b {} }"]);
        assert_eq!(covered("#[cfg(test)]\nmod t;\nmod u;"), ["#[cfg(test)]\nmod t;"]);
        assert_eq!(
            covered("#[cfg(test)] #[a(b)] fn f(x: [u8; 3]) -> X<A, B> { y } z"),
            ["#[cfg(test)] #[a(b)] fn f(x: [u8; 3]) -> X<A, B> { y }"]
        );
        assert_eq!(covered("#[cfg(test)] use a::{b, c}; d"), ["#[cfg(test)] use a::{b, c};"]);
        assert_eq!(
            covered("#[cfg(test)] pub const X: T = T { a: 1 }; d"),
            ["#[cfg(test)] pub const X: T = T { a: 1 };"]
        );
        assert_eq!(covered("#[cfg(test)] const fn f() { a } d"), ["#[cfg(test)] const fn f() { a }"]);
        assert_eq!(covered("S { #[cfg(test)] a: B } d"), ["#[cfg(test)] a: B "]);
        assert_eq!(covered("#![cfg(test)] d"), ["#![cfg(test)] d"]);
        assert_eq!(covered("// #[cfg(test)] mod t {}"), Vec::<String>::new());
    }
}
