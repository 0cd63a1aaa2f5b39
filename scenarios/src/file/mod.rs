//! Scenario files: what a person writes to see a cluster under a load, in TOML. `docs/simulation.md` explains
//! the format by example; this file is its reference.
//!
//! Reading happens in two steps: [`File`] is what stands there, [`Scenario`] is what it means. A wrong key, name
//! or number is an error that says where it stands and what could stand there. Everything is bounded, so that
//! a hostile file costs its reading and no more.

mod arrivals;
mod cluster;
mod faults;
mod jobs;
mod placement;
mod streams;

pub use arrivals::Arrivals;

use crate::expect::Expectation;
use crate::simulate::Plan;
use orchestrion_world::config::Rules;
use orchestrion_world::config::overrides::{self, OverrideError};
use orchestrion_world::config::written::WrittenTenant;
use orchestrion_world::tenant::TenantRules;
use serde::Deserialize;
use std::ops::Range;
use std::path::Path;
use toml::{Spanned, Table, Value};

/// A scenario as it stands in its file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub title: String,
    #[serde(default = "one")]
    pub seed: u64,
    /// As `p90_first_token_ms of chat <= 500`.
    #[serde(default)]
    pub expect: Vec<Spanned<String>>,
    /// The keys of the server's configuration.
    #[serde(default)]
    pub rules: Table,
    pub models: Vec<cluster::Model>,
    pub cluster: cluster::Cluster,
    pub arrivals: Vec<Arrivals>,
    #[serde(default)]
    pub faults: Vec<faults::Entry>,
    #[serde(default)]
    pub jobs: Vec<jobs::Entry>,
}

fn one() -> u64 {
    1
}

/// A scenario that can be run.
#[derive(Debug)]
pub struct Scenario {
    pub title: String,
    pub plan: Plan,
    pub expectations: Vec<Expectation>,
}

/// Why a file is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("{0}")]
    Toml(String),
    #[error("line {line}: {problem}")]
    At { line: usize, problem: String },
    #[error("{key}: {problem}")]
    Key { key: String, problem: String },
    #[error("rules: {0}")]
    Rules(#[from] OverrideError),
    #[error("{what} cannot be read: {problem}")]
    Trace { what: String, problem: String },
}

/// A scenario file is read whole.
pub const FILE_MAX: u64 = 4 << 20;
/// Names appear in tables and plots.
const NAME_MAX: usize = 64;
const ENTRIES_MAX: usize = 10_000;
/// A month: what is longer is no experiment.
pub(crate) const MS_MAX: u64 = 31 * 24 * 3_600_000;

/// Reads a scenario; `set` changes its rules, traces are found beside `folder`.
pub fn read(text: &str, folder: &Path, seed: Option<u64>, set: &[(String, String)]) -> Result<Scenario, FileError> {
    let file: File = toml::from_str(text).map_err(|error| FileError::Toml(error.to_string().trim().to_owned()))?;
    let read = Reading { text, folder };
    read.within("title", file.title.len() as u64, 1, 200)?;
    for (key, count, least) in [
        ("models", file.models.len(), 1),
        ("arrivals", file.arrivals.len(), 1),
        ("faults", file.faults.len(), 0),
        ("jobs", file.jobs.len(), 0),
    ] {
        read.within(key, count as u64, least, ENTRIES_MAX as u64)?;
    }
    let seed = seed.unwrap_or(file.seed);
    let mut rules = read.rules(&file)?;
    let cluster = cluster::resolve(&read, &file, &mut rules)?;
    overrides::apply(&mut rules, set)?;
    cluster.check(&rules)?;
    let groups = file.arrivals.iter().map(Arrivals::group).collect::<Vec<_>>();
    let expectations = file.expect.iter().map(|text| {
        let known = |name: &str| groups.iter().position(|group| group.name == name).map(|n| n as u16);
        Expectation::read(text.get_ref(), &known).map_err(|problem| read.at(text, problem))
    });
    let expectations = expectations.collect::<Result<_, _>>()?;
    let faults = faults::resolve(&read, &file.faults, &cluster)?;
    let requests = streams::requests(&read, &file.arrivals, &rules, seed)?;
    let jobs = jobs::resolve(&read, &file.jobs, &rules)?;
    let plan = Plan { seed, rules, workers: cluster.workers, groups, requests, faults, jobs };
    Ok(Scenario { title: file.title, plan, expectations })
}

/// What errors need to say where.
struct Reading<'a> {
    text: &'a str,
    folder: &'a Path,
}

impl Reading<'_> {
    fn at<T>(&self, place: &Spanned<T>, problem: impl Into<String>) -> FileError {
        let Range { start, .. } = place.span();
        let before = self.text.as_bytes().get(..start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        FileError::At { line, problem: problem.into() }
    }

    fn within(&self, key: &str, found: u64, min: u64, max: u64) -> Result<(), FileError> {
        if (min..=max).contains(&found) {
            return Ok(());
        }
        Err(FileError::Key { key: key.to_owned(), problem: format!("must be between {min} and {max}, not {found}") })
    }

    /// The place of a name among those there are.
    fn find(&self, what: &str, name: &Spanned<String>, known: &[&str]) -> Result<usize, FileError> {
        known.iter().position(|known| known == name.get_ref()).ok_or_else(|| {
            let quoted: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            self.at(name, format!("unknown {what} `{}`, expected one of {}", name.get_ref(), quoted.join(", ")))
        })
    }

    fn rules(&self, file: &File) -> Result<Rules, FileError> {
        let (mut rules, mut pairs) = (Rules::default(), vec![]);
        for (section, keys) in &file.rules {
            match keys {
                list if section == "tenants" => rules.tenants = tenants(list)?,
                keys => flatten(section, keys, &mut pairs)?,
            }
        }
        overrides::apply(&mut rules, &pairs)?;
        Ok(rules)
    }
}

/// Keys with their sections, as `queue.policy`.
fn flatten(key: &str, value: &Value, pairs: &mut Vec<(String, String)>) -> Result<(), FileError> {
    let text = match value {
        Value::Table(keys) => {
            return keys.iter().try_for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, pairs));
        }
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) => {
            let problem = "is a whole number, a word or a truth value".to_owned();
            return Err(FileError::Key { key: format!("rules.{key}"), problem });
        }
    };
    pairs.push((key.to_owned(), text));
    Ok(())
}

/// `[[rules.tenants]]`, as in the configuration.
fn tenants(list: &Value) -> Result<Vec<TenantRules>, FileError> {
    let wrong = |problem: String| FileError::Key { key: "rules.tenants".to_owned(), problem };
    let list: Vec<WrittenTenant> =
        list.clone().try_into().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let mut tenants: Vec<TenantRules> = list.iter().map(WrittenTenant::rules).collect();
    tenants.sort_by_key(TenantRules::id);
    Ok(tenants)
}

#[cfg(test)]
mod tests;
