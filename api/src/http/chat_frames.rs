//! The chunks of a streamed chat completion.
//!
//! What is the same in every chunk is written once; a token costs two copies and its JSON string. Tokens
//! whose text is held back (half a character) make no chunk.

use crate::sse::{data, finish_reason, result, write_json};
use crate::task_entry::{Begun, Ending, Frames};
use orchestrion_world::protocol::{Outcome, Usage};
use serde_json::{Value, json};

#[derive(Debug)]
pub(crate) struct ChatFrames {
    /// Up to and with the delta's key.
    head: Vec<u8>,
    /// From behind the delta of a chunk that is not the last.
    tail: &'static [u8],
    /// The chunk without choices and usage.
    frame: Value,
    include_usage: bool,
}

impl ChatFrames {
    pub(crate) fn new(id: &str, created: u64, model: &str, fingerprint: &str, include_usage: bool) -> Self {
        let frame = json!({
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        });
        let mut head = b"data: ".to_vec();
        write_json(&mut head, &frame);
        head.pop();
        head.extend_from_slice(b",\"choices\":[{\"index\":0,\"delta\":");
        let tail: &[u8] = match include_usage {
            true => b",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n",
            false => b",\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        };
        ChatFrames { head, tail, frame, include_usage }
    }

    fn last(&self, choices: Value, usage: Value) -> Value {
        let mut frame = self.frame.clone();
        frame["choices"] = choices;
        if self.include_usage {
            frame["usage"] = usage;
        }
        frame
    }
}

impl Frames for ChatFrames {
    fn started(&mut self, out: &mut Vec<u8>, _begun: &Begun) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"role\":\"assistant\",\"content\":\"\"}");
        out.extend_from_slice(self.tail);
    }

    fn token(&mut self, out: &mut Vec<u8>, _index: u32, text: &str) {
        if text.is_empty() {
            return;
        }
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"content\":");
        write_json(out, text);
        out.push(b'}');
        out.extend_from_slice(self.tail);
    }

    fn ended(&mut self, out: &mut Vec<u8>, ending: &Ending) {
        match (result(ending), ending.outcome) {
            (Ok(_), Outcome::Done(used)) => {
                let reason = finish_reason(used.finish);
                let choice = json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": reason}]);
                data(out, &self.last(choice, Value::Null));
                if self.include_usage {
                    data(out, &self.last(json!([]), usage(&used)));
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            (Err(problem), _) => data(out, &problem.openai()),
            // Only `Done` is a result.
            (Ok(_), _) => {}
        }
    }
}

pub(crate) fn usage(used: &Usage) -> Value {
    json!({
        "prompt_tokens": used.tokens_in,
        "completion_tokens": used.tokens_out,
        "total_tokens": u64::from(used.tokens_in) + u64::from(used.tokens_out),
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}
