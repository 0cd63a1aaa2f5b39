//! What a seed stands for: a cluster, its rules, clients and what befalls the workers, drawn and written as
//! a script, so that whatever breaks can be kept, cut down and run again.
//!
//! Numbers are small where small is where the trouble is: queues of a few places, memory that a few tasks
//! fill, deadlines near the length of a run. Task `t2007` is the seventh of client 2.

use super::draw::Draw;

/// What may befall a run, how often in 20,000 ticks. Drawn first, and told.
pub(super) const FAULTS: [&str; 22] = [
    "flaw", "corrupt", "crash", "hang", "fault", "stall", "slow", "mute", "late", "jumble", "twice", "ghost",
    "restart", "rules", "rise", "spoil", "close", "drain", "resume", "purge", "reload", "verify",
];
/// Ticks that the figures of [`FAULTS`] are for.
const SPAN: u64 = 20_000;
/// Tasks of a client are counted within it.
pub const TASKS_OF_CLIENT: u64 = 1_000_000;

/// A drawn scenario.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The fault options, for people.
    pub options: String,
    /// The scenario.
    pub text: String,
}

/// The cluster as far as the load has to know it.
struct Cluster {
    models: u64,
    pools: u64,
    workers: u64,
    devices: u64,
    ctx: u64,
    /// Whether workers load models on order.
    loads: bool,
}

/// The scenario of a seed, `ticks` long.
pub fn plan(seed: u64, ticks: u64) -> Plan {
    let draw = &mut Draw::new(seed, 1);
    // A stream of its own, so that the rest of a seed is what it is without.
    let apart = &mut Draw::new(seed, 4);
    let rate = |&kind| (kind, if kind == "verify" { &mut *apart } else { &mut *draw }.of(&[0, 0, 1, 2, 4, 8]));
    let rates: Vec<(&str, u64)> = FAULTS.iter().map(rate).collect();
    let told: Vec<String> = rates.iter().filter(|(_, n)| *n > 0).map(|(kind, n)| format!("{kind} {n}")).collect();
    let options = if told.is_empty() { "no faults".to_owned() } else { told.join(", ") };
    let mut text = format!("# Storm {seed}, {ticks} ticks: {options}.\n> seed {seed}\n");
    rules(&mut text, draw);
    let cluster = cluster(&mut text, draw);
    let mut events = Vec::new();
    let repeated = rates.iter().any(|(kind, n)| *n > 0 && ["twice", "ghost"].contains(kind));
    clients(&mut events, draw, &cluster, ticks);
    for (kind, rate) in rates {
        // Of the attempts that are to fail, few are there to fail.
        let rate = if kind == "fault" || kind == "stall" { rate * 5 } else { rate };
        for _ in 0..(rate * ticks).div_ceil(SPAN) {
            let at = draw.below(ticks);
            let befalls = fault(kind, draw, &cluster, at);
            // A fault that is told once more, when the next attempt may be at the same worker.
            if let Some((_, event)) = befalls.first().filter(|(_, event)| repeated && event.starts_with("fault ")) {
                let worker = event.split(' ').nth(1).unwrap_or("w1");
                events.push((at + draw.of(&[30, 100, 300]), format!("ghost {worker}")));
            }
            events.extend(befalls);
        }
    }
    // All that would come after the end heals then anyway.
    events.retain(|(at, _)| *at < ticks);
    // What was drawn for one tick happens in the order in which it was drawn.
    events.sort_by_key(|(at, _)| *at);
    for (at, event) in events {
        text += &format!("> {at} {event}\n");
    }
    text += &format!("> {ticks} heal\n");
    Plan { options, text }
}

fn rules(text: &mut String, draw: &mut Draw) {
    let (interactive, batch) = (draw.of(&[0, 1, 2, 3, 5, 8, 20]), draw.of(&[0, 1, 2, 3, 5, 8, 20]));
    let policy = draw.of(&["reject", "drop-lru", "shed-low-priority"]);
    let placement = draw.of(&["predicted-end", "least-loaded", "pack"]);
    let share = draw.of(&[1, 250, 500, 750, 1000]);
    let (attempts, backoff) = (draw.within(1, 4), draw.of(&[1, 20, 100, 1_000]));
    let (jitter, budget) = (draw.of(&[0, 200, 1000]), draw.of(&[0, 10, 100, 1000]));
    let (first_token, idle, wall) =
        (draw.of(&[50, 500, 30_000]), draw.of(&[100, 2_000]), draw.of(&[300, 5_000, 60_000]));
    let (timeout, grace) = (draw.within(1_100, 5_000), draw.of(&[1, 500, 3_000, 20_000]));
    let prefixes = Draw::new(draw.clone().bits(), 2).of(&["", "", " prefixes=0", " prefixes=3"]);
    *text += &format!(
        "> queue interactive={interactive} batch={batch} policy={policy}\n\
         > placement {placement} batch_share={share} preempt_max={}{}\n\
         > retry attempts={attempts} backoff={backoff} jitter={jitter} budget={budget}\n\
         > timeouts first_token={first_token} idle={idle} wall={wall}\n\
         > health beat_timeout={timeout} no_worker_grace={grace} load_timeout={} restart={} storm={} \
         breaker={} breaker_open={} breaker_stable=500 fatal_max={}\n\
         > tenant n1 weight={}\n\
         > engine step={}\n\
         > eviction policy={} pressure={} residency_min={}\n",
        draw.of(&[0, 0, 1, 3]),
        prefixes,
        draw.of(&[5_000, 15_000, 60_000]),
        draw.of(&[1, 200, 1_000]),
        draw.of(&[1, 3, 10]),
        draw.of(&[1, 2, 5]),
        draw.of(&[1, 500, 5_000]),
        draw.of(&[1, 3]),
        draw.of(&[1, 3, 1_000]),
        draw.of(&[0, 0, 10, 100]),
        draw.of(&["lru", "lfu", "cost"]),
        draw.of(&[500, 900]),
        draw.of(&[0, 500, 5_000]),
    );
    limits(text, draw);
}

/// What sessions and a tenant may have; `n1` has its weight alone.
fn limits(text: &mut String, draw: &mut Draw) {
    let budget = |draw: &mut Draw| {
        let tokens = draw.of(&["", "", " budget_tokens=2000", " budget_tokens=50000"]);
        format!("{tokens}{}", draw.of(&["", "", " budget_time=5000", " budget_cost=20000"]))
    };
    let (ttl, turns, most) = (draw.of(&[50, 2_000, 60_000]), draw.of(&[1, 3, 100]), draw.of(&[1, 3, 50]));
    let (tasks, tokens) = (draw.of(&["", "", " tasks=5/1000 burst=3"]), draw.of(&["", "", " tokens=2000/1000"]));
    let (queued, live) = (draw.of(&["", "", " queued=2"]), draw.of(&["", "", " live=3"]));
    let (sessions, tenant) = (budget(draw), budget(draw));
    *text += &format!("> sessions ttl={ttl} turns={turns} max={most}{sessions}\n");
    *text += &format!(
        "> tenant n2 weight={}{tasks}{tokens}{queued}{live}{tenant} prompt_price={} answer_price=2000\n",
        draw.of(&[1, 2]),
        draw.of(&[0, 1_000]),
    );
}

fn cluster(text: &mut String, draw: &mut Draw) -> Cluster {
    let (models, pools, workers) = (draw.within(1, 3), draw.within(1, 4), draw.within(1, 6));
    let devices = draw.within(1, workers);
    let ctx = draw.of(&[200, 400, 1_000]);
    let loads = draw.chance(40);
    for pool in 0..pools.max(models) {
        let model = if pool < models { pool } else { draw.below(models) };
        *text += &format!("> pool p{pool} model=m{model}\n");
    }
    // One more than pools come with, and one of theirs now and then.
    for model in (0..=models).filter(|_| loads) {
        let on = draw.below(pools.max(models));
        let pools = draw.of(&[format!("p{on}"), format!("p{on}+p{}", (on + 1) % pools.max(models))]);
        if model == models || draw.chance(50) {
            *text += &format!(
                "> loadable m{model} pools={pools} weights={} kv={} ctx={ctx}{}\n",
                draw.of(&[10, 40, 90]),
                draw.of(&[1 << 10, 1 << 17]),
                draw.of(&["", "", "", " warm", " pinned"]),
            );
        }
    }
    let capacity: Vec<u64> = (0..devices).map(|_| draw.of(&[60, 150, 300, 2_000])).collect();
    for worker in 1..=workers {
        let device = draw.below(devices);
        // The first of them one to each pool, so that few models are without.
        let pool = if worker <= pools.max(models) { worker - 1 } else { draw.below(pools.max(models)) };
        let loader = if loads { draw.of(&["", " load=50", " load=500", " load=500 empty"]) } else { "" };
        *text += &format!(
            "> worker w{worker} pool=p{pool} device={device} slots={} capacity={}{loader}",
            draw.within(1, 4),
            capacity[device as usize],
        );
        if !loader.ends_with("empty") {
            *text += &format!(
                " prefill={} decode={} kv={} weights={} ctx={}",
                draw.of(&[500, 2_000, 20_000]),
                draw.of(&[20, 100, 500]),
                draw.of(&[1 << 10, 1 << 17, 1 << 18]),
                draw.of(&[10, 40, 90]),
                draw.of(&[ctx / 2, ctx, ctx]),
            );
        }
        *text += "\n";
    }
    Cluster { models, pools: pools.max(models), workers, devices, ctx, loads }
}

/// Each client has a pace, a kind of work and habits; together they bring some hundred tasks.
fn clients(events: &mut Vec<(u64, String)>, draw: &mut Draw, cluster: &Cluster, ticks: u64) {
    let (clients, tenants) = (draw.within(1, 6), draw.within(1, 3));
    // A stream of its own, so that the rest of a seed is what it is without.
    let alike = &mut Draw::new(draw.clone().bits(), 2);
    let half = alike.of(&[0, 0, 50, 90]);
    for client in 1..=clients {
        let gap = draw.of(&[30, 100, 250, 1_000]) * clients;
        let burst = draw.of(&[1, 1, 2, 8]);
        let batch = draw.of(&[0, 0, 50, 100]);
        let [deadlines, cancels, again, turns] = [(); 4].map(|()| draw.of(&[0, 0, 10, 40]));
        let model = draw.below(cluster.models + u64::from(cluster.loads));
        let (tenant, sessions) = (draw.below(tenants), draw.of(&[1, 4]));
        let wishes = draw.of(&[0, 0, 15, 60]);
        // The first is nobody in particular.
        let tenant = if tenant == 0 { String::new() } else { format!(" tenant=n{tenant}") };
        let (mut at, mut number) = (draw.below(gap), 0);
        while at < ticks {
            for _ in 0..draw.within(1, burst) {
                number += 1;
                let task = client * TASKS_OF_CLIENT + number;
                let submit = submit(draw, cluster, model, batch, deadlines);
                let submit = if draw.chance(wishes) { submit + &wish(draw, cluster) } else { submit };
                let submit = if alike.chance(half) { submit + &beginning(alike) } else { submit };
                let session = if draw.chance(turns) { draw.within(1, sessions) } else { 0 };
                let tenant = if session > 0 { format!("{tenant} session=s{session}") } else { tenant.clone() };
                events.push((at, format!("submit t{task} {submit}{tenant}")));
                if draw.chance(cancels) {
                    let after = draw.of(&[0, 0, 1, 2, 5, 50, 500, 3_000]);
                    events.push((at + after, format!("cancel t{task}")));
                }
                if draw.chance(again) {
                    let after = draw.of(&[0, 1, 100, 1_000]);
                    events.push((at + after, format!("submit t{task} {submit}{tenant}")));
                }
            }
            at += draw.within(1, gap * 2);
        }
    }
}

fn submit(draw: &mut Draw, cluster: &Cluster, model: u64, batch: u64, deadlines: u64) -> String {
    let class = if draw.chance(batch) { "batch " } else { "" };
    // One that nobody serves, and ones too long for anybody, now and then.
    let model = if draw.chance(1) { 9 } else { model };
    let long = if draw.chance(3) { cluster.ctx } else { 0 };
    let prompt = draw.within(1, cluster.ctx / 2 + long);
    let answer = draw.of(&[1, 2, 10, 50, 100]).min(cluster.ctx / 2);
    let deadline = if draw.chance(deadlines) { format!(" deadline={}", draw.within(1, 4_000)) } else { String::new() };
    let strict = if draw.chance(15) { "strict " } else { "" };
    format!("{class}{strict}model=m{model} prompt={prompt} answer={answer}{deadline}")
}

/// What a prompt begins with, the same for all of a tenant that name it.
fn beginning(draw: &mut Draw) -> String {
    format!(" prefix=g{}:{}", draw.below(3), draw.of(&[32, 64, 500]))
}

/// Where a client wants its task, which may be where nobody serves it.
fn wish(draw: &mut Draw, cluster: &Cluster) -> String {
    let (pool, other) = (draw.below(cluster.pools), draw.below(cluster.pools));
    match draw.below(5) {
        0 => format!(" pin=p{pool}"),
        1 => format!(" prefer=p{pool},p{other}"),
        2 => format!(" prefer=p{pool} stay avoid=p{other}"),
        3 => format!(" avoid=p{pool}"),
        _ => format!(" devices={}", draw.below(cluster.devices)),
    }
}

/// One fault, and what brings back whom it befell: nobody else restarts a worker that crashed.
fn fault(kind: &str, draw: &mut Draw, cluster: &Cluster, at: u64) -> Vec<(u64, String)> {
    let worker = draw.within(1, cluster.workers);
    let (length, by) = (draw.of(&[10, 200, 2_000, 6_000]), draw.of(&[1, 10, 100, 2_000]));
    let event = match kind {
        "crash" => {
            let back = at + draw.of(&[0, 1, 300, 3_000]);
            // A worker that nobody brings back is what healing is for.
            return vec![(at, format!("die w{worker}")), (back, format!("rise w{worker}"))];
        }
        "flaw" => {
            let (flaw, mended) = (draw.of(&["break", "deafen"]), at + draw.of(&[100, 3_000]));
            return vec![(at, format!("{flaw} w{worker}")), (mended, format!("mend w{worker}"))];
        }
        "corrupt" => format!("corrupt w{worker}"),
        "hang" => format!("hang w{worker}"),
        "fault" => {
            let class = draw.of(&["transient", "retryable", "invalid-input", "fatal", "diverged"]);
            format!("fault w{worker} class={class}")
        }
        "stall" => format!("stall w{worker}"),
        "slow" => format!("slow w{worker} share={}", draw.of(&[500, 2_000, 10_000])),
        "mute" => format!("mute w{worker} for={length}"),
        "late" | "jumble" => format!("{kind} w{worker} by={by} for={length}"),
        "twice" => format!("twice w{worker} for={length}"),
        "ghost" => format!("ghost w{worker}"),
        "restart" => format!("restart down={}", draw.of(&[0, 1, 50, 2_000])),
        // The worker comes back while its former life may still run.
        "rise" => format!("rise w{worker}"),
        "spoil" => format!("spoil w{worker} {}", draw.of(&["load", "load", "bytes"])),
        "close" => {
            let of = draw.of(&["", " tenant=n1", " tenant=n2"]);
            format!("close s{}{of}", draw.within(1, 4))
        }
        "drain" | "resume" | "purge" | "reload" => {
            let (pool, deadline) = (draw.below(cluster.pools), draw.of(&[1, 200, 2_000]));
            let model = draw.below(cluster.models + u64::from(cluster.loads));
            let event = match kind {
                "drain" => format!("drain p{pool} deadline={deadline}"),
                "reload" => format!("reload p{pool} model=m{model} deadline={deadline}"),
                "purge" => format!("purge p{pool} deadline={deadline}{}", draw.of(&["", " at-once", " at-once force"])),
                _ => format!("resume p{pool}"),
            };
            // A pool that stays closed has nothing more to show.
            let opened = at + draw.of(&[100, 500, 2_500]);
            return vec![(at, event), (opened, format!("resume p{pool}"))];
        }
        "verify" => {
            // The first worker of most pools.
            let (pool, after) = (draw.below(cluster.pools), draw.of(&[0, 1, 500]));
            let flip = draw.chance(50).then(|| (at, format!("flip w{}", pool + 1)));
            return flip.into_iter().chain([(at + after, format!("verify p{pool}"))]).collect();
        }
        "rules" => match draw.below(9) {
            4 => format!("set queue interactive={} batch={}", draw.of(&[1, 8]), draw.of(&[1, 8])),
            5 => format!("set placement predicted-end batch_share={}", draw.of(&[1, 500, 1000])),
            6 => format!("set retry attempts={}", draw.within(1, 4)),
            7 => format!("set sessions max={} turns=2", draw.of(&[1, 10])),
            8 => format!("set health storm={}", draw.of(&[1, 3, 10])),
            0 => format!("set placement {}", draw.of(&["predicted-end", "least-loaded", "pack"])),
            1 => format!("set retry backoff={} jitter={}", draw.of(&[1, 500]), draw.of(&[0, 999])),
            2 => format!("set health no_worker_grace={}", draw.of(&[1, 1_000, 20_000])),
            _ => format!("set health beat_timeout={}", draw.within(1_100, 5_000)),
        },
        _ => return vec![],
    };
    vec![(at, event)]
}
