//! What a request says of drawing, with the numbers that clients get wrong, and logits of every size: what is taken is
//! drawn with, and gives a token of the vocabulary, the same every time.

use super::Target;
use orchestrion_api::sampling_of;
use orchestrion_gpu::sampler::Sampler;
use orchestrion_scenarios::storm::draw::Draw;
use orchestrion_world::payload::Bias;
use serde_json::{Map, Value, json};
use std::error::Error;

const FIELDS: [&str; 6] = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"];
const NUMBERS: [&str; 20] = [
    "0",
    "-0.0",
    "1",
    "0.0004",
    "0.001",
    "0.5",
    "0.95",
    "0.9999999",
    "1.0000001",
    "1.5",
    "2",
    "10",
    "40",
    "-1",
    "1e-320",
    "1e308",
    "65536",
    "4294967296",
    "-9223372036854775808",
    "18446744073709551615",
];
const LOGITS: [f32; 12] = [0.0, -0.0, 1.0, -1.0, 1e-40, 88.0, -104.0, 5e4, -5e4, f32::MAX, f32::MIN, f32::MIN_POSITIVE];

pub(super) fn target(_: u64) -> Result<Target, Box<dyn Error>> {
    Ok(Target { make: Box::new(|draw| Ok(drawn(draw)?)), read: Box::new(read) })
}

fn drawn(draw: &mut Draw) -> Result<Vec<u8>, serde_json::Error> {
    let mut body = Map::new();
    for field in FIELDS.into_iter().filter(|_| draw.chance(60)).collect::<Vec<_>>() {
        let value = match draw.below(40) {
            0 => draw.of(&[Value::Null, json!(true), json!("0.5"), json!([1]), json!({})]),
            1 => json!(f64::from_bits(draw.bits())),
            2..5 => serde_json::from_str(draw.of(&NUMBERS))?,
            _ if matches!(field, "top_k" | "seed") => json!(draw.below(700)),
            _ => json!(draw.within(1, 1_000) as f64 / 1_000.0),
        };
        body.insert(field.to_owned(), value);
    }
    serde_json::to_vec(&(body, draw.bits()))
}

fn logits(draw: &mut Draw) -> Vec<f32> {
    let (vocab, wide) = (draw.within(1, 600), draw.chance(30));
    let logit = |_| if wide { draw.of(&LOGITS) } else { draw.below(4_000) as f32 / 100.0 - 20.0 };
    (0..vocab).map(logit).collect()
}

fn read(input: &[u8]) -> Result<&'static str, String> {
    let (body, seed) = serde_json::from_slice::<(Map<String, Value>, u64)>(input).map_err(|error| error.to_string())?;
    let Ok(sampling) = sampling_of(body) else { return Ok("refused") };
    let mut random = Draw::new(seed, 0);
    let logits = logits(&mut random);
    let (at, seen) = (random.bits() as u32, random.index(logits.len()) as u32);
    let bias = [Bias { token: seen, by: 500 }, Bias { token: u32::MAX, by: i32::MIN }];
    let draw = || {
        let mut sampler = Sampler::new(sampling, &bias, logits.len(), &[seen]);
        [at, at.wrapping_add(1)].map(|at| sampler.next(&logits, at, None))
    };
    let tokens = draw();
    if tokens.iter().any(|token| *token as usize >= logits.len()) {
        return Err(format!("tokens {tokens:?} of {}", logits.len()));
    }
    if tokens != draw() {
        return Err("another token the second time".to_owned());
    }
    Ok("drawn")
}
