//! From logits to a token: the same one on every machine.
//!
//! Probabilities become integers, w = ⌊e^((logit − max)/T) · 2³²⌋, before anything is summed: integer sums
//! have no order, so a device may add them as it likes. Candidates stand by logit, ties by the lower id.
//! In order: bias, the grammar, repetition penalty, temperature, top-k, top-p, min-p, one draw. The random number is Philox
//! keyed by the seed, with the token's position as its counter: no state, so a resumed answer goes on
//! as it would have.
//!
//! Reads logits and the tokens so far. A candidate below 2⁻³² of the best is never drawn.

use crate::grammar::Allowed;
use crate::numerics::exp;
use orchestrion_world::payload::{Bias, Sampling};
use std::cmp::Ordering;

/// Four random words for a counter and a key: Philox 4x32-10 (Salmon et al., SC 2011).
pub(crate) fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (a, b) = (M[0] * u64::from(c0), M[1] * u64::from(c2));
        [c0, c1, c2, c3] = [(b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32];
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    [c0, c1, c2, c3]
}

/// A token and its logit after penalty and temperature, later its weight.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    id: u32,
}

impl Candidate {
    /// Likelier first, then the lower id.
    fn order(&self, other: &Candidate) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Draws tokens for one sequence.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    bias: Vec<(u32, f32)>,
    /// The logits with the bias, where there is one.
    biased: Vec<f32>,
    /// One bit for each token already in the sequence, where the penalty needs to know.
    seen: Vec<u64>,
    candidates: Vec<Candidate>,
    weights: Vec<u64>,
}

impl Sampler {
    pub fn new(sampling: Sampling, bias: &[Bias], vocab: usize, prompt: &[u32]) -> Self {
        let penalised = sampling.repetition_penalty.0 != 1000;
        let words = if penalised { vocab.div_ceil(64) } else { 0 };
        let bias = bias.iter().map(|b| (b.token, b.by as f32 / 1000.0)).collect();
        let seen = vec![0; words];
        let mut sampler =
            Sampler { sampling, bias, biased: Vec::new(), seen, candidates: Vec::new(), weights: Vec::new() };
        prompt.iter().for_each(|token| sampler.see(*token));
        sampler
    }

    fn see(&mut self, token: u32) {
        if let Some(word) = self.seen.get_mut(token as usize / 64) {
            *word |= 1 << (token % 64);
        }
    }

    /// The token that stands at `position` of the sequence, of those that are allowed; `logits` are finite.
    pub fn next(&mut self, logits: &[f32], position: u32, allowed: Option<Allowed<'_>>) -> u32 {
        let mut biased = std::mem::take(&mut self.biased);
        let logits = if self.bias.is_empty() { logits } else { self.biased(logits, &mut biased) };
        let token = match self.sampling.temperature.0 {
            0 => self.greedy(logits, allowed),
            _ => self.draw(logits, position, allowed),
        };
        self.biased = biased;
        self.see(token);
        token
    }

    fn biased<'a>(&self, logits: &[f32], biased: &'a mut Vec<f32>) -> &'a [f32] {
        biased.clear();
        biased.extend_from_slice(logits);
        for (token, by) in &self.bias {
            if let Some(logit) = biased.get_mut(*token as usize) {
                *logit += by;
            }
        }
        biased
    }

    /// The logit under the repetition penalty: divided when positive, multiplied when negative.
    fn penalised(&self, id: usize, logit: f32) -> f32 {
        let hit = self.seen.get(id / 64).is_some_and(|word| word >> (id % 64) & 1 == 1);
        let penalty = self.sampling.repetition_penalty.0 as f32 / 1000.0;
        match hit {
            true if logit > 0.0 => logit / penalty,
            true => logit * penalty,
            false => logit,
        }
    }

    fn greedy(&self, logits: &[f32], allowed: Option<Allowed<'_>>) -> u32 {
        let mut best = Candidate { logit: f32::NEG_INFINITY, id: 0 };
        for (id, logit) in candidates(logits, allowed) {
            let logit = self.penalised(id, logit);
            if logit > best.logit {
                best = Candidate { logit, id: id as u32 };
            }
        }
        best.id
    }

    fn draw(&mut self, logits: &[f32], position: u32, allowed: Option<Allowed<'_>>) -> u32 {
        let s = self.sampling;
        let temperature = s.temperature.0 as f32 / 1000.0;
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        candidates.extend(self::candidates(logits, allowed).map(|(id, logit)| Candidate {
            // + 0 makes one zero of both, so that they tie.
            logit: self.penalised(id, logit) / temperature + 0.0,
            id: id as u32,
        }));
        let k = if s.top_k == 0 { candidates.len() } else { candidates.len().min(s.top_k as usize) };
        let kept = self.keep(&mut candidates, k);
        let token = self.pick(&candidates[..kept], position);
        self.candidates = candidates;
        token
    }

    /// Brings the candidates that stay to the front, in order, fills their `weights` and counts them.
    fn keep(&mut self, candidates: &mut [Candidate], k: usize) -> usize {
        let (top_p, min_p) = (u128::from(self.sampling.top_p.0.min(1000)), u128::from(self.sampling.min_p.0));
        if k < candidates.len() {
            candidates.select_nth_unstable_by(k, Candidate::order);
        }
        let candidates = &mut candidates[..k];
        let max = candidates.iter().fold(f32::NEG_INFINITY, |m, c| if c.logit > m { c.logit } else { m });
        let weight = |c: &Candidate| (exp(c.logit - max) * 4_294_967_296.0) as u64;
        let total: u64 = candidates.iter().map(weight).sum();
        self.weights.clear();
        let mut sum = 0u64;
        // Sorting 50,000 candidates would cost more than the model's last layer: the front is sorted
        // in growing pieces until what has to stay is there. The result is that of a full sort.
        let mut sorted = 0;
        let mut piece = 256;
        while sorted < k {
            let end = k.min(sorted + piece);
            if end < k {
                candidates[sorted..].select_nth_unstable_by(end - sorted, Candidate::order);
            }
            candidates[sorted..end].sort_unstable_by(Candidate::order);
            for c in &candidates[sorted..end] {
                let w = weight(c);
                let enough = u128::from(sum) * 1000 >= u128::from(total) * top_p && top_p < 1000;
                let unlikely = u128::from(w) * 1000 < (1u128 << 32) * min_p;
                // The best always stays; after the first of weight 0 nothing can be drawn.
                if !self.weights.is_empty() && (w == 0 || enough || unlikely) {
                    return self.weights.len();
                }
                self.weights.push(w);
                sum += w;
            }
            (sorted, piece) = (end, piece * 8);
        }
        self.weights.len()
    }

    /// One draw by weight: the first candidate whose running sum exceeds ⌊r · total / 2⁶⁴⌋.
    fn pick(&self, candidates: &[Candidate], position: u32) -> u32 {
        let seed = self.sampling.seed;
        let [low, high, ..] = philox([position, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
        let random = (u64::from(high) << 32) | u64::from(low);
        let total: u64 = self.weights.iter().sum();
        let target = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        let mut sum = 0;
        for (c, w) in candidates.iter().zip(&self.weights) {
            sum += w;
            if sum > target {
                return c.id;
            }
        }
        candidates.first().map_or(0, |c| c.id)
    }
}

/// The tokens that may be drawn, by id.
fn candidates(logits: &[f32], allowed: Option<Allowed<'_>>) -> impl Iterator<Item = (usize, f32)> {
    let may = move |id| allowed.is_none_or(|allowed| allowed.has(id));
    logits.iter().copied().enumerate().filter(move |(id, _)| may(*id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_world::units::Permille;
    use proptest::prelude::*;

    fn sampling() -> Sampling {
        Sampling {
            seed: 7,
            temperature: Permille(1000),
            top_k: 0,
            top_p: Permille(1000),
            min_p: Permille(0),
            repetition_penalty: Permille(1000),
        }
    }

    fn next(sampling: Sampling, logits: &[f32], position: u32) -> u32 {
        Sampler::new(sampling, &[], logits.len(), &[]).next(logits, position, None)
    }

    /// Known answers of Random123's `kat_vectors`.
    #[test]
    fn philox_gives_the_published_answers() {
        let ones = u32::MAX;
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn greedy_takes_the_best_and_of_equals_the_lowest_id() {
        let cold = Sampling { temperature: Permille(0), ..sampling() };
        assert_eq!(next(cold, &[1.0, 3.0, 3.0, 2.0], 0), 1);
        assert_eq!(next(cold, &[-0.0, 0.0], 0), 0);
    }

    #[test]
    fn the_penalty_reaches_tokens_of_the_prompt_and_of_the_answer() {
        let cold = Sampling { temperature: Permille(0), repetition_penalty: Permille(2000), ..sampling() };
        let logits = [3.0, 2.0, 1.4, -1.0];
        let mut sampler = Sampler::new(cold, &[], 4, &[0]);
        // 3 / 2 < 2, then 2 / 2 < 3 / 2.
        assert_eq!([sampler.next(&logits, 1, None), sampler.next(&logits, 2, None)], [1, 0]);
        // Negative logits move away from zero.
        assert_eq!(Sampler::new(cold, &[], 2, &[1]).next(&[-1.5, -1.0], 1, None), 0);
    }

    #[test]
    fn a_bias_bans_and_forces() {
        let logits = [1.0, 3.0, 2.0];
        let cold = Sampling { temperature: Permille(0), ..sampling() };
        let bias = |token, by| [Bias { token, by }];
        for s in [cold, sampling()] {
            let drawn = |bias: &[Bias]| {
                let ids = (0..100).map(|position| Sampler::new(s, bias, 3, &[]).next(&logits, position, None));
                ids.collect::<Vec<u32>>()
            };
            assert!(!drawn(&bias(1, -100_000)).contains(&1));
            assert!(drawn(&bias(0, 100_000)).iter().all(|id| *id == 0));
        }
        // Thousandths: 1.5 more is enough, 0.5 is not.
        assert_eq!(Sampler::new(cold, &bias(2, 1_500), 3, &[]).next(&logits, 0, None), 2);
        assert_eq!(Sampler::new(cold, &bias(2, 500), 3, &[]).next(&logits, 0, None), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0, 2.0f32.ln(), f32::ln(5.0)];
        let mut counts = [0u32; 3];
        (0..8000).for_each(|position| counts[next(sampling(), &logits, position) as usize] += 1);
        // Eighths: 1, 2, 5 of 8. Four standard deviations of a binomial are about 170.
        for (count, expected) in counts.into_iter().zip([1000, 2000, 5000]) {
            assert!(count.abs_diff(expected) < 180, "{counts:?}");
        }
    }

    #[test]
    fn cuts_keep_what_they_say() {
        // Weights 4, 3, 2, 1 of 10, shuffled.
        let logits = [2.0f32, 4.0, 1.0, 3.0].map(f32::ln);
        let drawn = |s: Sampling| {
            let mut ids: Vec<u32> = (0..400).map(|position| next(s, &logits, position)).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(drawn(sampling()), [0, 1, 2, 3]);
        assert_eq!(drawn(Sampling { top_k: 2, ..sampling() }), [1, 3]);
        assert_eq!(drawn(Sampling { top_k: 1, ..sampling() }), [1]);
        assert_eq!(drawn(Sampling { top_p: Permille(650), ..sampling() }), [1, 3]);
        assert_eq!(drawn(Sampling { top_p: Permille(0), ..sampling() }), [1]);
        assert_eq!(drawn(Sampling { min_p: Permille(450), ..sampling() }), [0, 1, 3]);
        assert_eq!(drawn(Sampling { min_p: Permille(2000), ..sampling() }), [1]);
    }

    proptest! {
        /// Growing pieces give what one full sort gives, at any vocabulary size and with many ties.
        #[test]
        fn pieces_and_a_full_sort_agree(
            levels in prop::collection::vec(0u8..40, 1..3000),
            top_k in prop_oneof![Just(0u32), 1u32..3000],
            top_p in 0u32..=1000,
            position in 0u32..1000,
        ) {
            let logits: Vec<f32> = levels.iter().map(|l| f32::from(*l) / 4.0).collect();
            let s = Sampling { top_k, top_p: Permille(top_p), ..sampling() };
            let drawn = next(s, &logits, position);

            let mut all: Vec<Candidate> =
                logits.iter().enumerate().map(|(id, l)| Candidate { logit: *l, id: id as u32 }).collect();
            all.sort_by(Candidate::order);
            all.truncate(if top_k == 0 { all.len() } else { top_k as usize });
            let weights: Vec<u64> = all.iter().map(|c| (exp(c.logit - all[0].logit) * 4_294_967_296.0) as u64).collect();
            let total: u64 = weights.iter().sum();
            let mut sums = weights.iter().scan(0u64, |sum, w| { *sum += w; Some(*sum) });
            let kept = if top_p == 1000 { all.len() } else {
                let reached = |sum: u64| u128::from(sum) * 1000 >= u128::from(total) * u128::from(top_p);
                sums.position(reached).map_or(all.len(), |i| i + 1)
            };
            let mut reference = Sampler::new(s, &[], 0, &[]);
            reference.weights = weights[..kept].to_vec();
            prop_assert_eq!(drawn, reference.pick(&all[..kept], position));
        }
    }
}
