//! Watches the raw bytes of HTTP/1 heads for what hyper would mend in silence: a length and a chunked
//! coding in one head (hyper drops the length), and lines over the bound.
//!
//! It follows the stream head by head, skips bodies by their length, and stops for good at a chunked
//! body (the server closes after it) or at an HTTP/2 preface. It changes no byte; hyper still parses.

use super::Limits;
use crate::problem::{ErrorCode, Problem};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, Uri};

/// As much of a line as its name and a length need.
const KEPT: usize = 96;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Content-Length beside Transfer-Encoding, or a length that cannot be read.
    Ambiguous,
    LongLine,
    ManyFields,
}

impl Fault {
    pub(crate) fn problem(self) -> Problem {
        match self {
            Fault::Ambiguous => Problem::new(
                ErrorCode::InvalidParams,
                "the length of the body is ambiguous: send either Content-Length or Transfer-Encoding",
            ),
            Fault::LongLine => Problem::new(ErrorCode::InvalidParams, "a header line is too long")
                .status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Fault::ManyFields => Problem::new(ErrorCode::InvalidParams, "the head has too many fields")
                .status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        }
        .closing()
    }
}

/// What is wrong with a head whose bytes nobody could watch: that of an HTTP/2 request.
pub(crate) fn oversized(uri: &Uri, headers: &HeaderMap, limits: &Limits) -> Option<Fault> {
    let long = |length: usize| length > limits.line_bytes;
    // `name: value` and its end.
    let field = |(name, value): (&HeaderName, &HeaderValue)| long(name.as_str().len() + value.len() + 4);
    if headers.len() > limits.header_count {
        return Some(Fault::ManyFields);
    }
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    (long(target) || headers.iter().any(field)).then_some(Fault::LongLine)
}

#[derive(Debug)]
enum Place {
    /// Between requests.
    Before,
    Head,
    Body(u64),
    /// Nothing further is watched.
    Off,
}

/// Follows one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    place: Place,
    line_most: usize,
    line: Vec<u8>,
    line_length: usize,
    first_line: bool,
    length: Option<u64>,
    chunked: bool,
    fault: Option<Fault>,
}

impl Framing {
    pub(crate) fn new(line_most: usize) -> Self {
        Framing {
            place: Place::Before,
            line_most,
            line: Vec::new(),
            line_length: 0,
            first_line: true,
            length: None,
            chunked: false,
            fault: None,
        }
    }

    /// The first fault seen; it stays.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether a head has begun and not ended.
    pub(crate) fn in_head(&self) -> bool {
        matches!(self.place, Place::Head)
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.place {
                Place::Off => return,
                Place::Body(left) => {
                    let here = left.min(bytes.len() as u64);
                    bytes = bytes.get(here as usize..).unwrap_or_default();
                    self.place = if here == left { Place::Before } else { Place::Body(left - here) };
                }
                Place::Before | Place::Head => {
                    let end = bytes.iter().position(|&byte| byte == b'\n');
                    let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
                    bytes = rest;
                    self.place = Place::Head;
                    self.line_length += part.len();
                    self.line.extend(part.iter().take(KEPT.saturating_sub(self.line.len())));
                    if self.line_length > self.line_most {
                        self.fault.get_or_insert(Fault::LongLine);
                    }
                    if end.is_some() {
                        self.end_line();
                    }
                }
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let whole = std::mem::take(&mut self.line_length) == line.len();
        let line = line.trim_ascii();
        if line.is_empty() && whole {
            // Blank lines before a request line are allowed.
            self.place = if self.first_line { Place::Before } else { self.end_head() };
        } else if self.first_line {
            self.first_line = false;
            if line == b"PRI * HTTP/2.0" {
                self.place = Place::Off;
            }
        } else if let Some(colon) = line.iter().position(|&byte| byte == b':') {
            let (name, value) = line.split_at(colon);
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                self.chunked = true;
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let value = value.get(1..).unwrap_or_default().trim_ascii();
                let value = std::str::from_utf8(value).ok().filter(|_| whole).and_then(|text| text.parse().ok());
                if value.is_none() {
                    self.fault.get_or_insert(Fault::Ambiguous);
                }
                self.length = value;
            }
        }
    }

    fn end_head(&mut self) -> Place {
        self.first_line = true;
        match (std::mem::take(&mut self.chunked), self.length.take()) {
            (true, Some(_)) => {
                self.fault.get_or_insert(Fault::Ambiguous);
                Place::Off
            }
            (true, None) => Place::Off,
            (false, Some(length)) if length > 0 => Place::Body(length),
            (false, _) => Place::Before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fed whole and byte by byte, it must say the same.
    fn fault(bytes: &str) -> Option<Fault> {
        let mut whole = Framing::new(64);
        whole.feed(bytes.as_bytes());
        let mut single = Framing::new(64);
        bytes.as_bytes().chunks(1).for_each(|byte| single.feed(byte));
        assert_eq!(whole.fault(), single.fault(), "{bytes:?}");
        assert_eq!(whole.in_head(), single.in_head(), "{bytes:?}");
        whole.fault()
    }

    #[test]
    fn length_beside_chunked_is_ambiguous_in_both_orders() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\n";
        let (te, cl) = ("Transfer-Encoding: chunked\r\n", "content-LENGTH:  5\r\n");
        assert_eq!(fault(&format!("{head}{te}{cl}\r\n")), Some(Fault::Ambiguous));
        assert_eq!(fault(&format!("{head}{cl}{te}\r\n")), Some(Fault::Ambiguous));
        assert_eq!(fault(&format!("{head}{cl}\r\n")), None);
        assert_eq!(fault(&format!("{head}{te}\r\n")), None);
        assert_eq!(fault(&format!("{head}Content-Length: 5x\r\n\r\n")), Some(Fault::Ambiguous));
    }

    #[test]
    fn bodies_are_skipped_and_the_next_head_is_watched() {
        let first = "POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nTransfer-Encoding: x\r\n123456\r\n";
        assert_eq!(first.split("\r\n\r\n").nth(1).map(str::len), Some(30));
        let second = "POST / HTTP/1.1\r\nContent-Length: 1\r\n";
        assert_eq!(fault(&format!("{first}{second}\r\n")), None);
        assert_eq!(fault(&format!("{first}{second}Transfer-Encoding: chunked\r\n\r\n")), Some(Fault::Ambiguous));
    }

    #[test]
    fn long_lines_and_prefaces() {
        assert_eq!(fault(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(80))), Some(Fault::LongLine));
        assert_eq!(fault(&format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{}", "\0".repeat(100))), None);
        let mut framing = Framing::new(64);
        framing.feed(b"\r\nGET / HT");
        assert!(framing.in_head());
        framing.feed(b"TP/1.1\r\n\r\n");
        assert!(!framing.in_head());
    }
}
