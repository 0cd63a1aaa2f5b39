//! Figures of several runs side by side.

use super::figures::{ClassFigures, Figures, Spread};

/// Labels, and how their figures are found.
type Of<To> = (&'static str, fn(&ClassFigures) -> To);
type Quantile = (&'static str, fn(Spread) -> Option<u64>);
type Whole = (&'static str, fn(&Figures) -> u64);

const COUNTS: [Of<u64>; 5] = [
    ("tasks", |of| of.tasks),
    ("done", |of| of.done),
    ("refused", |of| of.refused),
    ("cancelled", |of| of.cancelled),
    ("failed", |of| of.failed),
];
const SPREADS: [Of<Spread>; 3] = [
    ("until taken up", |of| of.wait_ms),
    ("until the first token", |of| of.first_token_ms),
    ("until the end", |of| of.total_ms),
];
const QUANTILES: [Quantile; 3] = [("p50", |s| s.p50), ("p90", |s| s.p90), ("p99", |s| s.p99)];
const WHOLE: [Whole; 7] = [
    ("tasks done in 1000 s", |of| of.done_per_1000_s),
    ("tokens made in 1000 s", |of| of.tokens_per_1000_s),
    ("attempts lost", |of| of.attempts_lost),
    ("models loaded", |of| of.loads),
    ("models evicted", |of| of.evictions),
    ("longest queue", |of| of.queued_most),
    ("most device memory in use, MiB", |of| of.vram_most_mib),
];

/// Labels, and a column of figures for each run; the last is how far the last run is from the one before it.
pub(crate) fn table(runs: &[(&str, &Figures)]) -> String {
    let mut rows: Vec<Vec<String>> = vec![heads(runs)];
    for (n, of) in runs.first().map_or(&[][..], |(_, figures)| &figures.classes).iter().enumerate() {
        let values = |pick: &dyn Fn(&ClassFigures) -> Option<u64>| -> Vec<Option<u64>> {
            runs.iter().map(|(_, figures)| figures.classes.get(n).and_then(pick)).collect()
        };
        for (what, pick) in COUNTS {
            let values = values(&|of| Some(pick(of)));
            // A row of nothing but zeros says nothing.
            if values.iter().flatten().any(|value| *value > 0) {
                rows.push(row(format!("{}: {what}", of.class), &values));
            }
        }
        for (what, pick) in SPREADS {
            for (name, quantile) in QUANTILES {
                let values = values(&|of| quantile(pick(of)));
                rows.push(row(format!("{}: {what}, {name}, ms", of.class), &values));
            }
        }
    }
    for (what, pick) in WHOLE {
        let values: Vec<Option<u64>> = runs.iter().map(|(_, figures)| Some(pick(figures))).collect();
        rows.push(row(what.to_owned(), &values));
    }
    aligned(&rows)
}

fn heads(runs: &[(&str, &Figures)]) -> Vec<String> {
    let mut heads = vec![String::new()];
    heads.extend(runs.iter().map(|(name, _)| (*name).to_owned()));
    if runs.len() > 1 {
        heads.push("change".to_owned());
    }
    heads
}

fn row(what: String, values: &[Option<u64>]) -> Vec<String> {
    let mut cells = vec![what];
    cells.extend(values.iter().map(|value| value.map_or_else(|| "-".to_owned(), |value| value.to_string())));
    if let [.., before, after] = values {
        cells.push(before.zip(*after).map_or_else(String::new, |(before, after)| change(before, after)));
    }
    cells
}

/// In percent of what it was.
fn change(before: u64, after: u64) -> String {
    if before == after {
        return "=".to_owned();
    }
    let Some(permille) = (after.abs_diff(before) * 1000 + before / 2).checked_div(before) else {
        return "new".to_owned();
    };
    let sign = if after > before { '+' } else { '-' };
    format!("{sign}{}.{} %", permille / 10, permille % 10)
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line += &if n == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_in_percent_of_what_it_was() {
        let told = [(10, 10), (200, 210), (3, 1), (0, 4), (1_000, 1_001)].map(|(before, after)| change(before, after));
        assert_eq!(told, ["=", "+5.0 %", "-66.7 %", "new", "+0.1 %"]);
    }

    #[test]
    fn columns_are_aligned_and_what_was_not_measured_is_a_dash() {
        let rows = [
            vec![String::new(), "recorded".to_owned(), "simulated".to_owned(), "change".to_owned()],
            row("a".to_owned(), &[Some(100), Some(90)]),
            row("longer".to_owned(), &[None, Some(1)]),
        ];
        let shown = aligned(&rows);
        assert_eq!(
            shown.lines().collect::<Vec<_>>(),
            [
                "        recorded  simulated   change",
                "a            100         90  -10.0 %",
                "longer         -          1",
            ]
        );
    }
}
