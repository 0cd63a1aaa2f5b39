//! How full the world was: the most there was of everything, and samples over time, never more than a page can show.

use orchestrion_systems::{Gauges, Simulation};
use orchestrion_world::time::{Tick, Ticks};

/// Twice what a chart can show: at the bound, every second one goes.
const SAMPLES_MAX: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauged {
    pub queued_most: u64,
    pub vram_most: u64,
    pub samples: Vec<(Tick, Gauges)>,
    every: Ticks,
    next: Tick,
}

impl Default for Gauged {
    fn default() -> Self {
        Gauged { queued_most: 0, vram_most: 0, samples: vec![], every: Ticks(10), next: Tick(0) }
    }
}

impl Gauged {
    /// Looks at the world behind a step.
    pub fn look(&mut self, now: Tick, simulation: &Simulation) {
        let gauges = simulation.gauges();
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
