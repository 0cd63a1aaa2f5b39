//! Traces of requests: CSV with a head line, or JSON lines, with `time_ms`, `prompt` and `answer` (tokens) and, where
//! they are there, `class` and `tenant`. Other columns are skipped, so that a trace may keep what it has.

use orchestrion_world::id::TenantId;
use orchestrion_world::protocol::Class;
use serde::Deserialize;
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// One request of a trace. An empty `class` or `tenant` is that of its arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub at_ms: u64,
    pub prompt: u32,
    pub answer: u32,
    pub class: Option<Class>,
    pub tenant: Option<TenantId>,
}

/// As it stands in a line.
#[derive(Debug, Deserialize)]
struct Words<'l> {
    time_ms: u64,
    prompt: u32,
    answer: u32,
    #[serde(borrow, default)]
    class: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    tenant: Option<Cow<'l, str>>,
}

const BYTES_MAX: u64 = 1 << 30;
const CALLS_MAX: usize = 5_000_000;
/// Of a line; a longer one is no call.
const LINE_MAX: u64 = 1 << 16;

/// Reads a trace, by time. Tenants are among `tenants`.
pub fn read(path: &Path, tenants: &[&str]) -> Result<Vec<Call>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut calls = parse(BufReader::new(file.take(BYTES_MAX)), tenants)?;
    calls.sort_by_key(|call| call.at_ms);
    Ok(calls)
}

fn parse(mut text: impl BufRead, tenants: &[&str]) -> Result<Vec<Call>, String> {
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
            let words = serde_json::from_str(words).map_err(|error| wrong(&error.to_string()))?;
            calls.push(call(&words, tenants).map_err(|problem| wrong(&problem))?);
        } else if let Some(columns) = &head {
            let words = split(words, columns).map_err(|problem| wrong(&problem))?;
            calls.push(call(&words, tenants).map_err(|problem| wrong(&problem))?);
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
struct Columns {
    numbers: [usize; 3],
    class: Option<usize>,
    tenant: Option<usize>,
}

fn columns(head: &str) -> Result<Columns, String> {
    let place = |name: &str| head.split(',').position(|column| column.trim() == name);
    let find = |name: &str| {
        place(name)
            .ok_or_else(|| format!("the head line names no column `{name}`; it needs `time_ms`, `prompt` and `answer`"))
    };
    let numbers = [find("time_ms")?, find("prompt")?, find("answer")?];
    Ok(Columns { numbers, class: place("class"), tenant: place("tenant") })
}

fn split<'l>(line: &'l str, columns: &Columns) -> Result<Words<'l>, String> {
    let word = |at: usize| line.split(',').nth(at).unwrap_or_default().trim();
    let number = |at: usize| {
        let word = word(at);
        word.parse::<u64>().map_err(|_| format!("`{word}` is no whole number"))
    };
    let tokens = |at| number(at).and_then(|n| u32::try_from(n).map_err(|_| format!("{n} tokens are too many")));
    let [time, prompt, answer] = columns.numbers;
    let name = |at: Option<usize>| at.map(|at| Cow::Borrowed(word(at)));
    let (class, tenant) = (name(columns.class), name(columns.tenant));
    Ok(Words { time_ms: number(time)?, prompt: tokens(prompt)?, answer: tokens(answer)?, class, tenant })
}

fn call(words: &Words<'_>, tenants: &[&str]) -> Result<Call, String> {
    let Words { time_ms, prompt, answer, class, tenant } = words;
    let class = match class.as_deref() {
        None | Some("") => None,
        Some("interactive") => Some(Class::Interactive),
        Some("batch") => Some(Class::Batch),
        Some(other) => return Err(format!("`{other}` is no class, expected one of `interactive`, `batch`")),
    };
    let tenant = match tenant.as_deref() {
        None | Some("") => None,
        Some(name) if tenants.contains(&name) => Some(TenantId::of(name)),
        Some(name) => return Err(format!("unknown tenant `{name}`, expected one of `{}`", tenants.join("`, `"))),
    };
    Ok(Call { at_ms: *time_ms, prompt: *prompt, answer: *answer, class, tenant })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same_and_slips_say_their_line() {
        let (class, tenant) = (Some(Class::Batch), Some(TenantId::of("gold")));
        let calls = [
            Call { at_ms: 5, prompt: 10, answer: 3, class, tenant },
            Call { at_ms: 7, prompt: 1, answer: 1, class: None, tenant: None },
        ];
        let csv = "prompt,id,time_ms, answer, tenant,class\n10,a,5,3,gold, batch\n\n1,b,7,1,,\n";
        let json = "{\"time_ms\":5,\"prompt\":10,\"answer\":3,\"user\":\"x\",\"class\":\"batch\",\"tenant\":\"gold\"}\n\
                    {\"time_ms\":7,\"prompt\":1,\"answer\":1}";
        let read = |text: &str| parse(text.as_bytes(), &["default", "gold"]);
        assert_eq!(read(csv).unwrap(), calls);
        assert_eq!(read(json).unwrap(), calls);
        let error = |text: &str| read(text).unwrap_err();
        assert_eq!(error("time_ms,prompt,answer\n1,2,3\n1,x,3"), "line 3: `x` is no whole number");
        assert!(error("a,b\n").starts_with("line 1: the head line names no column `time_ms`"));
        let head = "time_ms,prompt,answer,class,tenant\n";
        assert_eq!(
            error(&format!("{head}1,2,3,urgent,gold")),
            "line 2: `urgent` is no class, expected one of `interactive`, `batch`"
        );
        assert_eq!(
            error(&format!("{head}1,2,3,batch,goldd")),
            "line 2: unknown tenant `goldd`, expected one of `default`, `gold`"
        );
        let endless = std::io::repeat(b'x');
        assert_eq!(parse(BufReader::new(endless), &[]).unwrap_err(), "line 1: it is too long");
    }
}
