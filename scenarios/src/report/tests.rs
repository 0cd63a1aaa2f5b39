//! The page says what it must, alone and beside another, whatever its names are.

use super::*;
use crate::clients::Group;
use crate::file;
use crate::simulate::{Counts, simulate};
use std::path::Path;

fn run(text: &str) -> (Outcome, Summary) {
    let scenario = file::read(text, Path::new("."), None, &[]).unwrap();
    let outcome = simulate(scenario.plan, &mut |_| {}).unwrap();
    let summary = Summary::of(&scenario.title, 1, &outcome, &scenario.expectations);
    (outcome, summary)
}

#[test]
fn a_page_stands_alone_and_shows_every_group_and_promise() {
    let (outcome, summary) = run(include_str!("../../library/bursty-tenants.toml"));
    let page = html("Bursts", &[Side { name: "", outcome: &outcome, summary: &summary }]);
    for text in
        ["gold", "silver", "bronze", "answered_permille &gt;= 1000", "First token, from arrival", "d0, of 22 GiB"]
    {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(page.matches("<svg ").count(), 6);
    for outside in ["http:", "https:", "src=", "href=", "<script", "NaN", "inf"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let both = html(
        "Two",
        &[
            Side { name: "before", outcome: &outcome, summary: &summary },
            Side { name: "after", outcome: &outcome, summary: &summary },
        ],
    );
    assert!(both.contains("<h2>before</h2>") && both.contains("interactive, after"));
}

#[test]
fn a_zoo_shows_its_loads_and_a_drain_its_end() {
    let (outcome, summary) = run(include_str!("../../library/model-zoo.toml"));
    let page = html("Zoo", &[Side { name: "", outcome: &outcome, summary: &summary }]);
    let Counts { loads, evictions, .. } = outcome.counts;
    assert!(page.contains("Models that came and went") && page.contains("models so far"));
    assert!(page.contains(&format!("{loads} models loaded, {evictions} evicted")) && loads > evictions);
    let (outcome, summary) = run(include_str!("../../library/drain-under-load.toml"));
    let page = html("Drain", &[Side { name: "", outcome: &outcome, summary: &summary }]);
    assert!(page.contains("drain of b at 90000 ms: done after 500 ms."));
}

#[test]
fn names_are_text_and_an_empty_run_has_a_page() {
    let (mut outcome, mut summary) = run(include_str!("../../library/bursty-tenants.toml"));
    outcome.records.clear();
    outcome.samples.clear();
    outcome.groups = vec![Group { name: "<script>".to_owned(), ..Group::default() }];
    summary.groups[0].name = "<script>".to_owned();
    let page = html("<b>", &[Side { name: "", outcome: &outcome, summary: &summary }]);
    assert!(!page.contains("<script>") && page.contains("&lt;script&gt;") && page.contains("<h1>&lt;b&gt;</h1>"));
    assert!(!page.contains("NaN"), "an empty chart has an axis");
}
