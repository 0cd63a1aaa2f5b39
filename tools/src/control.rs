//! `orch pools`, `drain`, `resume`, `reload`, `purge` and `verify`: operates the pools of a running server. What is asked
//! becomes a job of the server, which goes on whether or not anybody follows it.

use crate::cli::{DrainArgs, Output, PoolJobArgs, PoolsArgs, PurgeArgs, ReloadArgs, ResumeArgs, VerifyArgs};
use crate::client::{Client, Events, json_of};
use crate::failure::{Code, Failure};
use crate::output;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

pub(crate) fn drain(args: &DrainArgs) -> Result<(), Failure> {
    operate("drain", &with_deadline(json!({}), args.deadline_ms), &args.job)
}

pub(crate) fn resume(args: &ResumeArgs) -> Result<(), Failure> {
    operate("resume", &json!({}), &args.job)
}

pub(crate) fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    operate("reload", &with_deadline(json!({"new_model_ref": args.model}), args.deadline_ms), &args.job)
}

pub(crate) fn purge(args: &PurgeArgs) -> Result<(), Failure> {
    let body = json!({"drain_first": !args.force, "force": args.force});
    operate("purge", &with_deadline(body, args.deadline_ms), &args.job)
}

pub(crate) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    operate("verify", &json!({}), &args.job)
}

fn with_deadline(mut body: Value, deadline_ms: Option<u64>) -> Value {
    if let Some(ms) = deadline_ms {
        body["deadline_ms"] = ms.into();
    }
    body
}

pub(crate) fn pools(args: &PoolsArgs) -> Result<(), Failure> {
    let told = json_of(&mut Client::new(&args.answer.server).get("/v1/pools")?)?;
    if args.answer.output == Output::Json {
        return output::json(&told);
    }
    let mut out = std::io::stdout();
    for pool in rows(&told, "pools") {
        writeln!(out, "{}: {}, model {}", word(pool, "id"), word(pool, "state"), word(pool, "model"))?;
        for worker in rows(pool, "workers") {
            let [leases, slots] = ["leases", "slots"].map(|key| worker[key].as_u64().unwrap_or_default());
            let (id, state, breaker) = (word(worker, "id"), word(worker, "state"), word(worker, "breaker"));
            writeln!(out, "  worker {id}: {state}, breaker {breaker}, {leases} of {slots} slots in use")?;
        }
        if let Some(job) = pool["job_id"].as_str() {
            writeln!(out, "  job {job} runs")?;
        }
    }
    Ok(())
}

fn operate(verb: &str, body: &Value, args: &PoolJobArgs) -> Result<(), Failure> {
    let client = Client::new(&args.answer.server);
    let pool = match &args.pool {
        Some(pool) => pool.clone(),
        None => only_pool(&client)?,
    };
    let begun = json_of(&mut client.post(&format!("/v1/pools/{}/{verb}", escaped(&pool)), body)?)?;
    let job = word(&begun, "job_id");
    if args.detach {
        return match args.answer.output {
            Output::Text => Ok(writeln!(std::io::stdout(), "{job}")?),
            Output::Json => output::json(&begun),
        };
    }
    eprintln!("job {job}");
    let ended = follow(&client, job)?;
    match args.answer.output {
        Output::Json => output::json(&ended)?,
        Output::Text if ended["state"] == "done" => writeln!(std::io::stdout(), "{verb} of pool {pool}: done")?,
        Output::Text => {}
    }
    let why = match word(&ended, "state") {
        "done" => return Ok(()),
        "cancelled" => "another job took its place, or the server ended",
        _ => ended["error"].as_str().unwrap_or("no reason given"),
    };
    Err(Failure::new(Code::Failed, format!("{verb} of pool {pool} {}: {why}", word(&ended, "state"))))
}

/// Tells each step as it goes on, and gives the job as it ended.
fn follow(client: &Client, job: &str) -> Result<Value, Failure> {
    let mut told = BTreeMap::new();
    let mut response = client.stream(&format!("/v1/jobs/{job}"), None)?;
    for event in Events::of(&mut response) {
        let Ok(event) = event else { break };
        let state: Value = serde_json::from_str(&event.data).map_err(Failure::of(Code::Unavailable))?;
        for (n, step) in rows(&state, "steps").enumerate() {
            let status = step["result"].as_str().unwrap_or(word(step, "status")).to_owned();
            if status != "pending" && told.get(&n) != Some(&status) {
                let of = ["worker_id", "model"].into_iter().filter_map(|key| step[key].as_str());
                let name: Vec<&str> = [word(step, "name")].into_iter().chain(of).collect();
                eprintln!("  {}: {status}", name.join(" "));
                told.insert(n, status);
            }
        }
        if event.name == "end" {
            return Ok(state);
        }
    }
    let message = format!("the server left before job {job} ended; `orch pools` tells how its pools are");
    Err(Failure::new(Code::Unavailable, message))
}

fn only_pool(client: &Client) -> Result<String, Failure> {
    let told = json_of(&mut client.get("/v1/pools")?)?;
    let names: Vec<&str> = rows(&told, "pools").map(|pool| word(pool, "id")).collect();
    match names.as_slice() {
        [only] => Ok((*only).to_owned()),
        _ => {
            let message = format!("the server has {} pools, name one with `--pool`: {}", names.len(), names.join(", "));
            Err(Failure::new(Code::Failed, message))
        }
    }
}

fn rows<'v>(of: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    of[key].as_array().into_iter().flatten()
}

fn word<'v>(of: &'v Value, key: &str) -> &'v str {
    of[key].as_str().unwrap_or("unknown")
}

/// As a segment of a path.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(escaped("a-1.b_c~"), "a-1.b_c~");
        assert_eq!(escaped("a/b c?ü"), "a%2Fb%20c%3F%C3%BC");
    }
}
