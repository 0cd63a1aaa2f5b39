//! A door with a small stand-in for the pulse, for tests: it answers envelopes and cancels as the real
//! one does, and plays the notices and tokens that a test's model name asks for.

use super::task_id;
use crate::auth::Auth;
use crate::door::{Door, DoorConfig, DoorParts};
use crate::port::{
    Content, Dropped, Envelope, Explain, ExplainError, ModelCard, Prepare, PrepareError, Prepared, Truncation, Urgent,
    Verdict, Words,
};
use crate::pulse::{Audience, Health, Lanes};
use crate::switchboard::Switchboard;
use crate::telemetry::Telemetry;
use crate::token_log::Pushed;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use orchestrion_world::budget::Left;
use orchestrion_world::config::{EvictionRule, OverloadPolicy, Rules};
use orchestrion_world::id::{Attempt, ModelId, PoolId, TaskId, WorkerId};
use orchestrion_world::payload::{CallForm, Likelihood, Likely, Output, Payload, Token};
use orchestrion_world::prefix::PrefixKey;
use orchestrion_world::protocol::{
    CancelReason, Class, Failure, Finish, Intent, Notice, Outcome, Refusal, TaskSpec, Usage,
};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Sha256;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::ServiceExt;

/// Model names are what the stand-in does with their tasks.
pub(crate) const MODELS: [&str; 5] = ["org/answer", "hold", "full", "fail", "stuck"];
/// Submissions that the rig's lane holds.
pub(crate) const LANE: usize = 64;
pub(crate) const PIECES: [&str; 4] = ["Hel", "", "lo\n", " \"you\""];

pub(crate) struct Words2Tokens;

impl Prepare for Words2Tokens {
    fn models(&self) -> Vec<ModelCard> {
        let workloads = |name: &str| match name {
            "fail" => None,
            "stuck" => Some(["embedding"].as_slice()),
            _ => Some(["completion", "embedding"].as_slice()),
        };
        let card = |name: &str| ModelCard { name: name.to_owned(), created: 7, workloads: workloads(name) };
        MODELS.into_iter().map(card).collect()
    }

    fn call_form(&self, model: &str) -> Result<CallForm, PrepareError> {
        match model {
            "hold" => Err(PrepareError::Invalid { field: "tools", problem: "it knows none".into() }),
            _ => Ok(CallForm { opens: "", closes: "", arguments: "arguments", in_list: false }),
        }
    }

    fn prepare(&self, words: Words) -> Result<Prepared, PrepareError> {
        let Some(model) = MODELS.iter().position(|name| *name == words.model) else {
            return Err(PrepareError::UnknownModel { asked: words.model, known: MODELS.join(", ") });
        };
        if MODELS[model] == "stuck" && words.output == Output::Score {
            return Err(PrepareError::Invalid { field: "model", problem: "scores nothing".into() });
        }
        if words.dimensions.is_some_and(|wanted| wanted > 2) {
            return Err(PrepareError::Invalid { field: "dimensions", problem: "there are two".into() });
        }
        let prompt: Arc<[u32]> = match &words.content {
            Content::Prompt(text) | Content::Pair { document: text, .. } if text == "too long" => {
                return Err(PrepareError::TooLong { field: words.content.field(), problem: "it is long".into() });
            }
            // Its score is the document's length.
            Content::Pair { document, .. } => [1, 2, document.len() as u32].into(),
            Content::Prompt(_) | Content::Tokens(_) | Content::Messages(_) => [1, 2, 3].into(),
        };
        let payload = Payload {
            prompt,
            stop: words.stop.into_iter().map(String::into_boxed_str).collect(),
            sampling: words.sampling,
            bias: words.bias.into(),
            logprobs: words.logprobs,
            grammar: words.shape.map(|shape| shape.grammar.into()),
            max_tokens: words.max_tokens.unwrap_or(8),
            class: Class::Interactive,
            salt: None,
            output: words.output,
        };
        // Of a request for many, one may be refused.
        let model = match &words.content {
            Content::Prompt(text) if text == "full" => 2,
            _ => model as u16,
        };
        let model = ModelId(model);
        // As if two turns had been too many.
        let dropped = match words.truncation {
            Truncation::Auto => Dropped { messages: 2, tokens: 30 },
            Truncation::Disabled => Dropped::default(),
        };
        let (prompt_digest, prefix) = (Sha256::default(), [PrefixKey(7)].into());
        Ok(Prepared { model, payload, prompt_digest, prefix, fingerprint: "fp".into(), dropped })
    }
}

pub(crate) struct Told;

impl Explain for Told {
    fn explain(&self, task: TaskId, input: u32) -> Result<String, ExplainError> {
        match (task.0, input) {
            (0, _) => Err(ExplainError::Unknown),
            (_, 0..3) => Ok(json!({"task": task.to_string(), "input": input}).to_string()),
            (_, 3..) => Err(ExplainError::NoInput("there is none".into())),
        }
    }
}

pub(crate) struct Rig {
    pub(crate) door: Arc<Door>,
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) health: Health,
    pub(crate) cancelled: Arc<Mutex<Vec<CancelReason>>>,
    pub(crate) specs: Arc<Mutex<Vec<TaskSpec>>>,
    tasks: Arc<Mutex<Vec<TaskId>>>,
    unanswered: Arc<Mutex<Vec<Envelope>>>,
    /// Kept so that the lane is full rather than gone where nothing takes from it.
    _stuck: Option<flume::Receiver<Envelope>>,
}

pub(crate) fn usage() -> Usage {
    Usage { finish: Finish::Stop, tokens_in: 3, tokens_cached: 2, tokens_out: 4, prefill_us: 1_000, decode_us: 9_000 }
}

pub(crate) fn say(board: &Switchboard, notice: Notice) {
    board.publish(Tick(0), &[notice]);
}

pub(crate) fn begin(board: &Switchboard, task: TaskId) {
    let (attempt, worker) = (Attempt::of(1, 1), WorkerId(5));
    say(board, Notice::Placed { task, attempt, pool: PoolId(0), worker });
    say(board, Notice::Started { task, attempt, worker });
}

/// A token with as many rivals as are wanted.
fn likelihood(top: u8) -> Likelihood {
    let likely = |i: u8| Likely { bytes: [b'a' + i].into(), micro_logprob: -250_000 * (1 + i32::from(i)) };
    Likelihood { drawn: likely(0), top: (0..top).map(likely).collect() }
}

pub(crate) fn push(board: &Switchboard, task: TaskId, index: u32) -> Pushed {
    let text = PIECES[index as usize % PIECES.len()];
    let payload = board.find(task).and_then(|entry| entry.payload());
    let likelihood = payload.as_ref().and_then(|payload| payload.logprobs).map(likelihood);
    let vector = payload.and_then(|payload| match payload.output {
        Output::Text => None,
        Output::Embedding => Some([0.6f32, 0.8]),
        Output::Score => payload.prompt.last().map(|score| [*score as f32, *score as f32 / 4.0]),
    });
    let vector = vector.map(|vector| vector.map(f32::to_bits).into());
    board.token(task, Attempt::of(1, 1), Token { index, id: 100 + index, text, likelihood, vector })
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(DoorConfig { cancel_grace_ms: 50, ..DoorConfig::default() }, true)
    }

    pub(crate) fn with(config: DoorConfig, takes: bool) -> Self {
        Self::guarded(config, takes, Auth::default())
    }

    pub(crate) fn guarded(config: DoorConfig, takes: bool, auth: Auth) -> Self {
        let telemetry = Arc::new(Telemetry::new(&["pool-a".to_owned()], EvictionRule::Lru));
        let switchboard = Arc::new(Switchboard::new(config.keep(), Arc::clone(&telemetry)));
        let (client, client_end) = flume::bounded::<Envelope>(if takes { LANE } else { 0 });
        let (urgent, urgent_end) = flume::bounded(64);
        let cancelled = Arc::<Mutex<Vec<CancelReason>>>::default();
        let specs = Arc::<Mutex<Vec<TaskSpec>>>::default();
        let tasks = Arc::<Mutex<Vec<TaskId>>>::default();
        let unanswered = Arc::<Mutex<Vec<Envelope>>>::default();
        let mut stuck = None;
        if takes {
            let (board, kept, ids) = (Arc::clone(&switchboard), Arc::clone(&specs), Arc::clone(&tasks));
            let waiting = Arc::clone(&unanswered);
            std::thread::spawn(move || {
                for envelope in client_end.iter() {
                    if let Intent::Submit { task, .. } = &envelope.intent {
                        ids.lock().unwrap().push(*task);
                    }
                    if matches!(&envelope.intent, Intent::Submit { spec, .. } if MODELS[spec.model.0 as usize] == "stuck")
                    {
                        waiting.lock().unwrap().push(envelope);
                        continue;
                    }
                    play(&board, &kept, envelope);
                }
            });
        } else {
            stuck = Some(client_end);
        }
        let (board, reasons) = (Arc::clone(&switchboard), Arc::clone(&cancelled));
        std::thread::spawn(move || {
            for urgent in urgent_end.iter() {
                let Urgent::Cancel { task, reason, reply } = urgent else { continue };
                say(&board, Notice::Ended { task, outcome: Outcome::Cancelled { reason, tokens_out: 0 } });
                reasons.lock().unwrap().push(reason);
                reply.map(|reply| reply.send(()));
            }
        });
        let health = Health::well();
        let parts = DoorParts {
            lanes: Lanes { urgent, client },
            health: health.clone(),
            switchboard: Arc::clone(&switchboard),
            prepare: Arc::new(Words2Tokens),
            explain: Arc::new(Told),
            telemetry,
            auth,
            queue: Rules::default().queue,
        };
        Rig { door: Door::new(parts, config), switchboard, health, cancelled, specs, tasks, unanswered, _stuck: stuck }
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(value) => {
                request = request.header("content-type", "application/json");
                Body::from(value.to_string())
            }
            None => Body::empty(),
        };
        self.door.router().oneshot(request.body(body).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Body> {
        self.send("GET", path, None, &[]).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response<Body> {
        self.send("POST", path, Some(body), &[]).await
    }

    /// Admits a task that the stand-in only accepts.
    pub(crate) async fn hold(&self, more: Value) -> TaskId {
        let mut body = json!({"model_ref": "hold", "prompt": "p"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = json_of(self.post("/v1/tasks", body).await, 202).await;
        task_id(answer["task_id"].as_str().unwrap()).unwrap()
    }

    /// The task that came last.
    pub(crate) fn last_task(&self) -> TaskId {
        *self.tasks.lock().unwrap().last().unwrap()
    }

    /// Drops what waits, as the pulse does while it cannot record.
    pub(crate) fn refuse_stuck(&self) {
        self.unanswered.lock().unwrap().clear();
    }

    /// Tasks that reached the stand-in.
    pub(crate) fn submitted(&self) -> usize {
        self.tasks.lock().unwrap().len()
    }

    pub(crate) fn finish(&self, task: TaskId) {
        say(&self.switchboard, Notice::Ended { task, outcome: Outcome::Done(usage()) });
    }

    pub(crate) async fn until_cancelled(&self, reason: CancelReason) {
        for _ in 0..400 {
            if self.cancelled.lock().unwrap().contains(&reason) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never cancelled for {reason:?}");
    }
}

pub(crate) fn play(board: &Switchboard, specs: &Mutex<Vec<TaskSpec>>, Envelope { intent, reply }: Envelope) {
    let Intent::Submit { task, spec } = intent else { return };
    let model = MODELS[spec.model.0 as usize];
    specs.lock().unwrap().push(spec);
    if model == "full" {
        let refusal = Refusal::QueueFull { policy: OverloadPolicy::Reject, bound: 4, retry_after: Ticks(1_500) };
        say(board, Notice::Refused { task, refusal });
        let _ = reply.send(Verdict::Refused(refusal));
        return;
    }
    let (position, predicted_start) = (2, Ticks(30));
    let left = Left([Some(7_000), None, Some(2_999_999)]);
    say(board, Notice::Accepted { task, position, predicted_start, left });
    let _ = reply.send(Verdict::Accepted { position, predicted_start, left });
    if model == "hold" {
        return;
    }
    begin(board, task);
    let embeds = board.find(task).and_then(|entry| entry.payload()).is_some_and(|p| p.output != Output::Text);
    let tokens = if embeds { 1 } else { 4 };
    for index in 0..tokens {
        match push(board, task, index) {
            Pushed::Taken => {}
            // Its client left, perhaps for another choice's failure: the cancel ends it.
            Pushed::Closed => return,
            wrong => panic!("token {index} was {wrong:?}"),
        }
    }
    let outcome = match model {
        "fail" => Outcome::Failed { failure: Failure::WorkerLost, tokens_out: 4 },
        _ => Outcome::Done(usage()),
    };
    say(board, Notice::Ended { task, outcome });
}

pub(crate) async fn text_of(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub(crate) async fn json_of(response: Response<Body>, status: u16) -> Value {
    let got = response.status().as_u16();
    let text = text_of(response).await;
    assert_eq!(got, status, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A stream's ids, names and data.
pub(crate) fn events(text: &str) -> Vec<(u32, String, Value)> {
    let frames = text.split("\n\n").filter(|frame| !frame.is_empty() && !frame.starts_with(':'));
    frames
        .map(|frame| {
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let data = serde_json::from_str(field("data: ")).unwrap();
            (field("id: ").parse().unwrap(), field("event: ").to_owned(), data)
        })
        .collect()
}
