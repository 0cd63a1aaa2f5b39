//! `[[jobs]]`: what an operator asks of a pool, and when.

use super::{FileError, MS_MAX, Reading};
use orchestrion_world::config::Rules;
use orchestrion_world::id::{ModelId, PoolId};
use orchestrion_world::job::Action;
use orchestrion_world::time::{Tick, Ticks};
use serde::Deserialize;
use toml::Spanned;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub kind: Kind,
    pub at_ms: u64,
    pub pool: Spanned<String>,
    /// For its tasks to end, of `drain`, `reload` and `purge`. A purge without one drains nothing.
    pub deadline_ms: Option<u64>,
    /// Of `reload`: what it serves from then on.
    pub model: Option<Spanned<String>>,
    /// Of `purge`: also where tasks run.
    #[serde(default)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Drain,
    Resume,
    Reload,
    Purge,
    Verify,
}

/// A job's time, pool and action, in the order of the file.
pub(super) fn resolve(
    read: &Reading<'_>,
    entries: &[Entry],
    rules: &Rules,
) -> Result<Vec<(Tick, PoolId, Action)>, FileError> {
    let pools: Vec<&str> = rules.pools.iter().map(|pool| pool.name.as_str()).collect();
    let models: Vec<&str> = rules.models.iter().map(String::as_str).collect();
    let job = |(n, entry): (usize, &Entry)| {
        let key = |key: &str| format!("jobs[{n}].{key}");
        let wrong = |name: &str, problem: &str| FileError::Key { key: key(name), problem: problem.to_owned() };
        read.within(&key("at_ms"), entry.at_ms, 0, MS_MAX)?;
        read.within(&key("deadline_ms"), entry.deadline_ms.unwrap_or(0), 0, MS_MAX)?;
        let pool = PoolId(read.find("pool", &entry.pool, &pools)? as u16);
        if entry.model.is_some() && entry.kind != Kind::Reload {
            return Err(wrong("model", "is for `reload` alone"));
        }
        if entry.force && entry.kind != Kind::Purge {
            return Err(wrong("force", "is for `purge` alone"));
        }
        let deadline = || entry.deadline_ms.map(Ticks).ok_or_else(|| wrong("deadline_ms", "is missing here"));
        let action = match entry.kind {
            Kind::Drain => Action::Drain { deadline: deadline()? },
            Kind::Resume | Kind::Verify if entry.deadline_ms.is_some() => {
                return Err(wrong("deadline_ms", "is not for `resume` and `verify`, which end no task"));
            }
            Kind::Resume => Action::Resume,
            Kind::Reload => {
                let name = entry.model.as_ref().ok_or_else(|| wrong("model", "is missing here"))?;
                let model = ModelId(read.find("model", name, &models)? as u16);
                Action::Reload { model, deadline: deadline()? }
            }
            Kind::Verify => Action::Verify,
            Kind::Purge => Action::Purge { drain: entry.deadline_ms.map(Ticks), force: entry.force },
        };
        Ok((Tick(entry.at_ms), pool, action))
    };
    entries.iter().enumerate().map(job).collect()
}
