//! Layers and defaults.

use super::*;
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
    for (bound, fits) in [(63, false), (64, true), (1 << 20, true), ((1 << 20) + 1, false), (i64::MAX, false)] {
        std::fs::write(&file, format!("[queue]\ningress_max = {bound}\n")).unwrap();
        let layered = Config::layered(&args).map(|config| config.queue.ingress_max as i64);
        let refused = format!("queue.ingress_max must be between 64 and 1048576, not {bound}");
        assert_eq!(layered.map_err(|error| error.to_string()), if fits { Ok(bound) } else { Err(refused) });
    }
    std::fs::remove_dir_all(dir).unwrap();
}
