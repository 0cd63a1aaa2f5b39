//! `POST /v1/embeddings`: texts in, a vector of length one for each out.
//!
//! An input is text or the ids of tokens; each is a task of its own (`vectors`).

use super::completions::prompt;
use super::fields::{Fields, Unsupported, dropped};
use super::keeper::Caller;
use super::vectors::{INPUTS_MOST, Measured, Place, Request, Source};
use super::{body, budget, deadline, openai};
use crate::door::{Door, Ticket};
use crate::port::{Dropped, Truncation};
use crate::problem::Problem;
use crate::spool::Form;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::sync::Arc;

const INPUT: Source = Source { field: "input", most: INPUTS_MOST };
const DIMENSIONS_MOST: u32 = 1 << 20;

pub(crate) async fn embed(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let (mut fields, taken) = body::take(&door, &headers, content, door.config.limits.body_bytes).await?;
    fields.unsupported(&openai::OF_TASKS)?;
    let model = openai::model(&mut fields)?;
    let left = deadline::left(&headers, None, deadline::wall_ms(), door.config.deadline_margin_ms)?;
    let request = read(&mut fields, model, INPUT)?;
    drop((fields, taken));
    let (answer, left) = request.answer(&door, caller.tenant, &Ticket::of_connection(left)).await?;
    let mut answer = Json(answer).into_response();
    answer.headers_mut().extend(budget::headers(&left));
    Ok(answer)
}

/// vLLM's name for a length of the client's own.
const UNSUPPORTED: [Unsupported; 1] = [Unsupported {
    name: "truncate_prompt_tokens",
    harmless: |_| false,
    problem: "inputs are cut at the model's context only; send `truncate: true` for that",
}];

/// By the name that Cohere (`END`), Jina, Ollama and Hugging Face's server (`true`) give it, or that of the other routes.
fn truncation(fields: &mut Fields) -> Result<Truncation, Problem> {
    match fields.take("truncate") {
        None => fields.truncation(),
        Some(Value::Bool(true)) => Ok(Truncation::Auto),
        Some(Value::Bool(false)) => Ok(Truncation::Disabled),
        Some(Value::String(which)) if which.eq_ignore_ascii_case("end") => Ok(Truncation::Auto),
        Some(Value::String(which)) if which.eq_ignore_ascii_case("none") => Ok(Truncation::Disabled),
        Some(_) => {
            Err(Problem::invalid("truncate", "must be true or `END`, which leaves the end out, or false or `NONE`"))
        }
    }
}

/// The fields of a request for vectors.
pub(super) fn read(fields: &mut Fields, model: String, source: Source) -> Result<Request, Problem> {
    fields.unsupported(&UNSUPPORTED)?;
    let Source { field, most } = source;
    let inputs = match fields.take(field) {
        None => return Err(Problem::invalid(field, "is needed")),
        Some(Value::Array(list)) if !list.first().is_some_and(Value::is_number) => list,
        Some(one) => vec![one],
    };
    let place = Place { field, is_list: inputs.len() > 1 };
    if !(1..=most).contains(&inputs.len()) {
        return Err(Problem::invalid(field, format!("must be 1 to {most} inputs")));
    }
    let read = |(index, input)| prompt(input).map(|input| (input, None)).map_err(|problem| place.of(index, problem));
    let inputs = inputs.into_iter().enumerate().map(read).collect::<Result<_, Problem>>()?;
    let base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(Problem::invalid("encoding_format", "must be `float` or `base64`")),
    };
    let form = Form::Embedding { base64, dimensions: fields.small("dimensions", 1..=DIMENSIONS_MOST)? };
    Ok(Request { model, form, truncation: truncation(fields)?, inputs, place })
}

/// One vector of the answer.
pub(super) fn item(
    Measured { part, vector, dropped: cut }: &Measured<'_>,
    base64: bool,
    dimensions: Option<u32>,
) -> Value {
    let embedding = write(vector, base64, dimensions);
    let mut item = json!({"object": "embedding", "index": part.index, "embedding": embedding});
    if *cut != Dropped::default() {
        item["truncation"] = dropped(*cut);
    }
    item
}

/// The first `dimensions` of a vector, where it has more, with length one again.
fn write(vector: &[f32], base64: bool, dimensions: Option<u32>) -> Value {
    let part = dimensions.and_then(|wanted| vector.get(..wanted as usize)).unwrap_or(vector);
    let length = match part.len() < vector.len() {
        true => part.iter().map(|x| x * x).sum::<f32>().sqrt(),
        false => 1.0,
    };
    let scaled = part.iter().map(|x| if length > 0.0 { x / length } else { *x });
    match base64 {
        true => encoded(&scaled.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()).into(),
        false => scaled.collect::<Vec<f32>>().into(),
    }
}

/// RFC 4648's alphabet, padded.
fn encoded(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let letter = char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]);
            text.push(if i <= three.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::rig::{Rig, json_of};
    use crate::http::vectors::TASKS_AT_ONCE;

    const EMBEDDINGS: &str = "/v1/embeddings";

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(encoded(bytes.as_bytes()), text);
        }
        assert_eq!(encoded(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn a_part_of_a_vector_has_length_one_again() {
        let vector = [3.0, 4.0, 12.0];
        let floats = |value: Value| -> Vec<f32> { serde_json::from_value(value).unwrap() };
        assert_eq!(floats(write(&vector, false, None)), vector);
        assert_eq!(floats(write(&vector, false, Some(2))), [0.6, 0.8]);
        assert_eq!(write(&vector, true, Some(1)), "AACAPw==");
    }

    #[tokio::test]
    async fn each_input_has_a_vector_in_its_place() {
        let rig = Rig::new();
        let many = vec!["text"; 2 * TASKS_AT_ONCE + 1];
        for (input, count) in [(json!("a"), 1), (json!([1, 2]), 1), (json!(["a", [1]]), 2), (json!(many), many.len())] {
            let answer = json_of(rig.post(EMBEDDINGS, json!({"model": "org/answer", "input": input})).await, 200).await;
            let data = answer["data"].as_array().unwrap();
            assert_eq!((data.len(), answer["object"].as_str()), (count, Some("list")));
            for (index, one) in data.iter().enumerate() {
                assert_eq!(*one, json!({"object": "embedding", "index": index, "embedding": [0.6f32, 0.8f32]}));
            }
            assert_eq!(answer["usage"], json!({"prompt_tokens": 3 * count, "total_tokens": 3 * count}));
        }
        for (more, cut) in [
            (json!({"truncate": true}), Some(30)),
            (json!({"truncate": "END"}), Some(30)),
            (json!({"truncation": "auto"}), Some(30)),
            (json!({"truncate": false}), None),
            (json!({"truncate": "none"}), None),
        ] {
            let mut asked = json!({"model": "org/answer", "input": "a"});
            asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let answer = json_of(rig.post(EMBEDDINGS, asked).await, 200).await;
            assert_eq!(answer["data"][0]["truncation"]["dropped_tokens"].as_u64(), cut, "{more}");
        }
        let spec = rig.specs.lock().unwrap()[0].clone();
        assert_eq!((spec.prompt_tokens, spec.max_tokens), (3, 1));
        for (more, param) in [
            (json!({}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": [[]]}), "input"),
            (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
            (json!({"input": "a", "dimensions": 3}), "dimensions"),
            (json!({"input": "a", "truncate": "START"}), "truncate"),
            (json!({"input": "a", "truncate_prompt_tokens": 9}), "truncate_prompt_tokens"),
        ] {
            let mut asked = json!({"model": "org/answer"});
            asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let refused = json_of(rig.post(EMBEDDINGS, asked).await, 400).await;
            assert_eq!(refused["error"]["param"], param, "{refused}");
        }
        let refused =
            json_of(rig.post(EMBEDDINGS, json!({"model": "org/answer", "input": ["a", "too long"]})).await, 400);
        assert_eq!(refused.await["error"]["param"], "input[1]");
        let failed = json_of(rig.post(EMBEDDINGS, json!({"model": "fail", "input": "a"})).await, 503).await;
        assert_eq!(failed["error"]["code"], "WORKER_RESET");
    }
}
