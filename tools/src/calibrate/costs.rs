//! Costs by pool: fitted, guessed where there is too little to fit, written and read as TOML.

use super::Residual;
use super::fit::fit;
use super::replay::Attempts;
use crate::failure::{Code, Failure};
use crate::whatif::figures::Span;
use config::{Config, File, FileFormat};
use orchestrion_api::recording::Recording;
use orchestrion_planner::{CHUNK, budget};
use orchestrion_scenarios::cost::Cost;
use orchestrion_world::config::Rules;
use orchestrion_world::id::PoolId;
use orchestrion_world::protocol::WorkerFacts;
use orchestrion_world::units::MilliRate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// By the pool's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Costs {
    pools: BTreeMap<String, Cost>,
}

/// Fewer attempts say little of five figures.
const ATTEMPTS_MIN: usize = 10;

impl Costs {
    /// Fits a cost for each pool that did enough in `span`.
    pub(crate) fn fit(recording: &Recording, span: Span) -> Result<(Costs, Vec<Residual>), Failure> {
        let (mut costs, mut residuals) = (Costs::default(), Vec::new());
        for (place, pool) in recording.rules.pools.iter().enumerate() {
            let attempts = Attempts::of(recording, PoolId(place as u16), span);
            let Some(facts) = attempts.facts().filter(|_| attempts.scored() >= ATTEMPTS_MIN) else { continue };
            let cost = fit(&attempts, guess(facts));
            residuals.push(attempts.residual(&cost, &pool.name));
            costs.pools.insert(pool.name.clone(), cost);
        }
        if costs.pools.is_empty() {
            let message = format!(
                "no pool has the {ATTEMPTS_MIN} answered tasks that it takes to fit a cost: record a longer run"
            );
            return Err(Failure::new(Code::BadData, message));
        }
        Ok((costs, residuals))
    }

    #[cfg(test)]
    pub(crate) fn one(pool: &str, cost: Cost) -> Costs {
        Costs { pools: [(pool.to_owned(), cost)].into() }
    }

    /// What a worker's work costs; guessed from what it measured of itself where its pool was not fitted.
    pub(crate) fn of(&self, rules: &Rules, facts: &WorkerFacts) -> Cost {
        let pool = rules.pools.get(usize::from(facts.pool.0));
        pool.and_then(|pool| self.pools.get(&pool.name)).copied().unwrap_or_else(|| guess(facts))
    }

    pub(crate) fn read(path: &Path) -> Result<Costs, Failure> {
        let told = |problem: String| Failure::new(Code::BadConfig, format!("{}: {problem}", path.display()));
        let layers = Config::builder().add_source(File::from(path).format(FileFormat::Toml)).build();
        let costs: Costs = layers.and_then(Config::try_deserialize).map_err(|error| told(error.to_string()))?;
        for (pool, cost) in &costs.pools {
            cost.check().map_err(|error| told(format!("pool `{pool}`: {error}")))?;
        }
        Ok(costs)
    }

    pub(crate) fn toml(&self) -> String {
        let section = |(pool, cost): (&String, &Cost)| {
            let Cost { take_up, step, prompt_token, row, context, load, load_mib, chunk } = cost;
            // A name is quoted as JSON quotes: TOML's basic strings take the same.
            format!(
                "[pools.{}]\ntake_up_ns = {take_up}\nstep_ns = {step}\nprompt_token_ns = {prompt_token}\n\
                 row_ns = {row}\ncontext_ns = {context}\nload_ns = {load}\nload_mib_ns = {load_mib}\nchunk = {chunk}\n",
                serde_json::Value::from(pool.as_str())
            )
        };
        self.pools.iter().map(section).collect::<Vec<_>>().join("\n")
    }
}

/// From the two rates that a worker measured alone: how an answer's step divides into what all rows share and what
/// each adds, they do not say.
fn guess(facts: &WorkerFacts) -> Cost {
    let ns = |rate: MilliRate| 1_000_000_000_000 / rate.0.max(1);
    // A worker that came without a model does no work here: its cost is nobody's.
    let (prefill, decode) = facts.came_with.map_or_else(Default::default, |(_, model)| (model.prefill, model.decode));
    let chunk = budget(prefill, CHUNK);
    let (token, step) = (ns(prefill), ns(decode));
    Cost {
        take_up: 500_000,
        step: (step * 6 / 10).max(1_000),
        prompt_token: token.saturating_sub(step * 6 / 10 / u64::from(chunk)).max(token / 4),
        row: step * 4 / 10,
        context: step / 20,
        load: 0,
        load_mib: 0,
        chunk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_what_cannot_be_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cost) = (
            dir.path().join("cost.toml"),
            Cost { take_up: 1, step: 2_000, prompt_token: 3, row: 4, context: 5, load: 6, load_mib: 7, chunk: 8 },
        );
        let costs = Costs { pools: [("a".to_owned(), cost), ("b c.\"d".to_owned(), cost)].into() };
        std::fs::write(&file, costs.toml()).unwrap();
        assert_eq!(Costs::read(&file).unwrap(), costs);
        std::fs::write(&file, costs.toml().replace("step_ns = 2000", "step_ns = 0")).unwrap();
        let error = Costs::read(&file).unwrap_err().to_string();
        assert!(error.contains("pool `a`: step_ns must be between 1000"), "{error}");
    }
}
