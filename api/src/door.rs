//! The door: what the routes share. It turns a request into a submission, waits for the core's verdict,
//! and cancels what its clients leave behind.
//!
//! Writes the two lanes and the switchboard; reads the switchboard. It never waits for the pulse with a
//! lock held and never retries for a client. As many submissions as the client lane holds may be on their
//! way, from before their words are tokenised to their verdict; one more is a 429 at once. Cancels and
//! ends go by the other lane and are never turned away.

mod parts;
mod tether;
mod urgent;

pub(crate) use tether::{Loss, Tether};

use crate::auth::Auth;
use crate::http;
use crate::http::body::Budget;
pub use crate::http::explain::FromJournal;
use crate::port::{Envelope, Explain, Prepare, Prepared, Verdict, Words};
use crate::problem::{ErrorCode, Problem};
use crate::pulse::{Condition, Health, Lanes};
use crate::serve::Limits;
use crate::spool::Part;
use crate::switchboard::{Opened, Switchboard};
use crate::task_entry::{Admission, Entry, Opening, Surface};
use crate::telemetry::{Telemetry, Turned};
use orchestrion_world::budget::Left;
use orchestrion_world::config::QueueRules;
use orchestrion_world::id::{SessionId, TaskId, TenantId};
use orchestrion_world::payload::Payload;
use orchestrion_world::placement::Placement;
use orchestrion_world::protocol::{Class, Determinism, Intent, TaskSpec};
use orchestrion_world::time::Ticks;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tether::Submitted;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

/// How the door behaves. The binary layers file, environment and flags over the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DoorConfig {
    pub bind: SocketAddr,
    pub limits: Limits,
    /// An interactive task of the queue surface whose stream was opened and left is cancelled after this.
    pub cancel_grace_ms: u64,
    pub result_ttl_s: u64,
    pub result_bytes: usize,
    pub heartbeat_ms: u64,
    /// Taken off a client's deadline for the way back.
    pub deadline_margin_ms: u64,
    /// Prompts rendered and tokenised at a time.
    pub prepare_parallel: usize,
}

impl Default for DoorConfig {
    fn default() -> Self {
        DoorConfig {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            limits: Limits::default(),
            cancel_grace_ms: 30_000,
            result_ttl_s: 24 * 60 * 60,
            result_bytes: 64 * 1024 * 1024,
            heartbeat_ms: 15_000,
            deadline_margin_ms: 5,
            prepare_parallel: 4,
        }
    }
}

impl DoorConfig {
    /// How long the switchboard keeps results.
    pub fn keep(&self) -> crate::switchboard::Keep {
        crate::switchboard::Keep { ttl: Duration::from_secs(self.result_ttl_s), bytes: self.result_bytes }
    }
}

/// What the binary connects the door to.
#[expect(missing_debug_implementations, reason = "ports are trait objects")]
pub struct DoorParts {
    pub lanes: Lanes,
    pub health: Health,
    pub switchboard: Arc<Switchboard>,
    pub prepare: Arc<dyn Prepare>,
    pub explain: Arc<dyn Explain>,
    pub telemetry: Arc<Telemetry>,
    pub auth: Auth,
    /// Of the scheduler: what is larger than its queues is not asked of it.
    pub queue: QueueRules,
}

/// The routes' shared state.
#[expect(missing_debug_implementations, reason = "ports are trait objects")]
pub struct Door {
    pub(crate) parts: DoorParts,
    pub(crate) config: DoorConfig,
    pub(crate) bodies: Arc<Budget>,
    /// Submissions that may be on their way to the core.
    ingress: Semaphore,
    prepare_turns: Arc<Semaphore>,
    /// Re-execution is heavy and not urgent: one at a time.
    pub(crate) explain_turn: Semaphore,
}

/// How long a client waits for its step to be recorded before it is looked whether that can be at all.
const RECORD_PATIENCE: Duration = Duration::from_secs(1);

/// Whose task it is and what the core is to know of it, besides its words.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) task: TaskId,
    pub(crate) body: [u8; 32],
    pub(crate) surface: Surface,
    pub(crate) class: Class,
    pub(crate) session: Option<SessionId>,
    pub(crate) deadline: Option<Ticks>,
    pub(crate) determinism: Determinism,
    pub(crate) placement: Option<Box<Placement>>,
    /// Where its answer is numbers.
    pub(crate) part: Option<Part>,
}

impl Ticket {
    /// Of a task that lives with its connection. Nobody can send its id again: it has just been made.
    pub(crate) fn of_connection(deadline: Option<Ticks>) -> Ticket {
        Ticket {
            task: TaskId(uuid::Uuid::now_v7().as_u128()),
            body: [0; 32],
            surface: Surface::OpenAi,
            class: Class::Interactive,
            session: None,
            deadline,
            determinism: Determinism::BestEffort,
            placement: None,
            part: None,
        }
    }
}

/// A request, read and checked.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) ticket: Ticket,
    /// The client wants prompt and answer to fit this.
    pub(crate) ctx: Option<u32>,
    pub(crate) words: Words,
}

/// An admitted task.
pub(crate) struct Admitted {
    pub(crate) entry: Arc<Entry>,
    pub(crate) position: u32,
    pub(crate) predicted_start: Ticks,
    /// Of the budgets it goes by, where it was admitted just now.
    pub(crate) left: Left,
    /// Set on the OpenAI surface: drop it and the task is cancelled.
    pub(crate) tether: Option<Tether>,
}

impl Door {
    pub fn new(parts: DoorParts, config: DoorConfig) -> Arc<Self> {
        let prepare_turns = Arc::new(Semaphore::new(config.prepare_parallel.max(1)));
        let ingress = Semaphore::new(parts.lanes.client.capacity().unwrap_or(Semaphore::MAX_PERMITS));
        let bodies = Budget::new(config.limits.bodies_bytes);
        Arc::new(Door { parts, config, bodies, ingress, prepare_turns, explain_turn: Semaphore::new(1) })
    }

    /// Tasks of one request that may be in the queue together: more would be refused however often they come. A lone
    /// one is for the core to judge.
    pub(crate) fn places(&self, class: Class) -> usize {
        orchestrion_systems::places(&self.parts.queue, class).max(1) as usize
    }

    /// Every route, guarded.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        http::router(Arc::clone(self))
    }

    /// Drops results that are over their time and cancels what runs for nobody, every now and then, as long as it is
    /// polled.
    pub async fn housekeeping(self: Arc<Self>) {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            self.parts.switchboard.retain(None);
            self.cancel_idle_parts().await;
        }
    }

    pub(crate) async fn admit(self: &Arc<Self>, tenant: TenantId, wish: Wish) -> Result<Admitted, Problem> {
        let Wish { ticket, ctx, words } = wish;
        // A repeated request costs no tokenisation.
        if let Some(entry) = self.parts.switchboard.find(ticket.task) {
            return if entry.body == ticket.body { self.again(entry).await } else { Err(conflict()) };
        }
        let _seat = self.seat(1)?;
        let prepared = self.prepare(words, ctx).await?;
        let submitted = self.submit(tenant, ticket, prepared)?;
        self.verdict(submitted).await
    }

    /// `each` answers to every wish: tasks of their own, each with the seed that [`choice`] derives. Where one
    /// is refused, all are; words that cannot be prepared come with their place.
    pub(crate) async fn admit_choices(
        self: &Arc<Self>,
        tenant: TenantId,
        wishes: Vec<Wish>,
        each: u32,
    ) -> Result<Vec<Admitted>, (usize, Problem)> {
        let whole = |problem| (0, problem);
        let _seats = self.seat(each.saturating_mul(wishes.len() as u32)).map_err(whole)?;
        let mut submitted = Vec::new();
        for (place, Wish { ticket, ctx, words }) in wishes.into_iter().enumerate() {
            let prepared = self.prepare(words, ctx).await.map_err(|problem| (place, problem))?;
            for _ in 0..each {
                let mut prepared = prepared.clone();
                let (task, seed) = choice(ticket.task, prepared.payload.sampling.seed, submitted.len() as u32);
                // An input has its id already, by which it is found.
                let task = if ticket.part.is_some() { ticket.task } else { task };
                prepared.payload.sampling.seed = seed;
                submitted.push(self.submit(tenant, Ticket { task, ..ticket.clone() }, prepared).map_err(whole)?);
            }
        }
        let mut admitted = Vec::new();
        for submitted in submitted {
            admitted.push(self.verdict(submitted).await.map_err(whole)?);
        }
        Ok(admitted)
    }

    /// Seats among the submissions on their way; none left is a refusal before any work is done for it.
    fn seat(&self, count: u32) -> Result<SemaphorePermit<'_>, Problem> {
        self.ingress.try_acquire_many(count).map_err(|_| {
            self.parts.telemetry.turned_away(Turned::Ingress);
            Problem::ingress_full()
        })
    }

    /// Sends it to the core, without a wait.
    fn submit(self: &Arc<Self>, tenant: TenantId, ticket: Ticket, prepared: Prepared) -> Result<Submitted, Problem> {
        let Ticket { task, body, surface, class, session, deadline, determinism, placement, part } = ticket;
        let spec = TaskSpec {
            model: prepared.model,
            class,
            tenant,
            session,
            prompt_tokens: tokens(&prepared),
            prompt_digest: prepared.prompt_digest,
            prefix: prepared.prefix.iter().map(|key| key.of(tenant)).collect(),
            max_tokens: prepared.payload.max_tokens,
            deadline,
            seed: prepared.payload.sampling.seed,
            determinism,
            placement,
        };
        let fingerprint = prepared.fingerprint.into();
        // What is computed for one tenant is looked up by nobody else.
        let payload = Payload { class, salt: Some(tenant.0), ..prepared.payload };
        let dropped = prepared.dropped;
        let opening = Opening { task, body, surface, class, fingerprint, dropped, part, payload };
        let entry = match self.parts.switchboard.open(opening) {
            Opened::New(entry) => entry,
            Opened::Same(entry) => return Ok(self.submitted(entry, None, None)),
            Opened::Conflict => return Err(conflict()),
        };
        // Before the submission leaves, so that a client lost while it waits is noticed.
        let tether = (surface == Surface::OpenAi).then(|| self.tether(&entry, Loss::CancelAtOnce));
        let (reply, verdict) = oneshot::channel();
        let intent = Intent::Submit { task, spec };
        if let Err(error) = self.parts.lanes.client.try_send(Envelope { intent, reply }) {
            self.parts.switchboard.withdraw(&entry);
            self.parts.telemetry.turned_away(Turned::Ingress);
            return Err(match error {
                flume::TrySendError::Full(_) => Problem::ingress_full(),
                flume::TrySendError::Disconnected(_) => Problem::stopping(),
            });
        }
        Ok(self.submitted(entry, tether, Some(verdict)))
    }

    async fn verdict(&self, mut submitted: Submitted) -> Result<Admitted, Problem> {
        let (entry, tether) = (Arc::clone(&submitted.entry), submitted.tether.take());
        let Some(verdict) = &mut submitted.verdict else { return self.again(entry).await };
        let verdict = self.recorded(verdict).await?;
        submitted.verdict = None;
        match verdict {
            Ok(Verdict::Accepted { position, predicted_start, left }) => {
                Ok(Admitted { entry, position, predicted_start, left, tether })
            }
            Ok(Verdict::Refused(refusal)) => Err(Problem::refused(refusal)),
            Err(_) => {
                self.parts.switchboard.withdraw(&entry);
                Err(self.unheard())
            }
        }
    }

    /// What a step answers, or that it cannot be recorded now: what was asked is in the core by then, and
    /// happens as soon as it can be.
    async fn recorded<T>(&self, answer: impl Future<Output = T>) -> Result<T, Problem> {
        let mut answer = std::pin::pin!(answer);
        loop {
            match tokio::time::timeout(RECORD_PATIENCE, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if self.parts.health.is_well() => {}
                Err(_) => return Err(self.unheard()),
            }
        }
    }

    /// Why the pulse does not answer.
    fn unheard(&self) -> Problem {
        match self.parts.health.condition() {
            Condition::JournalUnwritable { problem } => Problem::unwritable(&problem),
            Condition::Well | Condition::Ended => Problem::stopping(),
        }
    }

    /// The first admission of a request that came again.
    async fn again(&self, entry: Arc<Entry>) -> Result<Admitted, Problem> {
        match self.recorded(entry.admitted()).await? {
            Admission::Accepted { position, predicted_start } => {
                let left = Left::default();
                Ok(Admitted { entry, position, predicted_start, left, tether: None })
            }
            Admission::Refused(refusal) => Err(Problem::refused(refusal)),
            Admission::Withdrawn => Err(Problem::ingress_full()),
        }
    }

    async fn prepare(&self, words: Words, ctx: Option<u32>) -> Result<Prepared, Problem> {
        if let Condition::JournalUnwritable { problem } = self.parts.health.condition() {
            self.parts.telemetry.turned_away(Turned::Unwritable);
            return Err(Problem::unwritable(&problem));
        }
        let turn = Arc::clone(&self.prepare_turns).acquire_owned().await.map_err(|_| Problem::stopping())?;
        let prepare = Arc::clone(&self.parts.prepare);
        let span = tracing::Span::current();
        // The turn is given back when the work is done, not when its client leaves: work cannot be left.
        let work = move || {
            let _turn = turn;
            span.in_scope(|| prepare.prepare(words))
        };
        let prepared = tokio::task::spawn_blocking(work).await;
        match prepared {
            Ok(Ok(prepared)) => {
                let total = u64::from(tokens(&prepared)) + u64::from(prepared.payload.max_tokens);
                match ctx.filter(|&ctx| total > u64::from(ctx)) {
                    None => Ok(prepared),
                    Some(ctx) => {
                        let problem = format!("prompt and answer take {total} tokens, more than {ctx}");
                        Err(Problem::invalid("ctx", problem))
                    }
                }
            }
            Ok(Err(error)) => {
                self.parts.telemetry.turned_away(Turned::Unprepared);
                Err(error.into())
            }
            Err(_) => Err(Problem::new(
                ErrorCode::Internal,
                "preparing the prompt failed inside the server; please report it",
            )),
        }
    }
}

fn tokens(prepared: &Prepared) -> u32 {
    u32::try_from(prepared.payload.prompt.len()).unwrap_or(u32::MAX)
}

/// The task and the seed of one of several answers to a prompt. The first is as if it were asked for alone;
/// the seeds of the others depend on the first's, so that the whole can be asked for again.
pub(crate) fn choice(task: TaskId, seed: u64, index: u32) -> (TaskId, u64) {
    if index == 0 {
        return (task, seed);
    }
    let mut text = seed.to_le_bytes().to_vec();
    text.extend_from_slice(&index.to_le_bytes());
    (TaskId(uuid::Uuid::now_v7().as_u128()), short_digest(&text))
}

/// 53 bits, so that every JSON client reads them exactly.
pub(crate) fn short_digest(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(first) >> 11
}

fn conflict() -> Problem {
    Problem::new(
        ErrorCode::Conflict,
        "this `task_id` belongs to another request; send the same body to get its admission, or use another id",
    )
}
