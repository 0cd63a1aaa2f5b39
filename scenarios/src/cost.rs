//! What a station's loop costs in time: the one description that simulated stations run on and that a
//! recorded run can be fitted to.
//!
//! An engine step reads the prompt tokens of one chunk beside one token of every running answer, as
//! `gpu/src/station/run.rs` does it, and takes
//! `step + prompt_token × prompt tokens + row × answers + context × tokens attended / 1000`. An answer attends
//! to all of its context; a prompt token to those before it. Integers throughout, sums in closed form: a
//! thousand steps of one batch cost as much to compute as one.

use orchestrion_world::units::{Bytes, MilliRate};
use serde::{Deserialize, Serialize};

/// Nanoseconds, but for `chunk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// From an order to the station's taking it up.
    #[serde(rename = "take_up_ns")]
    pub take_up: u64,
    /// A step of the engine, whatever is in it.
    #[serde(rename = "step_ns")]
    pub step: u64,
    /// Each prompt token in it.
    #[serde(rename = "prompt_token_ns")]
    pub prompt_token: u64,
    /// Each running answer in it.
    #[serde(rename = "row_ns")]
    pub row: u64,
    /// Each thousand tokens of context attended in it.
    #[serde(rename = "context_ns")]
    pub context: u64,
    /// Until a model is ready: at all, and for each MiB of its weights.
    #[serde(rename = "load_ns")]
    pub load: u64,
    #[serde(rename = "load_mib_ns")]
    pub load_mib: u64,
    /// Prompt tokens in a step beside answers, at most.
    pub chunk: u32,
}

/// A cost that no station can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be between {min} and {max}, not {found}")]
pub struct CostError {
    what: &'static str,
    min: u64,
    max: u64,
    found: u64,
}

/// Without a least step, virtual time would not move; beyond a quarter of an hour, nothing is a step.
const STEP: (u64, u64) = (1_000, 1_000_000_000_000);

/// Running answers of a batch, 65,536 at most, and the tokens that they attend to together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub rows: u64,
    pub context: u64,
}

impl Cost {
    /// Checks every bound, so that no sum leaves its range.
    pub fn check(&self) -> Result<(), CostError> {
        let Cost { take_up, step, prompt_token, row, context, load, load_mib, chunk } = *self;
        let within = |what, found, (min, max)| {
            if (min..=max).contains(&found) { Ok(()) } else { Err(CostError { what, min, max, found }) }
        };
        within("step_ns", step, STEP)?;
        within("chunk", chunk.into(), (1, 1 << 20))?;
        let lengths = [("take_up_ns", take_up), ("prompt_token_ns", prompt_token), ("row_ns", row)];
        let lengths =
            lengths.into_iter().chain([("context_ns", context), ("load_ns", load), ("load_mib_ns", load_mib)]);
        lengths.into_iter().try_for_each(|(what, found)| within(what, found, (0, STEP.1)))
    }

    /// `steps` steps of a batch without prompts; its contexts grow by a token a step.
    pub fn decode(&self, batch: Batch, steps: u64) -> u64 {
        let attended = u128::from(steps) * u128::from(batch.context) + u128::from(batch.rows) * triangle(steps);
        let alike = u128::from(steps) * u128::from(self.step + self.row * batch.rows);
        narrow(alike + u128::from(self.context) * attended / 1000)
    }

    /// A step that reads `tokens` prompt tokens, which attend to `attended`, beside a batch.
    pub fn prefill(&self, batch: Batch, tokens: u64, attended: u64) -> u64 {
        let attended = u128::from(batch.context) + u128::from(attended);
        let alike = self.step + self.row * batch.rows + self.prompt_token * tokens;
        narrow(u128::from(alike) + u128::from(self.context) * attended / 1000)
    }

    /// From nothing to a model that is ready.
    pub fn load(&self, weights: Bytes) -> u64 {
        self.load.saturating_add(self.load_mib.saturating_mul(weights.0 >> 20))
    }

    /// What a station measures before it announces itself: a chunk of prompt, then single answer tokens.
    pub fn rates(&self) -> (MilliRate, MilliRate) {
        const WARM: u64 = 8;
        let chunk = u64::from(self.chunk);
        let rate = |tokens: u64, ns: u64| MilliRate(narrow(u128::from(tokens) * 1_000_000_000_000 / u128::from(ns)));
        let alone = Batch { rows: 1, context: chunk };
        let prefill = self.prefill(Batch::default(), chunk, attended(0, chunk));
        (rate(chunk, prefill), rate(WARM, self.decode(alone, WARM)))
    }

    /// The same station at so many thousandths of its pace: everything but loading takes longer.
    pub fn at_pace(&self, permille: u32) -> Cost {
        let longer = |ns: u64| (ns * 1000 / u64::from(permille.max(1))).min(STEP.1);
        Cost {
            take_up: longer(self.take_up),
            step: longer(self.step).max(STEP.0),
            prompt_token: longer(self.prompt_token),
            row: longer(self.row),
            context: longer(self.context),
            ..*self
        }
    }
}

/// The fewest steps that take `span` or longer by `decode`, and one at least.
pub fn steps_within(decode: impl Fn(u64) -> u64, span: u64) -> u64 {
    // A step gets no shorter, so as many as fit at the first one's pace are enough.
    let mut most = (span / decode(1).max(1)).saturating_add(1);
    let mut least = 1;
    // Contexts grow little in a span: the answer is near the top.
    if decode(most - 1) < span {
        return most;
    }
    while least < most {
        let middle = least + (most - least) / 2;
        if decode(middle) < span { least = middle + 1 } else { most = middle }
    }
    least
}

/// What `tokens` prompt tokens attend to that come after `before` others.
pub fn attended(before: u64, tokens: u64) -> u64 {
    narrow(u128::from(before) * u128::from(tokens) + triangle(tokens))
}

/// 0 + 1 + … for so many terms.
fn triangle(terms: u64) -> u128 {
    u128::from(terms) * u128::from(terms.saturating_sub(1)) / 2
}

fn narrow(ns: u128) -> u64 {
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        take_up: 0,
        step: 5_000_000,
        prompt_token: 40_000,
        row: 100_000,
        context: 30_000,
        load: 2_000_000_000,
        load_mib: 500_000,
        chunk: 512,
    };

    #[test]
    fn the_closed_form_is_the_sum_of_its_steps() {
        for rows in [1, 2, 1_000] {
            let mut batch = Batch { rows, context: 4_000 };
            let (whole, mut sum) = (batch, 0);
            for steps in 1..=100 {
                sum += COST.decode(batch, 1);
                batch.context += rows;
                assert!(COST.decode(whole, steps).abs_diff(sum) <= steps, "{rows} rows, {steps} steps");
            }
        }
    }

    #[test]
    fn the_fewest_steps_that_fill_a_span_are_found() {
        for (rows, context) in [(1, 0), (16, 9_000), (256, 1_000_000)] {
            let batch = Batch { rows, context };
            for span in [0, 1, 5_000_000, 100_000_000, 100_000_001, 3_600_000_000_000] {
                let steps = steps_within(|steps| COST.decode(batch, steps), span);
                assert!(steps >= 1 && COST.decode(batch, steps) >= span);
                assert!(steps == 1 || COST.decode(batch, steps - 1) < span, "{steps} steps for {span}");
            }
        }
    }

    #[test]
    fn extremes_saturate_and_bounds_say_what_is_wrong() {
        let most = Cost { step: STEP.1, prompt_token: STEP.1, row: STEP.1, context: STEP.1, ..COST };
        most.check().unwrap();
        assert_eq!(most.decode(Batch { rows: 1 << 16, context: 1 << 48 }, 1 << 32), u64::MAX);
        let error = Cost { step: 0, ..COST }.check().unwrap_err().to_string();
        assert_eq!(error, "step_ns must be between 1000 and 1000000000000, not 0");
        assert_eq!(COST.at_pace(100).step, 50_000_000);
    }

    #[test]
    fn the_rates_are_what_the_costs_come_to() {
        // 5 ms and 512 tokens of 40 µs, and 131 thousand tokens of context at 30 µs a thousand: 29.4 ms.
        let (prefill, decode) = COST.rates();
        assert_eq!((prefill.0 / 1_000, decode.0 / 1_000), (17_412, 195));
    }
}
