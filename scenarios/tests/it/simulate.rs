//! Small runs whose figures can be done by hand.

use orchestrion_scenarios::clients::{End, NEVER};
use orchestrion_scenarios::file;
use orchestrion_scenarios::simulate::{Counts, Outcome, simulate};
use std::path::Path;

/// A step is 10 ms, a prompt token 0.1 ms more, an answer 1 ms more.
const CLUSTER: &str = r#"
    title = "a test"
    [[models]]
    name = "m"
    weights_mib = 100
    kv_token_kib = 1
    context = 4096
    cost = { take_up_ns = 50_000, step_ns = 10_000_000, prompt_token_ns = 100_000, row_ns = 1_000_000, context_ns = 0, load_ns = 0, load_mib_ns = 0, chunk = 512 }
    [[cluster.devices]]
    name = "d"
    memory_mib = 1000
    [[cluster.pools]]
    name = "p"
    model = "m"
    device = "d"
    slots = 1
    [rules.queue]
    interactive_max = 1
    [[arrivals]]
    name = "a"
    model = "m"
"#;

fn run(rest: &str, folder: &Path) -> Outcome {
    let text = format!("{CLUSTER}\n{rest}");
    simulate(file::read(&text, folder, None, &[]).unwrap().plan, &mut |_| {}).unwrap()
}

#[test]
fn a_task_alone_takes_what_its_cost_says() {
    let outcome = run("prompt = 100\nanswer = 11\nat_ms = [7]", Path::new("."));
    let record = outcome.records[0];
    // 0.05 ms until it is taken up, 20 ms of prompt; then ten steps of 11 ms. Told at the end of the tick.
    assert_eq!((record.queued, record.first, record.total, record.tokens), (0, 21, 131, 11));
    assert_eq!((record.end, record.retries), (End::Good, 0));
}

#[test]
fn a_refused_client_comes_back_no_earlier_than_told_and_is_answered() {
    let outcome =
        run("prompt = 100\nanswer = 11\nat_ms = [0, 5, 10]\nretry = { times = 9, backoff_ms = 1 }", Path::new("."));
    let mut totals: Vec<(u16, u32)> = outcome.records.iter().map(|record| (record.retries, record.total)).collect();
    totals.sort_unstable();
    assert_eq!(totals[..2], [(0, 131), (0, 257)], "one runs, one waits");
    let (retries, total) = totals[2];
    // The server never says less than 100 ms.
    assert!(retries >= 1 && total >= 100 * u32::from(retries) + 131, "{retries} retries, {total} ms");
    assert_eq!((outcome.retries, outcome.unfinished), (u64::from(retries), 0));
}

#[test]
fn a_client_without_retries_is_refused_and_one_without_patience_leaves() {
    let outcome = run("prompt = 100\nanswer = 100\nat_ms = [0, 5, 10]\npatience_ms = 300", Path::new("."));
    let end = |at: usize| match outcome.records[at].end {
        End::Not(reason) => outcome.reasons[usize::from(reason)].as_str(),
        End::Good | End::Late => "answered",
    };
    assert_eq!([end(0), end(1), end(2)], ["QueueFull", "Disconnect", "answered"]);
    assert_eq!((outcome.records[1].first, outcome.records[1].total), (NEVER, 300));
}

#[test]
fn a_trace_is_played_at_its_pace() {
    let folder = std::env::temp_dir().join(format!("orch-trace-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("t.csv"), "time_ms,prompt,answer\n4000,10,2\n0,10,3\n2000,10,4\n").unwrap();
    let outcome = run("trace = \"t.csv\"\ntrace_pace_permille = 2000", &folder);
    std::fs::remove_dir_all(folder).unwrap();
    let played: Vec<(u64, u32)> = outcome.records.iter().map(|record| (record.arrived.0, record.tokens)).collect();
    assert_eq!(played, [(0, 3), (1000, 4), (2000, 2)]);
}

#[test]
fn a_worker_that_fails_for_a_while_comes_back_and_its_task_is_tried_again() {
    let crash = "prompt = 100\nanswer = 11\nat_ms = [0]\n[[faults]]\nkind = \"crash\"\nat_ms = 10\nfor_ms = 5000";
    let outcome = run(crash, Path::new("."));
    assert_eq!((outcome.counts.attempts_lost, outcome.records[0].end), (1, End::Good));
    assert!(outcome.counts.restarts >= 2 && outcome.records[0].total >= 5000, "{outcome:?}");
}

/// Two models that do not fit beside each other; loading takes a second. `b` is asked for once and again.
fn zoo(rest: &str) -> Outcome {
    let more = r#"
        [[models]]
        name = "b"
        weights_mib = 950
        kv_token_kib = 1
        context = 4096
        cost = { take_up_ns = 50_000, step_ns = 10_000_000, prompt_token_ns = 100_000, row_ns = 1_000_000, context_ns = 0, load_ns = 1_000_000_000, load_mib_ns = 0, chunk = 512 }
        [[arrivals]]
        name = "b"
        model = "b"
        prompt = 100
        answer = 11
        at_ms = [20_000, 40_000]
    "#;
    let text = format!("{CLUSTER}\nprompt = 100\nanswer = 11\nat_ms = [7]\n{more}\n{rest}");
    let text = text.replace("model = \"m\"\n    device", "model = \"m\"\n    loads = [\"b\"]\n    device");
    simulate(file::read(&text, Path::new("."), None, &[]).unwrap().plan, &mut |_| {}).unwrap()
}

#[test]
fn a_model_is_loaded_for_who_asks_and_another_goes() {
    let outcome = zoo("");
    let Counts { loads, failed_loads, evictions, .. } = outcome.counts;
    assert_eq!((loads, failed_loads, evictions), (1, 0, 1));
    let firsts: Vec<u32> = outcome.records.iter().map(|record| record.first).collect();
    // The second finds the other there: that one is let go, a second of loading, then the prompt. The third finds its own.
    assert_eq!((firsts[0], firsts[2]), (21, 21));
    assert!((1_021..1_100).contains(&firsts[1]), "{firsts:?}");
}

#[test]
fn a_load_that_fails_is_tried_again_and_one_that_arrives_damaged_is_not() {
    let outcome = zoo("[[faults]]\nkind = \"failed-load\"\nat_ms = 0\nfor_ms = 23_500");
    let Counts { loads, failed_loads, .. } = outcome.counts;
    assert_eq!((loads, failed_loads), (1, 2), "tried again after one and after two seconds");
    assert!(outcome.records.iter().all(|record| record.end == End::Good));
    let damaged = zoo("[[faults]]\nkind = \"corrupt-load\"\nat_ms = 0\nfor_ms = 22_500");
    assert_eq!((damaged.counts.loads, damaged.counts.failed_loads), (0, 1));
    let ends = damaged.records.iter().filter(|record| record.end == End::Good).count();
    assert_eq!(ends, 1, "nobody else can load it: {:?}", damaged.reasons);
}

#[test]
fn a_reload_serves_another_model_and_a_drain_waits_for_what_runs() {
    let jobs = r#"
        [[jobs]]
        kind = "reload"
        at_ms = 60
        pool = "p"
        model = "b"
        deadline_ms = 10_000
        [[jobs]]
        kind = "drain"
        at_ms = 20_050
        pool = "p"
        deadline_ms = 50
        [[jobs]]
        kind = "drain"
        at_ms = 20_060
        pool = "p"
        deadline_ms = 50
    "#;
    let outcome = zoo(jobs);
    // 78 ms more of the answer, a second of loading.
    let told: Vec<_> = outcome.operations.iter().map(|job| (job.action.label(), job.label(), job.took())).collect();
    let refused = Some(0);
    assert_eq!(
        told,
        [("reload", "done", Some(1_078)), ("drain", "done", Some(50)), ("drain", "refused", refused)],
        "{told:?}"
    );
    assert_eq!(outcome.records[0].total, 131, "the drain let it end");
    assert!(matches!(outcome.records[1].end, End::Not(_)), "it would have taken 130 ms");
    assert_eq!(outcome.counts.loads, 0, "the worker came up with it");
}

#[test]
fn a_bit_that_flips_is_found_by_who_asks_and_the_task_is_tried_again() {
    // Its prompt is read for 0.4 s, in two steps.
    let rest = r#"
        prompt = 4000
        answer = 11
        at_ms = [0]
        [[faults]]
        kind = "bit-flip"
        at_ms = 250
        pool = "p"
        [[jobs]]
        kind = "verify"
        at_ms = 10
        pool = "p"
        [[jobs]]
        kind = "verify"
        at_ms = 260
        pool = "p"
    "#;
    let outcome = run(rest, Path::new("."));
    let told: Vec<_> = outcome.operations.iter().map(|job| job.label()).collect();
    assert_eq!(told, ["done", "failed"]);
    let Counts { attempts_lost, restarts, .. } = outcome.counts;
    assert_eq!((attempts_lost, restarts, outcome.unfinished), (1, 1, 0));
    assert_eq!(outcome.records[0].end, End::Good, "by the worker that came back");
}

#[test]
fn a_conversation_asks_again_with_all_that_was_said_until_its_turns_are_over() {
    let talk = "prompt = 100\nanswer = 11\nat_ms = [0]\nsession = { turns = 4, think_ms = 1000 }";
    let outcome = run(talk, Path::new("."));
    // Each turn reads 111 tokens more: 11.1 ms, and ten steps of 11 ms.
    let firsts: Vec<u32> = outcome.records.iter().map(|record| record.first).collect();
    assert!(firsts.windows(2).all(|pair| (10..=23).contains(&(pair[1] - pair[0]))), "{firsts:?}");
    assert_eq!((outcome.records.len(), outcome.unfinished), (4, 0));
    let thought = outcome.records.windows(2).map(|pair| pair[1].arrived.since(pair[0].arrived).0);
    assert!(thought.clone().all(|ms| (931..=1_400).contains(&ms)), "{:?}", thought.collect::<Vec<_>>());
    let short = run(&format!("{talk}\n[rules.sessions]\nturns_max = 2"), Path::new("."));
    assert_eq!(short.reasons, ["SessionOver"], "the third turn is none");
    let poor = run(&format!("{talk}\n[rules.sessions]\nbudget_tokens = 400"), Path::new("."));
    assert_eq!((poor.records.len(), poor.reasons), (3, vec!["BudgetExhausted".to_owned()]), "111 and 222 of 400");
}

#[test]
fn a_trace_says_whose_each_request_is_and_of_which_class() {
    let folder = std::env::temp_dir().join(format!("orch-trace-of-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let lines = "time_ms,prompt,answer,class,tenant\n0,10,3,batch,poor\n1000,10,3,,poor\n2000,10,3,,\n";
    std::fs::write(folder.join("t.csv"), lines).unwrap();
    let poor = "trace = \"t.csv\"\n[[rules.tenants]]\nname = \"poor\"\nbudget_tokens = 20";
    let outcome = run(poor, &folder);
    std::fs::remove_dir_all(folder).unwrap();
    let ends: Vec<bool> = outcome.records.iter().map(|record| record.end == End::Good).collect();
    assert_eq!((ends, outcome.reasons), (vec![true, false, true], vec!["BudgetExhausted".to_owned()]));
    assert_eq!(outcome.samples.iter().map(|sample| sample.batch + sample.running).max(), Some(1));
}

#[test]
fn clients_may_say_where_their_tasks_run() {
    let more = "[[cluster.devices]]\nname = \"e\"\nmemory_mib = 1000\npace_permille = 500\n\
                [[cluster.pools]]\nname = \"q\"\nmodel = \"m\"\ndevice = \"e\"\nslots = 1\n";
    let total = |placement: &str| {
        let outcome = run(&format!("prompt = 100\nanswer = 11\nat_ms = [0]\n{placement}\n{more}"), Path::new("."));
        outcome.records[0].total
    };
    assert_eq!(total(""), 131);
    for slow in ["pin = \"q\"", "prefer = [\"q\"]", "avoid = [\"p\"]"] {
        assert_eq!(total(&format!("placement = {{ {slow} }}")), 261, "{slow}");
    }
}
