//! `POST /v1/embeddings`: texts in, a vector of length one for each out.
//!
//! An input is text or the ids of tokens; each is a task of its own (`vectors`).

use super::completions::prompt;
use super::fields::Fields;
use super::keeper::Caller;
use super::vectors::Asked;
use super::{body, budget, deadline, openai};
use crate::door::Door;
use crate::port::{Content, Truncation};
use crate::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use orchestrion_world::payload::Output;
use serde_json::{Value, json};
use std::sync::Arc;

/// As many as OpenAI takes.
const INPUTS_MOST: usize = 2_048;
const DIMENSIONS_MOST: u32 = 1 << 20;

/// How the client wants its vectors.
#[derive(Debug)]
struct Form {
    base64: bool,
    /// The first of each vector, scaled to length one again.
    dimensions: Option<usize>,
}

pub(crate) async fn embed(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let (fields, taken) = body::take(&door, &headers, content, door.config.limits.body_bytes).await?;
    let (asked, inputs, form) = read(fields, &headers, door.config.deadline_margin_ms)?;
    drop(taken);
    let several = inputs.len() > 1;
    let located = |place, problem| of_input(several.then_some(place), problem);
    let gathered = asked.gather(&door, caller.tenant, inputs, located).await?;
    let told =
        gathered.all.iter().enumerate().map(|(index, one)| {
            Ok(json!({"object": "embedding", "index": index, "embedding": form.write(&one.vector)?}))
        });
    let data = told.collect::<Result<Vec<Value>, Problem>>()?;
    let answer = json!({"object": "list", "data": data, "model": asked.model, "usage": gathered.usage()});
    let mut answer = Json(answer).into_response();
    answer.headers_mut().extend(budget::headers(&gathered.left));
    Ok(answer)
}

fn read(mut fields: Fields, headers: &HeaderMap, margin_ms: u64) -> Result<(Asked, Vec<Content>, Form), Problem> {
    let asked = Asked {
        model: openai::model(&mut fields)?,
        output: Output::Embedding,
        deadline: deadline::left(headers, None, deadline::wall_ms(), margin_ms)?,
        truncation: Truncation::Disabled,
    };
    let inputs = inputs(fields.take("input"))?;
    let base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(Problem::invalid("encoding_format", "must be `float` or `base64`")),
    };
    let dimensions = fields.small("dimensions", 1..=DIMENSIONS_MOST)?.map(|n| n as usize);
    Ok((asked, inputs, Form { base64, dimensions }))
}

/// Text, ids, or a list of either.
fn inputs(given: Option<Value>) -> Result<Vec<Content>, Problem> {
    let inputs = match given {
        None => return Err(Problem::invalid("input", "is needed")),
        Some(Value::Array(list)) if !list.first().is_some_and(Value::is_number) => list,
        Some(one) => vec![one],
    };
    match inputs.len() {
        1..=INPUTS_MOST => {
            let read = inputs.into_iter().map(prompt).collect::<Result<_, _>>();
            read.map_err(|problem| of_input(None, problem))
        }
        _ => Err(Problem::invalid("input", format!("must be 1 to {INPUTS_MOST} inputs"))),
    }
}

/// A prompt is an input here, perhaps one of several.
fn of_input(place: Option<usize>, mut problem: Problem) -> Problem {
    if problem.param.as_deref() == Some("prompt") {
        let param = place.map_or("input".to_owned(), |place| format!("input[{place}]"));
        problem.message = problem.message.replacen("prompt", &param, 1);
        problem.param = Some(param);
    }
    problem
}

impl Form {
    fn write(&self, vector: &[f32]) -> Result<Value, Problem> {
        let asked = self.dimensions.unwrap_or(vector.len());
        let Some(part) = vector.get(..asked) else {
            let problem = format!("this model's vectors have {}", vector.len());
            return Err(Problem::invalid("dimensions", problem));
        };
        let length = match asked < vector.len() {
            true => part.iter().map(|x| x * x).sum::<f32>().sqrt(),
            false => 1.0,
        };
        let scaled = part.iter().map(|x| if length > 0.0 { x / length } else { *x });
        Ok(match self.base64 {
            true => base64(&scaled.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()).into(),
            false => scaled.collect::<Vec<f32>>().into(),
        })
    }
}

/// RFC 4648's alphabet, padded.
fn base64(bytes: &[u8]) -> String {
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
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn a_part_of_a_vector_has_length_one_again() {
        let form = |dimensions, base64| Form { base64, dimensions };
        let vector = [3.0, 4.0, 12.0];
        let floats = |value: Value| -> Vec<f32> { serde_json::from_value(value).unwrap() };
        assert_eq!(floats(form(None, false).write(&vector).unwrap()), vector);
        assert_eq!(floats(form(Some(2), false).write(&vector).unwrap()), [0.6, 0.8]);
        assert_eq!(form(Some(1), true).write(&vector).unwrap(), "AACAPw==");
        assert_eq!(form(Some(4), false).write(&vector).unwrap_err().param.as_deref(), Some("dimensions"));
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
        let spec = rig.specs.lock().unwrap()[0].clone();
        assert_eq!((spec.prompt_tokens, spec.max_tokens), (3, 1));
        for (more, param) in [
            (json!({}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": [[]]}), "input"),
            (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
            (json!({"input": "a", "dimensions": 3}), "dimensions"),
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
