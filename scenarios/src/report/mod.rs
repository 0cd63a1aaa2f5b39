//! A run, or several beside each other, as one HTML page that needs nothing else: tables, and charts of what
//! happened when.

mod chart;

use crate::clients::{End, NEVER, Record};
use crate::simulate::Outcome;
use crate::summary::{Job, Row, Summary};
use chart::{Axis, Chart, LINES_MAX, Line, Points, Scale, Shape};
use std::fmt::Write;

/// One run of a page.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What tells it from the others.
    pub name: &'a str,
    pub outcome: &'a Outcome,
    pub summary: &'a Summary,
}

/// Points of a distribution: more than a chart has pixels for a decade.
const QUANTILES: usize = 200;
/// Bars of a rate over time.
const SPANS: u64 = 120;

/// The page.
pub fn html(title: &str, sides: &[Side<'_>]) -> String {
    let mut page = String::from("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    let title = escape(title);
    let _ = write!(page, "<meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>");
    let _ = write!(page, "<style>{}</style></head><body><h1>{title}</h1>", include_str!("style.css"));
    for side in sides {
        page += &tables(side, sides.len() > 1);
    }
    page += "<div class=\"charts\">";
    for chart in charts(sides) {
        page += &chart.html();
    }
    page += "</div></body></html>\n";
    page
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn tables(side: &Side<'_>, named: bool) -> String {
    let Summary { groups, reasons, expectations, .. } = side.summary;
    let mut html = String::new();
    if named {
        let _ = write!(html, "<h2>{}</h2>", escape(side.name));
    }
    html += "<table><thead><tr><th>arrivals<th>requests<th>answered<th>good<th>queue ms<th>first token ms<th>total ms\
             <tr class=\"unit\"><th><th><th><th>%<th>p50 / p90 / p99<th>p50 / p90 / p99<th>p50 / p90 / p99</thead><tbody>";
    for Row { name, requests, answered, good, tokens: _, queue_ms, first_token_ms, total_ms } in groups {
        let share = (good * 1000).checked_div(*requests).unwrap_or(0);
        let _ = write!(html, "<tr><th>{}<td>{requests}<td>{answered}<td>{}.{}", escape(name), share / 10, share % 10);
        for lengths in [queue_ms, first_token_ms, total_ms] {
            let _ = write!(html, "<td>{} / {} / {}", lengths.p50, lengths.p90, lengths.p99);
        }
    }
    html += "</tbody></table>";
    if !expectations.is_empty() {
        html += "<table><thead><tr><th>expected<th>found<th></thead><tbody>";
        for verdict in expectations {
            let found = verdict.found.map_or_else(|| "nothing to measure".to_owned(), |found| found.to_string());
            let (class, word) = if verdict.met { ("met", "met") } else { ("broken", "broken") };
            let _ = write!(html, "<tr><th>{}<td>{found}<td class=\"{class}\">{word}", escape(&verdict.text));
        }
        html += "</tbody></table>";
    }
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if !reasons.is_empty() {
        let _ = write!(html, "<p>Not answered: {}.</p>", escape(&reasons.join(", ")));
    }
    for Job { action, pool, at_ms, state, took_ms } in &side.summary.jobs {
        let took = took_ms.map_or_else(String::new, |took| format!(" after {took} ms"));
        let _ = write!(html, "<p>{action} of {} at {at_ms} ms: {state}{took}.</p>", escape(pool));
    }
    let Summary { retries, attempts_lost, restarts, loads, evictions, .. } = side.summary;
    let Summary { virtual_ms, steps, seed, digest, .. } = side.summary;
    let _ = write!(
        html,
        "<p class=\"note\">{virtual_ms} ms in {steps} steps; {retries} retries by clients, {attempts_lost} attempts \
         lost, {restarts} restarts of workers, {loads} models loaded, {evictions} evicted; seed {seed}, digest {digest}</p>"
    );
    html
}

fn charts(sides: &[Side<'_>]) -> Vec<Chart> {
    let seconds = || Axis { label: "virtual time, s", scale: Scale::Linear };
    let linear = |label| Axis { label, scale: Scale::Linear };
    let log = |label| Axis { label, scale: Scale::Log };
    let share = || linear("share of answers, %");
    let lengths = |of: fn(&Record) -> u32| by_group(sides, &|records, _| distribution(records, of), Shape::Straight);
    let gauge = |name: &str, of: fn(&crate::sample::Sample) -> u64| over_time(sides, name, of);
    let mut waiting = gauge("interactive", |sample| sample.interactive);
    waiting.extend(gauge("batch", |sample| sample.batch));
    let mut busy = gauge("running", |sample| sample.running);
    busy.extend(gauge("slots", |sample| sample.slots));
    let charts = [
        ("First token, from arrival", log("latency"), share(), lengths(|record| record.first)),
        ("Whole answer, from arrival", log("latency"), share(), lengths(|record| record.total)),
        ("Waiting", seconds(), linear("tasks"), waiting),
        ("Running", seconds(), linear("tasks"), busy),
        ("Good answers", seconds(), linear("answers a second"), by_group(sides, &rate, Shape::Step)),
        ("Memory of devices", seconds(), linear("used, GiB"), memory(sides)),
        ("Models that came and went", seconds(), linear("models so far"), changes(sides)),
    ];
    let charts = charts.into_iter().filter(|(.., lines)| !lines.is_empty());
    charts.map(|(title, x, y, lines)| Chart { title, x, y, lines }).collect()
}

/// A line for each group of a run, or for each of several runs.
fn by_group(sides: &[Side<'_>], points: &dyn Fn(&[&Record], u64) -> Points, shape: Shape) -> Vec<Line> {
    let line = |side: &Side<'_>, name: &str, group: Option<usize>| {
        let of = |record: &&Record| group.is_none_or(|group| usize::from(record.group) == group);
        let records: Vec<&Record> = side.outcome.records.iter().filter(of).collect();
        Line { name: name.to_owned(), points: points(&records, side.outcome.ended.0), shape }
    };
    match sides {
        [side] => {
            let groups = side.outcome.groups.iter().enumerate().take(LINES_MAX);
            groups.map(|(n, group)| line(side, &group.name, Some(n))).collect()
        }
        sides => sides.iter().map(|side| line(side, side.name, None)).collect(),
    }
}

fn distribution(records: &[&Record], of: fn(&Record) -> u32) -> Points {
    let answered = records.iter().filter(|record| record.end.answered());
    let mut lengths: Vec<u32> = answered.map(|record| of(record)).filter(|length| *length != NEVER).collect();
    lengths.sort_unstable();
    let Some(last) = lengths.len().checked_sub(1) else { return vec![] };
    let at = |n: usize| (f64::from(lengths[last * n / QUANTILES]), n as f64 * 100.0 / QUANTILES as f64);
    (0..=QUANTILES).map(at).collect()
}

/// Good answers a second, by when they ended.
fn rate(records: &[&Record], ended: u64) -> Points {
    let span = (ended / SPANS).max(1_000);
    let mut counts = vec![0u64; (ended / span + 1) as usize];
    for record in records.iter().filter(|record| record.end == End::Good) {
        if let Some(count) = counts.get_mut(((record.arrived.0 + u64::from(record.total)) / span) as usize) {
            *count += 1;
        }
    }
    let point = |(n, count): (usize, &u64)| ((n as u64 * span) as f64 / 1000.0, *count as f64 * 1000.0 / span as f64);
    counts.iter().enumerate().map(point).collect()
}

fn over_time(sides: &[Side<'_>], name: &str, of: fn(&crate::sample::Sample) -> u64) -> Vec<Line> {
    let line = |side: &Side<'_>| {
        let points = side.outcome.samples.iter().map(|sample| (sample.at.0 as f64 / 1000.0, of(sample) as f64));
        Line { name: labelled(sides, side, name), points: points.collect(), shape: Shape::Step }
    };
    sides.iter().map(line).collect()
}

fn labelled(sides: &[Side<'_>], side: &Side<'_>, name: &str) -> String {
    if sides.len() > 1 { format!("{name}, {}", side.name) } else { name.to_owned() }
}

/// Loads on order and evictions; no lines where there were none, or nobody counted.
fn changes(sides: &[Side<'_>]) -> Vec<Line> {
    let counts = sides.iter().filter_map(|side| side.outcome.samples.last()?.turnover);
    if counts.map(|(loads, evictions)| loads + evictions).sum::<u64>() == 0 {
        return vec![];
    }
    let mut lines = over_time(sides, "loaded", |sample| sample.turnover.map_or(0, |(loads, _)| loads));
    lines.extend(over_time(sides, "evicted", |sample| sample.turnover.map_or(0, |(_, evictions)| evictions)));
    lines
}

/// Each device of a run, or all together for each of several runs.
fn memory(sides: &[Side<'_>]) -> Vec<Line> {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let [side] = sides else {
        let mut lines = over_time(sides, "all devices", |sample| sample.used.0);
        lines.iter_mut().flat_map(|line| &mut line.points).for_each(|(_, used)| *used = gib(*used as u64));
        return lines;
    };
    let devices = side.outcome.samples.last().map_or(0, |sample| sample.devices.len());
    let line = |n: usize| {
        let used = |sample: &crate::sample::Sample| {
            sample.devices.get(n).map(|(_, used, _)| (sample.at.0 as f64 / 1000.0, gib(used.0)))
        };
        let of = side.outcome.samples.last().and_then(|sample| sample.devices.get(n));
        let name = of.map_or_else(String::new, |(id, _, all)| format!("{id}, of {:.0} GiB", gib(all.0)));
        Line { name, points: side.outcome.samples.iter().filter_map(used).collect(), shape: Shape::Step }
    };
    (0..devices).map(line).collect()
}

#[cfg(test)]
mod tests;
