//! The chunks of a streamed chat or text completion, one writer for each choice.
//!
//! What is the same in every chunk is written once; a token costs two copies and its JSON string. Tokens
//! whose text is held back (half a character) make no chunk. The writers of one answer share a [`Joint`]:
//! the last choice to end writes the usage and `[DONE]`, the first to fail ends them all.

use super::openai::{Kind, Tally};
use crate::sse::{data, finish_reason, result, write_json};
use crate::task_entry::{Begun, Ending, Frames};
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
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    left: u32,
    used: Tally,
    failed: bool,
}

impl Joint {
    /// `frame` is what every chunk begins with.
    pub(crate) fn new(kind: Kind, frame: Value, choices: u32, include_usage: bool) -> Arc<Self> {
        let progress = Mutex::new(Progress { left: choices, used: Tally::default(), failed: false });
        Arc::new(Joint { kind, frame, include_usage, progress })
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
    /// From behind it, in a chunk that is not the last.
    tail: &'static [u8],
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
            true => b",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n",
            false => b",\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        };
        ChoiceFrames { index, head, tail, joint: Arc::clone(joint) }
    }
}

impl Frames for ChoiceFrames {
    fn started(&mut self, out: &mut Vec<u8>, _begun: &Begun) {
        if self.joint.kind == Kind::Chat {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"{\"role\":\"assistant\",\"content\":\"\"}");
            out.extend_from_slice(self.tail);
        }
    }

    fn token(&mut self, out: &mut Vec<u8>, _index: u32, text: &str) {
        if text.is_empty() {
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
        out.extend_from_slice(self.tail);
    }

    fn ended(&mut self, out: &mut Vec<u8>, ending: &Ending) {
        let mut progress = self.joint.progress();
        match (result(ending), ending.outcome) {
            (Ok(_), Outcome::Done(used)) => {
                let reason = finish_reason(used.finish);
                let choice = match self.joint.kind {
                    Kind::Chat => json!({"index": self.index, "delta": {}, "logprobs": null, "finish_reason": reason}),
                    Kind::Text => json!({"index": self.index, "text": "", "logprobs": null, "finish_reason": reason}),
                };
                data(out, &self.joint.chunk(json!([choice]), Value::Null));
                progress.used.add(&used);
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
