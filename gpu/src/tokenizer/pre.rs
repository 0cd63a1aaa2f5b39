//! Pre-tokenizers: how each family of models cuts text into words before merging.
//!
//! A family is a list of cuts, applied one after another to every piece, and two habits. The families
//! define their cuts as regular expressions; here they are hand-written scans, linear in the text, because a
//! backtracking engine gives up on long runs and a prompt is hostile input. Every word is a part of the
//! text, in order, none lost. Ids are compared with llama.cpp's by `.ci/oracle/tokenizer.py`.

use super::classes::{Class, class, is_punctuation};

/// One row of the table.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// A word that is a token needs no merges.
    pub(crate) whole_words: bool,
    /// Whether prompts start with the beginning-of-text token where the file does not say.
    pub(crate) add_bos: bool,
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Llama3 { digits: usize },
    /// `U*L+c|U+L*c|\p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`, with `[^\r\n\p{L}\p{N}]?` before each U.
    /// U is a letter but a to z, L one but A to Z, and c a contraction, where those belong to the word.
    Cased { digits: usize, contractions: bool },
    /// `\p{N}`: each number character is a word.
    EachNumber,
    /// `\p{N}+`
    NumberRuns,
    /// `[\p{P}$+<=>^~|]+`
    PunctuationRuns,
    /// `[0-9][0-9][0-9]`
    ThreeDigits,
}

const TABLE: [PreTokenizer; 8] = [
    PreTokenizer {
        names: &["default"],
        cuts: &[Cut::PunctuationRuns, Cut::Gpt2, Cut::NumberRuns, Cut::ThreeDigits],
        whole_words: false,
        add_bos: false,
    },
    PreTokenizer { names: &["gpt-2", "phi-2", "mpt", "olmo"], cuts: &[Cut::Gpt2], whole_words: false, add_bos: false },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "codeshell"],
        cuts: &[Cut::EachNumber, Cut::Gpt2],
        whole_words: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cuts: &[Cut::Llama3 { digits: 3 }],
        whole_words: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2"],
        cuts: &[Cut::Llama3 { digits: 1 }],
        whole_words: false,
        add_bos: false,
    },
    PreTokenizer { names: &["dbrx"], cuts: &[Cut::Llama3 { digits: 3 }], whole_words: false, add_bos: false },
    PreTokenizer {
        names: &["tekken"],
        cuts: &[Cut::Cased { digits: 1, contractions: false }],
        whole_words: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["gpt-4o"],
        cuts: &[Cut::Cased { digits: 3, contractions: true }],
        whole_words: false,
        add_bos: false,
    },
];

impl PreTokenizer {
    /// The row of a `tokenizer.ggml.pre`.
    pub(crate) fn of_name(name: &str) -> Option<&'static PreTokenizer> {
        const { &TABLE }.iter().find(|row| row.names.contains(&name))
    }

    /// Every name of the table, for the refusal.
    pub(crate) fn names() -> String {
        TABLE.iter().flat_map(|row| row.names).copied().collect::<Vec<_>>().join(", ")
    }

    /// Calls `word` with each word of `text`.
    pub(crate) fn split<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        cut_all(self.cuts, text, &mut word);
    }
}

/// Cuts by the first, then each piece by the rest; as deep as a family has cuts.
fn cut_all<'t>(cuts: &[Cut], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    let Some((first, rest)) = cuts.split_first() else { return word(text) };
    let mut left = text;
    while !left.is_empty() {
        let (piece, after) = left.split_at(first.end(left));
        cut_all(rest, piece, word);
        left = after;
    }
}

/// Where the run of characters from `start` on ends for which `keep` holds.
fn run(text: &str, start: usize, keep: impl Fn(char) -> bool) -> usize {
    text[start..].find(|c| !keep(c)).map_or(text.len(), |at| start + at)
}

impl Cut {
    /// Where the first piece of `text` ends; `text` is not empty, and neither is the piece.
    fn end(self, text: &str) -> usize {
        let is_number = |c| class(c) == Class::Number;
        match self {
            Cut::Gpt2 => gpt2(text),
            Cut::Llama3 { digits } => llama3(text, digits),
            Cut::Cased { digits, contractions } => cased(text, digits, contractions),
            Cut::EachNumber => match run(text, 0, |c| !is_number(c)) {
                0 => text.chars().next().map_or(text.len(), char::len_utf8),
                end => end,
            },
            Cut::NumberRuns => runs(text, is_number),
            Cut::PunctuationRuns => {
                runs(text, |c| is_punctuation(c) || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|'))
            }
            Cut::ThreeDigits => {
                let triples = text.as_bytes().windows(3).position(|three| three.iter().all(u8::is_ascii_digit));
                match triples {
                    Some(0) => 3,
                    Some(at) => at,
                    None => text.len(),
                }
            }
        }
    }
}

/// A run of characters that match, or the run up to the next that does.
fn runs(text: &str, matches: impl Fn(char) -> bool) -> usize {
    match run(text, 0, &matches) {
        0 => run(text, 0, |c| !matches(c)),
        end => end,
    }
}

/// The length of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d` at the start of `text`.
fn contraction(text: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let mut chars = rest.chars();
    let first = chars.next()?;
    let one = 1 + first.len_utf8();
    match fold(first) {
        's' | 't' | 'm' | 'd' => Some(one),
        first => {
            let second = chars.next()?;
            let is_long = matches!((first, fold(second)), ('r' | 'v', 'e') | ('l', 'l'));
            is_long.then_some(one + second.len_utf8())
        }
    }
}

/// The class of the first character from `at` on.
fn class_at(text: &str, at: usize) -> Option<Class> {
    text[at..].chars().next().map(class)
}

/// `\s+(?!\S)|\s+` at the start: a run of white space leaves its last character to the word behind it.
fn spaces(text: &str) -> usize {
    let end = run(text, 0, char::is_whitespace);
    match text[..end].char_indices().next_back() {
        Some((last, _)) if last > 0 && end < text.len() => last,
        _ => end,
    }
}

fn gpt2(text: &str) -> usize {
    if let Some(end) = contraction(text, |c| c) {
        return end;
    }
    let start = usize::from(text.starts_with(' '));
    match class_at(text, start) {
        None | Some(Class::Space) => spaces(text),
        Some(kind) => run(text, start, |c| class(c) == kind),
    }
}

fn llama3(text: &str, digits: usize) -> usize {
    if let Some(end) = contraction(text, fold_case) {
        return end;
    }
    let is_letter = |c| class(c) == Class::Letter;
    match text.chars().next() {
        Some(first) if is_letter(first) => run(text, 0, is_letter),
        Some(first) if leads_word(first) && class_at(text, first.len_utf8()) == Some(Class::Letter) => {
            run(text, first.len_utf8(), is_letter)
        }
        _ => no_word(text, digits, &['\r', '\n']),
    }
}

fn cased(text: &str, digits: usize, contractions: bool) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    let start = if leads_word(first) { first.len_utf8() } else { 0 };
    let Some(end) = cased_word(text, start) else { return no_word(text, digits, &['\r', '\n', '/']) };
    let behind = contraction(&text[end..], |c| c.to_ascii_lowercase()).filter(|_| contractions);
    end + behind.unwrap_or(0)
}

/// `U*L+|U+L*` from `start` on, as a backtracking engine finds it: small letters end the word; without any, the last
/// letter of neither case does, and without that either the whole run is taken.
fn cased_word(text: &str, start: usize) -> Option<usize> {
    let is_letter = |c| class(c) == Class::Letter;
    let upper = run(text, start, |c| is_letter(c) && !c.is_ascii_lowercase());
    let lower = run(text, upper, |c| is_letter(c) && !c.is_ascii_uppercase());
    if lower > upper {
        return Some(lower);
    }
    let caseless = text[start..upper].char_indices().rfind(|(_, c)| !c.is_ascii());
    match caseless {
        Some((at, c)) => Some(start + at + c.len_utf8()),
        None => (upper > start).then_some(upper),
    }
}

/// Whether a character may be the first of the word whose letters follow.
fn leads_word(c: char) -> bool {
    !matches!(c, '\r' | '\n') && !matches!(class(c), Class::Letter | Class::Number)
}

/// Numbers, signs with the characters of `trail` behind them, or white space.
fn no_word(text: &str, digits: usize, trail: &[char]) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    if class(first) == Class::Number {
        return text
            .char_indices()
            .take(digits)
            .take_while(|(_, c)| class(*c) == Class::Number)
            .fold(0, |_, (at, c)| at + c.len_utf8());
    }
    let start = usize::from(first == ' ');
    if class_at(text, start) == Some(Class::Other) {
        let end = run(text, start, |c| class(c) == Class::Other);
        return run(text, end, |c| trail.contains(&c));
    }
    let white = &text[..run(text, 0, char::is_whitespace)];
    white.rfind(['\r', '\n']).map_or_else(|| spaces(text), |last| last + 1)
}

/// Simple case folding of the letters of [`contraction`]: besides ASCII, the long s folds to s.
fn fold_case(c: char) -> char {
    if c == 'ſ' { 's' } else { c.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        PreTokenizer::of_name(name).unwrap().split(text, |word| words.push(word.to_owned()));
        assert_eq!(words.concat(), text, "a cut loses nothing");
        assert!(words.iter().all(|word| !word.is_empty()));
        words
    }

    #[test]
    fn each_family_cuts_its_way() {
        let text = "It's 1234  km!!\n\n  ok";
        assert_eq!(words("gpt-2", text), ["It", "'s", " 1234", " ", " km", "!!", "\n\n ", " ok"]);
        assert_eq!(words("smollm", text), ["It", "'s", " ", "1", "2", "3", "4", " ", " km", "!!", "\n\n ", " ok"]);
        assert_eq!(words("llama-bpe", text), ["It", "'s", " ", "123", "4", " ", " km", "!!\n\n", " ", " ok"]);
        assert_eq!(words("qwen2", text), ["It", "'s", " ", "1", "2", "3", "4", " ", " km", "!!\n\n", " ", " ok"]);
        assert_eq!(words("tekken", text), ["It", "'s", " ", "1", "2", "3", "4", " ", " km", "!!\n\n", " ", " ok"]);
        assert_eq!(words("gpt-4o", text), ["It's", " ", "123", "4", " ", " km", "!!\n\n", " ", " ok"]);
        assert_eq!(words("dbrx", text), words("llama-bpe", text));
        assert_eq!(words("default", text), ["It", "'", "s", " ", "123", "4", " ", " km", "!!", "\n\n ", " ok"]);
    }

    #[test]
    fn words_end_where_their_case_changes() {
        let text = "camelCase HTTPServer ÉCOLE x字Y:/\n/a";
        let cut = ["camel", "Case", " HTTPServer", " É", "COLE", " x字", "Y", ":/\n/", "a"];
        assert_eq!(words("tekken", text), cut);
        assert_eq!(words("gpt-4o", "DON'T"), ["DON'T"]);
        assert_eq!(words("tekken", "DON'T"), ["DON", "'T"]);
    }

    #[test]
    fn ends_of_text_and_odd_spaces() {
        assert_eq!(words("gpt-2", "a  "), ["a", "  "]);
        assert_eq!(words("gpt-2", "\u{3000}\u{a0}x"), ["\u{3000}", "\u{a0}", "x"]);
        assert_eq!(words("llama-bpe", "\u{3000}x\t\r\n y"), ["\u{3000}x", "\t\r\n", " y"]);
        assert_eq!(words("llama-bpe", "DON'T 'RE 're"), ["DON", "'T", " '", "RE", " '", "re"]);
        assert_eq!(words("smollm", ""), Vec::<String>::new());
        assert!(PreTokenizer::of_name("unheard-of").is_none());
    }
}
