//! How full the world was: the most there was of everything, and samples over time, never more than a page can show.

use orchestrion_systems::{Gauges, Simulation};
use orchestrion_world::time::{Tick, Ticks};

/// Twice what a chart can show: at the bound, every second one goes.
const SAMPLES_MAX: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauged {
    pub queued_most: u64,
    pub vram_most: u64,
    samples: Vec<(Tick, Gauges)>,
    /// The last look: how it was left, however soon after a sample.
    last: Option<(Tick, Gauges)>,
    every: Ticks,
    next: Tick,
}

impl Default for Gauged {
    fn default() -> Self {
        Gauged { queued_most: 0, vram_most: 0, samples: vec![], last: None, every: Ticks(10), next: Tick(0) }
    }
}

impl Gauged {
    /// In their order; the last one is of the last step.
    pub fn samples(&self) -> impl Iterator<Item = &(Tick, Gauges)> {
        // Several steps may share a tick.
        let last = self.last.as_ref().filter(|last| self.samples.last() != Some(*last));
        self.samples.iter().chain(last)
    }

    /// Looks at the world behind a step.
    pub fn look(&mut self, now: Tick, simulation: &Simulation) {
        self.see(now, simulation.gauges());
    }

    fn see(&mut self, now: Tick, gauges: Gauges) {
        self.last = Some((now, gauges.clone()));
        self.queued_most = self.queued_most.max(gauges.queued_interactive + gauges.queued_batch);
        self.vram_most = self.vram_most.max(gauges.vram_used_bytes);
        if now < self.next {
            return;
        }
        self.samples.push((now, gauges));
        if self.samples.len() >= SAMPLES_MAX {
            self.every.0 *= 2;
            let mut next = Tick(0);
            self.samples.retain(|(at, _)| {
                let keep = *at >= next;
                next = if keep { *at + self.every } else { next };
                keep
            });
        }
        self.next = now + self.every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_among_the_samples_and_so_few_of_many() {
        let mut gauged = Gauged::default();
        for now in 0..100_000 {
            gauged.see(Tick(now), Gauges { leases: 1, ..Gauges::default() });
        }
        gauged.see(Tick(100_000), Gauges::default());
        let samples: Vec<_> = gauged.samples().map(|(at, gauges)| (at.0, gauges.leases)).collect();
        assert!(samples.is_sorted() && samples.len() <= SAMPLES_MAX);
        assert_eq!((samples[0], samples[samples.len() - 1]), ((0, 1), (100_000, 0)));
    }
}
