//! `orch chat`: asks a running server over its OpenAI surface and streams the answer.

use crate::cli::ChatArgs;
use crate::client::{Client, Events};
use crate::failure::{Code, Failure};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};

pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server);
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model()?,
    };
    let mut messages = Vec::new();
    if !args.prompt.is_empty() {
        messages.push(json!({"role": "user", "content": args.prompt.join(" ")}));
        ask(&client, args, &model, &messages)?;
        return Ok(());
    }
    let interactive = std::io::stdin().is_terminal();
    loop {
        if interactive {
            eprint!("> ");
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(());
        }
        messages.push(json!({"role": "user", "content": line.trim()}));
        let answer = ask(&client, args, &model, &messages)?;
        messages.push(json!({"role": "assistant", "content": answer}));
    }
}

/// Streams an answer to stdout and returns it.
fn ask(client: &Client, args: &ChatArgs, model: &str, messages: &[Value]) -> Result<String, Failure> {
    let ChatArgs { max_tokens, seed, temperature, .. } = args;
    let body = json!({
        "model": model, "messages": messages, "stream": true, "max_tokens": max_tokens, "temperature": temperature,
        "seed": seed,
    });
    let mut response = client.post("/v1/chat/completions", &body)?;
    let mut answer = String::new();
    let mut out = std::io::stdout();
    for event in Events::of(&mut response) {
        let data = event.map_err(Failure::of(Code::Unavailable))?.data;
        // It says what the end says too.
        if data == "[DONE]" {
            break;
        }
        let event: Value = serde_json::from_str(&data).map_err(Failure::of(Code::Unavailable))?;
        if let Some(message) = event.pointer("/error/message").and_then(Value::as_str) {
            return Err(Failure::new(Code::Unavailable, format!("the answer broke off: {message}")));
        }
        let text = event.pointer("/choices/0/delta/content").and_then(Value::as_str).unwrap_or_default();
        write!(out, "{text}")?;
        out.flush()?;
        answer += text;
    }
    writeln!(out)?;
    Ok(answer)
}
