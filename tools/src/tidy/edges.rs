//! Rule `edges`: who may import whom, and what must not be in the core's closure.
//!
//! Asks `cargo metadata` for the graph of this machine's target, so that a dependency of a dependency
//! counts as well. Development dependencies are held to the same edges among our crates, but are not in a
//! closure: nobody ships them.

use super::tree::Tree;
use super::{Finding, TidyError};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

pub(super) const NAME: &str = "edges";

/// Every crate of the workspace and those of ours it may import.
const EDGES: [(&str, &[&str]); 7] = [
    ("orchestrion-world", &[]),
    ("orchestrion-systems", &["orchestrion-world"]),
    ("orchestrion-planner", &["orchestrion-world"]),
    ("orchestrion-gpu", &["orchestrion-world", "orchestrion-planner"]),
    ("orchestrion-api", &["orchestrion-world", "orchestrion-systems"]),
    ("orchestrion-scenarios", &["orchestrion-world", "orchestrion-systems", "orchestrion-planner"]),
    (
        "orchestrion",
        &[
            "orchestrion-world",
            "orchestrion-systems",
            "orchestrion-planner",
            "orchestrion-gpu",
            "orchestrion-api",
            "orchestrion-scenarios",
        ],
    ),
];

/// What must not be anywhere below a crate.
const CLOSURE_BANS: [(&str, &[&str]); 5] = [
    ("orchestrion-world", &["tokio", "flume", "cudarc", "axum"]),
    ("orchestrion-systems", &["tokio", "flume", "cudarc", "axum"]),
    ("orchestrion-planner", &["tokio", "flume", "cudarc", "axum", "orchestrion-gpu"]),
    ("orchestrion-api", &["orchestrion-gpu"]),
    ("orchestrion-gpu", &["orchestrion-api", "orchestrion-systems"]),
];

/// What only some crates may name: elsewhere its types cannot be spelled, so they cannot leak.
const CONFINED: [(&str, &[&str]); 2] =
    [("bevy_ecs", &["orchestrion-world", "orchestrion-systems"]), ("axum", &["orchestrion-api"])];

pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>, TidyError> {
    Graph::read(&metadata(&tree.root)?).map(|graph| graph.check())
}

/// The graph as cargo resolves it here. Offline where it can be, since whoever built the tests has all of it.
fn metadata(root: &Path) -> Result<Value, TidyError> {
    let host = said(root, &std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()), &["--print", "host-tuple"])?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["metadata", "--format-version", "1", "--filter-platform", host.trim()];
    let offline: Vec<&str> = args.iter().copied().chain(["--offline"]).collect();
    let text = said(root, &cargo, &offline).or_else(|_| said(root, &cargo, &args))?;
    serde_json::from_str(&text).map_err(|error| answer(error.to_string()))
}

fn said(root: &Path, program: &str, args: &[&str]) -> Result<String, TidyError> {
    let command = || format!("{program} {}", args.join(" "));
    let output = Command::new(program).current_dir(root).args(args).output();
    let output = output.map_err(|source| TidyError::Start { command: command(), source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(TidyError::Failed { command: command(), said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn answer(problem: impl Into<String>) -> TidyError {
    TidyError::Answer { command: "cargo metadata".into(), problem: problem.into() }
}

/// Packages by id.
#[derive(Debug, Default)]
struct Graph {
    members: BTreeSet<String>,
    names: BTreeMap<String, String>,
    /// Where a member's manifest is, from the root.
    manifests: BTreeMap<String, String>,
    /// Normal and build dependencies.
    shipped: BTreeMap<String, Vec<String>>,
    /// Development dependencies too.
    all: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Result<Graph, TidyError> {
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| answer("a name is not a string"));
        let list = |value: &Value, at: &str| -> Result<Vec<Value>, TidyError> {
            value.pointer(at).and_then(Value::as_array).cloned().ok_or_else(|| answer(format!("it has no `{at}`")))
        };
        let root = text(&metadata["workspace_root"])?;
        let mut graph = Graph::default();
        for member in list(metadata, "/workspace_members")? {
            graph.members.insert(text(&member)?);
        }
        for package in list(metadata, "/packages")? {
            let (id, manifest) = (text(&package["id"])?, text(&package["manifest_path"])?);
            let below = manifest.strip_prefix(&root).unwrap_or(&manifest).replace('\\', "/");
            graph.manifests.insert(id.clone(), below.trim_start_matches('/').to_owned());
            graph.names.insert(id, text(&package["name"])?);
        }
        for node in list(metadata, "/resolve/nodes")? {
            let id = text(&node["id"])?;
            let (mut shipped, mut all) = (Vec::new(), Vec::new());
            for dep in list(&node, "/deps")? {
                let to = text(&dep["pkg"])?;
                if list(&dep, "/dep_kinds")?.iter().any(|kind| kind["kind"].as_str() != Some("dev")) {
                    shipped.push(to.clone());
                }
                all.push(to);
            }
            graph.shipped.insert(id.clone(), shipped);
            graph.all.insert(id, all);
        }
        Ok(graph)
    }

    fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for id in &self.members {
            let (name, manifest) = (self.name(id), self.manifests.get(id).map_or("Cargo.toml", String::as_str));
            let Some((_, allowed)) = EDGES.iter().find(|(of, _)| *of == name) else {
                let message =
                    format!("`{name}` has no row: say in EDGES of tools/src/tidy/edges.rs whom it may import");
                findings.push(Finding::fail(NAME, manifest, None, message));
                continue;
            };
            let ours = self.all.get(id).into_iter().flatten().filter(|to| self.members.contains(*to));
            for to in ours.map(|to| self.name(to)).filter(|to| !allowed.contains(to)) {
                let message = format!("`{name}` must not depend on `{to}`: let the binary bring the two together");
                findings.push(Finding::fail(NAME, manifest, None, message));
            }
            for to in self.all.get(id).into_iter().flatten().map(|to| self.name(to)) {
                if CONFINED.iter().any(|(of, crates)| *of == to && !crates.contains(&name)) {
                    let message =
                        format!("`{name}` must not name `{to}`: ask one of the crates that CONFINED lists for it");
                    findings.push(Finding::fail(NAME, manifest, None, message));
                }
            }
            for banned in CLOSURE_BANS.iter().filter(|(of, _)| *of == name).flat_map(|(_, banned)| *banned) {
                if let Some(way) = self.way(id, banned) {
                    let message = format!("`{banned}` must not be below `{name}`; it comes by {way}");
                    findings.push(Finding::fail(NAME, manifest, None, message));
                }
            }
        }
        findings
    }

    fn name(&self, id: &str) -> &str {
        self.names.get(id).map_or("", String::as_str)
    }

    /// How a package gets below another, as `a → b → c`.
    fn way(&self, from: &str, to: &str) -> Option<String> {
        let mut seen = BTreeSet::from([from]);
        let mut ways = vec![vec![from]];
        while let Some(way) = ways.pop() {
            let last = *way.last()?;
            if way.len() > 1 && self.name(last) == to {
                return Some(way.iter().map(|id| self.name(id)).collect::<Vec<_>>().join(" → "));
            }
            for next in self.shipped.get(last).into_iter().flatten() {
                if seen.insert(next) {
                    ways.push(way.iter().copied().chain([next.as_str()]).collect());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type Deps<'a> = &'a [(&'a str, Option<&'a str>)];

    /// A workspace of `(name, [(dependency, kind)])`; names without `orchestrion` are somebody else's.
    fn findings(crates: &[(&str, Deps<'_>)]) -> Vec<String> {
        let ours = |name: &str| name.starts_with("orchestrion");
        let package = |name: &str| json!({"id": name, "name": name, "manifest_path": format!("/r/{name}/Cargo.toml")});
        let node = |(name, deps): &(&str, Deps<'_>)| {
            let dep = |(to, kind): &(&str, Option<&str>)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]});
            json!({"id": name, "deps": deps.iter().map(dep).collect::<Vec<_>>()})
        };
        let metadata = json!({
            "workspace_root": "/r",
            "workspace_members": crates.iter().map(|c| c.0).filter(|name| ours(name)).collect::<Vec<_>>(),
            "packages": crates.iter().map(|c| package(c.0)).collect::<Vec<_>>(),
            "resolve": {"nodes": crates.iter().map(node).collect::<Vec<_>>()},
        });
        let found = Graph::read(&metadata).unwrap().check();
        found.into_iter().map(|f| format!("{}: {}", f.path, f.message)).collect()
    }

    #[test]
    fn the_house_as_it_is_meant_passes() {
        let dev = Some("dev");
        let found = findings(&[
            ("orchestrion-world", &[("serde", None), ("tokio", dev)]),
            ("orchestrion-systems", &[("orchestrion-world", None)]),
            ("orchestrion-api", &[("orchestrion-systems", None), ("axum", None)]),
            ("orchestrion-gpu", &[("orchestrion-world", None), ("flume", None)]),
            ("orchestrion", &[("orchestrion-api", None), ("orchestrion-gpu", None)]),
            ("serde", &[]),
            ("tokio", &[]),
            ("axum", &[("tokio", None)]),
            ("flume", &[]),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn api_and_gpu_never_meet_not_even_in_tests() {
        let found = findings(&[
            ("orchestrion-api", &[("orchestrion-gpu", Some("dev"))]),
            ("orchestrion-gpu", &[("orchestrion-systems", None)]),
            ("orchestrion-systems", &[]),
        ]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].starts_with("orchestrion-api/Cargo.toml: `orchestrion-api` must not depend on `orchestrion-gpu`")
        );
        assert!(found[1].contains("`orchestrion-gpu` must not depend on `orchestrion-systems`"));
    }

    #[test]
    fn a_ban_holds_through_the_whole_closure() {
        let found = findings(&[
            ("orchestrion-world", &[("a", None)]),
            ("a", &[("b", Some("build")), ("a", None)]),
            ("b", &[("tokio", None)]),
            ("tokio", &[]),
        ]);
        let expected = "orchestrion-world/Cargo.toml: `tokio` must not be below `orchestrion-world`; it comes by orchestrion-world → a → b → tokio";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn entities_are_named_in_the_core_only() {
        let below = ("orchestrion-systems", [("bevy_ecs", None)].as_slice());
        assert_eq!(findings(&[below, ("bevy_ecs", &[])]), [""; 0]);
        let found = findings(&[("orchestrion-api", &[("bevy_ecs", Some("dev"))]), ("bevy_ecs", &[])]);
        assert!(found.len() == 1 && found[0].contains("must not name `bevy_ecs`"), "{found:?}");
    }

    #[test]
    fn a_crate_without_a_row_fails() {
        let found = findings(&[("orchestrion-stranger", &[])]);
        assert!(found.len() == 1 && found[0].contains("has no row"), "{found:?}");
    }
}
