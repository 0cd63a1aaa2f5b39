//! Ids back to text, as a stream: what a reader gets after each token.
//!
//! A token may end within a character; those bytes wait for the rest, so that every piece handed out is
//! valid UTF-8 and the pieces together are the text. Bytes that can become no character turn into U+FFFD.
//! Control tokens are no text and leave none, and neither does the space that a tokenizer puts before the
//! first word of a text or after a special token.

use super::Tokenizer;

/// One answer's stream; `default` begins a text. At most three bytes wait.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    waiting: Vec<u8>,
    /// The token before the next.
    last: Option<u32>,
}

impl Detokenizer {
    /// A text that goes on behind `last`, a prompt's last token.
    pub fn after(last: Option<u32>) -> Detokenizer {
        Detokenizer { waiting: Vec::new(), last }
    }

    /// Appends to `out` what `id` completes; perhaps nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        let last = self.last.replace(id);
        if tokenizer.is_control(id) {
            return;
        }
        let bytes = tokenizer.token_bytes(id);
        let own = tokenizer.has_own_space(id, last);
        self.waiting.extend(bytes.strip_prefix(b" ").filter(|_| own).unwrap_or(bytes));
        let mut rest = self.waiting.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    self.waiting.clear();
                    return;
                }
                Err(e) => {
                    let (good, bad) = rest.split_at(e.valid_up_to());
                    out.push_str(std::str::from_utf8(good).unwrap_or_default());
                    let Some(len) = e.error_len() else {
                        let kept = self.waiting.len() - bad.len();
                        self.waiting.drain(..kept);
                        return;
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &bad[len..];
                }
            }
        }
    }

    /// The end of the answer: an unfinished character becomes one U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !self.waiting.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.waiting.clear();
        }
    }
}
