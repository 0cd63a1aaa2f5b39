//! Layers and defaults.

use super::*;
use crate::cli::Cli;
use clap::Parser;
use orchestrion_world::config::OverloadPolicy;

#[test]
fn the_default_is_one_pool_with_the_demo_model() {
    let config = Config::layered(&ServeArgs::default()).unwrap();
    assert_eq!(config.pools, [Pool::default()]);
    assert_eq!(config.rules().models, [DEMO_MODEL]);
    assert!(config.server.bind.ip().is_loopback());
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let dir = std::env::temp_dir().join(format!("orch-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("c.toml");
    let text = "[server]\nbind = \"127.0.0.1:1\"\n[queue]\nbatch_max = 7\npolicy = \"drop-lru\"\n[placement]\nbatch_share_permille = 500\n[[pools]]\nid = \"b\"\n[[pools]]\nid = \"a\"\nmodel = \"x/y.gguf\"\n";
    std::fs::write(&file, text).unwrap();
    let bind = "127.0.0.1:2".parse().ok();
    let args = ServeArgs { config: Some(file.clone()), bind, slots: Some(9), ..ServeArgs::default() };
    let config = Config::layered(&args).unwrap();
    assert_eq!((config.server.bind.port(), config.queue.batch_max, config.queue.interactive_max), (2, 7, 256));
    assert_eq!(config.rules().queue.policy, OverloadPolicy::DropLru);
    let placement = PlacementRules { batch_share: Permille(500), ..Rules::default().placement };
    assert_eq!(config.rules().placement, placement);
    let pools: Vec<_> = config.pools.iter().map(|p| (p.id.as_str(), p.model_name(), p.slots)).collect();
    assert_eq!(pools, [("a", "y".to_owned(), 9), ("b", DEMO_MODEL.to_owned(), 9)]);
    std::fs::write(&file, "[queue]\nbatch_maxx = 7\n").unwrap();
    let error = Config::layered(&args).unwrap_err().to_string();
    assert!(error.contains("batch_maxx") && error.ends_with("Did you mean `batch_max`?"), "{error}");
    std::fs::write(&file, "[placement]\npolicy = \"pakc\"\n").unwrap();
    let error = Config::layered(&args).unwrap_err().to_string();
    assert!(error.ends_with("Did you mean `pack`?"), "{error}");
    let args = ServeArgs { slots: None, ..args };
    for (section, key, least, most) in [
        ("queue.", "ingress_max", 64, 1 << 20),
        ("server.limits.", "connections", 1, 1 << 20),
        ("server.limits.", "connections_per_address", 1, 1 << 20),
        ("server.limits.", "json_depth", 1, 127),
        ("", "slots", 1, 65_535),
        ("", "threads", 1, 1_024),
        ("", "ctx", 1, 4_294_967_295_i64),
    ] {
        for (bound, fits) in [(least - 1, false), (least, true), (most, true), (most + 1, false)] {
            let (line, name) = match section {
                "" => (format!("[[pools]]\nid = \"a\"\n{key} = {bound}\n"), format!("`{key}` of the pool `a`")),
                _ => (format!("{section}{key} = {bound}\n"), format!("{section}{key}")),
            };
            std::fs::write(&file, line).unwrap();
            let error = Config::layered(&args).map(|_| ()).map_err(|error| error.to_string());
            // Beyond what its type holds, the reader of the file says so.
            let told = format!("{name} must be between {least} and {most}, not {bound}");
            let typed = |error: &String| error.contains("expected") && error.contains(key);
            assert!(
                if fits { error.is_ok() } else { error.as_ref().is_err_and(|e| *e == told || typed(e)) },
                "{error:?}"
            );
        }
    }
    std::fs::write(&file, "[[pools]]\nid = \"a\"\n[[pools]]\nid = \"a\"\n").unwrap();
    let error = Config::layered(&args).unwrap_err().to_string();
    assert_eq!(error, "two of the `pools` have the id `a`; each must have its own");
    for (flag, found) in [("--threads", "0"), ("--threads", "1025"), ("--slots", "0")] {
        let error = Cli::try_parse_from(["orch", "serve", flag, found]).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::ValueValidation, "{flag} {found}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}
