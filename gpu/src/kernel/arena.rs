//! Memory that weights lie in: a few large mappings on huge pages, handed out stretch by stretch.
//!
//! A step reads all weights once. On pages of 4 KiB that is a page walk for every 4 KiB and a prefetcher that stops at
//! each; on pages of 2 MiB the same processor reads up to half as much again, and filling them at load is faster too.
//! Stretches lie in the order they were taken, which is the order in which a step reads them.
//!
//! Where the system has no huge pages the same memory is had on small ones. A chunk lives as long as a stretch of it.
#![allow(unsafe_code)]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A huge page.
const PAGE: usize = 2 << 20;
/// Mapped at a time, at least; what of it nobody takes is never touched.
const CHUNK: usize = 64 << 20;
/// Each stretch begins a cache line.
const LINE: usize = 64;

/// A mapping of zeros that begins with a huge page.
#[derive(Debug)]
struct Chunk {
    mapped: NonNull<u8>,
    len: usize,
    /// Where its first huge page begins.
    first: usize,
}

// SAFETY: it is memory; who may touch which part of it is `Stretch`'s matter.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// As with `Vec`, a system without memory for it ends the process.
    fn map(bytes: usize) -> Chunk {
        let fail = || -> ! { handle_alloc_error(Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>())) };
        // Room to begin with a huge page wherever the mapping begins.
        let len = bytes.checked_next_multiple_of(PAGE).and_then(|len| len.checked_add(PAGE)).unwrap_or_else(|| fail());
        // SAFETY: a new mapping, of which nobody else knows.
        let mapped = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let Some(mapped) = mapped.ok().and_then(|start| NonNull::new(start.cast::<u8>())) else { fail() };
        let first = mapped.as_ptr().align_offset(PAGE);
        #[cfg(target_os = "linux")]
        // SAFETY: within the mapping, whose contents it does not change.
        let advised = unsafe {
            let start = mapped.as_ptr().add(first).cast();
            rustix::mm::madvise(start, len - PAGE, rustix::mm::Advice::LinuxHugepage)
        };
        #[cfg(target_os = "linux")]
        if let Err(error) = advised {
            tracing::debug!(%error, "weights are on small pages: reading them is slower");
        }
        Chunk { mapped, len, first }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; the last stretch has gone.
        let unmapped = unsafe { munmap(self.mapped.as_ptr().cast(), self.len) };
        debug_assert_eq!(unmapped, Ok(()), "the mapping is whole");
    }
}

/// What may lie in an arena: numbers that are zero where all bits are, and have nothing to drop.
///
/// # Safety
/// All zeros is a value of the type, it needs no more than the alignment of a cache line, and has no padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: arrays of numbers.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: a number.
unsafe impl Plain for u16 {}
// SAFETY: a number.
unsafe impl Plain for f32 {}
// SAFETY: sixteen u32 in a cache line.
unsafe impl Plain for super::packed::Line {}

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunk: Option<Arc<Chunk>>,
    /// Taken of the chunk, and what there is of it.
    taken: usize,
    bytes: usize,
}

impl Arena {
    /// So many zeros that are nobody else's.
    pub(crate) fn take<T: Plain>(&mut self, len: usize) -> Stretch<T> {
        const { assert!(align_of::<T>() <= LINE) };
        let layout = Layout::array::<T>(len).map_or(usize::MAX, |layout| layout.size());
        if self.chunk.is_none() || layout > self.bytes - self.taken {
            let chunk = Chunk::map(layout.max(CHUNK));
            (self.taken, self.bytes) = (0, chunk.len - PAGE);
            self.chunk = Some(Arc::new(chunk));
        }
        let chunk = self.chunk.clone();
        let start = match &chunk {
            // SAFETY: `taken + layout` bytes from the first huge page on are within the mapping.
            Some(chunk) => unsafe { chunk.mapped.add(chunk.first + self.taken).cast() },
            None => NonNull::dangling(),
        };
        self.taken = (self.taken + layout).next_multiple_of(LINE).min(self.bytes);
        Stretch { start, len, chunk, of: PhantomData }
    }
}

/// A slice of an arena's memory, owned.
#[derive(Debug)]
pub(crate) struct Stretch<T> {
    start: NonNull<T>,
    len: usize,
    /// Keeps the memory.
    #[expect(dead_code, reason = "dropped with the stretch")]
    chunk: Option<Arc<Chunk>>,
    of: PhantomData<T>,
}

// SAFETY: it owns its numbers as a `Vec` does.
unsafe impl<T: Send> Send for Stretch<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Stretch<T> {}

impl<T: Plain> Deref for Stretch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `take` gave these numbers, initialised, to this stretch alone, and the chunk is kept.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Stretch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_zeros_apart_and_outlive_their_arena() {
        let mut arena = Arena::default();
        // Of all sizes, and more than a chunk holds.
        let lens = [0, 1, 3, 70, CHUNK / 8, 5, CHUNK / 4, CHUNK / 2 + 9, 1];
        let mut stretches: Vec<Stretch<f32>> = lens.iter().map(|len| arena.take(*len)).collect();
        drop(arena);
        for (i, stretch) in stretches.iter_mut().enumerate() {
            assert_eq!(stretch.as_ptr().align_offset(LINE), 0);
            assert!(stretch.iter().all(|x| x.to_bits() == 0));
            stretch.fill(i as f32 + 1.0);
        }
        for (i, (stretch, len)) in stretches.iter().zip(lens).enumerate() {
            assert!(stretch.len() == len && stretch.iter().all(|x| x.to_bits() == (i as f32 + 1.0).to_bits()));
        }
    }
}
