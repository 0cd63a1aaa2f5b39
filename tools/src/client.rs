//! A running server, asked over HTTP: what its clients among the commands share.

use crate::cli::ServerArgs;
use crate::failure::{Code, Failure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body, BodyReader, RequestBuilder};

const CONNECT: Duration = Duration::from_secs(10);
/// A stream that has nothing to say still beats, by default every 15 s.
const SILENCE: Duration = Duration::from_secs(90);

/// Asks one server.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    url: String,
    key: Option<String>,
}

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What the server's envelope says, on either surface.
    pub message: String,
    pub status: u16,
    /// Milliseconds after which the same request may be taken.
    pub retry_after_ms: Option<u64>,
}

/// Why there is no answer to go on with.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nothing came: the server may come back.
    Lost(Failure),
    Refused(Refusal),
}

impl Client {
    pub(crate) fn new(args: &ServerArgs) -> Client {
        // The server is named by the user; a proxy of the environment is not meant for it.
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        Client {
            agent: agent.build().new_agent(),
            url: args.url.trim_end_matches('/').to_owned(),
            key: args.key.clone(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Response<Body>, Trouble> {
        self.heard(self.keyed(self.agent.get(self.to(path))).call())
    }

    /// A stream from behind the event `after`.
    pub(crate) fn stream(&self, path: &str, after: Option<&str>) -> Result<Response<Body>, Trouble> {
        let request = self.keyed(self.agent.get(self.to(path))).header("accept", "text/event-stream");
        let request = match after {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        self.heard(request.call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Response<Body>, Trouble> {
        let request = self.keyed(self.agent.post(self.to(path))).content_type("application/json");
        self.heard(request.send(body.to_string()))
    }

    /// The first model by name of those that the server's pools answer prompts with.
    pub(crate) fn first_model(&self) -> Result<String, Failure> {
        let told = json_of(&mut self.get("/v1/capabilities")?)?;
        let answers = |pool: &&Value| {
            let workloads = pool["supported_workloads"].as_array();
            workloads.is_some_and(|workloads| workloads.iter().any(|workload| workload == "completion"))
        };
        let pools = told["pools"].as_array().into_iter().flatten().filter(answers);
        let name = pools.filter_map(|pool| pool["model"].as_str()).min().map(str::to_owned);
        name.ok_or_else(|| {
            let problem = "no model there answers prompts; `GET /v1/capabilities` says what each pool takes";
            Failure::new(Code::Failed, format!("{}: {problem}", self.url))
        })
    }

    fn to(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn keyed<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn heard(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Trouble> {
        let mut response = answer.map_err(|error| {
            let refused = matches!(&error, ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused);
            let hint = if refused { "; is it running? `orch serve` starts one" } else { "" };
            Trouble::Lost(Failure::new(Code::Unavailable, format!("no answer from {}: {error}{hint}", self.url)))
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let problem = json_of(&mut response).unwrap_or_default();
        let about = problem.get("error").filter(|error| error.is_object()).unwrap_or(&problem);
        let message = about.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
        let backoff = response.headers().get("x-backoff-ms").and_then(|ms| ms.to_str().ok()?.parse().ok());
        Err(Trouble::Refused(Refusal { message, status: response.status().as_u16(), retry_after_ms: backoff }))
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Lost(failure) => failure,
            Trouble::Refused(Refusal { message, status, .. }) => {
                // Full, or not up: the same may be done later.
                let code = if status == 429 || status >= 500 { Code::Unavailable } else { Code::Failed };
                Failure::new(code, format!("the server answered {status}: {message}"))
            }
        }
    }
}

pub(crate) fn json_of(response: &mut Response<Body>) -> Result<Value, Failure> {
    let text = response.body_mut().read_to_string().map_err(Failure::of(Code::Unavailable))?;
    serde_json::from_str(&text).map_err(Failure::of(Code::Unavailable))
}

/// One event of a stream.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: String,
}

/// The events of a response, as they come.
pub(crate) struct Events<'a>(Lines<BufReader<BodyReader<'a>>>);

impl<'a> Events<'a> {
    pub(crate) fn of(response: &'a mut Response<Body>) -> Events<'a> {
        Events(BufReader::new(response.body_mut().as_reader()).lines())
    }
}

impl Iterator for Events<'_> {
    type Item = std::io::Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut event = Event::default();
        loop {
            let line = match self.0.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            // Comments, which have no name, keep the connection alive.
            match line.split_once(": ") {
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", data)) => data.clone_into(&mut event.data),
                _ if line.is_empty() && !event.data.is_empty() => return Some(Ok(event)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_refuses_is_no_server_out_of_reach() {
        let code = |status| {
            Failure::from(Trouble::Refused(Refusal { message: String::new(), status, retry_after_ms: None })).code()
        };
        assert_eq!([400, 404, 409].map(code), [Code::Failed; 3]);
        assert_eq!([429, 500, 503].map(code), [Code::Unavailable; 3]);
    }
}
