//! What is wrong is told with its place; what is hostile is refused before it costs anything.

use super::*;
use crate::simulate::simulate;
use crate::summary::Summary;

const GOOD: &str = include_str!("../../library/overload.toml");

/// The error of the library's file with one passage replaced.
fn error(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "`{from}` stands nowhere");
    let changed = GOOD.replacen(from, to, 1);
    read(&changed, Path::new("."), None, &[]).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn slips_say_where_they_stand_and_what_could() {
    let key = error("interactive_max = 24", "interactive_mx = 24");
    assert!(key.starts_with("rules: there is no rule `queue.interactive_mx` to change; there are"), "{key}");
    let field = error("[[arrivals]]\nname", "[[arrivals]]\npromt = 5\nname");
    assert!(field.contains("line 40") && field.contains("unknown field `promt`"), "{field}");
    let model = error("prompt_token_ns = 320_000, ", "");
    assert!(model.contains("missing field `prompt_token_ns`"), "{model}");
    assert_eq!(
        error("model = \"llama-8b-q4\"\ndevice", "model = \"llama\"\ndevice"),
        "line 35: unknown model `llama`, expected one of `llama-8b-q4`"
    );
    let length = error("prompt = 256", "prompt = \"long\"");
    assert!(length.contains("expected a number of tokens or `{ median"), "{length}");
    let measure = error("recovery_ms from 50000", "recovry_ms from 50000");
    assert!(measure.starts_with("line 12: unknown field `recovry_ms`, expected one of `requests`"), "{measure}");
    assert_eq!(error("of calm to", "of claim to"), "line 13: no arrivals are called `claim`");
    assert!(error("peak_queue <= 24", "peak_queue < 24").contains("expected one of `of`, `from`, `to`, `<=`, `>=`"));
    let both = error("poisson = {", "at_ms = [1]\npoisson = {");
    assert!(both.starts_with("arrivals.calm: say when they come by exactly one of"), "{both}");
}

#[test]
fn nothing_is_without_a_bound() {
    for (from, to, says) in [
        ("count = 2", "count = 9_000_000_000", "cluster.devices.rtx-3090.count: must be between 1 and 16384"),
        ("slots = 8", "slots = 60_000", "cluster.pools.chat.slots: must be between 1 and 4096"),
        ("slots = 8", "slots = 8\nworkers = 9000", "workers in all: must be between 1 and 16384, not 18000"),
        (
            "slots = 8",
            "slots = 8\nworkers = 600",
            "cluster.pools: 1200 workers are more than `rules.health.workers_max`",
        ),
        ("step_ns = 7_600_000", "step_ns = 0", "models.llama-8b-q4.cost: step_ns must be between 1000"),
        ("per_second = 6.0", "per_second = 1e300", "arrivals.calm.poisson.per_second: must be above 0 and at most"),
        ("per_second = 6.0", "per_second = nan", "arrivals.calm.poisson.per_second: must be above 0"),
        ("to_ms = 90_000", "to_ms = 9_000_000_000_000", "arrivals.calm.poisson.to_ms: must be between 0"),
        ("prompt = 256", "prompt = 4_000_000_000", "arrivals.calm.prompt: must be between 1"),
        (
            "prompt = 256",
            "prompt = { median = 5, sigma = inf, max = 9 }",
            "arrivals.calm.prompt.sigma: must be between",
        ),
        (
            "poisson = { per_second = 6.0, to_ms = 90_000 }",
            "bursts = { size = 10_000_000, times = 10_000_000 }",
            "arrivals.calm.bursts.times",
        ),
        (
            "poisson = { per_second = 6.0, to_ms = 90_000 }",
            "trace = \"none.csv\"",
            "none.csv cannot be read: No such file",
        ),
    ] {
        let error = error(from, to);
        assert!(error.starts_with(says), "{error}");
    }
    let many = format!("{GOOD}\n[[faults]]\nkind = \"crash\"\nat_ms = 1\ntimes = 100_000\nevery_ms = 1\nworkers = 2\n");
    let error = read(&many, Path::new("."), None, &[]).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "faults in all: must be between 0 and 100000, not 200000");
}

#[test]
fn loads_and_jobs_say_where_they_are_wrong() {
    let zoo = include_str!("../../library/model-zoo.toml");
    let drain = include_str!("../../library/drain-under-load.toml");
    let error = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "`{from}` stands nowhere");
        read(&text.replacen(from, to, 1), Path::new("."), None, &[]).map(|_| ()).unwrap_err().to_string()
    };
    for (text, from, to, says) in [
        (zoo, "\"vision\", \"small\"]", "\"visoin\", \"small\"]", "line 63: unknown model `visoin`, expected one of"),
        (zoo, "\"vision\", \"small\"]", "\"chat\"]", "cluster.pools.zoo.loads: `chat` stands twice"),
        (zoo, "weights_mib = 900", "weights_mib = 0", "rules: the changed rules cannot be: loadable.weights must be"),
        (drain, "pool = \"a\"\ndead", "pool = \"c\"\ndead", "line 63: unknown pool `c`, expected one of `a`, `b`"),
        (drain, "deadline_ms = 20_000\n", "", "jobs[0].deadline_ms: is missing here"),
        (drain, "deadline_ms = 500", "force = true", "jobs[2].force: is for `purge` alone"),
        (drain, "deadline_ms = 500", "model = \"m\"", "jobs[2].model: is for `reload` alone"),
        (drain, "deadline_ms = 500", "deadline_ms = 9_000_000_000", "jobs[2].deadline_ms: must be between 0 and"),
    ] {
        let error = error(text, from, to);
        assert!(error.starts_with(says), "{error}");
    }
    let talks = include_str!("../../library/conversations.toml");
    for (from, to, says) in [
        ("tenant = \"trial\"", "tenant = \"trail\"", "line 76: unknown tenant `trail`, expected one of `default`,"),
        ("tasks = \"2/s\"", "tasks = \"2/x\"", "rules.tenants: `2/x` is no rate; write 5/s, 100/m or 2000/h"),
        ("tasks = \"2/s\"", "taks = \"2/s\"", "rules.tenants: unknown field `taks`, expected one of `name`, `weight`"),
        ("weight = 4", "weight = 0", "rules: the changed rules cannot be: tenants.weight must be between 1 and 1000"),
        ("turns = 6", "turns = 0", "arrivals.team.session.turns: must be between 1 and 1000, not 0"),
        ("turns_max = 8", "turns_max = \"eight\"", "rules: sessions.turns_max=eight: expected a whole number"),
    ] {
        let error = error(talks, from, to);
        assert!(error.starts_with(says), "{error}");
    }
    let home = include_str!("../../library/home.toml");
    for (wish, says) in [
        ("pin = \"fats\"", "unknown pool `fats`, expected one of `fast`, `slow`"),
        ("pin = \"fast\", prefer = [\"slow\"]", "a task is pinned to one pool or prefers some, not both"),
        ("pin = \"fast\", fallback = false", "arrivals.chat.placement.fallback: is for `prefer` alone"),
        ("prefers = [\"slow\"]", "unknown field `prefers`, expected one of `pin`, `prefer`, `fallback`, `avoid`"),
    ] {
        let error = error(home, "prompt = {", &format!("placement = {{ {wish} }}\nprompt = {{"));
        assert!(error.contains(says), "{error}");
    }
    let jobless = error(drain, "kind = \"drain\"", "kind = \"drian\"");
    assert!(jobless.contains("unknown variant `drian`, expected one of `drain`, `resume`"), "{jobless}");
    let keep = error(zoo, "keep = \"warm\"", "keep = \"hot\"");
    assert!(keep.contains("unknown variant `hot`, expected one of `on-demand`, `warm`, `pinned`"), "{keep}");
}

#[test]
fn rules_are_changed_from_outside() {
    let set = [("queue.policy".to_owned(), "drop-lru".to_owned())];
    let plan = read(GOOD, Path::new("."), Some(9), &set).unwrap().plan;
    assert_eq!((plan.seed, plan.rules.queue.policy.label(), plan.rules.queue.interactive_max), (9, "drop-lru", 24));
    assert_eq!(plan.workers.len(), 2);
}

#[test]
fn the_example_of_the_documentation_is_a_scenario() {
    let page = include_str!("../../../docs/simulation.md");
    let blocks: Vec<&str> = page.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    let Scenario { title, plan, expectations } = read(blocks[0], Path::new("."), None, &[]).unwrap();
    let outcome = simulate(plan, &mut |_| ()).unwrap();
    let summary = Summary::of(&title, 1, &outcome, &expectations);
    assert_eq!(summary.broken(), 0, "{summary}");
    let example = blocks.concat();
    let scenario = read(&example, Path::new("."), None, &[]).unwrap();
    let plan = scenario.plan;
    let counts = (scenario.expectations.len(), plan.workers.len(), plan.faults.len(), plan.jobs.len());
    assert_eq!((counts, plan.rules.loadable.len()), ((2, 2, 1, 1), 2));
}

#[test]
fn depth_and_repeated_jumps_are_bounded_too() {
    let deep = |text: String| read(&format!("{GOOD}\n[rules]\n{text}\n"), Path::new("."), None, &[]).is_err();
    assert!(deep(format!("{} = 1", vec!["a"; 100_000].join("."))));
    assert!(deep(format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000))));
    assert!(deep(format!("x = {}1{}", "{ a = ".repeat(100_000), " }".repeat(100_000))));
    let jumps = "[[faults]]\nkind = \"clock-jump\"\nby_ms = 1\nat_ms = 0\nevery_ms = 1\ntimes = 100000\n".repeat(2);
    let many = read(&format!("{GOOD}\n{jumps}"), Path::new("."), None, &[]).map(|_| ()).unwrap_err();
    assert!(many.to_string().starts_with("faults in all: must be between 0 and 100000, not 200000"), "{many}");
}

#[test]
fn a_call_at_the_end_of_time_comes_with_the_last() {
    let dir = std::env::temp_dir().join(format!("orch-trace-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("calls.csv"), format!("time_ms,prompt,answer\n{},1,1\n", u64::MAX)).unwrap();
    let text = GOOD.replacen("poisson = { per_second = 6.0, to_ms = 90_000 }", "trace = \"calls.csv\"", 1);
    let mut last = read(&text, &dir, None, &[]).unwrap().plan.requests.filter(|request| request.group == 0);
    assert_eq!(last.next().map(|request| request.at.0), Some(MS_MAX));
    std::fs::remove_dir_all(dir).unwrap();
}
