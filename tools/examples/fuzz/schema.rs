//! Grammars of requests: JSON Schemas of every keyword with the wrong values, regular expressions, Lark. One that is
//! taken is followed for some tokens at random: each of them is allowed, and an answer that is complete is JSON.

use super::Target;
use super::text::{text, tokenizer};
use orchestrion_gpu::grammar::{GrammarError, Grammars};
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_scenarios::storm::draw::Draw;
use orchestrion_world::payload::Grammar;
use serde_json::{Map, Value, json};
use std::error::Error;
use std::sync::Arc;

const KEYWORDS: [&str; 32] = [
    "type",
    "type",
    "type",
    "properties",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "multipleOf",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "$ref",
    "$defs",
    "pattern",
    "format",
    "patternProperties",
    "uniqueItems",
    "if",
    "default",
    "x-unknown",
];
const TYPES: [&str; 8] = ["object", "array", "string", "integer", "number", "boolean", "null", "any"];
const NAMES: [&str; 5] = ["a", "b", "", "$ref", "ä\"\\"];
const PATTERNS: [&str; 10] =
    ["^a+$", "[0-9]{2,4}", "(", "(a|b)*c", ".*", "a{99999}", "(?=a)", "\\p{L}", "\\d", "[^\\x00]"];
const FORMATS: [&str; 5] = ["date-time", "uuid", "email", "ipv6", "nonsense"];
const NUMBERS: [f64; 8] = [0.0, 1.0, -1.0, 0.1, 3.0, 1e9, 1e300, -0.5];
const LARK: [&str; 6] = [
    "start: \"a\" b\nb: /[0-9]+/ | \"(\" start \")\"",
    "start: start start | \"x\"",
    "start: /a*/ /a*/",
    "start: undefined",
    "%llguidance {}\nstart: \"a\"{2,5}",
    "start: %json {\"type\": \"integer\"}",
];
/// Tokens of a walk.
const WALK: usize = 24;

pub(super) fn target(_: u64) -> Result<Target, Box<dyn Error>> {
    let tokenizer = Arc::new(tokenizer("llama")?);
    let grammars = Grammars::new(Arc::clone(&tokenizer));
    let read = move |input: &[u8]| read(&grammars, &tokenizer, input);
    Ok(Target { make: Box::new(|draw| Ok(serde_json::to_vec(&drawn(draw))?)), read: Box::new(read) })
}

fn drawn(draw: &mut Draw) -> Value {
    let grammar = match draw.below(10) {
        0 => json!(["regex", format!("{}{}", draw.of(&PATTERNS), draw.of(&PATTERNS))]),
        1 => json!(["regex", text(draw)]),
        2 => json!(["lark", draw.of(&LARK)]),
        3 => json!(["lark", draw.of(&LARK).to_owned() + &text(draw)]),
        _ => json!(["json", schema(draw, 3).to_string()]),
    };
    json!([grammar, draw.bits()])
}

fn schema(draw: &mut Draw, depth: u32) -> Value {
    if depth == 0 || draw.chance(5) {
        return json!(draw.chance(50));
    }
    let keys = 1 + draw.index(4);
    let pairs = (0..keys).map(|_| draw.of(&KEYWORDS)).collect::<Vec<_>>();
    let pairs = pairs.into_iter().map(|key| (key.to_owned(), value(draw, key, depth - 1)));
    Value::Object(pairs.collect())
}

fn value(draw: &mut Draw, key: &str, depth: u32) -> Value {
    if draw.chance(4) {
        return draw.of(&[Value::Null, json!(-1), json!("x"), json!([]), json!({})]);
    }
    let several = |draw: &mut Draw| (0..draw.below(3)).map(|_| schema(draw, depth)).collect::<Vec<_>>();
    let named =
        |draw: &mut Draw| (0..draw.below(3)).map(|_| (draw.of(&NAMES).to_owned(), schema(draw, depth))).collect();
    match key {
        "type" if draw.chance(80) => json!(draw.of(&TYPES)),
        "type" => json!([draw.of(&TYPES), draw.of(&TYPES)]),
        "properties" | "$defs" | "patternProperties" => Value::Object(Map::from_iter::<Vec<_>>(named(draw))),
        "required" => json!([draw.of(&NAMES), draw.of(&NAMES)]),
        "prefixItems" | "anyOf" | "oneOf" | "allOf" => Value::Array(several(draw)),
        "enum" => json!([draw.of(&NAMES), draw.of(&NUMBERS), null, { "a": [true] }]),
        "const" | "default" => json!({ "a": draw.of(&NAMES) }),
        "$ref" => json!(["#", "#/$defs/a", "#/nowhere", "elsewhere.json", "#/properties/a"][draw.index(5)]),
        "pattern" => json!(draw.of(&PATTERNS)),
        "format" => json!(draw.of(&FORMATS)),
        "uniqueItems" => json!(draw.chance(50)),
        "minItems" | "maxItems" | "minLength" | "maxLength" if draw.chance(60) => json!(draw.below(6)),
        "minItems" | "maxItems" | "minLength" | "maxLength" | "minimum" | "maximum" | "exclusiveMinimum"
        | "multipleOf" => {
            json!(draw.of(&NUMBERS))
        }
        _ => schema(draw, depth),
    }
}

fn read(grammars: &Grammars, tokenizer: &Tokenizer, input: &[u8]) -> Result<&'static str, String> {
    let ([kind, source], seed) =
        serde_json::from_slice::<([String; 2], u64)>(input).map_err(|error| error.to_string())?;
    let (source, is_json) = (source.into_boxed_str(), kind == "json");
    let grammar = match kind.as_str() {
        "regex" => Grammar::Regex(source),
        "lark" => Grammar::Lark(source),
        _ => Grammar::JsonSchema(source),
    };
    if grammars.check(&grammar).is_err() {
        return Ok("refused");
    }
    let mut walk = grammars.follow(Arc::new(grammar)).map_err(|error| error.to_string())?;
    let (mut draw, mut answer) = (Draw::new(seed, 0), Vec::new());
    for _ in 0..WALK {
        let allowed = match walk.allowed() {
            Ok(allowed) => allowed,
            Err(GrammarError::Stuck) => return Ok("stuck"),
            Err(error) => return Err(error.to_string()),
        };
        let may: Vec<u32> = (0..tokenizer.vocab_len() as u32).filter(|id| allowed.has(*id as usize)).collect();
        if may.is_empty() {
            return Err("no token is allowed, and nobody says so".to_owned());
        }
        let token = draw.of(&may);
        let is_over = tokenizer.is_end(token) || walk.push(token).map_err(|error| format!("{token}: {error}"))?;
        if !tokenizer.is_end(token) {
            answer.extend_from_slice(tokenizer.token_bytes(token));
        }
        if is_over && is_json && serde_json::from_slice::<serde::de::IgnoredAny>(&answer).is_err() {
            return Err(format!("no JSON: {}", answer.escape_ascii()));
        }
        if is_over {
            return Ok("complete");
        }
    }
    Ok("on its way")
}
