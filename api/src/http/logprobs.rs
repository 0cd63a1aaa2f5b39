//! Log probabilities: how requests ask for them, and the three forms that answers give them in.
//!
//! A token whose bytes are no whole characters is spelled `bytes:\xe2\x80`, as OpenAI does; its `bytes` say the
//! same in numbers. The token that ends an answer has none.

use super::fields::Fields;
use crate::problem::Problem;
use orchestrion_world::payload::{Bias, Likelihood, Likely};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// As many rivals of a token as OpenAI tells.
const TOP_MOST: u32 = 20;
/// As many on the older route.
const TEXT_TOP_MOST: u32 = 5;
const BIASES_MOST: usize = 1_024;
const BIAS_MOST: f64 = 100.0;

/// `logprobs: true` and perhaps `top_logprobs`: on the chat route and in tasks.
pub(crate) fn of_chat(fields: &mut Fields) -> Result<Option<u8>, Problem> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    match fields.small("top_logprobs", 0..=TOP_MOST)? {
        Some(top) if top > 0 && !wanted => Err(Problem::invalid("top_logprobs", "needs `logprobs: true`")),
        top => Ok(wanted.then_some(top.unwrap_or(0) as u8)),
    }
}

/// `logprobs: 3`: on the completions route.
pub(crate) fn of_text(fields: &mut Fields) -> Result<Option<u8>, Problem> {
    Ok(fields.small("logprobs", 0..=TEXT_TOP_MOST)?.map(|top| top as u8))
}

/// `logit_bias: {"50256": -100}`.
pub(crate) fn bias(fields: &mut Fields) -> Result<Vec<Bias>, Problem> {
    let biases = match fields.take("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(biases)) if biases.len() <= BIASES_MOST => biases,
        Some(_) => {
            let problem = format!("must be an object of at most {BIASES_MOST} token ids and numbers");
            return Err(Problem::invalid("logit_bias", problem));
        }
    };
    let mut read: Vec<Bias> = biases.iter().map(|(token, by)| one_bias(token, by)).collect::<Result<_, _>>()?;
    read.sort_unstable_by_key(|bias| bias.token);
    match read.windows(2).find(|pair| pair[0].token == pair[1].token) {
        Some(pair) => Err(Problem::invalid("logit_bias", format!("names token {} twice", pair[0].token))),
        None => Ok(read),
    }
}

fn one_bias(token: &str, by: &Value) -> Result<Bias, Problem> {
    let by = by.as_f64().filter(|by| by.abs() <= BIAS_MOST);
    match (token.parse(), by) {
        // Within bounds, so the cast loses nothing but the fraction.
        (Ok(token), Some(by)) => Ok(Bias { token, by: (by * 1_000.0).round() as i32 }),
        _ => {
            Err(Problem::invalid("logit_bias", "must be token ids with numbers from -100 to 100, as in {\"11\": -100}"))
        }
    }
}

/// One entry of a chat choice's `logprobs.content`, and of a task's.
pub(crate) fn entry(likelihood: &Likelihood) -> Value {
    let mut entry = one(&likelihood.drawn);
    entry["top_logprobs"] = likelihood.top.iter().map(one).collect();
    entry
}

fn one(likely: &Likely) -> Value {
    json!({"token": spelled(likely), "logprob": logprob(likely), "bytes": &*likely.bytes})
}

/// A chat choice's `logprobs`.
pub(crate) fn chat(likelihoods: &[Likelihood]) -> Value {
    json!({"content": likelihoods.iter().map(entry).collect::<Vec<Value>>(), "refusal": null})
}

/// A text choice's `logprobs`; the first token begins at character `offset` of the choice's tokens, which is
/// moved behind the last.
pub(crate) fn text(likelihoods: &[Likelihood], offset: &mut usize) -> Value {
    let (mut tokens, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for likelihood in likelihoods {
        let token = spelled(&likelihood.drawn);
        offsets.push(*offset);
        *offset += token.chars().count();
        tokens.push(token);
        logprobs.push(logprob(&likelihood.drawn));
        let top = likelihood.top.iter().map(|likely| (spelled(likely), logprob(likely).into()));
        tops.push(top.collect::<Map<String, Value>>());
    }
    json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets})
}

fn logprob(likely: &Likely) -> f64 {
    f64::from(likely.micro_logprob) / 1e6
}

fn spelled(likely: &Likely) -> String {
    match std::str::from_utf8(&likely.bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => likely.bytes.iter().fold("bytes:".to_owned(), |mut spelled, byte| {
            // Writing to a String cannot fail.
            let _ = write!(spelled, "\\x{byte:02x}");
            spelled
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        Fields(value.as_object().unwrap().clone())
    }

    #[test]
    fn requests_ask_in_their_routes_way() {
        let asked = |body| of_chat(&mut fields(body)).unwrap();
        assert_eq!(asked(json!({})), None);
        assert_eq!(asked(json!({"logprobs": false, "top_logprobs": 0})), None);
        assert_eq!(asked(json!({"logprobs": true})), Some(0));
        assert_eq!(asked(json!({"logprobs": true, "top_logprobs": 20})), Some(20));
        for (bad, param) in [
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"logprobs": 3}), "logprobs"),
        ] {
            assert_eq!(of_chat(&mut fields(bad)).unwrap_err().param.as_deref(), Some(param));
        }
        assert_eq!(of_text(&mut fields(json!({"logprobs": 0}))).unwrap(), Some(0));
        assert!(of_text(&mut fields(json!({"logprobs": 6}))).is_err());
    }

    #[test]
    fn biases_are_ids_with_bounded_numbers() {
        let read = bias(&mut fields(json!({"logit_bias": {"11": -100, "7": 0.25}}))).unwrap();
        assert_eq!(read, [Bias { token: 7, by: 250 }, Bias { token: 11, by: -100_000 }]);
        assert_eq!(bias(&mut fields(json!({"logit_bias": null}))).unwrap(), []);
        let many: Map<String, Value> = (0..1_025).map(|id| (id.to_string(), 1.into())).collect();
        for bad in [
            json!([]),
            json!({"a": 1}),
            json!({"-1": 1}),
            json!({"1": 101}),
            json!({"1": "x"}),
            json!({"1": 1, "01": 2}),
            many.into(),
        ] {
            let problem = bias(&mut fields(json!({ "logit_bias": bad }))).unwrap_err();
            assert_eq!(problem.param.as_deref(), Some("logit_bias"));
        }
    }

    #[test]
    fn parts_of_characters_are_spelled_by_their_bytes() {
        let likely = |bytes: &[u8]| Likely { bytes: bytes.into(), micro_logprob: -1_500_000 };
        let told = Likelihood { drawn: likely(b"\xe2\x80"), top: vec![likely("ä".as_bytes())] };
        let entry = entry(&told);
        assert_eq!(entry["token"], "bytes:\\xe2\\x80");
        assert_eq!(entry["bytes"], json!([0xe2, 0x80]));
        assert_eq!((&entry["logprob"], &entry["top_logprobs"][0]["token"]), (&json!(-1.5), &json!("ä")));
        let mut offset = 3;
        let plain = Likelihood { drawn: likely("äh".as_bytes()), top: vec![] };
        let told = text(&[plain.clone(), plain], &mut offset);
        assert_eq!((told["text_offset"].clone(), offset), (json!([3, 5]), 7));
    }
}
