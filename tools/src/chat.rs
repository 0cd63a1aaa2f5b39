//! `orch chat`: asks a running server over its OpenAI surface and streams the answer.

use crate::cli::ChatArgs;
use crate::failure::{Code, Failure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use ureq::{Agent, RequestBuilder};

pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    // The server is named by the user; a proxy of the environment is not meant for it.
    let agent = Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
    let model = match &args.model {
        Some(model) => model.clone(),
        None => first_model(&agent, args)?,
    };
    let mut messages = Vec::new();
    if !args.prompt.is_empty() {
        messages.push(json!({"role": "user", "content": args.prompt.join(" ")}));
        ask(&agent, args, &model, &messages)?;
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
        let answer = ask(&agent, args, &model, &messages)?;
        messages.push(json!({"role": "assistant", "content": answer}));
    }
}

fn first_model(agent: &Agent, args: &ChatArgs) -> Result<String, Failure> {
    let url = &args.url;
    let request = keyed(agent.get(format!("{url}/v1/models")), args);
    let mut response = request.call().map_err(|error| no_answer(url, &error))?;
    if !response.status().is_success() {
        return Err(refused(&mut response));
    }
    let list = json_of(response.body_mut())?;
    let name = list.pointer("/data/0/id").and_then(Value::as_str).map(str::to_owned);
    name.ok_or_else(|| Failure::new(Code::Unavailable, format!("the server at {url} names no model")))
}

/// Streams an answer to stdout and returns it.
fn ask(agent: &Agent, args: &ChatArgs, model: &str, messages: &[Value]) -> Result<String, Failure> {
    let ChatArgs { url, max_tokens, seed, temperature, .. } = args;
    let mut body = json!({
        "model": model, "messages": messages, "stream": true, "max_tokens": max_tokens, "temperature": temperature,
    });
    if let Some(seed) = seed {
        body["seed"] = json!(seed);
    }
    let request = keyed(agent.post(format!("{url}/v1/chat/completions")), args).content_type("application/json");
    let mut response = request.send(body.to_string()).map_err(|error| no_answer(url, &error))?;
    if !response.status().is_success() {
        return Err(refused(&mut response));
    }
    let mut answer = String::new();
    let mut out = std::io::stdout();
    for line in BufReader::new(response.body_mut().as_reader()).lines() {
        let line = line?;
        // Blank lines end events, comments keep the connection alive, DONE says what the end says too.
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let event: Value = serde_json::from_str(data).map_err(Failure::of(Code::Unavailable))?;
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

fn keyed<B>(request: RequestBuilder<B>, args: &ChatArgs) -> RequestBuilder<B> {
    match &args.key {
        Some(key) => request.header("authorization", format!("Bearer {key}")),
        None => request,
    }
}

fn refused(response: &mut ureq::http::Response<ureq::Body>) -> Failure {
    let problem = json_of(response.body_mut()).unwrap_or_default();
    let message = problem.pointer("/error/message").and_then(Value::as_str).unwrap_or("no reason given");
    Failure::new(Code::Unavailable, format!("the server answered {}: {message}", response.status()))
}

fn json_of(body: &mut ureq::Body) -> Result<Value, Failure> {
    let text = body.read_to_string().map_err(Failure::of(Code::Unavailable))?;
    serde_json::from_str(&text).map_err(Failure::of(Code::Unavailable))
}

fn no_answer(url: &str, error: &ureq::Error) -> Failure {
    let refused = matches!(error, ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused);
    let hint = if refused { "; is it running? `orch serve` starts one" } else { "" };
    Failure::new(Code::Unavailable, format!("no answer from {url}: {error}{hint}"))
}
