//! Against the sums done by hand, and against the same loop taken step by step.

use super::*;
use crate::cost::Cost;
use orchestrion_world::id::{DeviceId, PoolId, TenantId};
use orchestrion_world::prefix::PrefixKey;
use orchestrion_world::protocol::{DeviceShare, Loader, ModelFacts, Usage};
use orchestrion_world::units::{Bytes, Permille, Sha256};

const MS: u64 = 1_000_000;

const COST: Cost =
    Cost { take_up: 0, step: 10 * MS, prompt_token: 100_000, row: MS, context: 0, load: 0, load_mib: 0, chunk: 100 };

const MODEL: ModelId = ModelId(0);

fn offer(model: ModelId, cost: Cost) -> Offer {
    let (prefill, decode) = COST.rates();
    let (digest, fingerprint, none) = (Sha256::default(), Sha256::default(), Bytes(0));
    let facts = ModelFacts { digest, fingerprint, weights: none, kv_per_token: none, ctx_max: 4_096, prefill, decode };
    Offer { model, facts, cost }
}

fn build(range: Vec<Offer>) -> Build {
    let devices = vec![DeviceShare { device: DeviceId(0), capacity: Bytes(1 << 30), share: Permille(1000) }];
    let loader = (range.len() > 1).then(|| Loader {
        load: Bytes(1),
        prompt: Bytes(1),
        answer: Bytes(1),
        compute: 0,
        abilities: vec![],
    });
    let facts =
        WorkerFacts { pool: PoolId(0), devices, slots: 8, came_with: Some((range[0].model, range[0].facts)), loader };
    Build { facts, range: range.into() }
}

fn station(cost: Cost) -> Station {
    let build = build(vec![offer(MODEL, cost)]);
    Station::new(0, (WorkerId(1), Epoch(1)), &build, Some(MODEL), &mut Said::default())
}

fn job(model: ModelId, prompt: u32, answer: u32) -> Job {
    let (beginnings, known, finish) = (Box::default(), None, Finish::Length);
    Job { model, class: Class::Interactive, prompt, beginnings, known, answer, finish }
}

fn start(task: u128, prompt: u32, answer: u32) -> Command {
    let job = job(MODEL, prompt, answer);
    Command::Start(TaskId(task), Attempt::of(1, 1), Epoch(1), job)
}

/// Everything said, with its time, to the end of the orders' work. `poke` breaks stretches where it can.
fn run(mut station: Station, orders: &[(u64, Command)], poke: Option<u64>) -> Vec<(u64, Report)> {
    let mut said = Vec::new();
    let mut orders = orders.iter().peekable();
    let mut pokes = (1..).map(|n| poke.map_or(u64::MAX, |every| n * every)).peekable();
    loop {
        let due = station.due();
        if let Some((at, command)) = orders.next_if(|(at, _)| *at < due) {
            station.order(*at, command.clone());
        } else if let Some(at) = pokes.next_if(|at| *at < due && *at < 20_000 * MS) {
            station.order(at, Command::Cancel(TaskId(u128::MAX), Attempt::of(1, 1)));
        } else if due > 20_000 * MS {
            return said;
        } else {
            let mut now = Said::default();
            station.turn(due, &mut now);
            said.extend(now.reports.into_iter().map(|report| (due, report)));
        }
    }
}

#[test]
fn a_task_alone_takes_what_its_steps_take() {
    let said = run(station(COST), &[(5 * MS, start(7, 450, 11))], None);
    let (worker, epoch, task, attempt) = (WorkerId(1), Epoch(1), TaskId(7), Attempt::of(1, 1));
    // Two steps that delay no answer, of 400 tokens and of 50: 50 and 15 ms. Then ten steps of 11 ms.
    let usage = Usage {
        finish: Finish::Length,
        tokens_in: 450,
        tokens_cached: 0,
        tokens_out: 11,
        prefill_us: 65_000,
        decode_us: 110_000,
    };
    let without_beats: Vec<_> = said.into_iter().filter(|(_, r)| !matches!(r, Report::Beat { .. })).collect();
    assert_eq!(
        without_beats,
        [
            (5 * MS, Report::Started { worker, epoch, task, attempt }),
            (70 * MS, Report::Progress { worker, epoch, made: vec![(task, attempt, 1)] }),
            (103 * MS, Report::Progress { worker, epoch, made: vec![(task, attempt, 3)] }),
            (180 * MS, Report::Progress { worker, epoch, made: vec![(task, attempt, 7)] }),
            (180 * MS, Report::Finished { worker, epoch, task, attempt, usage }),
        ]
    );
}

#[test]
fn stretches_say_what_single_steps_would() {
    let orders: Vec<_> = (0..24)
        .map(|n| (n * n * 13 * MS, start(n.into(), 40 + 90 * (n as u32 % 5), 1 + 37 * (n as u32 % 4))))
        .collect();
    let whole = run(station(COST), &orders, None);
    let ends = whole.iter().filter(|(_, r)| matches!(r, Report::Finished { .. })).count();
    assert_eq!(ends, 24);
    assert!(whole.len() > 24 * 3, "{} reports", whole.len());
    // Every boundary is looked at: a poke each 3 ms, and no step is shorter than 11.
    assert_eq!(run(station(COST), &orders, Some(3 * MS)), whole);
}

/// Pages of 32 MiB, and 32 of them: two of these tasks fit until they have made half of their answers.
#[test]
fn where_memory_runs_out_the_batch_task_reads_again_and_all_end() {
    let mut tight = offer(MODEL, COST);
    tight.facts.kv_per_token = Bytes(1 << 20);
    let begin = || Station::new(0, (WorkerId(1), Epoch(1)), &build(vec![tight]), Some(MODEL), &mut Said::default());
    let of = |task, class| match start(task, 450, 200) {
        Command::Start(task, attempt, epoch, job) => Command::Start(task, attempt, epoch, Job { class, ..job }),
        other => other,
    };
    let orders = [(MS, of(1, Class::Batch)), (2 * MS, of(2, Class::Interactive)), (3 * MS, of(3, Class::Interactive))];
    let said = run(begin(), &orders, None);
    let ends: Vec<_> = said
        .iter()
        .filter_map(|(at, report)| match report {
            Report::Finished { task, usage, .. } => Some((at / MS, task.0, usage.tokens_in, usage.tokens_out)),
            _ => None,
        })
        .collect();
    assert_eq!(
        ends.iter().map(|end| (end.1, end.2, end.3)).collect::<Vec<_>>(),
        [(2, 450, 200), (3, 450, 200), (1, 450, 200)]
    );
    assert_eq!(run(begin(), &orders, Some(3 * MS)), said);
}

#[test]
fn a_full_station_and_a_hopeless_task_fault() {
    let orders: Vec<_> = (0..9).map(|n| (MS, start(n, 10, 10))).chain([(MS, start(9, 0, 5))]).collect();
    let faults: Vec<_> = run(station(COST), &orders, None)
        .into_iter()
        .filter_map(|(_, report)| match report {
            Report::Faulted { task, class, .. } => Some((task.0, class)),
            _ => None,
        })
        .collect();
    assert_eq!(faults, [(8, FaultClass::Retryable), (9, FaultClass::Retryable)]);
}

#[test]
fn a_hung_station_goes_on_late_and_a_reset_makes_it_another() {
    let mut hung = station(COST);
    hung.hang(3_000 * MS);
    let said = run(hung, &[(MS, start(1, 10, 1)), (2 * MS, Command::Reset(Epoch(2)))], None);
    assert_eq!(said[0].0, 3_000 * MS);
    assert!(matches!(said[0].1, Report::WorkerUp { epoch: Epoch(2), .. }), "{:?}", said[0]);
    assert!(said.iter().all(|(_, report)| !matches!(report, Report::Finished { .. })));
}

#[test]
fn models_are_loaded_one_after_another_beside_the_work_and_share_its_steps() {
    let slow = Cost { load: 1_000 * MS, ..COST };
    let (a, b) = (ModelId(1), ModelId(2));
    let build = build(vec![offer(MODEL, COST), offer(a, slow), offer(b, slow)]);
    let mut station = Station::new(0, (WorkerId(1), Epoch(1)), &build, Some(MODEL), &mut Said::default());
    station.shelf.spoil(2_000 * MS, ShardFault::Transient);
    let late = |task, model| Command::Start(TaskId(task), Attempt::of(1, 1), Epoch(1), job(model, 100, 11));
    let orders = [
        (MS, Command::Load(Epoch(1), a, ShardOrder(1))),
        (MS, Command::Load(Epoch(1), b, ShardOrder(2))),
        (MS, Command::Load(Epoch(1), ModelId(7), ShardOrder(3))),
        (1_500 * MS, start(1, 100, 11)),
        (3_000 * MS, late(2, MODEL)),
        (3_000 * MS, late(3, b)),
        (3_010 * MS, Command::Free(Epoch(1), b, ShardOrder(4))),
        (4_000 * MS, Command::Free(Epoch(1), b, ShardOrder(5))),
        (4_000 * MS, late(4, b)),
    ];
    let words = run(station, &orders, None).into_iter().filter_map(|(at, report)| {
        let said = match report {
            Report::ShardLoaded { model, order, .. } => format!("loaded {} by order {}", model.0, order.0),
            Report::ShardFailed { model, order, fault, .. } => {
                format!("failed {} by order {} {fault:?}", model.0, order.0)
            }
            Report::ShardFreed { model, order, .. } => format!("freed {} by order {}", model.0, order.0),
            Report::Finished { task, .. } => format!("finished {}", task.0),
            Report::Faulted { task, class, .. } => format!("faulted {} {class:?}", task.0),
            _ => return None,
        };
        Some(format!("{} {said}", at / MS))
    });
    let words: Vec<String> = words.collect();
    assert_eq!(
        words,
        [
            "1 failed 7 by order 3 Fixed",
            "1001 failed 1 by order 1 Transient",
            // 20 ms of prompt and ten steps of 11 ms: the load takes none of it.
            "1630 finished 1",
            "2001 loaded 2 by order 2",
            // One prompt takes 20 ms, the other 31 beside an answer of the first. A step of both takes 22 ms.
            "3020 failed 2 by order 4 Fixed",
            "3249 finished 2",
            "3260 finished 3",
            "4000 freed 2 by order 5",
            "4000 faulted 4 Retryable",
        ]
    );
}

#[test]
fn what_is_known_of_a_prompt_is_not_read_again_until_its_memory_is_needed() {
    let beginnings: Box<[PrefixId]> =
        (0..4).map(|n| PrefixId { model: MODEL, tenant: TenantId::DEFAULT, prefix: PrefixKey(n) }).collect();
    let alike = |task, prompt, answer| {
        let job = Job { beginnings: beginnings.clone(), ..job(MODEL, prompt, answer) };
        Command::Start(TaskId(task), Attempt::of(1, 1), Epoch(1), job)
    };
    let usages = |memory: Option<u64>, orders: &[(u64, Command)]| -> Vec<(u32, u64)> {
        let mut offer = offer(MODEL, COST);
        offer.facts.kv_per_token = memory.map_or(offer.facts.kv_per_token, Bytes);
        let station = Station::new(0, (WorkerId(1), Epoch(1)), &build(vec![offer]), Some(MODEL), &mut Said::default());
        let said = run(station, orders, None);
        let usage = |(_, report): &(u64, Report)| match report {
            Report::Finished { usage, .. } => Some((usage.tokens_cached, usage.prefill_us)),
            _ => None,
        };
        said.iter().filter_map(usage).collect()
    };
    let again = [(MS, alike(1, 300, 2)), (1_000 * MS, alike(2, 300, 2)), (2_000 * MS, start(3, 300, 2))];
    let told = usages(None, &again);
    assert_eq!(told.iter().map(|(cached, _)| *cached).collect::<Vec<_>>(), [0, 256, 0]);
    assert!(told[1].1 < told[0].1 && told[0].1 == told[2].1, "a known token takes no time: {told:?}");
    // A context between them takes all the memory there is.
    let full = [(MS, alike(1, 300, 2)), (1_000 * MS, start(2, 1_000, 2)), (2_000 * MS, alike(3, 300, 2))];
    assert_eq!(usages(Some(1 << 20), &full).iter().map(|(cached, _)| *cached).collect::<Vec<_>>(), [0, 0, 0]);
    let reset = [(MS, alike(1, 300, 2)), (1_000 * MS, Command::Reset(Epoch(1))), (2_000 * MS, alike(2, 300, 2))];
    assert_eq!(usages(None, &reset).iter().map(|(cached, _)| *cached).collect::<Vec<_>>(), [0, 0]);
}
