//! Takes a request's fields by name, with their types and ranges checked and the field named when wrong.
//!
//! Both surfaces read through this, so that `temperature` means the same on each. `null` is absence, as
//! clients of many languages write it. Fields that nobody takes are ignored.

use crate::port::{Content, Dropped, Message, Truncation};
use crate::problem::Problem;
use orchestrion_world::payload::Sampling;
use orchestrion_world::units::Permille;
use serde_json::{Map, Value, json};
use std::ops::RangeInclusive;

/// What a request leaves out: at OpenAI's 1.0 over the whole vocabulary a small model wanders off, so the
/// unlikely tail is cut as llama.cpp's server does by default.
const DEFAULT: Sampling = Sampling {
    seed: 0,
    temperature: Permille(700),
    top_k: 40,
    top_p: Permille(950),
    min_p: Permille(50),
    repetition_penalty: Permille(1_000),
};

/// As many and as long as OpenAI takes, with room.
const STOPS_MOST: usize = 4;
const STOP_BYTES: usize = 256;

/// What the client is told of it; null where nothing was left out.
pub(crate) fn dropped(Dropped { messages, tokens }: Dropped) -> Value {
    if tokens == 0 { Value::Null } else { json!({ "dropped_messages": messages, "dropped_tokens": tokens }) }
}

/// What a request's body says of drawing, with 0 for a seed that it does not name; the problem names the field.
pub fn sampling_of(body: Map<String, Value>) -> Result<Sampling, Problem> {
    Fields(body).sampling(0)
}

/// A JSON object that is used up.
#[derive(Debug)]
pub(crate) struct Fields(pub(crate) Map<String, Value>);

impl Fields {
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.get_mut(name).map(Value::take).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::invalid(name, "must be a string")),
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(Problem::invalid(name, "must be true or false")),
        }
    }

    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let problem = format!("must be a whole number from {} to {}", range.start(), range.end());
                Err(Problem::invalid(name, problem))
            }
        }
    }

    pub(crate) fn small(&mut self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, Problem> {
        let (low, high) = range.into_inner();
        let number = self.integer(name, u64::from(low)..=u64::from(high))?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    /// A share or factor between `low` and `high` thousandths.
    fn permille(&mut self, name: &str, low: u32, high: u32, default: u32) -> Result<Permille, Problem> {
        let Some(value) = self.take(name) else { return Ok(Permille(default)) };
        let scaled = value.as_f64().map(|number| number * 1_000.0);
        match scaled.filter(|scaled| (f64::from(low)..=f64::from(high)).contains(scaled)) {
            // In range, so the cast loses nothing but the fraction.
            Some(scaled) => Ok(Permille(scaled.round() as u32)),
            None => {
                let problem =
                    format!("must be a number from {} to {}", f64::from(low) / 1_000.0, f64::from(high) / 1_000.0);
                Err(Problem::invalid(name, problem))
            }
        }
    }

    /// One string or up to four.
    pub(crate) fn stop(&mut self) -> Result<Vec<String>, Problem> {
        let stops = match self.take("stop") {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(texts)) => {
                let strings = texts.into_iter().map(|text| match text {
                    Value::String(text) => Ok(text),
                    _ => Err(Problem::invalid("stop", "must be a string or a list of strings")),
                });
                strings.collect::<Result<_, _>>()?
            }
            Some(_) => return Err(Problem::invalid("stop", "must be a string or a list of strings")),
        };
        if stops.len() > STOPS_MOST || stops.iter().any(|stop| stop.is_empty() || stop.len() > STOP_BYTES) {
            let problem = format!("must be at most {STOPS_MOST} strings of 1 to {STOP_BYTES} bytes");
            return Err(Problem::invalid("stop", problem));
        }
        Ok(stops)
    }

    /// As in OpenAI's Responses API.
    pub(crate) fn truncation(&mut self) -> Result<Truncation, Problem> {
        match self.string("truncation")?.as_deref() {
            None | Some("disabled") => Ok(Truncation::Disabled),
            Some("auto") => Ok(Truncation::Auto),
            Some(_) => Err(Problem::invalid("truncation", "must be `auto` or `disabled`")),
        }
    }

    /// How to draw, with `seed` where the request names none.
    pub(crate) fn sampling(&mut self, seed: u64) -> Result<Sampling, Problem> {
        let seed = match self.take("seed") {
            None => seed,
            // Two's complement for the negative ones that OpenAI's clients may send.
            Some(Value::Number(number)) => number
                .as_u64()
                .or_else(|| number.as_i64().map(i64::cast_unsigned))
                .ok_or_else(|| Problem::invalid("seed", "must be a whole number of 64 bits"))?,
            Some(_) => return Err(Problem::invalid("seed", "must be a whole number of 64 bits")),
        };
        let top_k = match self.take("top_k") {
            None => DEFAULT.top_k,
            // -1 is vLLM's way to say all.
            Some(value) if value.as_i64() == Some(-1) => 0,
            Some(value) => value
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| Problem::invalid("top_k", "must be a whole number, 0 or -1 for all tokens"))?,
        };
        Ok(Sampling {
            seed,
            temperature: self.permille("temperature", 0, 2_000, DEFAULT.temperature.0)?,
            top_k,
            top_p: self.permille("top_p", 1, 1_000, DEFAULT.top_p.0)?,
            min_p: self.permille("min_p", 0, 1_000, DEFAULT.min_p.0)?,
            repetition_penalty: self.permille("repetition_penalty", 1, 10_000, DEFAULT.repetition_penalty.0)?,
        })
    }

    /// `[{role, content}]`, where content is text or a list of text parts.
    pub(crate) fn messages(&mut self) -> Result<Option<Content>, Problem> {
        let messages = match self.take("messages") {
            None => return Ok(None),
            Some(Value::Array(messages)) if !messages.is_empty() => messages,
            Some(_) => return Err(Problem::invalid("messages", "must be a list of at least one message")),
        };
        let read = messages.into_iter().enumerate().map(|(i, message)| read_message(i, message));
        Ok(Some(Content::Messages(read.collect::<Result<_, _>>()?)))
    }

    /// Refuses what this server knows and cannot do, rather than answer something else.
    pub(crate) fn unsupported(&mut self, checks: &[Unsupported]) -> Result<(), Problem> {
        for Unsupported { name, harmless, problem } in checks {
            if self.take(name).is_some_and(|value| !harmless(&value)) {
                return Err(Problem::invalid(*name, problem));
            }
        }
        Ok(())
    }
}

/// A known field, the values of it that change nothing, and what to say of the others.
pub(crate) struct Unsupported {
    pub(crate) name: &'static str,
    pub(crate) harmless: fn(&Value) -> bool,
    pub(crate) problem: &'static str,
}

fn read_message(i: usize, message: Value) -> Result<Message, Problem> {
    let Value::Object(message) = message else {
        return Err(Problem::invalid(format!("messages[{i}]"), "must be an object with `role` and `content`"));
    };
    let mut message = Fields(message);
    let role = match message.string("role").map_err(|_| bad_role(i))? {
        // The newer name of the same role; templates know the older.
        Some(role) if role == "developer" => "system".to_owned(),
        Some(role) if ["system", "user", "assistant", "tool"].contains(&role.as_str()) => role,
        _ => return Err(bad_role(i)),
    };
    let mut more = Vec::new();
    if let Some(calls) = message.take("tool_calls").filter(|calls| !is_empty(calls)) {
        more.push(("tool_calls", read_calls(i, calls)?));
    }
    for member in ["tool_call_id", "name"] {
        let text = message
            .string(member)
            .map_err(|_| Problem::invalid(format!("messages[{i}].{member}"), "must be a string"))?;
        more.extend(text.map(|text| (member, Value::String(text))));
    }
    let name = || format!("messages[{i}].content");
    let text = match message.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for mut part in parts {
                let is_text = part.get("type").is_some_and(|kind| kind == "text");
                match part.get_mut("text").map(Value::take) {
                    Some(Value::String(piece)) if is_text => text.push_str(&piece),
                    _ => return Err(Problem::invalid(name(), "only parts of type `text` are supported")),
                }
            }
            text
        }
        // A turn that only calls.
        None if more.iter().any(|(member, _)| *member == "tool_calls") => String::new(),
        _ => return Err(Problem::invalid(name(), "must be a string or a list of text parts")),
    };
    Ok(Message { role, content: text, more })
}

/// Calls of an earlier answer, their arguments as the object that templates expect.
fn read_calls(i: usize, calls: Value) -> Result<Value, Problem> {
    let Value::Array(mut calls) = calls else {
        return Err(Problem::invalid(format!("messages[{i}].tool_calls"), "must be a list of calls"));
    };
    for (j, call) in calls.iter_mut().enumerate() {
        let wrong = || {
            Problem::invalid(
                format!("messages[{i}].tool_calls[{j}].function"),
                "must have a `name`, and `arguments` that are the text of a JSON object",
            )
        };
        let function = call.get_mut("function").filter(|function| function.get("name").is_some_and(Value::is_string));
        let arguments = function.ok_or_else(wrong)?.get_mut("arguments").ok_or_else(wrong)?;
        if let Value::String(text) = arguments {
            // Nothing at all is how some clients write no arguments.
            let text = if text.is_empty() { "{}" } else { text };
            *arguments = serde_json::from_str(text).map_err(|_| wrong())?;
        }
        if !arguments.is_object() {
            return Err(wrong());
        }
    }
    Ok(Value::Array(calls))
}

fn bad_role(i: usize) -> Problem {
    Problem::invalid(format!("messages[{i}].role"), "must be `system`, `developer`, `user`, `assistant` or `tool`")
}

pub(crate) fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false)
}

/// What asks for nothing: false, 0, or what is empty.
pub(crate) fn is_nothing(value: &Value) -> bool {
    is_false(value) || is_zero(value) || is_empty(value) || value == ""
}

/// An empty list or object.
pub(crate) fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

pub(crate) fn is_zero(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.abs() < f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(fields) => Fields(fields),
            _ => panic!("an object"),
        }
    }

    #[test]
    fn ranges_are_checked_and_the_field_is_named() {
        for (body, param) in [
            (json!({"temperature": 2.1}), "temperature"),
            (json!({"temperature": -0.1}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_p": 0}), "top_p"),
            (json!({"top_p": 1.5}), "top_p"),
            (json!({"min_p": 2}), "min_p"),
            (json!({"top_k": -2}), "top_k"),
            (json!({"repetition_penalty": 0}), "repetition_penalty"),
            (json!({"seed": 1.5}), "seed"),
            (json!({"seed": "x"}), "seed"),
        ] {
            let problem = fields(body.clone()).sampling(0).unwrap_err();
            assert_eq!(problem.param.as_deref(), Some(param), "{body}");
        }
        let sampling = fields(json!({"temperature": 0.7, "top_k": -1, "seed": -1, "top_p": null})).sampling(9).unwrap();
        assert_eq!((sampling.temperature, sampling.top_k), (Permille(700), 0));
        assert_eq!((sampling.seed, sampling.top_p), (u64::MAX, DEFAULT.top_p));
        assert_eq!(fields(json!({})).sampling(9).unwrap().seed, 9);
    }

    #[test]
    fn messages_are_text() {
        let ok = json!({"messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ]});
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into(), more: vec![] };
        let expected = vec![message("system", "be brief"), message("user", "ab")];
        assert_eq!(fields(ok).messages().unwrap(), Some(Content::Messages(expected)));
        for (bad, param) in [
            (json!([]), "messages"),
            (json!([{"role": "root", "content": "x"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content"),
            (json!(["x"]), "messages[0]"),
        ] {
            let problem = fields(json!({ "messages": bad })).messages().unwrap_err();
            assert_eq!(problem.param.as_deref(), Some(param));
        }
    }

    #[test]
    fn calls_and_their_answers_are_messages() {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "a", "arguments": "{\"x\": 1}"}});
        let turns = json!({"messages": [
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "7"},
        ]});
        let Some(Content::Messages(turns)) = fields(turns).messages().unwrap() else { panic!("messages") };
        assert_eq!(turns[0].more[0].1[0]["function"], json!({"name": "a", "arguments": {"x": 1}}));
        assert_eq!((turns[0].content.as_str(), &turns[1].more), ("", &vec![("tool_call_id", json!("c1"))]));
        for bad in [
            json!(7),
            json!([7]),
            json!([{"function": {"name": "a"}}]),
            json!([{"function": {"name": "a", "arguments": "["}}]),
        ] {
            let body = json!({"messages": [{"role": "assistant", "tool_calls": bad}]});
            assert!(fields(body).messages().unwrap_err().param.unwrap().starts_with("messages[0].tool_calls"));
        }
    }

    #[test]
    fn stops_are_bounded() {
        assert_eq!(fields(json!({"stop": "x"})).stop().unwrap(), ["x"]);
        assert!(fields(json!({"stop": ["a", "b", "c", "d"]})).stop().is_ok());
        for bad in [json!(["a", "b", "c", "d", "e"]), json!(""), json!([1]), json!("x".repeat(300))] {
            assert!(fields(json!({ "stop": bad })).stop().is_err(), "{bad}");
        }
    }
}
