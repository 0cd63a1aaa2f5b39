//! `[queue]`: how much may wait, and who gives way where it is full.

use orchestrion_world::config::{OverloadPolicy, QueueRules, Rules};
use orchestrion_world::time::Ticks;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Queue {
    /// Tasks of a model that may wait.
    pub interactive_max: u32,
    pub batch_max: u32,
    pub policy: OverloadPolicy,
    /// A queue that stands longer refuses who would wait longer; 0 never does. Never less than a few tasks' time.
    pub interactive_delay_ms: u64,
    pub batch_delay_ms: u64,
    /// It stands when nobody waited less for as long.
    pub delay_interval_ms: u64,
    /// Submissions on their way to the core, their tokenisation included; more are refused at the door.
    pub ingress_max: usize,
}

impl Default for Queue {
    fn default() -> Self {
        let QueueRules { interactive_max, batch_max, policy, interactive_delay, batch_delay, delay_interval } =
            Rules::default().queue;
        Queue {
            interactive_max,
            batch_max,
            policy,
            interactive_delay_ms: interactive_delay.0,
            batch_delay_ms: batch_delay.0,
            delay_interval_ms: delay_interval.0,
            ingress_max: 1_024,
        }
    }
}

impl Queue {
    pub(super) fn rules(&self) -> QueueRules {
        let Queue {
            interactive_max, batch_max, policy, interactive_delay_ms, batch_delay_ms, delay_interval_ms, ..
        } = *self;
        QueueRules {
            interactive_max,
            batch_max,
            policy,
            interactive_delay: Ticks(interactive_delay_ms),
            batch_delay: Ticks(batch_delay_ms),
            delay_interval: Ticks(delay_interval_ms),
        }
    }
}
