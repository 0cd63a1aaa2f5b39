//! Each case's answer is the one that stands in its file. `UPDATE_CASES=1` writes the answers anew: then
//! read the difference, it is a change of behaviour.

use crate::cases;
use orchestrion_scenarios::stage::{Plain, run};

#[test]
fn every_case_answers_as_written() {
    let cases = cases::all();
    assert!(cases.len() >= 10, "{} cases", cases.len());
    let update = std::env::var_os("UPDATE_CASES").is_some();
    let mut different = vec![];
    for case in &cases {
        let name = case.path.display();
        let done = run(&case.script, &mut Plain).unwrap_or_else(|broken| panic!("{name}: {broken}"));
        assert_eq!(done.living, 0, "{name}: every task ends");
        let answer = case.head() + &done.transcript;
        if answer == case.text {
            continue;
        }
        if update {
            std::fs::write(&case.path, answer).unwrap();
        } else {
            let at = answer.lines().zip(case.text.lines()).position(|(a, b)| a != b);
            let line = |text: &str| at.and_then(|n| text.lines().nth(n)).unwrap_or("(its end)").to_owned();
            different.push(format!(
                "{name}:{}\n  written {}\n  now     {}",
                at.map_or(0, |n| n + 1),
                line(&case.text),
                line(&answer)
            ));
        }
    }
    assert!(different.is_empty(), "behaviour changed:\n{}", different.join("\n"));
}
