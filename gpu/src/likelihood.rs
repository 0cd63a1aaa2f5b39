//! How likely the model held a token: its log probability, and those of its rivals.
//!
//! Of the logits as the model gave them: whatever the request does to them later (bias, penalty,
//! temperature, cuts) says nothing about the model. The sum is one of integers, as the sampler's is, so the
//! figure is the same on every machine. Ties go to the lower id.

use crate::numerics::exp;
use crate::tokenizer::Tokenizer;
use orchestrion_world::payload::{Likelihood, Likely};

/// 2³²: the weight of the likeliest token.
const ONE: f32 = 4_294_967_296.0;

/// ln softmax(`logits`) of `drawn` and of the `top` likeliest; `logits` are finite.
pub(crate) fn likelihood(logits: &[f32], drawn: u32, top: usize, tokenizer: &Tokenizer) -> Likelihood {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, logit| max.max(*logit));
    let total: u64 = logits.iter().map(|logit| (exp(logit - max) * ONE) as u64).sum();
    let shift = libm::log(total as f64 / f64::from(ONE));
    let likely = |id: u32| {
        let logprob = f64::from(logits[id as usize] - max) - shift;
        // The cast saturates, at one in e^2147.
        Likely { bytes: tokenizer.token_bytes(id).into(), micro_logprob: (logprob * 1e6).round() as i32 }
    };
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = Vec::new();
    if top > 0 {
        ids.extend(0..logits.len() as u32);
        if top < ids.len() {
            ids.select_nth_unstable_by(top, order);
            ids.truncate(top);
        }
        ids.sort_unstable_by(order);
    }
    Likelihood { drawn: likely(drawn), top: ids.into_iter().map(likely).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{GenSpec, generate};
    use crate::gguf::Gguf;

    #[test]
    fn figures_are_those_of_a_softmax() {
        let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        // Probabilities 1, 2, 5 of 8; the fourth is next to none.
        let logits = [0.0, 2.0f32.ln(), f32::ln(5.0), -90.0];
        let told = likelihood(&logits, 1, 3, &tokenizer);
        let micro = |p: f64| (p.ln() * 1e6).round() as i32;
        assert!(told.drawn.micro_logprob.abs_diff(micro(0.25)) <= 1, "{told:?}");
        assert_eq!(&*told.drawn.bytes, tokenizer.token_bytes(1));
        let top: Vec<i32> = told.top.iter().map(|likely| likely.micro_logprob).collect();
        for (found, p) in top.iter().zip([0.625, 0.25, 0.125]) {
            assert!(found.abs_diff(micro(p)) <= 1, "{top:?}");
        }
        assert_eq!(likelihood(&logits, 3, 0, &tokenizer).top, []);
        assert_eq!(likelihood(&[1.0, 1.0], 0, 9, &tokenizer).top.len(), 2);
        assert_eq!(&*likelihood(&[1.0, 1.0, 1.0], 2, 1, &tokenizer).top[0].bytes, tokenizer.token_bytes(0));
    }
}
