//! The accept loop: hyper behind bounds on connections, heads, idle time and stalled writes.
//!
//! `axum::serve` has none of them. Each connection runs in a task of its own, HTTP/1.1 or HTTP/2 by its
//! first bytes. At shutdown nothing new is taken, what runs may finish until the drain is over, the rest
//! is cut. Bodies have their bounds where they are read (`http::body`); meaning has no place here.

mod framing;
mod guarded;
mod limits;
mod vitals;

pub use limits::Limits;

use crate::http::guard::{Peer, Suspect};
use framing::{Fault, oversized};
use guarded::Guarded;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service;
use vitals::{Flight, Tracked, Vitals};

/// What a client over the connection bounds is told, without a task spent on it.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// Out of descriptors, say: accepting again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client that resets streams like an attack may read its GOAWAY this long.
const EXPEL: Duration = Duration::from_secs(1);

/// Serves until `shutdown` resolves, then lets open requests finish for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    router: axum::Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
    drain: Duration,
) {
    let limits = Arc::new(limits);
    let builder = Arc::new(builder(&limits));
    let addresses = Arc::new(Addresses::default());
    let (closing, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = addresses.enter(peer.ip(), limits.connections_per_address);
        let (Some(place), true) = (place, connections.len() < limits.connections) else {
            // Best effort: the client learns why, or at least that it is over.
            let _ = stream.into_std().and_then(|mut stream| stream.write(FULL));
            continue;
        };
        let connection =
            run(stream, Arc::clone(&builder), router.clone(), Arc::clone(&limits), closing.subscribe(), place);
        connections.spawn(connection);
    }
    drop(listener);
    closing.send_replace(true);
    let emptied = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, emptied).await.is_err() {
        tracing::warn!(left = connections.len(), "the drain is over; connections are cut");
        connections.shutdown().await;
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Heads and idle time are watched below hyper, where the two differ and HTTP/2 is covered too.
        .header_read_timeout(None)
        .max_headers(limits.header_count)
        // Also bounds what waits to be written; hyper takes no less than 8 KiB.
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_pending_accept_reset_streams(limits.h2_pending_resets)
        // What a stream holds for a reader that does not take it.
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    builder
}

async fn run(
    stream: TcpStream,
    builder: Arc<auto::Builder<TokioExecutor>>,
    router: axum::Router,
    limits: Arc<Limits>,
    mut closing: watch::Receiver<bool>,
    place: Place,
) {
    // Tokens are small and late is worse than many.
    let _ = stream.set_nodelay(true);
    let vitals = Arc::new(Vitals::new(&limits));
    let io = TokioIo::new(Guarded::new(stream, Arc::clone(&vitals), &limits));
    let service = service_fn(|request: Request<Incoming>| {
        let h2 = request.version() == Version::HTTP_2;
        let fault = if h2 { oversized(request.uri(), request.headers(), &limits) } else { vitals.fault() };
        answer(request, Peer(place.address), fault, router.clone(), Flight::new(Arc::clone(&vitals), h2))
    });
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);
    let mut look = tokio::time::interval((limits.write_stall() / 4).max(Duration::from_millis(1)));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            changed = closing.changed() => {
                connection.as_mut().graceful_shutdown();
                // The sender is gone only when the loop above was dropped: then this task is as well.
                if changed.is_err() { return }
            }
            () = vitals.attention() => {
                if vitals.expelled() {
                    tracing::warn!("a client reset too many streams; its connection is closed");
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(EXPEL, connection.as_mut()).await;
                    return;
                }
            }
            // A stream's window can stand still while the connection moves: only seen from here.
            _ = look.tick(), if vitals.is_h2() => {
                if vitals.stalled() {
                    tracing::debug!("a stream made no progress; its connection is closed");
                    return;
                }
            }
        }
    }
}

async fn answer(
    mut request: Request<Incoming>,
    peer: Peer,
    fault: Option<Fault>,
    mut router: axum::Router,
    flight: Flight,
) -> Result<Response<Tracked>, Infallible> {
    // What follows a chunked body is not watched by `framing`, so nothing may follow.
    let last = request.version() != Version::HTTP_2 && request.headers().contains_key(TRANSFER_ENCODING);
    request.extensions_mut().insert(peer);
    if let Some(fault) = fault {
        request.extensions_mut().insert(Suspect(fault.problem()));
    }
    let mut response = router.call(request).await?;
    if last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Tracked::new(body, flight)))
}

/// Connections of each address.
#[derive(Debug, Default)]
struct Addresses(Mutex<BTreeMap<IpAddr, usize>>);

impl Addresses {
    fn enter(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { addresses: Arc::clone(self), address })
    }
}

/// One connection's place among those of its address.
#[derive(Debug)]
struct Place {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
