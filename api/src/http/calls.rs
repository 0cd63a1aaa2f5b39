//! Finds the calls of tools in an answer while it comes.
//!
//! Knows one way of writing from its [`CallForm`]; beside it, an answer that begins as JSON may be a call, for some
//! models open one with a token that is no text. What turns out to be none, or calls nobody's tool, is text as it
//! stands. A call is told once it is whole.

use crate::door::short_digest;
use orchestrion_world::payload::CallForm;
use serde_json::{Value, json};
use std::sync::Arc;

/// How calls are written, the names of what may be called, and how many calls an answer may have.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    form: CallForm,
    names: Arc<[String]>,
    most: usize,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Call(Call),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    name: String,
    /// JSON text.
    arguments: String,
}

impl Call {
    /// As a message has it. Ids have nine letters and digits, which the strictest templates ask for.
    pub(crate) fn json(self, answer: &str, choice: u32, index: u32) -> Value {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut left = short_digest(format!("{answer}/{choice}/{index}").as_bytes());
        let mut id = String::new();
        for _ in 0..9 {
            id.push(char::from(DIGITS[(left % 36) as usize]));
            left /= 36;
        }
        json!({"id": id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}})
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but blanks so far.
    Start,
    Text,
    /// Behind what opens a call.
    Call,
    /// In an answer that began as JSON.
    Json,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct CallReader {
    calls: Calls,
    place: Place,
    held: String,
    /// Calls so far, the ones that are too many with them.
    found: usize,
}

impl Calls {
    pub(crate) fn new(form: CallForm, names: Arc<[String]>, most: usize) -> Calls {
        Calls { form, names, most }
    }

    pub(crate) fn reader(&self) -> CallReader {
        CallReader { calls: self.clone(), place: Place::Start, held: String::new(), found: 0 }
    }

    /// A whole answer's text and calls.
    pub(crate) fn split(&self, answer: &str) -> (String, Vec<Call>) {
        let mut reader = self.reader();
        let mut pieces = reader.push(answer);
        pieces.extend(reader.finish());
        let (mut text, mut calls) = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Text(more) => text.push_str(&more),
                Piece::Call(call) => calls.push(call),
            }
        }
        (text, calls)
    }

    /// The calls that a text of JSON values is; `None` where it is anything else.
    fn parse(&self, text: &str) -> Option<Vec<Piece>> {
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>().collect::<Result<Vec<_>, _>>();
        let values = values.ok()?.into_iter().flat_map(|value| match value {
            Value::Array(list) => list,
            one => vec![one],
        });
        let calls: Option<Vec<Piece>> = values.map(|value| self.call(&value).map(Piece::Call)).collect();
        calls.filter(|calls| !calls.is_empty())
    }

    fn call(&self, value: &Value) -> Option<Call> {
        let name = value.get("name")?.as_str().filter(|name| self.names.iter().any(|known| known == name))?;
        let arguments = match value.get(self.form.arguments) {
            None => "{}".to_owned(),
            Some(arguments) => arguments.is_object().then(|| arguments.to_string())?,
        };
        Some(Call { name: name.to_owned(), arguments })
    }
}

impl CallReader {
    /// What is certain once `text` has come.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.advance(&mut pieces) {}
        self.within(pieces)
    }

    /// Without calls beyond as many as the client takes.
    fn within(&mut self, mut pieces: Vec<Piece>) -> Vec<Piece> {
        pieces.retain(|piece| {
            self.found += usize::from(matches!(piece, Piece::Call(_)));
            matches!(piece, Piece::Text(_)) || self.found <= self.calls.most
        });
        pieces
    }

    /// The rest, when nothing more comes.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let opens = if self.place == Place::Call { self.calls.form.opens.trim_end() } else { "" };
        let calls = match self.place {
            Place::Call | Place::Json => self.calls.parse(&held),
            Place::Start | Place::Text => None,
        };
        match calls {
            Some(calls) => self.within(calls),
            None if held.is_empty() && opens.is_empty() => Vec::new(),
            None => vec![Piece::Text(format!("{opens}{held}"))],
        }
    }

    /// One step; false where more has to come.
    fn advance(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let CallForm { closes, .. } = self.calls.form;
        let opens = self.calls.form.opens.trim_end();
        match self.place {
            Place::Start => {
                let begun = self.held.trim_start();
                if begun.is_empty() || (begun.len() < opens.len() && opens.starts_with(begun)) {
                    return false;
                }
                let is_json = begun.starts_with(['{', '[']) && (opens.is_empty() || !begun.starts_with(opens));
                self.place = if is_json { Place::Json } else { Place::Text };
                true
            }
            Place::Text => {
                let found = if opens.is_empty() { None } else { self.held.find(opens) };
                let rest = match found {
                    Some(at) => self.held.split_off(at).split_off(opens.len()),
                    None => self.held.split_off(self.held.len() - held_back(&self.held, opens)),
                };
                let text = std::mem::replace(&mut self.held, rest);
                if !text.is_empty() {
                    pieces.push(Piece::Text(text));
                }
                if found.is_some() {
                    self.place = Place::Call;
                }
                found.is_some()
            }
            Place::Call => {
                let found = if closes.is_empty() { None } else { self.held.find(closes) };
                let Some(at) = found else { return false };
                let rest = self.held.split_off(at).split_off(closes.len());
                let body = std::mem::replace(&mut self.held, rest);
                let text = || vec![Piece::Text(format!("{opens}{body}{closes}"))];
                pieces.extend(self.calls.parse(&body).unwrap_or_else(text));
                self.place = Place::Text;
                true
            }
            Place::Json => false,
        }
    }
}

/// Bytes at the end of `text` that `mark` begins with.
fn held_back(text: &str, mark: &str) -> usize {
    let lengths = (1..mark.len()).rev().filter(|length| mark.is_char_boundary(*length));
    lengths.into_iter().find(|length| text.ends_with(&mark[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERMES: CallForm =
        CallForm { opens: "<tool_call>\n", closes: "</tool_call>", arguments: "arguments", in_list: false };
    const MISTRAL: CallForm = CallForm { opens: "[TOOL_CALLS]", closes: "", arguments: "arguments", in_list: true };
    const LLAMA: CallForm = CallForm { opens: "", closes: "", arguments: "parameters", in_list: false };

    fn calls(form: CallForm) -> Calls {
        Calls::new(form, ["a".to_owned(), "b".to_owned()].into(), usize::MAX)
    }

    fn called(name: &str, arguments: &str) -> Call {
        Call { name: name.to_owned(), arguments: arguments.to_owned() }
    }

    const HERMES_ANSWER: &str = "Let me see.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": [1, \"<\"]}}\n</tool_call>\
        \n<tool_call>{\"name\": \"b\"}</tool_call> <tool";

    #[test]
    fn who_takes_one_call_gets_the_first_however_they_are_written() {
        let hermes = "so <tool_call>{\"name\": \"a\"}</tool_call><tool_call>{\"name\": \"b\"}</tool_call> done";
        let mistral = "[TOOL_CALLS][{\"name\": \"a\"}, {\"name\": \"b\"}]";
        for (form, answer) in [(HERMES, hermes), (MISTRAL, mistral)] {
            let (text, all) = calls(form).split(answer);
            assert_eq!(all, [called("a", "{}"), called("b", "{}")]);
            let one = Calls { most: 1, ..calls(form) };
            assert_eq!(one.split(answer), (text, vec![called("a", "{}")]));
        }
    }

    #[test]
    fn each_family_is_read_in_its_way() {
        for (form, answer, text, made) in [
            (HERMES, HERMES_ANSWER, "Let me see.\n\n <tool", vec![called("a", r#"{"x":[1,"<"]}"#), called("b", "{}")]),
            (HERMES, "<tool_call>{\"name\": \"a\", \"arguments\": {}}", "", vec![called("a", "{}")]),
            (HERMES, "<tool_call>{\"name\": \"c\"}</tool_call>", "<tool_call>{\"name\": \"c\"}</tool_call>", vec![]),
            (HERMES, " {\"name\": \"a\"} {\"name\": \"b\"}", "", vec![called("a", "{}"), called("b", "{}")]),
            (MISTRAL, "[TOOL_CALLS] [{\"name\": \"a\", \"arguments\": {}}]", "", vec![called("a", "{}")]),
            (MISTRAL, "[{\"name\": \"a\", \"arguments\": {}}]", "", vec![called("a", "{}")]),
            (MISTRAL, "[1] is a footnote", "[1] is a footnote", vec![]),
            (LLAMA, "{\"name\": \"b\", \"parameters\": {\"y\": 1}}", "", vec![called("b", r#"{"y":1}"#)]),
            (LLAMA, "{\"answer\": 42}", "{\"answer\": 42}", vec![]),
            (LLAMA, "{\"name\": \"b\", \"parameters\": {\"y\":", "{\"name\": \"b\", \"parameters\": {\"y\":", vec![]),
            (LLAMA, "No.", "No.", vec![]),
            (LLAMA, "", "", vec![]),
        ] {
            assert_eq!(calls(form).split(answer), (text.to_owned(), made), "{answer}");
        }
    }

    #[test]
    fn ids_are_nine_letters_and_digits_of_their_own() {
        let id = |choice, index| called("a", "{}").json("chatcmpl-1", choice, index)["id"].as_str().unwrap().to_owned();
        assert!(id(0, 0).len() == 9 && id(0, 0).bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert!(id(0, 0) == id(0, 0) && id(0, 0) != id(0, 1) && id(0, 0) != id(1, 0));
    }

    proptest! {
        /// However an answer comes in pieces, it is read as in one.
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(0usize..200, 0..20), which in 0usize..3) {
            let (form, answer) = [
                (HERMES, HERMES_ANSWER),
                (MISTRAL, "[TOOL_CALLS][{\"name\": \"a\"}, {\"name\": \"b\"}]"),
                (LLAMA, "  {\"name\": \"b\", \"parameters\": {}}"),
            ][which];
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(answer.len())).collect();
            cuts.extend([0, answer.len()]);
            cuts.sort_unstable();
            let mut reader = calls(form).reader();
            let mut pieces: Vec<Piece> = cuts.windows(2).flat_map(|cut| reader.push(&answer[cut[0]..cut[1]])).collect();
            pieces.extend(reader.finish());
            let text: String = pieces.iter().filter_map(|piece| match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Call(_) => None,
            }).collect();
            let made: Vec<Call> = pieces.into_iter().filter_map(|piece| match piece {
                Piece::Call(call) => Some(call),
                Piece::Text(_) => None,
            }).collect();
            prop_assert_eq!((text, made), calls(form).split(answer));
        }
    }
}
