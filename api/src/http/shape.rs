//! What an answer has to look like: OpenAI's `response_format`, with `regex` and `grammar` beside its own types, and
//! the names that vLLM's clients send.
//!
//! Reads the request alone; whether a model can follow the grammar is for `Prepare` to say.

use super::fields::Fields;
use crate::port::Shape;
use crate::problem::Problem;
use orchestrion_world::payload::Grammar;
use serde_json::{Map, Value, json};

/// How a field's value becomes a grammar; `None` where it asks for nothing.
type Read = fn(Value) -> Result<Option<Grammar>, &'static str>;

/// How a member's value does.
type ReadKind = fn(Value) -> Result<Grammar, &'static str>;

/// Every field that asks for a shape. One of them may.
const FIELDS: [(&str, Read); 6] = [
    ("response_format", response_format),
    ("structured_outputs", |value| match value {
        Value::Object(kinds) => one_of(kinds, &KINDS),
        _ => Err("must be an object"),
    }),
    ("guided_json", |value| schema(value).map(Some)),
    ("guided_regex", |value| regex(value).map(Some)),
    ("guided_choice", |value| choice(value).map(Some)),
    ("guided_grammar", |value| lark(value).map(Some)),
];

/// The members of `structured_outputs`.
const KINDS: [(&str, ReadKind); 5] =
    [("json", schema), ("json_object", |_| Ok(any_object())), ("regex", regex), ("choice", choice), ("grammar", lark)];

/// The shape that a request asks for.
pub(crate) fn shape(fields: &mut Fields) -> Result<Option<Shape>, Problem> {
    let mut asked: Option<Shape> = None;
    for (field, read) in FIELDS {
        let Some(value) = fields.take(field) else { continue };
        let Some(grammar) = read(value).map_err(|problem| Problem::invalid(field, problem))? else { continue };
        if let Some(other) = &asked {
            return Err(Problem::invalid(
                field,
                format!("`{}` asks for a shape already; send one of them", other.field),
            ));
        }
        asked = Some(Shape { grammar, field });
    }
    Ok(asked)
}

fn response_format(value: Value) -> Result<Option<Grammar>, &'static str> {
    const TYPES: &str = "must be an object whose `type` is `text`, `json_object`, `json_schema`, `regex` or `grammar`";
    let Value::Object(mut format) = value else { return Err(TYPES) };
    let kind = format.get_mut("type").map(Value::take);
    match kind.as_ref().and_then(Value::as_str) {
        Some("text") => Ok(None),
        // llama.cpp's clients put a schema beside it.
        Some("json_object") => match format.get_mut("schema").map(Value::take) {
            Some(given) => schema(given).map(Some),
            None => Ok(Some(any_object())),
        },
        Some("json_schema") => match format.get_mut("json_schema").and_then(|inner| inner.get_mut("schema")) {
            Some(given) => schema(given.take()).map(Some),
            None => Err("`json_schema` must be an object with the schema as its `schema`"),
        },
        Some("regex") => one_of(format, &[("regex", regex)]),
        Some("grammar") => one_of(format, &[("grammar", lark)]),
        _ => Err(TYPES),
    }
}

/// The member that is there, of those that may be.
fn one_of(mut given: Map<String, Value>, kinds: &[(&str, ReadKind)]) -> Result<Option<Grammar>, &'static str> {
    let mut found = None;
    for (name, read) in kinds {
        let value =
            given.get_mut(*name).map(Value::take).filter(|value| !value.is_null() && *value != Value::Bool(false));
        let Some(value) = value else { continue };
        if found.replace(read(value)?).is_some() {
            return Err("asks for several shapes; send one");
        }
    }
    found.map(Some).ok_or("has none of the members that say the shape")
}

fn schema(value: Value) -> Result<Grammar, &'static str> {
    match value {
        Value::Object(_) => Ok(Grammar::JsonSchema(value.to_string().into())),
        // As text, which some clients send.
        Value::String(text) => Ok(Grammar::JsonSchema(text.into())),
        _ => Err("a JSON Schema must be an object"),
    }
}

fn any_object() -> Grammar {
    Grammar::JsonSchema(json!({"type": "object"}).to_string().into())
}

fn regex(value: Value) -> Result<Grammar, &'static str> {
    match value {
        Value::String(text) => Ok(Grammar::Regex(text.into())),
        _ => Err("a regular expression must be a string"),
    }
}

fn lark(value: Value) -> Result<Grammar, &'static str> {
    match value {
        Value::String(text) => Ok(Grammar::Lark(text.into())),
        _ => Err("a grammar must be a string in Lark's syntax"),
    }
}

/// One of the texts, as it stands. Lark writes strings as JSON does.
fn choice(value: Value) -> Result<Grammar, &'static str> {
    const WRONG: &str = "must be a list of texts to choose from";
    let Value::Array(texts) = value else { return Err(WRONG) };
    if texts.is_empty() || !texts.iter().all(|text| text.as_str().is_some_and(|text| !text.is_empty())) {
        return Err(WRONG);
    }
    let texts: Vec<String> = texts.iter().map(Value::to_string).collect();
    Ok(Grammar::Lark(format!("start: {}", texts.join(" | ")).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Option<Shape>, Problem> {
        shape(&mut Fields(body.as_object().unwrap().clone()))
    }

    #[test]
    fn every_name_asks_for_its_grammar() {
        let object = || Grammar::JsonSchema(r#"{"type":"object"}"#.into());
        let given = json!({"type": "object"});
        for (body, grammar) in [
            (json!({"response_format": {"type": "json_object"}}), object()),
            (json!({"response_format": {"type": "json_object", "schema": given}}), object()),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": given}}}),
                object(),
            ),
            (json!({"response_format": {"type": "regex", "regex": "a+"}}), Grammar::Regex("a+".into())),
            (
                json!({"response_format": {"type": "grammar", "grammar": "start: \"a\""}}),
                Grammar::Lark("start: \"a\"".into()),
            ),
            (json!({"structured_outputs": {"json": given, "regex": null}}), object()),
            (json!({"structured_outputs": {"json_object": true, "choice": null}}), object()),
            (json!({"guided_json": given.to_string()}), object()),
            (json!({"guided_choice": ["a", "\"b\\"]}), Grammar::Lark(r#"start: "a" | "\"b\\""#.into())),
            (json!({"response_format": {"type": "text"}, "guided_regex": "a"}), Grammar::Regex("a".into())),
        ] {
            assert_eq!(read(body.clone()).unwrap().map(|shape| shape.grammar), Some(grammar), "{body}");
        }
        assert_eq!(read(json!({"response_format": {"type": "text"}})).unwrap(), None);
        assert_eq!(read(json!({"response_format": null})).unwrap(), None);
    }

    #[test]
    fn what_is_no_shape_is_refused_with_its_field() {
        for (body, param) in [
            (json!({"response_format": "json"}), "response_format"),
            (json!({"response_format": {"type": "xml"}}), "response_format"),
            (json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}), "response_format"),
            (json!({"response_format": {"type": "json_schema", "json_schema": 7}}), "response_format"),
            (json!({"response_format": {"type": "regex"}}), "response_format"),
            (json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs"),
            (json!({"structured_outputs": {}}), "structured_outputs"),
            (json!({"guided_json": 7}), "guided_json"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_choice": ["a", 1]}), "guided_choice"),
            (json!({"guided_regex": "a", "guided_grammar": "b"}), "guided_grammar"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }
}
