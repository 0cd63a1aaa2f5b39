//! An attempt on a simulated station: how far it has come, and the pages that it holds.

use super::Job;
use orchestrion_planner as planner;
use orchestrion_world::id::{Attempt, TaskId};
use orchestrion_world::prefix::PAGE;
use orchestrion_world::protocol::{Finish, Usage};

pub(super) fn pages(positions: u32) -> u32 {
    positions.div_ceil(PAGE)
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) task: TaskId,
    pub(super) attempt: Attempt,
    pub(super) job: Job,
    /// Of the prompt and what was made.
    pub(super) read: u32,
    pub(super) made: u32,
    /// Of `made`, those reported.
    pub(super) told: u32,
    /// Tokens that it reads in a step of the stretch that runs.
    pub(super) reading: u32,
    /// Of context memory that it holds, and what one takes in bytes.
    pub(super) pages: u32,
    pub(super) page: u64,
    pub(super) begun: Option<u64>,
    /// Tokens of its prompt that were known when it began.
    pub(super) cached: u32,
    pub(super) first: u64,
}

impl Row {
    /// One that waits, of whose context a page takes so many bytes.
    pub(super) fn new((task, attempt): (TaskId, Attempt), job: Job, page: u64) -> Row {
        let (read, made, told, reading, pages, cached, first) = Default::default();
        Row { task, attempt, job, read, made, told, reading, pages, page, begun: None, cached, first }
    }

    pub(super) fn known(&self) -> u32 {
        self.job.prompt + self.made
    }

    /// As the planner sees it.
    pub(super) fn planned(&self) -> planner::Row {
        let (class, known, read, pages) = (self.job.class, self.known(), self.read, self.pages);
        planner::Row { class, known, read, pages, own: pages }
    }

    pub(super) fn is_done(&self) -> bool {
        self.made > 0 && self.left() == 0
    }

    pub(super) fn left(&self) -> u32 {
        self.job.answer - self.made
    }

    /// What was not told of it yet, and now is.
    pub(super) fn tell(&mut self) -> (TaskId, Attempt, u32) {
        let before = std::mem::replace(&mut self.told, self.made);
        (self.task, self.attempt, self.made - before)
    }

    pub(super) fn usage(&self, finish: Finish, now: u64) -> Usage {
        let us = |from: u64, to: u64| to.saturating_sub(from) / 1_000;
        let prefill = if self.made > 0 { self.begun.map_or(0, |begun| us(begun, self.first)) } else { 0 };
        let decode = if self.made > 1 { us(self.first, now) } else { 0 };
        Usage {
            finish,
            tokens_in: self.read.min(self.job.prompt).max(if self.made > 0 { self.job.prompt } else { 0 }),
            tokens_cached: self.cached,
            tokens_out: self.made,
            prefill_us: prefill,
            decode_us: decode,
        }
    }
}
