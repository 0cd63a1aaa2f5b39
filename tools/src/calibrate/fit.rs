//! The descent: from a first guess to the cost at which the recorded orders take as long as they took.
//!
//! A pattern search over the factors of the cost, which are never negative that way: each figure up or down by a
//! factor, and pairs of them against each other, since what one takes on another can let go. Where nothing helps,
//! the factor shrinks. The error is a sum of absolute ones, so that a few outliers do not pull.

use super::replay::Attempts;
use orchestrion_scenarios::cost::Cost;

/// How far the first moves go, and how near is near enough.
const WIDEST: f64 = 2.0;
const NEAREST: f64 = 1.004;
/// Sweeps over all moves in all; each descends, so an end comes anyway.
const SWEEPS_MAX: usize = 60;

/// What moves up and what moves down with it.
const MOVES: [(Figure, Option<Figure>); 9] = [
    (Figure::Step, None),
    (Figure::Row, None),
    (Figure::PromptToken, None),
    (Figure::Context, None),
    (Figure::TakeUp, None),
    (Figure::Step, Some(Figure::Row)),
    (Figure::Step, Some(Figure::PromptToken)),
    (Figure::Row, Some(Figure::Context)),
    (Figure::PromptToken, Some(Figure::Context)),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    TakeUp,
    Step,
    PromptToken,
    Row,
    Context,
}

pub(super) fn fit(attempts: &Attempts, guess: Cost) -> Cost {
    let mut best = guess;
    let mut least = error(attempts, &best);
    let mut factor = WIDEST;
    for _ in 0..SWEEPS_MAX {
        let before = least;
        for (up, down) in MOVES {
            for by in [factor, 1.0 / factor] {
                let mut moved = scaled(best, up, by);
                if let Some(down) = down {
                    moved = scaled(moved, down, 1.0 / by);
                }
                let off = error(attempts, &moved);
                if off < least {
                    (best, least) = (moved, off);
                }
            }
        }
        // A sweep that helped little is no reason to go on in such steps.
        if least > before * 0.998 {
            factor = factor.sqrt();
        }
        if factor < NEAREST {
            break;
        }
    }
    best
}

fn scaled(cost: Cost, figure: Figure, by: f64) -> Cost {
    let times = |ns: u64| ((ns.max(1) as f64) * by).round() as u64;
    let moved = match figure {
        Figure::TakeUp => Cost { take_up: times(cost.take_up), ..cost },
        Figure::Step => Cost { step: times(cost.step), ..cost },
        Figure::PromptToken => Cost { prompt_token: times(cost.prompt_token), ..cost },
        Figure::Row => Cost { row: times(cost.row), ..cost },
        Figure::Context => Cost { context: times(cost.context), ..cost },
    };
    if moved.check().is_ok() { moved } else { cost }
}

/// Of every length, as a part of it; short ones are not held to parts of a millisecond.
fn error(attempts: &Attempts, cost: &Cost) -> f64 {
    const LEAST_US: u64 = 5_000;
    let of = |(recorded, simulated): (u64, u64)| recorded.abs_diff(simulated) as f64 / recorded.max(LEAST_US) as f64;
    let lengths = attempts.play(cost);
    // Being taken up is a small part of a task's time, and its error must not rule the rest.
    let sum = |[start, prefill, decode]: [(u64, u64); 3]| of(start) * 0.05 + of(prefill) + of(decode);
    // A cost at which attempts do not come to their end is no cost.
    let missing = attempts.scored().saturating_sub(lengths.len());
    lengths.into_iter().map(sum).sum::<f64>() + missing as f64 * 10.0
}
