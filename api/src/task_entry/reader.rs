//! A cursor on one task's log: what a stream's body polls.
//!
//! Takes what is new under the entry's lock, at most `TOKENS_A_TAKE` tokens at a time, and stops at the
//! one end. What its owner's loss means for the task is not its business.

use super::{Ending, Entry, Frames, Interest, Seat};
use orchestrion_world::protocol::Outcome;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Tokens one reader takes under one lock, so that a reader far behind does not hold up the pulse.
const TOKENS_A_TAKE: u32 = 512;
/// Nor more than one token beyond this: with what the connection buffers, a reader that stalls holds less
/// than 256 KiB.
pub(crate) const BYTES_A_TAKE: usize = 64 * 1024;

/// A cursor on one task's stream.
#[derive(Debug)]
pub(crate) struct Reader {
    seat: Seat,
    began: bool,
    next: u32,
    over: bool,
}

impl Reader {
    /// `after` is the id of the last event that the reader has: 0 is `started`, n is token n-1.
    pub(crate) fn new(entry: &Arc<Entry>, after: Option<u32>) -> Self {
        let seat = Seat::take(entry);
        entry.lock().readers += 1;
        Reader { seat, began: after.is_some(), next: after.unwrap_or(0), over: false }
    }

    /// Writes all that is new: ready with true where something was, with false after the end.
    pub(crate) fn poll_take(&mut self, cx: &Context<'_>, frames: &mut dyn Frames, out: &mut Vec<u8>) -> Poll<bool> {
        if self.over {
            return Poll::Ready(false);
        }
        let mut state = self.seat.entry.lock();
        let ending = state.ending();
        // After a cancel nothing but the end leaves, not even what entered in time.
        let cancelled = matches!(ending, Some(Ending { outcome: Outcome::Cancelled { .. }, .. }))
            || (ending.is_some() && self.seat.number <= state.muted);
        if !cancelled {
            if let (false, Some(begun)) = (self.began, state.begun) {
                frames.started(out, &begun);
                self.began = true;
            }
            let until = state.log.len().min(self.next.saturating_add(TOKENS_A_TAKE));
            while self.began && self.next < until && out.len() < BYTES_A_TAKE {
                frames.token(out, self.next, state.log.said(self.next));
                self.next += 1;
            }
        }
        if let Some(ending) = ending.filter(|_| cancelled || !self.began || self.next >= state.log.len()) {
            // It may look at other tasks.
            drop(state);
            frames.ended(out, &ending);
            self.over = true;
            return Poll::Ready(true);
        }
        if !out.is_empty() {
            return Poll::Ready(true);
        }
        if self.next < state.log.len() && self.began {
            // All of a take may be silent (no text in a chunk's form): come again rather than wait.
            cx.waker().wake_by_ref();
        } else {
            state.register(self.seat.number, Interest::Stream, cx);
        }
        Poll::Pending
    }

    /// Whether the end was taken.
    pub(crate) fn over(&self) -> bool {
        self.over
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.seat.entry.lock();
        state.readers = state.readers.saturating_sub(1);
        state.reader_left_at = Some(Instant::now());
    }
}
