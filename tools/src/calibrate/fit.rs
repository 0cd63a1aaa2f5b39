//! The descent: from a first guess to the cost at which the recorded orders take as long as they took.
//!
//! A pattern search over the factors of the cost, which are never negative that way: each figure up or down by a
//! factor, pairs of them against each other, since what one takes on another can let go, all of them by chance, since
//! who shares a step changes in leaps at which the others end, and then on in the direction in which a whole sweep led.
//! Where nothing helps, the factor shrinks. The error is a sum of absolute ones, so that a few outliers do not pull.

use super::replay::Attempts;
use orchestrion_scenarios::cost::Cost;

/// How far the first moves go, and how near is near enough.
const WIDEST: f64 = 2.0;
const NEAREST: f64 = 1.004;
/// Sweeps over all moves in all; each descends, so an end comes anyway.
const SWEEPS_MAX: usize = 60;

/// Random moves of all figures in a sweep.
const ASIDE: usize = 30;

/// What moves up and what moves down with it.
const MOVES: [(Figure, Option<Figure>); 12] = [
    (Figure::Step, None),
    (Figure::Row, None),
    (Figure::PromptToken, None),
    (Figure::Context, None),
    (Figure::TakeUp, None),
    (Figure::Step, Some(Figure::Row)),
    (Figure::Step, Some(Figure::PromptToken)),
    (Figure::Step, Some(Figure::Context)),
    (Figure::Row, Some(Figure::Context)),
    (Figure::Row, Some(Figure::PromptToken)),
    (Figure::TakeUp, Some(Figure::Step)),
    (Figure::PromptToken, Some(Figure::Context)),
];

const FIGURES: [Figure; 5] = [Figure::TakeUp, Figure::Step, Figure::PromptToken, Figure::Row, Figure::Context];

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
    let mut state = 1u64;
    // Between -1 and 1, by Numerical Recipes' generator: the same recording gives the same cost.
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1 << 30) - 1.0
    };
    for _ in 0..SWEEPS_MAX {
        let (from, before) = (best, least);
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
        for _ in 0..ASIDE {
            let moved = FIGURES.into_iter().fold(best, |cost, figure| scaled(cost, figure, factor.powf(draw())));
            let off = error(attempts, &moved);
            if off < least {
                (best, least) = (moved, off);
            }
        }
        // Where all of a sweep's moves together led, there is often more: valleys are seldom along one figure.
        loop {
            let further = FIGURES.into_iter().fold(best, |cost, figure| {
                scaled(cost, figure, value(&best, figure).max(1) as f64 / value(&from, figure).max(1) as f64)
            });
            let off = error(attempts, &further);
            if off >= least {
                break;
            }
            (best, least) = (further, off);
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

fn value(cost: &Cost, figure: Figure) -> u64 {
    match figure {
        Figure::TakeUp => cost.take_up,
        Figure::Step => cost.step,
        Figure::PromptToken => cost.prompt_token,
        Figure::Row => cost.row,
        Figure::Context => cost.context,
    }
}

fn scaled(cost: Cost, figure: Figure, by: f64) -> Cost {
    let ns = ((value(&cost, figure).max(1) as f64) * by).round() as u64;
    let mut moved = cost;
    match figure {
        Figure::TakeUp => moved.take_up = ns,
        Figure::Step => moved.step = ns,
        Figure::PromptToken => moved.prompt_token = ns,
        Figure::Row => moved.row = ns,
        Figure::Context => moved.context = ns,
    }
    if moved.check().is_ok() { moved } else { cost }
}

/// Of every length, as a factor: twice as long is as wrong as half as long, else the shorter answer would always
/// be the safer one. Short lengths are not held to parts of a millisecond.
fn error(attempts: &Attempts, cost: &Cost) -> f64 {
    const BLUR_US: f64 = 2_000.0;
    let of =
        |(recorded, simulated): (u64, u64)| ((simulated as f64 + BLUR_US) / (recorded as f64 + BLUR_US)).ln().abs();
    let lengths = attempts.play(cost);
    // Being taken up is a small part of a task's time, and its error must not rule the rest.
    let sum = |[start, prefill, decode]: [(u64, u64); 3]| of(start) * 0.05 + of(prefill) + of(decode);
    // A cost at which attempts do not come to their end is no cost.
    let missing = attempts.scored().saturating_sub(lengths.len());
    lengths.into_iter().map(sum).sum::<f64>() + missing as f64 * 10.0
}
