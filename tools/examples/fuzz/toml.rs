//! Scenario files: those of the library with sections, lines, keys and values exchanged, doubled, cut or made huge.
//! Of a file that can be read, the first requests are drawn too.

use super::Target;
use super::scn::NUMBERS;
use orchestrion_scenarios::file;
use orchestrion_scenarios::storm::draw::Draw;
use std::error::Error;
use std::path::Path;

const LIBRARY: [&str; 6] = [
    include_str!("../../../scenarios/library/bursty-tenants.toml"),
    include_str!("../../../scenarios/library/clock-jump.toml"),
    include_str!("../../../scenarios/library/failing-worker.toml"),
    include_str!("../../../scenarios/library/noisy-tenant.toml"),
    include_str!("../../../scenarios/library/overload.toml"),
    include_str!("../../../scenarios/library/restart-storm.toml"),
];
const VALUES: [&str; 14] = [
    "-1",
    "0",
    "1e308",
    "-0.0",
    "nan",
    "inf",
    "true",
    "\"\"",
    "\"x\"",
    "[]",
    "[[1]]",
    "{}",
    "{ a = 1 }",
    "1979-05-27T07:32:00Z",
];
const LINES: [&str; 12] = [
    "[rules]",
    "[[rules.tenants]]",
    "[[faults]]",
    "kind = \"clock-jump\"",
    "kind = \"hang\"",
    "by_ms = -9223372036854775808",
    "times = 100000",
    "trace = \"/dev/null\"",
    "every = { ms = 1, count = 10000000 }",
    "poisson = { per_second = 1e-300, to_ms = 2678400000 }",
    "bursts = { size = 10000000, times = 1, every_ms = 18446744073709551615 }",
    "rules.queue.policy = \"reject\"",
];
/// Requests that are drawn.
const REQUESTS: usize = 16;

pub(super) fn target(_: u64) -> Result<Target, Box<dyn Error>> {
    let sections = |text: &str| text.split("\n\n").map(bare).filter(|s| !s.is_empty()).collect();
    let files: Vec<Vec<Vec<String>>> = LIBRARY.iter().map(|text| sections(text)).collect();
    Ok(Target { make: Box::new(move |draw| Ok(broken(&files, draw).into_bytes())), read: Box::new(read) })
}

/// The lines of a section that say something.
fn bare(section: &str) -> Vec<String> {
    section.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

fn read(text: &[u8]) -> Result<&'static str, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    Ok(match file::read(text, Path::new("nowhere"), None, &[]) {
        Ok(scenario) => {
            let drawn = scenario.plan.requests.take(REQUESTS).count();
            if drawn < REQUESTS { "read" } else { "read, and more to come" }
        }
        Err(_) => "refused",
    })
}

/// A file with something wrong in it; now and then noise.
fn broken(files: &[Vec<Vec<String>>], draw: &mut Draw) -> String {
    if draw.chance(3) {
        return (0..draw.below(200)).map(|_| char::from(draw.below(128) as u8)).collect();
    }
    let mut sections = draw.of(files);
    if draw.chance(20) {
        let other = draw.of(files);
        sections.push(draw.of(&other));
    }
    if draw.chance(20) {
        let (a, b) = (draw.index(sections.len()), draw.index(sections.len()));
        sections.swap(a, b);
    }
    if draw.chance(20) {
        let at = draw.index(sections.len());
        sections.remove(at);
    }
    let mut lines = sections.concat();
    for _ in 0..draw.within(0, 3) {
        let at = draw.index(lines.len());
        let Some(line) = lines.get(at).cloned() else { break };
        match draw.below(8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(draw.index(lines.len()), line),
            2 => lines.swap(0, at),
            3 => lines.insert(at, draw.of(&LINES).to_owned()),
            _ => lines[at] = changed(&line, draw),
        }
    }
    lines.join("\n")
}

/// One value, word or character of the line another.
fn changed(line: &str, draw: &mut Draw) -> String {
    let number = |c: char| c.is_ascii_digit();
    match draw.below(5) {
        0 => line.replacen('=', &format!("= {} #", draw.of(&NUMBERS)), 1),
        1 => line.replacen('=', &format!("= {} #", draw.of(&VALUES)), 1),
        // A number within the line, and what follows it.
        2 | 3 if line.contains(number) => {
            let from = line.find(number).unwrap_or_default();
            let rest = line[from..].trim_start_matches(|c: char| number(c) || c == '_' || c == '.');
            format!("{}{}{rest}", &line[..from], draw.of(&NUMBERS))
        }
        _ => {
            let mut characters: Vec<char> = line.chars().collect();
            let at = draw.index(characters.len());
            match draw.below(3) {
                0 if !characters.is_empty() => drop(characters.remove(at)),
                1 if !characters.is_empty() => characters[at] = draw.of(&['=', '"', '[', ']', '.', 'x', '\u{2581}']),
                _ => characters.insert(at, draw.of(&['=', '"', '[', '{', '.', ' ', '\u{0}'])),
            }
            characters.into_iter().collect()
        }
    }
}
