//! `[jobs]`: how long what operators asked of pools is remembered.

use orchestrion_world::config::{JobRules, Rules};
use orchestrion_world::time::Ticks;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Jobs {
    /// After their end.
    pub keep_ms: u64,
    /// Jobs that are over.
    pub kept_max: u32,
}

impl Default for Jobs {
    fn default() -> Self {
        let JobRules { keep, kept_max } = Rules::default().jobs;
        Jobs { keep_ms: keep.0, kept_max }
    }
}

impl Jobs {
    pub(super) fn rules(&self) -> JobRules {
        JobRules { keep: Ticks(self.keep_ms), kept_max: self.kept_max }
    }
}
