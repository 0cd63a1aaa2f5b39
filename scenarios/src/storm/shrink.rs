//! Cuts a scenario that breaks something down to what it takes: first whole clients and workers, then
//! events, then how long things last, then every other number. Each cut stays if the same thing still breaks.
//!
//! Works on the lines of the script, so that what is left is a script. Bounded by a count of tries, not by a
//! clock: the same scenario is cut down to the same one.

use super::plan::TASKS_OF_CLIENT;
use std::collections::BTreeMap;

/// What is left of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    pub text: String,
    /// What breaks in it.
    pub told: String,
    pub tries: u32,
}

/// Cuts `text` down; `breaks` tells what breaks in a script, if anything does.
pub fn shrink(text: &str, told: &str, tries: u32, breaks: &mut dyn FnMut(&str) -> Option<String>) -> Shrunk {
    let lines = text.lines().filter(|line| line.starts_with("> ")).map(str::to_owned).collect();
    let mut shrinker = Shrinker { lines, told: told.to_owned(), tries: 0, most: tries, breaks };
    loop {
        let before = shrinker.lines.clone();
        shrinker.drop_all_of(|word| Some(word.strip_prefix('t')?.parse::<u64>().ok()? / TASKS_OF_CLIENT));
        shrinker.drop_all_of(|word| word.strip_prefix('w')?.parse::<u64>().ok());
        shrinker.drop_lines();
        shrinker.lower(|key| ["for", "by", "down", "share"].contains(&key));
        shrinker.lower(|_| true);
        shrinker.hurry();
        if shrinker.lines == before || shrinker.tries >= shrinker.most {
            break;
        }
    }
    Shrunk { text: shrinker.text(), told: shrinker.told, tries: shrinker.tries }
}

/// What broke, without its figures and names.
fn kind(told: &str) -> String {
    let words = told.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 3);
    words.take(6).collect::<Vec<_>>().join(" ")
}

struct Shrinker<'b> {
    lines: Vec<String>,
    told: String,
    tries: u32,
    most: u32,
    breaks: &'b mut dyn FnMut(&str) -> Option<String>,
}

impl Shrinker<'_> {
    fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Takes the lines if the same thing breaks in them.
    fn take(&mut self, lines: Vec<String>) -> bool {
        if self.tries >= self.most || lines == self.lines {
            return false;
        }
        self.tries += 1;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let Some(told) = (self.breaks)(&text).filter(|told| kind(told) == kind(&self.told)) else { return false };
        (self.lines, self.told) = (lines, told);
        true
    }

    /// Without all lines that name one thing, for each thing that is named.
    fn drop_all_of(&mut self, named: fn(&str) -> Option<u64>) {
        let names = |line: &String| -> Vec<u64> { line.split(' ').filter_map(named).collect() };
        let mut things: BTreeMap<u64, usize> = BTreeMap::new();
        self.lines.iter().flat_map(names).for_each(|thing| *things.entry(thing).or_default() += 1);
        let mut things: Vec<(u64, usize)> = things.into_iter().collect();
        // The most first: it is the most that can go at once.
        things.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (thing, _) in things {
            let rest = self.lines.iter().filter(|line| !names(line).contains(&thing)).cloned().collect();
            self.take(rest);
        }
    }

    /// Without halves, quarters, … and single lines.
    fn drop_lines(&mut self) {
        let mut size = self.lines.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < self.lines.len() {
                let mut rest = self.lines.clone();
                rest.drain(at..(at + size).min(rest.len()));
                if !self.take(rest) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Lower values, or the default, of keys.
    fn lower(&mut self, of: fn(&str) -> bool) {
        for line in 0..self.lines.len() {
            let words: Vec<String> = self.lines[line].split(' ').map(str::to_owned).collect();
            for at in (0..words.len()).rev() {
                let Some((key, value)) = words[at].split_once('=').filter(|(key, _)| of(key)) else { continue };
                let mut without = self.lines.clone();
                without[line] = [&words[..at], &words[at + 1..]].concat().join(" ");
                // Further words of the line are before it.
                if self.take(without) {
                    continue;
                }
                let mut value = value.parse::<u64>().unwrap_or(0);
                while value > 1 {
                    let lower = [1, value / 2].into_iter().find(|lower| {
                        let mut lines = self.lines.clone();
                        lines[line] = replaced(&lines[line], at, &format!("{key}={lower}"));
                        self.take(lines)
                    });
                    let Some(lower) = lower else { break };
                    value = lower;
                }
            }
        }
    }

    /// Less time between one event and the next.
    fn hurry(&mut self) {
        for line in 0..self.lines.len() {
            while let Some(at) = time(&self.lines[line]) {
                let before = line.checked_sub(1).and_then(|before| time(&self.lines[before])).unwrap_or(0);
                let gap = at - before.min(at);
                let shorter = [gap, gap / 2, 1].into_iter().filter(|less| (1..=gap).contains(less));
                let taken = shorter.into_iter().any(|less| {
                    let mut lines = self.lines.clone();
                    for later in &mut lines[line..] {
                        if let Some(at) = time(later) {
                            *later = replaced(later, 1, &(at - less).to_string());
                        }
                    }
                    self.take(lines)
                });
                if !taken {
                    break;
                }
            }
        }
    }
}

/// When the line's event happens; none where it declares something.
fn time(line: &str) -> Option<u64> {
    line.split(' ').nth(1)?.parse().ok()
}

fn replaced(line: &str, at: usize, word: &str) -> String {
    let mut words: Vec<&str> = line.split(' ').collect();
    words[at] = word;
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_goes() {
        let text = "# Prose.\n> seed 3\n> pool a model=m\n> worker w1 pool=a slots=4\n> worker w2 pool=a\n\
                    > 10 submit t1000001 prompt=100\n> 300 late w1 by=50 for=900\n> 700 submit t2000001 answer=7\n";
        let mut breaks = |text: &str| {
            let late = text.lines().find(|line| line.contains("late w1 by="))?;
            let submitted = text.contains("submit t2000001");
            submitted.then(|| format!("tick 5: the audit breaks at {late}"))
        };
        let told = breaks(text).unwrap();
        let shrunk = shrink(text, &told, 1_000, &mut breaks);
        assert_eq!(shrunk.text, "> 0 late w1 by=1\n> 0 submit t2000001\n");
        assert_eq!(shrunk.told, "tick 5: the audit breaks at > 0 late w1 by=1");
        assert_eq!(shrink(text, &told, 3, &mut breaks).tries, 3, "and no more tries than were given");
    }
}
