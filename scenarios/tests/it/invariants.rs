//! Random scripts: whatever clients do and workers suffer, every audit holds after every step, every task
//! ends exactly once, and the run is a function of the script.

use orchestrion_scenarios::script::Script;
use orchestrion_scenarios::stage::{Plain, run};
use orchestrion_world::config::OverloadPolicy;
use proptest::prelude::*;

/// A cluster of up to three workers in two pools, and what befalls it.
fn scripts() -> impl Strategy<Value = String> {
    let worker = (1u32..4, 1u32..5, 20u32..200, 200u32..5000);
    let workers = prop::collection::vec(worker, 1..4);
    let events = prop::collection::vec((0u64..400, 0u8..17, 1u32..30, 1u32..4, 1u32..300), 1..60);
    let policy = prop::sample::select(OverloadPolicy::ALL.as_slice());
    (workers, events, 1u32..6, 1u32..4, policy, 1u32..=1000).prop_map(|(workers, events, bound, attempts, policy, share)| {
        let policy = policy.label();
        let mut text = format!("> queue interactive={bound} batch={bound} policy={policy}\n> retry attempts={attempts}\n");
        text += &format!("> engine step={}\n> timeouts first_token={} idle={} wall={}\n", share % 3 * 30, bound * 400, bound * 100, attempts / 3 * 5_000);
        text += &format!("> placement predicted-end batch_share={share} preempt_max={}\n", share % 4);
        text += "> pool a model=m\n> pool b model=m\n> sessions ttl=2000 turns=3 max=2 budget_tokens=900\n";
        text += "> tenant x weight=3 tasks=5/1000 burst=4 live=4 budget_tokens=3000 budget_time=9000\n";
        text += "> tenant y tokens=900/1000 queued=2 budget_cost=2000 prompt_price=90000 answer_price=100000\n";
        for (n, (slots, kv, decode, capacity)) in workers.iter().enumerate() {
            let pool = ["a", "b"][n % 2];
            text += &format!(
                "> worker w{} pool={pool} device={n} slots={slots} decode={decode} kv={} capacity={capacity} ctx=2000\n",
                n + 1,
                kv << 19,
            );
        }
        let mut at = 0;
        for (gap, kind, task, worker, size) in events {
            at += gap;
            let whose = ["", " tenant=x", " tenant=y", " session=s", " tenant=x session=s", " tenant=z session=r"];
            let whose = whose[size as usize % whose.len()];
            text += &match kind {
                0..4 => format!("> {at} submit t{task} prompt={size} answer={size}{whose}\n"),
                4 if size % 2 == 0 => format!("> {at} submit t{task} batch strict prompt=10 answer={size}{whose}\n"),
                4 => format!("> {at} submit t{task} batch prompt={size} answer=10{whose}\n"),
                5 => format!("> {at} close s{}\n", whose.strip_suffix("session=s").unwrap_or_default()),
                6 => format!("> {at} submit t{task} prompt=10 answer={size} deadline={}\n", size * 20),
                7 | 8 => format!("> {at} cancel t{task}\n"),
                9 => format!("> {at} die w{worker}\n"),
                10 => format!("> {at} hang w{worker}\n"),
                11 => format!("> {at} rise w{worker}\n"),
                12 => {
                    let class = ["transient", "retryable", "fatal", "invalid-input", "diverged"][size as usize % 5];
                    format!("> {at} fault t{task} class={class}\n")
                }
                13 => format!("> {at} submit t{task} strict prompt={size} answer={size}\n"),
                14 => format!("> {at} stall t{task}\n"),
                15 if size < 30 => format!("> {at} boot\n"),
                _ => format!("> {at} rule {}\n", ["pack", "least-loaded", "predicted-end"][worker as usize % 3]),
            };
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn nothing_breaks_and_everything_ends(text in scripts()) {
        let script: Script = text.parse().unwrap();
        let first = run(&script, &mut Plain).map_err(TestCaseError::fail)?;
        prop_assert_eq!(first.living, 0, "every task ends");
        let leases: usize = first.ledger.workers.iter().map(|w| w.leases.iter().filter(|l| !l.revoked).count()).sum();
        prop_assert_eq!(leases, 0);
        let again = run(&script, &mut Plain).map_err(TestCaseError::fail)?;
        prop_assert!(first == again, "the run is a function of the script");
    }
}
