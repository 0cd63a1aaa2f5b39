//! `tojson` as chat templates expect it: Python's `json.dumps` with `ensure_ascii=False`.
//!
//! minijinja's own filter writes for web pages and escapes `<`, `>`, `&` and `'`; a model was never trained
//! on that. This one takes those escapes back and leaves all others alone.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, filters};

/// A client's JSON as a template's value; it is no deeper than a request may be.
pub(super) fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(number.as_f64()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from_iter(items.iter().map(value)),
        serde_json::Value::Object(members) => {
            Value::from_pairs(members.iter().map(|(name, json)| (name.as_str(), value(json))))
        }
    }
}

const WEB_ESCAPES: [(&str, char); 4] = [("u003c", '<'), ("u003e", '>'), ("u0026", '&'), ("u0027", '\'')];

pub(super) fn tojson(value: &Value, indent: Option<Value>, args: Kwargs) -> Result<Value, Error> {
    let written = filters::tojson(value, indent, args)?.to_string();
    let mut plain = String::with_capacity(written.len());
    let mut rest = written.as_str();
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let web = WEB_ESCAPES.iter().find_map(|(code, c)| after.strip_prefix(code).map(|left| (*c, left)));
        rest = match web {
            Some((c, left)) => {
                plain.push(c);
                left
            }
            None => {
                // Another escape: the backslash and what it escapes stay together, so that `\\u003c` is safe.
                let (escaped, left) = after.split_at(after.chars().next().map_or(0, char::len_utf8));
                plain.push('\\');
                plain.push_str(escaped);
                left
            }
        };
    }
    plain.push_str(rest);
    Ok(Value::from_safe_string(plain))
}
