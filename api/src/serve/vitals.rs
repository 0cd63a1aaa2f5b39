//! What a connection's socket, its requests and its watcher know of each other.
//!
//! The socket asks whether a request is in flight (idle and head times run only without one), requests
//! say when they begin and end, HTTP/2 bodies say when a frame was taken and not followed by another.
//! It closes nothing itself: `serve::run` and `Guarded` do.

use super::Limits;
use super::framing::Fault;
use axum::body::Body;
use hyper::body::{Body as _, Bytes, Frame, SizeHint};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

#[derive(Debug)]
struct State {
    in_flight: u32,
    served: u64,
    h2: bool,
    idle_since: Instant,
    fault: Option<Fault>,
    /// HTTP/2 streams whose last frame was not followed up, by number of the request.
    handed: BTreeMap<u64, Instant>,
    /// When HTTP/2 streams were lost before their end.
    resets: VecDeque<Instant>,
    expelled: bool,
}

/// One connection's.
#[derive(Debug)]
pub(crate) struct Vitals {
    state: Mutex<State>,
    attention: Notify,
    resets_most: usize,
    resets_in: Duration,
    stall: Duration,
}

/// How long the socket may stay silent, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// A request is in flight: not the socket's business.
    Busy,
    /// Nothing was asked yet.
    Fresh,
    Idle(Instant),
}

impl Vitals {
    pub(crate) fn new(limits: &Limits) -> Self {
        Vitals {
            state: Mutex::new(State {
                in_flight: 0,
                served: 0,
                h2: false,
                idle_since: Instant::now(),
                fault: None,
                handed: BTreeMap::new(),
                resets: VecDeque::new(),
                expelled: false,
            }),
            attention: Notify::new(),
            resets_most: limits.h2_resets as usize,
            resets_in: Duration::from_millis(limits.h2_reset_window_ms),
            stall: limits.write_stall(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn silence(&self) -> Silence {
        let state = self.lock();
        match (state.in_flight, state.served) {
            (0, 0) => Silence::Fresh,
            (0, _) => Silence::Idle(state.idle_since),
            _ => Silence::Busy,
        }
    }

    pub(crate) fn report(&self, fault: Fault) {
        self.lock().fault.get_or_insert(fault);
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.lock().fault
    }

    pub(crate) fn is_h2(&self) -> bool {
        self.lock().h2
    }

    pub(crate) fn expelled(&self) -> bool {
        self.lock().expelled
    }

    /// Whether a stream took nothing for too long.
    pub(crate) fn stalled(&self) -> bool {
        self.lock().handed.values().any(|since| since.elapsed() >= self.stall)
    }

    /// Resolves when the watcher should look again.
    pub(crate) async fn attention(&self) {
        self.attention.notified().await;
    }
}

/// A request in flight, from its head to the end of its answer.
#[derive(Debug)]
pub(crate) struct Flight {
    vitals: Arc<Vitals>,
    number: u64,
    h2: bool,
    landed: bool,
}

impl Flight {
    pub(crate) fn new(vitals: Arc<Vitals>, h2: bool) -> Self {
        let mut state = vitals.lock();
        state.in_flight += 1;
        state.served += 1;
        let number = state.served;
        let first = h2 && !std::mem::replace(&mut state.h2, h2);
        drop(state);
        if first {
            vitals.attention.notify_one();
        }
        Flight { vitals, number, h2, landed: false }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let now = Instant::now();
        let vitals = &self.vitals;
        let mut state = vitals.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.idle_since = now;
        state.handed.remove(&self.number);
        if self.h2 && !self.landed {
            state.resets.push_back(now);
            while state.resets.front().is_some_and(|&reset| now.duration_since(reset) > vitals.resets_in) {
                state.resets.pop_front();
            }
            if state.resets.len() > vitals.resets_most {
                state.expelled = true;
                drop(state);
                vitals.attention.notify_one();
            }
        }
    }
}

/// A response's body that keeps its request in flight until it is sent.
pub(crate) struct Tracked {
    body: Body,
    flight: Flight,
}

impl Tracked {
    pub(crate) fn new(body: Body, mut flight: Flight) -> Self {
        flight.landed = body.is_end_stream();
        Tracked { body, flight }
    }
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let over = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        self.flight.landed |= over;
        if self.flight.h2 {
            let handed = matches!(polled, Poll::Ready(Some(_)));
            let mut state = self.flight.vitals.lock();
            if handed {
                state.handed.insert(self.flight.number, Instant::now());
            } else {
                state.handed.remove(&self.flight.number);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
