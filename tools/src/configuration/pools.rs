//! `[[pools]]`: what is served, on what, and how much of it at a time.

use super::models;
use crate::failure::{Code, Failure};
use clap::ValueEnum;
use orchestrion_gpu::engine::Level;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// What bare `orch serve` serves.
pub(crate) const DEMO_MODEL: &str = "smollm2-135m";
/// Each of an engine's threads has a stack; no host has more cores to compute on.
pub(crate) const THREADS: RangeInclusive<u64> = 1..=1024;

/// One pool, and the worker that is started for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pool {
    pub id: String,
    /// A catalog name or the path of a GGUF file.
    pub model: String,
    /// What clients call it; without one, the catalog name or the file's.
    pub model_name: Option<String>,
    pub device_kind: DeviceKind,
    pub slots: u16,
    /// Threads that compute; without a number, one per core.
    pub threads: Option<usize>,
    /// Prompt and answer together, at most, or an encoder's input; without a number, what the model was trained for.
    pub ctx: Option<u32>,
    pub simd: Simd,
    /// Tokens that a step tries ahead, for all answers together, where an answer repeats what was there; 0 tries none.
    /// The tokens of the answer are the same.
    pub draft_tokens: u32,
}

/// What a pool computes on. There is no fallback from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceKind {
    Host,
}

/// Which kernels the host engine uses; the tokens are the same with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Simd {
    Auto,
    Scalar,
    Avx2,
    Vnni,
}

impl Default for Pool {
    fn default() -> Self {
        Pool {
            id: "default".into(),
            model: DEMO_MODEL.into(),
            model_name: None,
            device_kind: DeviceKind::Host,
            slots: 4,
            threads: None,
            ctx: None,
            simd: Simd::Auto,
            draft_tokens: 8,
        }
    }
}

impl Pool {
    /// What clients call the model.
    pub(crate) fn model_name(&self) -> String {
        models::name(&self.model, self.model_name.as_deref())
    }

    /// The kernels it runs on; an error where the machine lacks what was asked for.
    pub(crate) fn level(&self) -> Level {
        self.simd.level()
    }

    /// That a worker can be made of it.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let bounds = [
            ("slots", Some(self.slots.into()), 1..=u16::MAX.into()),
            ("threads", self.threads.map(|threads| threads as u64), THREADS),
            ("ctx", self.ctx.map(u64::from), 1..=u32::MAX.into()),
        ];
        match bounds.into_iter().find(|(_, found, range)| found.is_some_and(|found| !range.contains(&found))) {
            None => Ok(()),
            Some((key, found, range)) => {
                let (found, min, max) = (found.unwrap_or_default(), range.start(), range.end());
                let problem = format!("`{key}` of the pool `{}` must be between {min} and {max}, not {found}", self.id);
                Err(Failure::new(Code::BadConfig, problem))
            }
        }
    }
}

impl Simd {
    pub(crate) fn level(self) -> Level {
        match self {
            Simd::Auto => Level::detect(),
            Simd::Scalar => Level::Scalar,
            Simd::Avx2 => Level::Avx2,
            Simd::Vnni => Level::Vnni,
        }
    }
}
