//! The socket, with the times that hyper does not keep: a head must come in, an idle connection goes, and
//! a write that makes no progress ends the connection.
//!
//! Each time is one timer, set only while the socket has nothing to give or take. It reports what
//! `Framing` sees and otherwise changes nothing on the way through.

use super::Limits;
use super::framing::Framing;
use super::vitals::{Silence, Vitals};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

/// One timer that is made when it is first needed.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `due` has passed.
    fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let due = tokio::time::Instant::from_std(due);
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }

    /// Has the task look again within this time, or when the alarm stands already.
    fn wake_within(&mut self, most: Duration, cx: &mut Context<'_>) {
        let now = tokio::time::Instant::now();
        let standing = self.0.as_ref().map(|sleep| sleep.deadline()).filter(|due| *due > now);
        // It lies ahead: it cannot have come.
        let _ = self.poll(standing.unwrap_or(now + most.max(Duration::from_millis(1))).into_std(), cx);
    }
}

/// A client's socket.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    vitals: Arc<Vitals>,
    framing: Framing,
    accepted: Instant,
    head_since: Option<Instant>,
    stalled_since: Option<Instant>,
    header_read: Duration,
    keep_alive: Duration,
    write_stall: Duration,
    read_alarm: Alarm,
    write_alarm: Alarm,
}

impl Guarded {
    pub(crate) fn new(stream: TcpStream, vitals: Arc<Vitals>, limits: &Limits) -> Self {
        Guarded {
            stream,
            vitals,
            framing: Framing::new(limits.line_bytes),
            accepted: Instant::now(),
            head_since: None,
            stalled_since: None,
            header_read: limits.header_read(),
            keep_alive: limits.keep_alive(),
            write_stall: limits.write_stall(),
            read_alarm: Alarm::default(),
            write_alarm: Alarm::default(),
        }
    }

    /// When the silence of a socket without a request is too long.
    fn silent_until(&self) -> Option<Instant> {
        match (self.vitals.silence(), self.head_since) {
            (Silence::Busy, _) => None,
            (Silence::Fresh, _) => Some(self.accepted + self.header_read),
            (Silence::Idle(_), Some(since)) => Some(since + self.header_read),
            (Silence::Idle(since), None) => Some(since + self.keep_alive),
        }
    }

    /// Passes a write's result on, and ends the connection where it makes no progress.
    fn progress<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled_since = None;
            return written;
        }
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        match self.write_alarm.poll(since + self.write_stall, cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            self.framing.feed(buf.filled().get(before..).unwrap_or_default());
            if let Some(fault) = self.framing.fault() {
                self.vitals.report(fault);
            }
            self.head_since = if self.framing.in_head() { self.head_since.or(Some(Instant::now())) } else { None };
            return Poll::Ready(read);
        }
        let Some(due) = self.silent_until() else {
            // When the request is over nobody asks the socket again that said it has nothing: the alarm does.
            let most = self.keep_alive;
            self.read_alarm.wake_within(most, cx);
            return Poll::Pending;
        };
        match self.read_alarm.poll(due, cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.progress(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.progress(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
