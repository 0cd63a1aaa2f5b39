//! `orch submit`: gives a task to a running server's queue and follows it to its end.
//!
//! The task has its id before it is sent, so that a lost answer is asked for again rather than doubled, and
//! a lost stream goes on behind the last event that came, also over a restart of the server.

use crate::cli::{Output, Priority, SubmitArgs};
use crate::client::{Client, Events, Refusal, Trouble, json_of};
use crate::failure::{Code, Failure};
use crate::output;
use serde_json::{Value, json};
use std::io::{IsTerminal, Read, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server may be away, or full, before that is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries where the server names no time.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &SubmitArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server);
    let id = match &args.follow {
        Some(id) => id.clone(),
        None => {
            let answer = submit(&client, &body(&client, args)?)?;
            if args.detach {
                let id = answer["task_id"].as_str().unwrap_or_default();
                return match args.output {
                    Output::Text => Ok(writeln!(std::io::stdout(), "{id}")?),
                    Output::Json => output::json(&answer),
                };
            }
            answer["task_id"].as_str().unwrap_or_default().to_owned()
        }
    };
    eprintln!("task {id}");
    let ended = follow(&client, &id, args.output == Output::Text)?;
    if args.output == Output::Json {
        let shown = patiently(|| client.get(&format!("/v1/tasks/{id}")))?;
        output::json(&json_of(&mut { shown })?)?;
    }
    match ended {
        None => Ok(()),
        Some(problem) => Err(Failure::new(Code::Failed, format!("task {id} ended without an answer: {problem}"))),
    }
}

fn body(client: &Client, args: &SubmitArgs) -> Result<Value, Failure> {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model()?,
    };
    let prompt = prompt(args)?;
    let mut body = json!({
        "task_id": uuid::Uuid::now_v7().to_string(),
        "model_ref": model,
        "priority": match args.priority {
            Priority::Interactive => "interactive",
            Priority::Batch => "batch",
        },
        "max_tokens": args.max_tokens,
        "deadline_ms": args.deadline_ms,
        "seed": args.seed,
        "temperature": args.temperature,
    });
    match args.raw {
        true => body["prompt"] = prompt.into(),
        false => body["messages"] = json!([{"role": "user", "content": prompt}]),
    }
    Ok(body)
}

/// From the arguments, else all of stdin.
fn prompt(args: &SubmitArgs) -> Result<String, Failure> {
    if !args.prompt.is_empty() {
        return Ok(args.prompt.join(" "));
    }
    if std::io::stdin().is_terminal() {
        eprintln!("the prompt, ended by Ctrl-D:");
    }
    let mut prompt = String::new();
    std::io::stdin().lock().read_to_string(&mut prompt)?;
    match prompt.trim().is_empty() {
        true => Err(Failure::new(Code::Failed, "there is no prompt: give one as an argument or on stdin")),
        false => Ok(prompt),
    }
}

fn submit(client: &Client, body: &Value) -> Result<Value, Failure> {
    json_of(&mut patiently(|| client.post("/v1/tasks", body))?)
}

/// Tries again while the server is away, or says when it will have room.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, Trouble>) -> Result<T, Failure> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let trouble = match ask() {
            Ok(answer) => return Ok(answer),
            Err(trouble) => trouble,
        };
        let pause = match &trouble {
            Trouble::Lost(_) => PAUSE,
            Trouble::Refused(Refusal { retry_after_ms: Some(ms), .. }) => Duration::from_millis(*ms).max(PAUSE / 10),
            // Another try would be refused as well.
            Trouble::Refused(_) => return Err(trouble.into()),
        };
        let failure = Failure::from(trouble);
        if began.elapsed() + pause > PATIENCE {
            return Err(failure);
        }
        if !told {
            eprintln!("{failure}; trying again for {} s", PATIENCE.as_secs());
            told = true;
        }
        sleep(pause);
    }
}

/// Writes the task's text to stdout where `show`; the problem where it ends with one.
fn follow(client: &Client, id: &str, show: bool) -> Result<Option<String>, Failure> {
    let path = format!("/v1/tasks/{id}/stream");
    let mut last: Option<String> = None;
    let mut out = std::io::stdout();
    loop {
        let mut response = patiently(|| client.stream(&path, last.as_deref()))?;
        for event in Events::of(&mut response) {
            // The connection broke; the next begins where this one ended.
            let Ok(event) = event else { break };
            let data: Value = serde_json::from_str(&event.data).map_err(Failure::of(Code::Unavailable))?;
            match event.name.as_str() {
                "token" if show => {
                    write!(out, "{}", data["t"].as_str().unwrap_or_default())?;
                    out.flush()?;
                }
                "end" | "error" => {
                    if show {
                        writeln!(out)?;
                    }
                    let message = data["message"].as_str().unwrap_or("no reason given");
                    return Ok((event.name == "error").then(|| message.to_owned()));
                }
                _ => {}
            }
            last = event.id.or(last);
        }
        eprintln!("the stream broke off; going on behind event {}", last.as_deref().unwrap_or("none"));
        sleep(PAUSE);
    }
}
