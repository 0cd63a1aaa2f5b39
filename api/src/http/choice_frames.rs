//! The chunks of a streamed chat or text completion, one writer for each choice.
//!
//! What is the same in every chunk is written once; a token costs three copies and its JSON string. Tokens
//! whose text is held back (half a character) make no chunk, unless their log probability is wanted. The writers
//! of one answer share a [`Joint`]: the last choice to end writes the usage and `[DONE]`, the first to fail ends
//! them all.

use super::calls::{CallReader, Calls, Piece};
use super::openai::{Kind, Tally, reason};
use crate::sse::{data, result, write_json};
use crate::task_entry::{Begun, Ending, Frames};
use crate::token_log::Said;
use orchestrion_world::payload::Likelihood;
use orchestrion_world::protocol::Outcome;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the choices of one answer share.
#[derive(Debug)]
pub(crate) struct Joint {
    kind: Kind,
    /// A chunk without choices and usage.
    frame: Value,
    include_usage: bool,
    /// Choices of each prompt.
    each: u32,
    /// Where the model may call tools.
    calls: Option<Calls>,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    left: u32,
    used: Tally,
    failed: bool,
}

impl Joint {
    /// `frame` is what every chunk begins with; choices are those of each prompt and of all.
    pub(crate) fn new(
        kind: Kind,
        frame: Value,
        (each, choices): (u32, u32),
        include_usage: bool,
        calls: Option<Calls>,
    ) -> Arc<Self> {
        let progress = Mutex::new(Progress { left: choices, used: Tally::default(), failed: false });
        Arc::new(Joint { kind, frame, include_usage, each, calls, progress })
    }

    fn chunk(&self, choices: Value, usage: Value) -> Value {
        let mut frame = self.frame.clone();
        frame["choices"] = choices;
        if self.include_usage {
            frame["usage"] = usage;
        }
        frame
    }

    /// Held for a few lines, each of which leaves it whole.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One choice's chunks.
#[derive(Debug)]
pub(crate) struct ChoiceFrames {
    index: u32,
    /// Up to the choice's text or delta.
    head: Vec<u8>,
    /// From behind its log probabilities, in a chunk that is not the last.
    tail: &'static [u8],
    /// Where the next token begins, in characters.
    offset: usize,
    /// Finds the calls, and how many it has found.
    reader: Option<CallReader>,
    called: u32,
    joint: Arc<Joint>,
}

impl ChoiceFrames {
    pub(crate) fn new(joint: &Arc<Joint>, index: u32) -> Self {
        let mut head = b"data: ".to_vec();
        write_json(&mut head, &joint.frame);
        head.pop();
        let key = match joint.kind {
            Kind::Chat => "delta",
            Kind::Text => "text",
        };
        head.extend_from_slice(format!(",\"choices\":[{{\"index\":{index},\"{key}\":").as_bytes());
        let tail: &[u8] = match joint.include_usage {
            true => b",\"finish_reason\":null}],\"usage\":null}\n\n",
            false => b",\"finish_reason\":null}]}\n\n",
        };
        let reader = joint.calls.as_ref().map(Calls::reader);
        ChoiceFrames { index, head, tail, offset: 0, reader, called: 0, joint: Arc::clone(joint) }
    }

    /// A chunk of text, where there is any.
    fn text(&mut self, out: &mut Vec<u8>, text: &str, likelihood: Option<&Likelihood>) {
        if text.is_empty() && likelihood.is_none() {
            return;
        }
        out.extend_from_slice(&self.head);
        match self.joint.kind {
            Kind::Text => write_json(out, text),
            Kind::Chat => {
                out.extend_from_slice(b"{\"content\":");
                write_json(out, text);
                out.push(b'}');
            }
        }
        self.finish(out, likelihood);
    }

    /// A chunk for each piece, and one for a token's likelihood that no piece takes.
    fn pieces(&mut self, out: &mut Vec<u8>, pieces: Vec<Piece>, mut likelihood: Option<&Likelihood>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text(out, &text, likelihood.take()),
                Piece::Call(call) => {
                    let answer = self.joint.frame["id"].as_str().unwrap_or_default();
                    let mut call = call.json(answer, self.index, self.called);
                    call["index"] = self.called.into();
                    self.called += 1;
                    out.extend_from_slice(&self.head);
                    write_json(out, &json!({"tool_calls": [call]}));
                    self.finish(out, likelihood.take());
                }
            }
        }
        self.text(out, "", likelihood);
    }

    /// The rest of a chunk, from behind its text or delta.
    fn finish(&mut self, out: &mut Vec<u8>, likelihood: Option<&Likelihood>) {
        match likelihood {
            None => out.extend_from_slice(b",\"logprobs\":null"),
            Some(likelihood) => {
                out.extend_from_slice(b",\"logprobs\":");
                let told = self.joint.kind.logprobs(std::slice::from_ref(likelihood), &mut self.offset);
                write_json(out, &told);
            }
        }
        out.extend_from_slice(self.tail);
    }
}

impl Frames for ChoiceFrames {
    fn started(&mut self, out: &mut Vec<u8>, _begun: &Begun) {
        if self.joint.kind == Kind::Chat {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"{\"role\":\"assistant\",\"content\":\"\"}");
            self.finish(out, None);
        }
    }

    fn token(&mut self, out: &mut Vec<u8>, _index: u32, Said { text, likelihood, .. }: Said<'_>) {
        match self.reader.as_mut().map(|reader| reader.push(text)) {
            None => self.text(out, text, likelihood),
            Some(pieces) => self.pieces(out, pieces, likelihood),
        }
    }

    fn ended(&mut self, out: &mut Vec<u8>, ending: &Ending) {
        if let (Outcome::Done(_), Some(reader)) = (ending.outcome, &mut self.reader) {
            let pieces = reader.finish();
            self.pieces(out, pieces, None);
        }
        let mut progress = self.joint.progress();
        match (result(ending), ending.outcome) {
            (Ok(_), Outcome::Done(used)) => {
                let reason = reason(used.finish, self.called > 0);
                let choice = match self.joint.kind {
                    Kind::Chat => json!({"index": self.index, "delta": {}, "logprobs": null, "finish_reason": reason}),
                    Kind::Text => json!({"index": self.index, "text": "", "logprobs": null, "finish_reason": reason}),
                };
                data(out, &self.joint.chunk(json!([choice]), Value::Null));
                progress.used.add(&used, self.index.is_multiple_of(self.joint.each));
                progress.left = progress.left.saturating_sub(1);
                if progress.left == 0 {
                    if self.joint.include_usage {
                        data(out, &self.joint.chunk(json!([]), progress.used.json()));
                    }
                    out.extend_from_slice(b"data: [DONE]\n\n");
                }
            }
            (Err(problem), _) => {
                progress.failed = true;
                data(out, &problem.openai());
            }
            // Only `Done` is a result.
            (Ok(_), _) => {}
        }
    }

    fn closes(&self) -> bool {
        self.joint.progress().failed
    }
}
