//! Scripts of scenarios: a drawn storm with lines, words and numbers exchanged, doubled, cut or made huge, or plain
//! noise.

use super::Target;
use orchestrion_scenarios::script::Script;
use orchestrion_scenarios::storm::draw::Draw;
use orchestrion_scenarios::storm::plan::plan;
use std::error::Error;

/// Storms to begin from, drawn once.
const STORMS: u64 = 64;

pub(super) fn target(seed: u64) -> Result<Target, Box<dyn Error>> {
    let storm = |n| plan(seed.wrapping_add(n), 300).text.lines().map(str::to_owned).collect();
    let storms: Vec<Vec<String>> = (0..STORMS).map(storm).collect();
    Ok(Target { make: Box::new(move |draw| Ok(broken(&storms, draw).into_bytes())), read: Box::new(read) })
}

fn read(text: &[u8]) -> Result<&'static str, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    Ok(if text.parse::<Script>().is_ok() { "read" } else { "refused" })
}

const WORDS: [&str; 24] = [
    "submit",
    "cancel",
    "worker",
    "pool",
    "set",
    "queue",
    "restart",
    "heal",
    "t1",
    "w1",
    "t",
    "w",
    "=",
    "a=",
    "=b",
    ">",
    "#",
    "batch",
    "policy=reject",
    "model=",
    "for=1",
    "by=",
    "-1",
    "\u{2581}",
];
pub(super) const NUMBERS: [&str; 10] = [
    "0",
    "1",
    "-1",
    "65536",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "1e9",
];

/// A storm of a few lines with something wrong in it; now and then noise.
fn broken(storms: &[Vec<String>], draw: &mut Draw) -> String {
    if draw.chance(5) {
        return (0..draw.below(200)).map(|_| char::from(draw.below(128) as u8)).collect();
    }
    let storm = &storms[draw.index(storms.len())];
    let from = draw.index(storm.len());
    let to = (from + draw.index(12) + 1).min(storm.len());
    // Declarations, or most of what follows could not be read at all.
    let head = storm.iter().filter(|line| !line.as_bytes().get(2).is_some_and(u8::is_ascii_digit));
    let mut lines: Vec<String> = head.chain(&storm[from..to]).cloned().collect();
    for _ in 0..draw.within(0, 3) {
        let at = draw.index(lines.len());
        let Some(line) = lines.get(at).cloned() else { break };
        match draw.below(6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(draw.index(lines.len()), line),
            2 => lines.swap(0, at),
            _ => lines[at] = changed(&line, draw),
        }
    }
    lines.join("\n")
}

/// A word or a number more, less or other.
fn changed(line: &str, draw: &mut Draw) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let at = draw.index(words.len());
    match draw.below(5) {
        0 => drop(words.remove(at)),
        1 => words.insert(at, draw.of(&WORDS).to_owned()),
        2 => words[at] = draw.of(&WORDS).to_owned(),
        3 => words[at] = draw.of(&NUMBERS).to_owned(),
        _ => {
            let key = words[at].split('=').next().unwrap_or_default();
            words[at] = format!("{key}={}", draw.of(&NUMBERS));
        }
    }
    words.join(" ")
}
