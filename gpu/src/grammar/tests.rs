//! Grammars over the generated model's vocabulary: what they allow, what they refuse, what they cost at most.

use super::*;
use crate::generate::{GenSpec, generate};
use crate::gguf::Gguf;
use crate::numerics::noise::Noise;

fn grammars() -> Grammars {
    let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
    Grammars::new(Arc::new(Tokenizer::from_gguf(&gguf).unwrap()))
}

/// A text that random choices among the allowed tokens make; `None` where it is longer than `most` tokens.
fn babble(grammars: &Grammars, grammar: &Grammar, noise: &mut Noise, most: usize) -> Option<String> {
    let mut follower = grammars.follow(Arc::new(grammar.clone())).unwrap();
    let (mut text, vocab) = (Vec::new(), grammars.tokenizer.vocab_len());
    for _ in 0..most {
        let allowed = follower.allowed().unwrap();
        let tokens: Vec<usize> = (0..vocab).filter(|token| allowed.has(*token)).collect();
        let token = tokens[noise.below(tokens.len() as u64)] as u32;
        text.extend_from_slice(if grammars.tokenizer.is_end(token) {
            b""
        } else {
            grammars.tokenizer.token_bytes(token)
        });
        if grammars.tokenizer.is_end(token) || follower.push(token).unwrap() {
            return Some(String::from_utf8(text).unwrap());
        }
    }
    None
}

#[test]
fn answers_are_what_their_grammar_says() {
    let (grammars, mut noise) = (grammars(), Noise(1));
    let schema = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "old": {"type": "boolean"}},
        "required": ["name", "old"], "additionalProperties": false}"#;
    let mut ended = 0;
    for _ in 0..20 {
        let Some(text) = babble(&grammars, &Grammar::JsonSchema(schema.into()), &mut noise, 100) else { continue };
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(
            value["name"].is_string() && value["old"].is_boolean() && value.as_object().unwrap().len() == 2,
            "{text}"
        );
        ended += 1;
    }
    assert!(ended >= 15, "{ended} of 20 came to an end");
    for _ in 0..20 {
        let text = babble(&grammars, &Grammar::Regex("(cat|dog)s? [0-9]{3}".into()), &mut noise, 20).unwrap();
        let (animal, number) = text.split_once(' ').unwrap();
        assert!(["cat", "cats", "dog", "dogs"].contains(&animal) && number.len() == 3, "{text}");
        number.parse::<u32>().unwrap();
        let sum = Grammar::Lark("start: term (\"+\" term)? \nterm: /[0-9]/ | \"(\" term \")\"".into());
        let text = babble(&grammars, &sum, &mut noise, 60).unwrap_or_default();
        assert_eq!(text.matches('(').count(), text.matches(')').count(), "{text}");
    }
}

#[test]
fn control_tokens_come_only_where_the_grammar_may_end() {
    let grammars = grammars();
    let mut follower = grammars.follow(Arc::new(Grammar::Regex("a+".into()))).unwrap();
    let control = |allowed: Allowed<'_>| {
        let ids = (0..grammars.tokenizer.vocab_len() as u32).filter(|id| grammars.tokenizer.is_control(*id));
        ids.filter(|id| allowed.has(*id as usize)).collect::<Vec<u32>>()
    };
    let a = (0..grammars.tokenizer.vocab_len() as u32).find(|id| grammars.tokenizer.token_bytes(*id) == b"a").unwrap();
    assert!(control(follower.allowed().unwrap()).is_empty());
    assert!(!follower.push(a).unwrap());
    let ends: Vec<u32> =
        (0..grammars.tokenizer.vocab_len() as u32).filter(|id| grammars.tokenizer.is_end(*id)).collect();
    assert_eq!(control(follower.allowed().unwrap()), ends);
    assert!(!follower.allowed().unwrap().has(1 << 20));
}

/// A string, not empty, whose length is a multiple of each of these.
fn all_of_lengths(lengths: &[u32]) -> String {
    let each: String = lengths.iter().map(|n| format!(r#"{{"pattern": "^(a{{{n}}})*$"}},"#)).collect();
    format!(r#"{{"type": "string", "minLength": 1, "allOf": [{}]}}"#, each.trim_end_matches(','))
}

#[test]
fn what_cannot_be_followed_is_refused_in_words() {
    let grammars = grammars();
    let says = |grammar: Grammar| match grammars.check(&grammar) {
        Err(error) => error.to_string(),
        Ok(()) => panic!("{grammar:?} was taken"),
    };
    for (grammar, words) in [
        (Grammar::JsonSchema("{".into()), "line 1"),
        (Grammar::JsonSchema("[]".into()), "must be an object"),
        (Grammar::JsonSchema(r#"{"type": "thing"}"#.into()), "thing"),
        (Grammar::JsonSchema(r#"{"type": "array", "uniqueItems": true}"#.into()), "uniqueItems"),
        (Grammar::JsonSchema(r##"{"$ref": "#/$defs/none"}"##.into()), "none"),
        (Grammar::JsonSchema(r#"{"$ref": "https://example.org/schema"}"#.into()), "$ref"),
        (Grammar::Regex("(".into()), "unclosed group"),
        (Grammar::JsonSchema(r##"{"$ref": "#"}"##.into()), "no answer can begin"),
        (Grammar::Regex("[^\\s\\S]".into()), "no answer can begin"),
        (Grammar::Lark("start: start \"a\"".into()), "no answer can begin"),
        (Grammar::Lark("begin: \"a\"".into()), "start"),
        (Grammar::Lark("start: missing".into()), "missing"),
        (Grammar::Regex("a".repeat(MAX_BYTES + 1).into()), "bytes long"),
        // Too many numbers to try, one that does not fit, and a string that has to be as long as a product of primes.
        (Grammar::JsonSchema(r#"{"type": "number", "maximum": 1e9, "multipleOf": 1e8}"#.into()), "bounds"),
        (Grammar::JsonSchema(r#"{"type": "number", "maximum": 1e9, "multipleOf": 1e9}"#.into()), "overflow"),
        (Grammar::JsonSchema(all_of_lengths(&[2, 3, 5, 7, 11, 13, 17, 19, 23, 29]).into()), "empty"),
    ] {
        let said = says(grammar);
        assert!(said.contains(words) && said.len() <= 400 && !said.contains("panic"), "{said}");
    }
}

/// Whatever is asked for, it is refused, or each step of it stays within its bounds, and the next one is served.
#[test]
fn hostile_grammars_cost_little_and_break_nothing() {
    let (grammars, mut noise) = (grammars(), Noise(3));
    let nested = |n: usize, open: &str, close: &str| open.repeat(n) + close.repeat(n).as_str();
    let object =
        |n| format!("{}{{\"type\":\"null\"}}{}", r#"{"type":"object","properties":{"a":"#.repeat(n), "}}".repeat(n));
    let name = |i: usize| [i / 676, i / 26, i].map(|i| char::from(b'a' + (i % 26) as u8)).iter().collect::<String>();
    let chain = |kind: &str| {
        let link = |i| format!("{kind}{}: {kind}{}\n", name(i), name(i + 1));
        (0..5_000).map(link).collect::<String>() + &format!("{kind}{}: \"a\"\n", name(5_000))
    };
    let references = |n: usize, more: &str| {
        let link = |i| format!(r##""{i}":{{{more}"$ref":"#/$defs/{}"}},"##, i + 1);
        let links: String = (0..n).map(link).collect();
        format!(r##"{{"$defs":{{{links}"{n}":{{"type":"null"}}}},"$ref":"#/$defs/0"}}"##)
    };
    let wide: String = (0..2_000).map(|i| format!("\"p{i}\":{{\"type\":\"string\"}},")).collect();
    let hostile = [
        Grammar::Regex(nested(5_000, "(", ")").into()),
        Grammar::Regex("(((a{1,500}){1,500}){1,500}){1,500}".into()),
        Grammar::Regex("(a|b|ab)*c".repeat(3_000).into()),
        Grammar::Regex("x".repeat(60_000).into()),
        Grammar::Regex(r"(?:\p{L}{0,300}x){200}".into()),
        Grammar::Lark(format!("start: {}", nested(4_000, "(", ")")).into()),
        Grammar::Lark("start: start start | \"a\" | ".into()),
        Grammar::Lark(format!("start: {}", nested(30_000, "(", ")")).into()),
        // As long a chain as a grammar has room for, of rules, terminals and references.
        Grammar::Lark(format!("start: raaa\n{}", chain("r")).into()),
        Grammar::Lark(format!("start: TAAA\n{}", chain("T").to_uppercase()).into()),
        Grammar::JsonSchema(references(2_000, "").into()),
        Grammar::JsonSchema(references(1_400, "\"type\":\"null\",").into()),
        Grammar::JsonSchema(
            references(1_400, "").replace("{\"$ref", "{\"allOf\":[{\"$ref").replace("\"}", "\"}]}").into(),
        ),
        Grammar::Lark("start: /(.|\\n)*/ /(.|\\n)*/ /(.|\\n)*/ /(.|\\n)*/ \"x\"".into()),
        Grammar::JsonSchema(object(60).into()),
        Grammar::JsonSchema(r#"{"type":"string","minLength":1000000,"maxLength":2000000}"#.into()),
        Grammar::JsonSchema(r#"{"type":"array","minItems":1000000}"#.into()),
        Grammar::JsonSchema(r##"{"$ref":"#"}"##.into()),
        Grammar::JsonSchema(r##"{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}"##.into()),
        Grammar::JsonSchema(r#"{"enum":[]}"#.into()),
        Grammar::JsonSchema(
            format!("{{\"type\":\"object\",\"properties\":{{{}}}}}", wide.trim_end_matches(',')).into(),
        ),
        Grammar::JsonSchema(format!("{{\"type\":\"{}\"}}", "ä".repeat(99)).into()),
        Grammar::JsonSchema(r#"{"x-guidance":{"lenient":true},"type":"array","uniqueItems":true}"#.into()),
    ];
    let mut worst = (0, 0);
    for grammar in hostile {
        let (Grammar::JsonSchema(text) | Grammar::Regex(text) | Grammar::Lark(text)) = &grammar;
        assert!(text.len() <= MAX_BYTES, "refused for its length alone");
        let head: String = text.chars().take(60).collect();
        if grammars.check(&grammar).is_ok() {
            let mut follower = grammars.follow(Arc::new(grammar.clone())).unwrap();
            for _ in 0..8 {
                let Ok(allowed) = follower.allowed() else { break };
                let tokens: Vec<usize> =
                    (0..grammars.tokenizer.vocab_len()).filter(|token| allowed.has(*token)).collect();
                let (lexer, items) = follower.cost().unwrap();
                worst = (worst.0.max(lexer), worst.1.max(items));
                // A bound is looked at now and then: what is overshot is little.
                let within = lexer <= 2 * LIMITS.step_lexer_fuel && items <= 2 * LIMITS.step_max_items;
                assert!(within, "{lexer} of lexing, {items} items: {head}");
                let token = tokens[noise.below(tokens.len() as u64)] as u32;
                if grammars.tokenizer.is_end(token) || follower.push(token).unwrap_or(true) {
                    break;
                }
            }
        }
    }
    assert!(worst > (0, 0), "nothing was followed");
    assert!(babble(&grammars, &Grammar::Regex("ok".into()), &mut noise, 4).is_some());
}

#[test]
fn the_newest_grammars_are_kept() {
    let grammars = grammars();
    let grammar = |i: usize| Grammar::Regex(format!("a{{{}}}", i + 1).into());
    (0..KEPT + 3).for_each(|i| grammars.check(&grammar(i)).unwrap());
    grammars.check(&grammar(KEPT)).unwrap();
    let shop = &grammars.open().unwrap().shop;
    assert_eq!(shop.compiled.lock().unwrap().len(), KEPT);
    assert!(shop.find(&grammar(2)).is_none() && shop.find(&grammar(3)).is_some());
}
