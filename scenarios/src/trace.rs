//! Traces of requests: CSV with a head line, or JSON lines, with `time_ms`, `prompt` and `answer` (tokens).
//! Other columns are skipped, so that a trace may keep what it has.

use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Call {
    #[serde(rename = "time_ms")]
    pub at_ms: u64,
    pub prompt: u32,
    pub answer: u32,
}

const BYTES_MAX: u64 = 1 << 30;
const CALLS_MAX: usize = 5_000_000;
/// Of a line; a longer one is no call.
const LINE_MAX: u64 = 1 << 16;

/// Reads a trace, by time.
pub fn read(path: &Path) -> Result<Vec<Call>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut calls = parse(BufReader::new(file.take(BYTES_MAX)))?;
    calls.sort_by_key(|call| call.at_ms);
    Ok(calls)
}

fn parse(mut text: impl BufRead) -> Result<Vec<Call>, String> {
    let (mut calls, mut head, mut line) = (vec![], None, String::new());
    for number in 1.. {
        line.clear();
        let read =
            (&mut text).take(LINE_MAX).read_line(&mut line).map_err(|error| format!("line {number}: {error}"))?;
        if read == 0 {
            break;
        }
        let wrong = |problem: &str| format!("line {number}: {problem}");
        if !line.ends_with('\n') && read as u64 == LINE_MAX {
            return Err(wrong("it is too long"));
        }
        let words = line.trim();
        if words.is_empty() {
            continue;
        }
        if words.starts_with('{') {
            calls.push(serde_json::from_str(words).map_err(|error| wrong(&error.to_string()))?);
        } else if let Some(columns) = &head {
            calls.push(call(words, columns).map_err(|problem| wrong(&problem))?);
        } else {
            head = Some(columns(words).map_err(|problem| wrong(&problem))?);
        }
        if calls.len() > CALLS_MAX {
            return Err(wrong(&format!("there can be {CALLS_MAX} requests at most")));
        }
    }
    Ok(calls)
}

/// Where the columns stand.
fn columns(head: &str) -> Result<[usize; 3], String> {
    let find = |name: &str| {
        let at = head.split(',').position(|column| column.trim() == name);
        at.ok_or_else(|| format!("the head line names no column `{name}`; it needs `time_ms`, `prompt` and `answer`"))
    };
    Ok([find("time_ms")?, find("prompt")?, find("answer")?])
}

fn call(line: &str, columns: &[usize; 3]) -> Result<Call, String> {
    let number = |at: usize| {
        let word = line.split(',').nth(at).unwrap_or_default().trim();
        word.parse::<u64>().map_err(|_| format!("`{word}` is no whole number"))
    };
    let tokens = |at| number(at).and_then(|n| u32::try_from(n).map_err(|_| format!("{n} tokens are too many")));
    Ok(Call { at_ms: number(columns[0])?, prompt: tokens(columns[1])?, answer: tokens(columns[2])? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same_and_slips_say_their_line() {
        let calls = [Call { at_ms: 5, prompt: 10, answer: 3 }, Call { at_ms: 7, prompt: 1, answer: 1 }];
        let csv = "prompt,id,time_ms, answer\n10,a,5,3\n\n1,b,7,1\n";
        let json =
            "{\"time_ms\":5,\"prompt\":10,\"answer\":3,\"user\":\"x\"}\n{\"time_ms\":7,\"prompt\":1,\"answer\":1}";
        assert_eq!(parse(csv.as_bytes()).unwrap(), calls);
        assert_eq!(parse(json.as_bytes()).unwrap(), calls);
        assert_eq!(
            parse("time_ms,prompt,answer\n1,2,3\n1,x,3".as_bytes()).unwrap_err(),
            "line 3: `x` is no whole number"
        );
        assert!(parse("a,b\n".as_bytes()).unwrap_err().starts_with("line 1: the head line names no column `time_ms`"));
        let endless = std::io::repeat(b'x');
        assert_eq!(parse(BufReader::new(endless)).unwrap_err(), "line 1: it is too long");
    }
}
