//! The two lanes into the pulse, and how what waits in them becomes the inputs of one step.
//!
//! The urgent lane goes first: reports free slots before new work asks for them. What arrives while a
//! step runs is taken together by the next one, up to a bound, which is what makes commits groups.

use crate::port::{Envelope, Urgent, Verdict};
use flume::{Receiver, RecvError, Selector, Sender, TryRecvError};
use orchestrion_systems::SessionView;
use orchestrion_systems::view::PoolView;
use orchestrion_world::id::{JobId, SessionId, TaskId};
use orchestrion_world::job::JobRefusal;
use orchestrion_world::protocol::{Input, Intent};
use std::time::Instant;
use tokio::sync::oneshot;

/// Urgent messages of one step; more than every slot of a large server reports at once.
const URGENT_BATCH: usize = 1024;

/// The ends that the door and the stations send into.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Sized by slots; never dropped: senders wait.
    pub urgent: Sender<Urgent>,
    /// `try_send`; full is a refusal.
    pub client: Sender<Envelope>,
}

/// The ends that the pulse takes from.
#[derive(Debug)]
pub struct Inlets {
    urgent: Receiver<Urgent>,
    client: Receiver<Envelope>,
}

/// Makes both lanes with their bounds.
pub fn lanes(urgent_bound: usize, client_bound: usize) -> (Lanes, Inlets) {
    let (urgent, urgent_end) = flume::bounded(urgent_bound);
    let (client, client_end) = flume::bounded(client_bound);
    (Lanes { urgent, client }, Inlets { urgent: urgent_end, client: client_end })
}

/// The inputs of one step and who waits for what comes of them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) inputs: Vec<Input>,
    pub(crate) submits: Vec<(TaskId, oneshot::Sender<Verdict>)>,
    /// Cancels and closed sessions: answered once they are recorded.
    pub(crate) cancels: Vec<oneshot::Sender<()>>,
    /// Questions, which are no inputs.
    pub(crate) looks: Vec<(SessionId, oneshot::Sender<Option<SessionView>>)>,
    pub(crate) operations: Vec<(JobId, oneshot::Sender<Result<(), JobRefusal>>)>,
    pub(crate) pools: Vec<oneshot::Sender<Vec<PoolView>>>,
}

impl Batch {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.looks.is_empty()
    }

    fn urgent(&mut self, urgent: Urgent) {
        match urgent {
            Urgent::Report(report) => self.inputs.push(Input::Report(report)),
            Urgent::Cancel { task, reason, reply } => {
                self.inputs.push(Input::Intent(Intent::Cancel { task, reason }));
                self.cancels.extend(reply);
            }
            Urgent::Close { session, reply } => {
                self.inputs.push(Input::Intent(Intent::Close { session }));
                self.cancels.push(reply);
            }
            Urgent::Look { session, reply } => self.looks.push((session, reply)),
            Urgent::Operate { job, pool, action, reply } => {
                self.inputs.push(Input::Intent(Intent::Operate { job, pool, action }));
                self.operations.push((job, reply));
            }
            Urgent::Pools { reply } => self.pools.push(reply),
        }
    }

    fn client(&mut self, Envelope { intent, reply }: Envelope) {
        // A cancel has no verdict: its sender drops, and nobody sends one this way.
        if let Intent::Submit { task, .. } = &intent {
            self.submits.push((*task, reply));
        }
        self.inputs.push(Input::Intent(intent));
    }
}

/// What ended a wait.
enum Woken {
    Urgent(Result<Urgent, RecvError>),
    Client(Result<Envelope, RecvError>),
    Stop,
}

/// The pulse's side of the lanes and of its stop signal.
#[derive(Debug)]
pub(crate) struct Intake {
    urgent: Receiver<Urgent>,
    /// None once nobody can send any more, or when the pulse is stopping.
    client: Option<Receiver<Envelope>>,
    urgent_open: bool,
    /// A message, or all senders gone.
    stop: Receiver<()>,
    stopping: bool,
    client_batch: usize,
}

impl Intake {
    pub(crate) fn new(inlets: Inlets, stop: Receiver<()>, client_batch: usize) -> Intake {
        let Inlets { urgent, client } = inlets;
        Intake { urgent, client: Some(client), urgent_open: true, stop, stopping: false, client_batch }
    }

    /// Whether a stop was asked for. From then on clients are not heard: their replies drop.
    pub(crate) fn is_stopping(&mut self) -> bool {
        if !self.stopping && !matches!(self.stop.try_recv(), Err(TryRecvError::Empty)) {
            self.begin_stop();
        }
        self.stopping
    }

    fn begin_stop(&mut self) {
        self.stopping = true;
        self.client = None;
    }

    /// Takes what waits, without waiting.
    pub(crate) fn drain(&mut self, batch: &mut Batch) {
        self.urgent.try_iter().take(URGENT_BATCH).for_each(|urgent| batch.urgent(urgent));
        if let Some(client) = &self.client {
            let room = self.client_batch.saturating_sub(batch.submits.len());
            client.try_iter().take(room).for_each(|envelope| batch.client(envelope));
        }
    }

    /// Sleeps until something arrives, a stop is asked for or `until` comes, and takes what is there.
    pub(crate) fn wait(&mut self, until: Option<Instant>, batch: &mut Batch) {
        let mut selector = Selector::new().recv(&self.stop, |_| Woken::Stop);
        if self.urgent_open {
            selector = selector.recv(&self.urgent, Woken::Urgent);
        }
        if let Some(client) = &self.client {
            selector = selector.recv(client, Woken::Client);
        }
        let woken = match until {
            Some(until) => selector.wait_deadline(until).ok(),
            None => Some(selector.wait()),
        };
        match woken {
            None => {}
            Some(Woken::Stop) => self.begin_stop(),
            Some(Woken::Urgent(Ok(urgent))) => batch.urgent(urgent),
            Some(Woken::Urgent(Err(RecvError::Disconnected))) => self.urgent_open = false,
            Some(Woken::Client(Ok(envelope))) => {
                // Urgent ones that came meanwhile still go first.
                self.urgent.try_iter().take(URGENT_BATCH).for_each(|urgent| batch.urgent(urgent));
                batch.client(envelope);
            }
            Some(Woken::Client(Err(RecvError::Disconnected))) => self.client = None,
        }
    }

    /// Drops the clients' waiting envelopes, while nothing can be recorded: the door sees the reply's
    /// sender gone and reads why from the pulse's condition. Sleeps at most until `until`.
    pub(crate) fn refuse_clients(&mut self, until: Instant) {
        if let Some(client) = &self.client {
            client.drain();
        }
        if self.stop.recv_deadline(until) != Err(flume::RecvTimeoutError::Timeout) {
            self.begin_stop();
        }
    }
}
