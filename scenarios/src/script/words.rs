//! Statements taken apart.

use orchestrion_world::config::PlacementRule;
use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;

/// A statement taken apart: a verb, names, flags and `key=value`.
pub(super) struct Words<'t> {
    pub(super) verb: &'t str,
    names: VecDeque<&'t str>,
    values: BTreeMap<&'t str, &'t str>,
}

impl<'t> Words<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let mut words = text.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let (pairs, names): (Vec<_>, Vec<_>) = words.partition(|w| w.contains('='));
        Words { verb, names: names.into(), values: pairs.into_iter().filter_map(|w| w.split_once('=')).collect() }
    }

    pub(super) fn name(&mut self) -> Result<&'t str, String> {
        self.names.pop_front().ok_or_else(|| format!("`{}` lacks a name", self.verb))
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        let before = self.names.len();
        self.names.retain(|n| *n != name);
        self.names.len() != before
    }

    pub(super) fn optional(&mut self, key: &str) -> Option<&'t str> {
        self.values.remove(key)
    }

    pub(super) fn take(&mut self, key: &str) -> Result<String, String> {
        self.optional(key).map(str::to_owned).ok_or_else(|| format!("`{key}=…` is missing"))
    }

    pub(super) fn or<N: FromStr>(&mut self, key: &str, default: N) -> Result<N, String> {
        self.optional(key).map_or(Ok(default), number)
    }

    pub(super) fn rule(&mut self) -> Result<PlacementRule, String> {
        match self.name()? {
            "predicted-end" => Ok(PlacementRule::PredictedEnd),
            "least-loaded" => Ok(PlacementRule::LeastLoaded),
            "pack" => Ok(PlacementRule::Pack),
            other => Err(format!("no placement rule is called `{other}`")),
        }
    }

    /// Nothing may be left over: a misspelt key is no default.
    pub(super) fn end(self) -> Result<(), String> {
        let left = self.names.into_iter().chain(self.values.into_keys()).next();
        left.map_or(Ok(()), |word| Err(format!("nobody asked for `{word}`")))
    }
}

pub(super) fn number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("`{text}` is no number here"))
}
