//! How much a piece of work has allocated at most at a time, on its thread.
//!
//! The allocator of the unit tests is the system's, with a counter. Threads do not see each other, so tests
//! may run beside each other; memory that another thread frees is not given back here, which only errs
//! upwards.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes held now, and the most that was held. Signed: a thread may free what another allocated.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counter any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the pointer came from `alloc` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there at once while the contents move.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as in `dealloc`, and the caller promises a size that is not zero.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What `work` gives, and the most bytes it held at a time beyond what was held before.
pub(super) fn most_allocated<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let done = work();
    let most = HELD.with(Cell::get).1 - before;
    (done, usize::try_from(most).unwrap_or(0))
}

#[test]
fn what_is_allocated_is_counted() {
    let (_, most) = most_allocated(|| drop((vec![0u8; 1 << 20], vec![1u8; 1 << 20])));
    assert!((2 << 20..3 << 20).contains(&most), "{most}");
    let (_, most) = most_allocated(|| (0..8).for_each(|_| drop(vec![1u8; 1 << 20])));
    assert!(most < 2 << 20, "{most}");
}
