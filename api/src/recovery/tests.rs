//! Recovery of recorded runs, and of folders that a crash left between two writes.

use super::*;
use crate::fixture::{Recorder, config, rules, spec, submit, up, usage};
use crate::journal::{JournalConfig, Outcome, Record};
use crate::replay::{ReplayOptions, replay};
use crate::spool::Spool;
use crate::spool::tests::{finished, part, wanted};
use orchestrion_world::budget::{Budget, Kind};
use orchestrion_world::config::{Keep, Loadable, PlacementRules};
use orchestrion_world::id::Attempt;
use orchestrion_world::ledger::full_digest;
use orchestrion_world::protocol::{Class, Effect, Failure, Notice, Outcome as End, TaskSpec};
use orchestrion_world::tenant::TenantRules;
use orchestrion_world::units::{Bytes, Digest, Permille, Sha256};
use std::fs;
use std::path::Path;

fn recovered(dir: &Path) -> Result<Recovered, RecoverError> {
    recover(&Taken::take(config(dir)).unwrap(), &rules(), 1)
}

fn spool(dir: &Path, tasks: &[u128]) {
    drop(Spool::begin(&config(dir), tasks.iter().map(|task| Line::Wanted(Box::new(wanted(*task))))).unwrap());
}

/// What the first step of the new run tells of tasks.
fn first_words(recovered: &Recovered) -> Vec<Notice> {
    let mut simulation = Simulation::restore(&recovered.ledger).unwrap();
    let step = simulation.step(recovered.tick, recovered.inputs.clone());
    simulation.audit().unwrap();
    let notices = step.effects.into_iter().filter_map(|effect| match effect {
        Effect::Notice(notice) => Some(notice),
        Effect::Order(_) => None,
    });
    notices.filter(|notice| !matches!(notice, Notice::PoolChanged { .. })).collect()
}

fn cancelled(task: u128) -> Notice {
    let outcome = End::Cancelled { reason: CancelReason::Disconnect, tokens_out: 0 };
    Notice::Ended { task: TaskId(task), outcome }
}

#[test]
fn a_journal_cut_anywhere_recovers_the_state_after_its_last_whole_record() {
    for segment_records in [u64::MAX, 7] {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::booted(JournalConfig { segment_records, ..config(dir.path()) });
        recorder.serve(10, 1..=8);
        let Recorder { written, writer, simulation, .. } = recorder;
        let last = writer.path().to_path_buf();
        drop(writer);
        assert_eq!(recovered(dir.path()).unwrap().ledger, simulation.ledger(), "as if it had never stopped");
        let whole = fs::read(&last).unwrap();
        let states: Vec<Digest> = written
            .iter()
            .filter_map(|(record, _)| match &record.outcome {
                Outcome::Stepped { state, .. } => *state,
                Outcome::Broke { .. } => panic!(),
            })
            .collect();
        let header = 52 + u32::from_le_bytes(whole[4..8].try_into().unwrap()) as usize;
        let mut reached = 0;
        for len in (0..whole.len()).rev().step_by(13) {
            fs::write(&last, &whole[..len]).unwrap();
            let now = full_digest(&recovered(dir.path()).unwrap().ledger);
            match states.iter().position(|state| *state == now) {
                Some(at) => reached = at.max(reached),
                // Nothing but the header of the only segment, or not even that.
                None => assert_eq!(now, full_digest(&Ledger::empty(if len < header { 1 } else { 9 })), "cut at {len}"),
            }
        }
        assert!(reached + 2 >= states.len() - 1, "{reached} of {}", states.len());
    }
}

#[test]
fn what_died_with_the_process_is_told_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    // Two slots each: four are placed, and the last one waits.
    let orders: Vec<_> = (1..=6).flat_map(|task| recorder.step(10 + task as u64, vec![submit(task)])).collect();
    let (worker, epoch, attempt) = (orders[0].worker(), Epoch(1), Attempt::of(1, 1));
    let task = TaskId(1);
    let began = Report::Started { worker, epoch, task, attempt };
    let made = Report::Progress { worker, epoch, made: vec![(task, attempt, 1)] };
    recorder.step(30, vec![Input::Report(began), Input::Report(made)]);
    drop(recorder);
    spool(dir.path(), &[1, 2, 3, 5, 6]);
    let recovered = recovered(dir.path()).unwrap();
    let words = first_words(&recovered);
    let failed = End::Failed { failure: Failure::WorkerLost, tokens_out: 1 };
    assert!(words.contains(&Notice::Ended { task, outcome: failed }), "{words:?}");
    assert!(words.contains(&cancelled(4)), "its words are gone with its connection: {words:?}");
    let retried = words.iter().filter(|notice| matches!(notice, Notice::Retrying { .. })).count();
    let ended = words.iter().filter(|notice| matches!(notice, Notice::Ended { .. })).count();
    assert_eq!((retried, ended), (3, 2), "the others go on: {words:?}");
    assert_eq!(recovered.past.unfinished.iter().filter(|task| task.cut).count(), 1);
    let heritage = &recovered.heritage;
    assert_eq!((heritage.next_epoch(WorkerId(1)), heritage.next_epoch(WorkerId(9))), (Epoch(2), Epoch(1)));
    assert_eq!(heritage.strangers(ModelId(0), "model/engine"), []);
    assert_eq!(heritage.strangers(ModelId(1), "another/engine"), []);
    assert_eq!(heritage.strangers(ModelId(0), "another/engine"), [1, 2, 3, 5, 6].map(TaskId));
}

#[test]
fn between_two_writes_the_journal_says_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(config(dir.path()));
    recorder.step(0, vec![Input::Boot { wall_ms: wall_ms() }, Input::SetRules(Box::new(rules()))]);
    recorder.step(5, vec![up(1, 0, 1, 50_000)]);
    recorder.step(9, vec![submit(1), submit(2)]);
    drop(recorder);
    // Words of a task whose admission was never recorded, and none of one that was.
    spool(dir.path(), &[2, 77]);
    let recovered = recovered(dir.path()).unwrap();
    let known: Vec<u128> = recovered.past.unfinished.iter().map(|task| task.wanted.card.task.0).collect();
    assert_eq!(known, [2]);
    assert_eq!(first_words(&recovered).iter().filter(|notice| **notice == cancelled(1)).count(), 1);
}

#[test]
fn a_task_of_which_a_part_was_never_taken_in_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(config(dir.path()));
    recorder.step(0, vec![Input::Boot { wall_ms: wall_ms() }, Input::SetRules(Box::new(rules()))]);
    recorder.step(5, vec![up(1, 0, 1, 50_000)]);
    // 1 and 2 are a task, of which 2 has ended; 3 and 4 are one, of which the journal has no 4; 5 has no other at all.
    recorder.step(9, [1, 3].map(submit).to_vec());
    drop(recorder);
    let part_of = |task, (of, index, count)| {
        let mut wanted = wanted(task);
        wanted.card.part = Some(part(of, index, count));
        Line::Wanted(Box::new(wanted))
    };
    let ended = |task, (of, index, count)| {
        let mut finished = finished(task);
        finished.card.part = Some(part(of, index, count));
        Line::Finished(Box::new(finished))
    };
    let lines =
        [part_of(1, (1, 0, 2)), ended(2, (1, 1, 2)), part_of(3, (3, 0, 2)), part_of(4, (3, 1, 2)), ended(5, (5, 0, 2))];
    drop(Spool::begin(&config(dir.path()), lines).unwrap());
    let recovered = recovered(dir.path()).unwrap();
    let known: Vec<u128> = recovered.past.unfinished.iter().map(|task| task.wanted.card.task.0).collect();
    let kept: Vec<u128> = recovered.past.finished.iter().map(|result| result.card.task.0).collect();
    assert_eq!((known, kept), (vec![1], vec![2]));
    assert!(first_words(&recovered).contains(&cancelled(3)));
}

#[test]
fn a_deadline_passes_while_the_server_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(config(dir.path()));
    let wall = wall_ms() - 60_000;
    recorder.step(0, vec![Input::Boot { wall_ms: wall }, Input::SetRules(Box::new(rules()))]);
    recorder.step(5, vec![up(1, 0, 1, 50_000)]);
    for (task, deadline) in [(1, None), (2, Some(Ticks(50_000))), (3, Some(Ticks(90_000)))] {
        let spec = TaskSpec { deadline, ..spec() };
        recorder.step(20, vec![Input::Intent(Intent::Submit { task: TaskId(task), spec })]);
    }
    drop(recorder);
    spool(dir.path(), &[1, 2, 3]);
    let recovered = recovered(dir.path()).unwrap();
    assert!((60_000..70_000).contains(&recovered.tick.0), "{:?}", recovered.tick);
    let late = End::Failed { failure: Failure::DeadlinePassed, tokens_out: 0 };
    let ended: Vec<Notice> =
        first_words(&recovered).into_iter().filter(|notice| matches!(notice, Notice::Ended { .. })).collect();
    assert_eq!(ended, [Notice::Ended { task: TaskId(2), outcome: late }]);
}

#[test]
fn a_wall_clock_that_was_set_back_takes_no_ticks_away() {
    let mut ledger = Ledger::empty(1);
    ledger.core.now = Tick(500);
    ledger.core.booted = Some((10_000, Tick(100)));
    assert_eq!(tick_at(&ledger, 9_000), Tick(500));
    assert_eq!(tick_at(&ledger, 10_400), Tick(500));
    assert_eq!(tick_at(&ledger, 10_401), Tick(501));
}

#[test]
fn a_configuration_that_the_unfinished_do_not_fit_is_refused_with_the_option_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    (1..=8).for_each(|task| drop(recorder.step(10, vec![submit(task)])));
    drop(recorder);
    spool(dir.path(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    let with = |change: &dyn Fn(&mut Rules)| {
        let mut rules = rules();
        change(&mut rules);
        recover(&Taken::take(config(dir.path())).unwrap(), &rules, 1)
    };
    let error = with(&|rules| rules.pools.truncate(1)).unwrap_err();
    assert!(matches!(error, RecoverError::OtherPools { tasks: 8, .. }), "{error}");
    assert!(error.to_string().contains("`tiny` (pool `right`)") && error.to_string().contains("`pools`"), "{error}");
    let another = Loadable {
        model: "tiny".into(),
        pools: vec!["left".into()],
        digest: Sha256([7; 32]),
        weights: Bytes(99),
        kv_per_token: Bytes(1),
        ctx_max: 64,
        compute: 0,
        needs: vec![],
        keep: Keep::OnDemand,
    };
    let error = with(&|rules| rules.loadable = vec![another.clone()]).unwrap_err().to_string();
    assert!(error.contains("`tiny` (loadable by `left`, OnDemand, 99 bytes, context 64, 07070707)"), "{error}");
    // Who waits by the rules that were goes on waiting under narrower ones.
    let narrower = with(&|rules| (rules.queue.interactive_max, rules.retry.attempts_max) = (1, 1)).unwrap();
    assert_eq!(narrower.past.unfinished.len(), 8);
    with(&|rules| rules.health.no_worker_grace = Ticks(77)).unwrap();
    // Nothing is lost where nothing was to go on.
    spool(dir.path(), &[]);
    assert_eq!(with(&|rules| rules.pools.truncate(1)).unwrap().ledger, Ledger::empty(1));
}

#[test]
fn what_tenants_spent_outlives_other_models_and_pools() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget { tokens: Some(1_000), ..Budget::default() };
    let tenants = vec![TenantRules { budget, ..TenantRules::new("app", 1) }];
    let app = tenants[0].id();
    let with = |pools: usize| {
        let mut rules = Rules { tenants: tenants.clone(), ..rules() };
        rules.pools.truncate(pools);
        rules
    };
    let mut recorder = Recorder::new(config(dir.path()));
    recorder.step(0, vec![Input::Boot { wall_ms: 0 }, Input::SetRules(Box::new(with(2))), up(1, 0, 2, 50_000)]);
    let of_app = |task| Input::Intent(Intent::Submit { task: TaskId(task), spec: TaskSpec { tenant: app, ..spec() } });
    recorder.step(10, vec![of_app(1), of_app(2)]);
    recorder.step(
        20,
        vec![Input::Report(Report::Finished {
            worker: WorkerId(1),
            epoch: Epoch(1),
            task: TaskId(1),
            attempt: Attempt::of(1, 1),
            usage: usage(),
        })],
    );
    let spent = recorder.simulation.ledger().tenants[0].account.spent;
    assert_ne!(spent, Amount::default());
    drop(recorder);
    // The second lived with its connection; nobody waits for it.
    let recovered = recover(&Taken::take(config(dir.path())).unwrap(), &with(1), 1).unwrap();
    assert!(recovered.ledger.tasks.is_empty() && recovered.ledger.pools.is_empty());
    let mut simulation = Simulation::restore(&recovered.ledger).unwrap();
    simulation.step(recovered.tick, recovered.inputs);
    simulation.audit().unwrap();
    let [tenant] = &simulation.ledger().tenants[..] else { panic!() };
    assert_eq!((tenant.id, tenant.account.spent, tenant.account.reserved), (app, spent, Amount::default()));
    assert_eq!(tenant.account.left().of(Kind::Tokens), Some(1_000 - spent.0[Kind::Tokens as usize]));
}

#[test]
fn a_smaller_share_of_batch_work_takes_hold_at_a_boot_whatever_ran_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(config(dir.path()));
    let whole = PlacementRules { batch_share: Permille(1000), ..rules().placement };
    let first = Rules { placement: whole, ..rules() };
    recorder.step(0, vec![Input::Boot { wall_ms: 0 }, Input::SetRules(Box::new(first)), up(1, 0, 4, 50_000)]);
    for task in 1..=4 {
        let spec = TaskSpec { class: Class::Batch, ..spec() };
        recorder.step(10, vec![Input::Intent(Intent::Submit { task: TaskId(task), spec })]);
    }
    assert_eq!(recorder.simulation.ledger().workers[0].batch_leases(), 4);
    drop(recorder);
    spool(dir.path(), &[1, 2, 3, 4]);
    assert_eq!(rules().placement.batch_share, Permille(750));
    assert_eq!(recovered(dir.path()).unwrap().ledger.tasks.len(), 4);
}

#[test]
fn a_record_that_comes_out_otherwise_refuses_the_boot_and_names_its_build() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    let outcome = Outcome::Stepped { decisions: Digest(1), state: Some(Digest(2)) };
    recorder.writer.append(&Record { seq: 3, tick: Tick(9), inputs: vec![submit(5)], outcome }).unwrap();
    drop(recorder);
    let error = recovered(dir.path()).unwrap_err();
    let shown = error.to_string();
    assert!(matches!(error, RecoverError::Differs { .. }), "{shown}");
    assert!(shown.contains("test-build") && shown.contains("record 3") && shown.contains("`journal.dir`"), "{shown}");
}

#[test]
fn a_step_that_broke_is_left_out_and_the_runs_replay_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, 1..=3);
    let before = recorder.simulation.ledger();
    drop(recorder);
    let Recovered { ledger, tick, inputs, .. } = recovered(dir.path()).unwrap();
    assert_eq!(ledger, before);
    let writer = crate::journal::Writer::open(config(dir.path()), "next", ledger.clone()).unwrap();
    let mut next = Recorder::over(writer, Simulation::restore(&ledger).unwrap());
    next.step(tick.0, inputs);
    let (seq, audit) = (next.writer.next_seq(), "leases".to_owned());
    let state = next.simulation.ledger();
    let broke = Record { seq, tick: Tick(tick.0 + 1), inputs: vec![], outcome: Outcome::Broke { audit } };
    let report = replay(dir.path(), ReplayOptions::default()).unwrap();
    assert_eq!((report.runs, report.admitted, report.ended), (2, 3, 3));
    next.writer.append(&broke).unwrap();
    drop(next);
    assert_eq!(recovered(dir.path()).unwrap().ledger, state);
}

#[test]
fn a_journal_of_100_000_records_costs_a_restart_no_more_than_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let keep = JournalConfig { segment_records: 16_384, segment_bytes: 64 << 20, ..config(dir.path()) };
    let mut recorder = Recorder::booted(keep);
    recorder.serve(10, 1..=25_000);
    let (records, state) = (recorder.written.len(), recorder.simulation.ledger());
    drop(recorder);
    let began = Instant::now();
    assert_eq!(recovered(dir.path()).unwrap().ledger, state);
    let took = began.elapsed();
    let taken = Taken::take(config(dir.path())).unwrap();
    let last = tail(dir.path(), taken.last().unwrap()).unwrap();
    let steps = Rerun::new(&last.segments, None).recover().unwrap();
    println!("{records} records, of which {steps} were executed again: {took:?}");
    assert!(records > 100_000 && steps < 16_384, "{steps} of {records}");
}
