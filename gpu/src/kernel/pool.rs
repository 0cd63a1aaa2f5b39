//! A few threads that live as long as their engine and share out the parts of one job at a time.
//!
//! A job has numbered parts; whoever is free takes the next one, so which thread computes a part is
//! chance and what it computes is not. The caller works too and waits at the end. A worker that comes
//! late finds the job closed and goes back to waiting, so a descheduled thread delays nobody. Workers
//! watch for the next job for some tens of microseconds (a layer has several), then sleep.
//!
//! Knows nothing of numbers. A panic in a part is raised again in the caller.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// How often a worker looks for a job before it sleeps: about 50 µs.
const LOOKS: u32 = 2_000;
/// A job may be entered. The bits below count the workers in it, those above count jobs.
const OPEN: u64 = 1 << 31;
const GENERATION: u64 = 1 << 32;

/// What the workers see of a job: a function and how many parts it has.
#[derive(Clone, Copy)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    parts: usize,
}

/// In one cache line: a worker far from the caller waits for each line as long as a small part takes.
#[repr(align(64))]
struct Shared {
    /// generation · 2³² + OPEN + workers inside.
    state: AtomicU64,
    job: std::cell::UnsafeCell<Job>,
    next: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is written by the one caller of `run` (it has `&mut Pool`) while `state` is closed and
// nobody is inside, and read by workers only between entering and leaving an open state.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed while its job is open, wherever `Shared` is.
unsafe impl Send for Shared {}

struct Worker {
    thread: JoinHandle<()>,
    asleep: Arc<AtomicBool>,
}

/// The threads. `threads` counts the caller: a pool of one has no workers.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let nothing: *const (dyn Fn(usize) + Sync) = &|_: usize| {};
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: std::cell::UnsafeCell::new(Job { run: nothing, parts: 0 }),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, workers: Vec::new() };
        for i in 1..threads {
            let (shared, asleep) = (pool.shared.clone(), Arc::new(AtomicBool::new(false)));
            let flag = asleep.clone();
            let thread =
                std::thread::Builder::new().name(format!("gpu-pool-{i}")).spawn(move || work(&shared, &flag))?;
            pool.workers.push(Worker { thread, asleep });
        }
        Ok(pool)
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `part(0)` … `part(parts − 1)`, each once, on whatever threads are free; returns when all are done.
    pub(crate) fn run(&mut self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        if parts <= 1 || self.workers.is_empty() {
            return (0..parts).for_each(part);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased; the job is closed, with nobody inside, before this returns.
        let run = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(std::ptr::from_ref(
                part,
            ))
        };
        // SAFETY: the state is closed and empty (see the end of this function), so no worker reads it.
        unsafe { *shared.job.get() = Job { run, parts } };
        shared.next.store(0, Ordering::Relaxed);
        let open = (shared.state.load(Ordering::Relaxed) & !OPEN).wrapping_add(GENERATION) | OPEN;
        shared.state.store(open, Ordering::SeqCst);
        for worker in &self.workers {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.thread.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| take_parts(shared, part, parts)));
        let mut looks = 0;
        // Empty means `open` exactly; then one exchange closes it, or a late worker came in between.
        while shared.state.compare_exchange(open, open & !OPEN, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            looks += 1;
            if looks % LOOKS == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if let Err(panic) = own {
            std::panic::resume_unwind(panic);
        }
        assert!(!shared.panicked.load(Ordering::Acquire), "a pool worker panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread.thread().unpark();
            // A worker catches the panics of its parts and has none of its own.
            let _ = worker.thread.join();
        }
    }
}

fn take_parts(shared: &Shared, part: &(dyn Fn(usize) + Sync), parts: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= parts {
            return;
        }
        part(i);
    }
}

fn work(shared: &Shared, asleep: &AtomicBool) {
    let mut done = 0;
    while let Some(open) = wait(shared, asleep, done) {
        if shared.state.compare_exchange(open, open + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue; // another worker entered at the same moment, or the job closed: look again
        }
        // SAFETY: this thread is inside an open job: its words stay as they are until it leaves.
        let (job, part) = unsafe {
            let job = *shared.job.get();
            (job, &*job.run)
        };
        if catch_unwind(AssertUnwindSafe(|| take_parts(shared, part, job.parts))).is_err() {
            shared.panicked.store(true, Ordering::Release);
        }
        shared.state.fetch_sub(1, Ordering::AcqRel);
        done = open / GENERATION;
    }
}

/// The state of an open job later than `done`, or `None` when the pool ends.
fn wait(shared: &Shared, asleep: &AtomicBool, done: u64) -> Option<u64> {
    let mut looks = 0;
    loop {
        let state = shared.state.load(Ordering::SeqCst);
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        if state & OPEN != 0 && state / GENERATION != done {
            return Some(state);
        }
        looks += 1;
        if looks < LOOKS {
            std::hint::spin_loop();
            continue;
        }
        // The flag first, then one more look: `run` stores the state first, then reads the flag.
        asleep.store(true, Ordering::SeqCst);
        let state = shared.state.load(Ordering::SeqCst);
        if !shared.stop.load(Ordering::SeqCst) && (state & OPEN == 0 || state / GENERATION == done) {
            std::thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
        looks = 0;
    }
}

/// A slice whose parts several threads of one job write, each its own.
#[derive(Debug)]
pub(crate) struct Scatter<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out disjoint parts of a slice that is `Send`, by the contract of `part`.
unsafe impl<T: Send> Sync for Scatter<'_, T> {}

impl<'a, T> Scatter<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Scatter { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// No two parts that live at the same time overlap.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part lies within its slice");
        // SAFETY: within the slice, which is borrowed for 'a; not aliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_runs_once_whatever_the_threads() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads).unwrap();
            for parts in [0, 1, 2, 3, 17, 1000] {
                let ran: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, &|i| {
                    ran[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(ran.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} threads, {parts} parts");
            }
        }
    }

    #[test]
    fn sleeping_workers_come_back_and_many_short_jobs_are_all_done() {
        let mut pool = Pool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        for round in 0..2000 {
            if round % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            pool.run(4, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 2000 * 6);
    }

    #[test]
    fn a_panic_in_a_part_reaches_the_caller() {
        let mut pool = Pool::new(2).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, &|i| assert!(i != 33, "part 33"));
        }));
        assert!(caught.is_err());
    }

    #[test]
    fn scattered_parts_are_the_slice() {
        let mut numbers = vec![0usize; 100];
        let mut pool = Pool::new(3).unwrap();
        let scatter = Scatter::new(&mut numbers);
        pool.run(10, &|i| {
            // SAFETY: part i is [10 i, 10 i + 10).
            let part = unsafe { scatter.part(i * 10..i * 10 + 10) };
            part.iter_mut().enumerate().for_each(|(j, n)| *n = i * 10 + j);
        });
        assert!(numbers.iter().enumerate().all(|(i, n)| i == *n));
    }
}
