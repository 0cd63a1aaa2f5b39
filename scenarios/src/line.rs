//! The line between the workers and the core, and what can befall the words on it: heartbeats are lost,
//! words come late, in another order, twice, or again when their worker has long been another.
//!
//! Every word of a worker passes here. No `Finished` or `Faulted` is ever lost: a station owes the core one
//! for each start, and only its end, which the core hears of otherwise, sets it free of that.

use orchestrion_world::id::{Epoch, WorkerId};
use orchestrion_world::protocol::Report;
use orchestrion_world::time::{Tick, Ticks};
use std::collections::{BTreeMap, VecDeque};

/// What a line does to the words of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Heartbeats are lost.
    Mute,
    /// Each word comes this much later.
    Late(Ticks),
    /// Each word comes later by as much as falls to it, up to this: they overtake each other.
    Jumble(Ticks),
    /// Each word comes twice.
    Twice,
}

impl Trouble {
    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Trouble::Mute => "mute",
            Trouble::Late(_) => "late",
            Trouble::Jumble(_) => "jumble",
            Trouble::Twice => "twice",
        }
    }
}

/// Words that a worker is remembered by, to say them again.
const REMEMBERED: usize = 16;

/// Every worker's line.
#[derive(Clone, Debug, Default)]
pub struct Line {
    troubles: BTreeMap<WorkerId, Vec<(Trouble, Tick)>>,
    /// On their way, by arrival.
    held: BTreeMap<(Tick, u64), Report>,
    said: BTreeMap<WorkerId, VecDeque<Report>>,
    passed: u64,
}

impl Line {
    /// The next tick at which a word arrives.
    pub fn next(&self) -> Option<Tick> {
        self.held.keys().next().map(|&(at, _)| at)
    }

    /// From `now` on, for so long.
    pub fn trouble(&mut self, now: Tick, worker: WorkerId, trouble: Trouble, length: Ticks) {
        self.troubles.entry(worker).or_default().push((trouble, now + length));
    }

    /// Everything on the line arrives as it should from here on.
    pub fn heal(&mut self) {
        self.troubles.clear();
    }

    /// The process is gone, and what was on its way with it. What a worker said can still come again.
    pub fn cut(&mut self) {
        self.troubles.clear();
        self.held.clear();
    }

    /// A worker says something; what arrives of it at once comes back.
    pub fn pass(&mut self, now: Tick, report: Report) -> Vec<Report> {
        let worker = worker_of(&report);
        let said = self.said.entry(worker).or_default();
        if said.len() == REMEMBERED {
            said.pop_front();
        }
        said.push_back(report.clone());
        let troubles = self.troubles.entry(worker).or_default();
        troubles.retain(|(_, until)| *until > now);
        let (mut delay, mut copies) = (0, 1);
        for (trouble, _) in troubles.clone() {
            match trouble {
                Trouble::Mute if matches!(report, Report::Beat { .. }) => copies = 0,
                Trouble::Mute => {}
                Trouble::Late(by) => delay += by.0,
                Trouble::Jumble(by) => delay += (self.passed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (by.0 + 1),
                Trouble::Twice => copies *= 2,
            }
        }
        for _ in 0..copies.min(2) {
            self.passed += 1;
            self.held.insert((now + Ticks(delay), self.passed), report.clone());
        }
        self.arrived(now)
    }

    /// The worker's last words once more.
    pub fn ghost(&self, worker: WorkerId) -> Vec<Report> {
        self.said.get(&worker).into_iter().flatten().cloned().collect()
    }

    /// What has arrived by now.
    pub fn arrived(&mut self, now: Tick) -> Vec<Report> {
        let later = self.held.split_off(&(Tick(now.0.saturating_add(1)), 0));
        std::mem::replace(&mut self.held, later).into_values().collect()
    }
}

/// Who says it.
pub fn worker_of(report: &Report) -> WorkerId {
    match *report {
        Report::WorkerUp { worker, .. }
        | Report::WorkerDown { worker, .. }
        | Report::Beat { worker, .. }
        | Report::Loading { worker, .. }
        | Report::ShardCorrupt { worker, .. }
        | Report::Started { worker, .. }
        | Report::Progress { worker, .. }
        | Report::Finished { worker, .. }
        | Report::Faulted { worker, .. }
        | Report::ShardLoaded { worker, .. }
        | Report::ShardFailed { worker, .. }
        | Report::ShardFreed { worker, .. }
        | Report::ShardVerified { worker, .. } => worker,
    }
}

/// In which of its lives.
pub fn epoch_of(report: &Report) -> Epoch {
    match *report {
        Report::WorkerUp { epoch, .. }
        | Report::WorkerDown { epoch, .. }
        | Report::Beat { epoch, .. }
        | Report::Loading { epoch, .. }
        | Report::ShardCorrupt { epoch, .. }
        | Report::Started { epoch, .. }
        | Report::Progress { epoch, .. }
        | Report::Finished { epoch, .. }
        | Report::Faulted { epoch, .. }
        | Report::ShardLoaded { epoch, .. }
        | Report::ShardFailed { epoch, .. }
        | Report::ShardFreed { epoch, .. }
        | Report::ShardVerified { epoch, .. } => epoch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(epoch: u32) -> Report {
        Report::Beat { worker: WorkerId(1), epoch: Epoch(epoch) }
    }

    #[test]
    fn words_pass_at_once_where_nothing_befalls_them() {
        let mut line = Line::default();
        assert_eq!(line.pass(Tick(5), beat(1)), [beat(1)]);
        assert_eq!(line.next(), None);
    }

    #[test]
    fn troubles_end_and_leave_what_is_on_its_way() {
        let mut line = Line::default();
        line.trouble(Tick(0), WorkerId(1), Trouble::Late(Ticks(10)), Ticks(5));
        line.trouble(Tick(0), WorkerId(1), Trouble::Twice, Ticks(5));
        assert_eq!(line.pass(Tick(4), beat(1)), []);
        assert_eq!(line.pass(Tick(5), beat(2)), [beat(2)], "the window is over");
        assert_eq!(line.next(), Some(Tick(14)));
        assert_eq!(line.arrived(Tick(14)), [beat(1), beat(1)]);
        line.trouble(Tick(20), WorkerId(1), Trouble::Mute, Ticks(5));
        assert_eq!(line.pass(Tick(20), beat(3)), []);
        assert_eq!(line.ghost(WorkerId(1)), [beat(1), beat(2), beat(3)]);
    }

    #[test]
    fn jumbled_words_overtake_each_other() {
        let mut line = Line::default();
        line.trouble(Tick(0), WorkerId(1), Trouble::Jumble(Ticks(50)), Ticks(5));
        let mut arrived: Vec<Report> = (0..20).flat_map(|epoch| line.pass(Tick(0), beat(epoch))).collect();
        arrived.extend(line.arrived(Tick(50)));
        let in_order: Vec<Report> = (0..20).map(beat).collect();
        assert_eq!(arrived.len(), in_order.len());
        assert_ne!(arrived, in_order);
    }
}
