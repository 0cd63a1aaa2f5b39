//! A reader of server-sent events, as the standard has them: enough for a test to see every event's name,
//! id and data, and when it came.

use serde_json::Value;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    /// Text where it is not JSON, as `[DONE]` is not.
    pub(crate) data: Value,
}

/// Events of a response, as they come.
#[derive(Debug)]
pub(crate) struct Events {
    response: reqwest::Response,
    pending: Vec<u8>,
}

impl Events {
    pub(crate) async fn of(response: reqwest::Response) -> Events {
        if response.headers()["content-type"] != "text/event-stream" {
            panic!("no stream but {}: {}", response.status(), response.text().await.unwrap());
        }
        Events { response, pending: Vec::new() }
    }

    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.pending.drain(..end + 2).collect();
                if let Some(event) = parse(std::str::from_utf8(&block).expect("events are UTF-8")) {
                    return Some(event);
                }
                continue;
            }
            let chunk = self.response.chunk().await.expect("the stream breaks off")?;
            self.pending.extend_from_slice(&chunk);
        }
    }

    /// Everything up to the end.
    pub(crate) async fn rest(mut self) -> Vec<Event> {
        let mut events = vec![];
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// A block of comments only is no event.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_start().to_owned());
        block.lines().find_map(value)
    };
    let data = field("data")?;
    let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
    Some(Event { name: field("event").unwrap_or_default(), id: field("id"), data })
}
