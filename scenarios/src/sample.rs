//! What a run looks like over time: gauges of the world at even distances, and never more than a page can
//! show.

use crate::simulate::Counts;
use orchestrion_systems::Simulation;
use orchestrion_world::id::DeviceId;
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Bytes;

/// Twice what a plot can show: at the bound, every second one goes.
const SAMPLES_MAX: usize = 1_024;
/// Devices with a line of their own.
const DEVICES_MAX: usize = 16;

/// The world at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub at: Tick,
    pub interactive: u64,
    pub batch: u64,
    pub running: u64,
    pub slots: u64,
    /// Of all devices.
    pub used: Bytes,
    /// Of the first devices: used, and how much there is.
    pub devices: Vec<(DeviceId, Bytes, Bytes)>,
    /// Models that came and went so far, where somebody counted.
    pub turnover: Option<(u64, u64)>,
}

#[derive(Debug)]
pub(crate) struct Samples {
    taken: Vec<Sample>,
    every: Ticks,
    next: Tick,
}

impl Default for Samples {
    fn default() -> Self {
        Samples { taken: vec![], every: Ticks(10), next: Tick(0) }
    }
}

impl Samples {
    pub(crate) fn is_due(&self, now: Tick) -> bool {
        now >= self.next
    }

    pub(crate) fn take(&mut self, now: Tick, simulation: &Simulation, counts: &Counts) {
        let gauges = simulation.gauges();
        let mut devices = simulation.devices();
        devices.truncate(DEVICES_MAX);
        self.taken.push(Sample {
            at: now,
            interactive: gauges.queued_interactive,
            batch: gauges.queued_batch,
            running: gauges.leases,
            slots: gauges.slots,
            used: Bytes(gauges.vram_used_bytes),
            devices,
            turnover: Some((counts.loads, counts.evictions)),
        });
        if self.taken.len() >= SAMPLES_MAX {
            self.every.0 *= 2;
            let mut next = Tick(0);
            self.taken.retain(|sample| {
                let keep = sample.at >= next;
                next = if keep { sample.at + self.every } else { next };
                keep
            });
        }
        self.next = now + self.every;
    }

    pub(crate) fn into_vec(self) -> Vec<Sample> {
        self.taken
    }
}
