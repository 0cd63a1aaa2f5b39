//! The tools that a model may call: `tools` and `tool_choice`, read, checked, and put into a request's words.
//!
//! A call that has to come is forced by a grammar: the prompt ends with what opens a call, and the answer is the
//! JSON of one. Where the model may choose, its answer is read as it comes (`calls`).

use super::calls::Calls;
use super::fields::Fields;
use crate::port::{Content, Prepare, Shape, Words};
use crate::problem::Problem;
use orchestrion_world::payload::{CallForm, Grammar};
use serde_json::{Map, Value, json};

const TOOLS_MOST: usize = 128;
const NAME_BYTES: usize = 64;

/// What a request says of tools.
#[derive(Debug)]
pub(crate) struct Tools {
    /// As the client wrote them, with their names.
    list: Vec<(String, Value)>,
    choice: Choice,
    /// Calls in an answer.
    most: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Auto,
    Required,
    Named(String),
}

/// `None` where no tool may be called.
pub(crate) fn tools(fields: &mut Fields) -> Result<Option<Tools>, Problem> {
    let most = match fields.boolean("parallel_tool_calls")? {
        Some(false) => 1,
        None | Some(true) => usize::MAX,
    };
    let list = match fields.take("tools") {
        None => Vec::new(),
        Some(Value::Array(list)) if list.len() <= TOOLS_MOST => list,
        Some(_) => return Err(Problem::invalid("tools", format!("must be a list of at most {TOOLS_MOST} tools"))),
    };
    let list: Vec<(String, Value)> = list.into_iter().enumerate().map(tool).collect::<Result<_, _>>()?;
    let choice = match fields.take("tool_choice") {
        None => Choice::Auto,
        Some(Value::String(word)) if word == "auto" => Choice::Auto,
        Some(Value::String(word)) if word == "none" => return Ok(None),
        Some(Value::String(word)) if word == "required" => Choice::Required,
        Some(named) => match named.pointer("/function/name").and_then(Value::as_str) {
            Some(name) => Choice::Named(name.to_owned()),
            None => {
                let problem =
                    "must be `none`, `auto`, `required`, or {\"type\": \"function\", \"function\": {\"name\": …}}";
                return Err(Problem::invalid("tool_choice", problem));
            }
        },
    };
    match &choice {
        Choice::Named(name) if !list.iter().any(|(known, _)| known == name) => {
            Err(Problem::invalid("tool_choice", "names a function that is not among `tools`"))
        }
        Choice::Required if list.is_empty() => Err(Problem::invalid("tool_choice", "needs `tools` to choose from")),
        Choice::Auto | Choice::Required | Choice::Named(_) => {
            Ok((!list.is_empty()).then_some(Tools { list, choice, most }))
        }
    }
}

fn tool((i, tool): (usize, Value)) -> Result<(String, Value), Problem> {
    if tool.get("type").is_none_or(|kind| kind != "function") {
        return Err(Problem::invalid(format!("tools[{i}].type"), "must be `function`"));
    }
    let plain = |name: &&str| {
        (1..=NAME_BYTES).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    let Some(name) = tool.pointer("/function/name").and_then(Value::as_str).filter(plain).map(str::to_owned) else {
        let problem = format!("must be 1 to {NAME_BYTES} of the letters a-z, A-Z, 0-9, `_`, `-` and `.`");
        return Err(Problem::invalid(format!("tools[{i}].function.name"), problem));
    };
    if tool.pointer("/function/parameters").is_some_and(|schema| !schema.is_object() && !schema.is_null()) {
        return Err(Problem::invalid(format!("tools[{i}].function.parameters"), "must be a JSON Schema"));
    }
    Ok((name, tool))
}

impl Tools {
    /// Puts the tools into the words, and says how calls are to be found in the answer.
    pub(crate) fn offer(&self, prepare: &dyn Prepare, words: &mut Words) -> Result<Calls, Problem> {
        if !matches!(words.content, Content::Messages(_)) {
            return Err(Problem::invalid("tools", "are for `messages`; a bare prompt has no place for them"));
        }
        if let Some(shape) = &words.shape {
            let problem = "cannot be combined with tools that may be called; send `tool_choice: \"none\"`";
            return Err(Problem::invalid(shape.field, problem));
        }
        let form = prepare.call_form(&words.model)?;
        if self.choice != Choice::Auto {
            let grammar = Grammar::JsonSchema(self.schema(form).to_string().into());
            words.shape = Some(Shape { grammar, field: "tools" });
            words.opening = form.opens;
        }
        words.tools = self.list.iter().map(|(_, tool)| tool.clone()).collect();
        Ok(Calls::new(form, self.list.iter().map(|(name, _)| name.clone()).collect(), self.most))
    }

    /// What a call of one of the tools that may be called looks like.
    fn schema(&self, form: CallForm) -> Value {
        let may = |name: &str| match &self.choice {
            Choice::Auto | Choice::Required => true,
            Choice::Named(named) => named == name,
        };
        let within = if form.in_list { "#/items" } else { "#" };
        let calls = self.list.iter().filter(|(name, _)| may(name)).enumerate().map(|(i, (name, tool))| {
            let given = tool.pointer("/function/parameters").filter(|schema| !schema.is_null()).cloned();
            let mut arguments = given.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
            rebase(&mut arguments, &format!("{within}/anyOf/{i}/properties/{}", form.arguments));
            let mut properties = Map::new();
            properties.insert("name".to_owned(), json!({"const": name}));
            properties.insert(form.arguments.to_owned(), arguments);
            json!({
                "type": "object",
                "properties": properties,
                "required": ["name", form.arguments],
                "additionalProperties": false,
            })
        });
        let call = json!({"anyOf": calls.collect::<Vec<Value>>()});
        match form.in_list {
            true => json!({"type": "array", "items": call, "minItems": 1, "maxItems": 1}),
            false => call,
        }
    }
}

/// A schema's references to itself, once it stands at `place` of a larger one. It is no deeper than a body may be.
fn rebase(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| match value {
            Value::String(target) if name == "$ref" => {
                if let Some(path) = target.strip_prefix('#') {
                    *target = format!("{place}{path}");
                }
            }
            value => rebase(value, place),
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, place)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: CallForm =
        CallForm { opens: "<tool_call>\n", closes: "</tool_call>", arguments: "arguments", in_list: false };

    fn read(body: Value) -> Result<Option<Tools>, Problem> {
        tools(&mut Fields(body.as_object().unwrap().clone()))
    }

    fn function(name: &str, parameters: Value) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    }

    #[test]
    fn a_forced_call_has_the_arguments_of_its_tool() {
        let item = json!({"$ref": "#/$defs/city"});
        let nested = json!({"type": "object", "properties": {"to": item}, "$defs": {"city": {"type": "string"}}});
        let list = json!([function("a", Value::Null), function("b", nested)]);
        let choose = |choice: Value| read(json!({"tools": list, "tool_choice": choice})).unwrap().unwrap();
        let all = choose(json!("required")).schema(FORM);
        assert_eq!(all["anyOf"][0]["properties"]["name"], json!({"const": "a"}));
        let to = "#/anyOf/1/properties/arguments/$defs/city";
        assert_eq!(all["anyOf"][1]["properties"]["arguments"]["properties"]["to"]["$ref"], to);
        assert!(all.pointer(&to[1..]).is_some());
        let named = json!({"type": "function", "function": {"name": "b"}});
        let listed = CallForm { in_list: true, arguments: "parameters", ..FORM };
        let one = choose(named).schema(listed);
        let to = "#/items/anyOf/0/properties/parameters/$defs/city";
        assert_eq!(one["items"]["anyOf"][0]["properties"]["parameters"]["properties"]["to"]["$ref"], to);
        assert!(one.pointer(&to[1..]).is_some() && one["items"]["anyOf"][1].is_null());
    }

    #[test]
    fn tools_are_read_and_checked() {
        let list = json!([function("a", json!({}))]);
        assert!(read(json!({})).unwrap().is_none());
        assert!(read(json!({"tools": [], "tool_choice": "auto"})).unwrap().is_none());
        assert!(read(json!({"tools": list, "tool_choice": "none"})).unwrap().is_none());
        assert_eq!(read(json!({"tools": list})).unwrap().unwrap().choice, Choice::Auto);
        let single = |flag: bool| read(json!({"tools": list, "parallel_tool_calls": flag})).unwrap().unwrap().most;
        assert_eq!((single(false), single(true)), (1, usize::MAX));
        for (body, param) in [
            (json!({"tools": {}}), "tools"),
            (json!({"tools": vec![function("a", json!({})); 129]}), "tools"),
            (json!({"tools": ["a"]}), "tools[0].type"),
            (json!({"tools": [function("a b", json!({}))]}), "tools[0].function.name"),
            (json!({"tools": [function("a", json!(7))]}), "tools[0].function.parameters"),
            (json!({"tools": list, "tool_choice": "b"}), "tool_choice"),
            (json!({"tools": list, "tool_choice": {"function": {"name": "b"}}}), "tool_choice"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"tools": list, "parallel_tool_calls": 1}), "parallel_tool_calls"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }
}
