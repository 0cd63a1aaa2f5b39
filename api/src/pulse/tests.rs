//! The pulse over stations that only listen: what leaves it, in which order, and what it does when idle,
//! when the disk is full and when it stops.

use super::*;
use crate::fixture::{config, rules, spec, up};
use crate::journal::tests::{Forgetful, Quota};
use crate::journal::{Entry, Fsync, Outcome, RunReader, Taken, runs};
use crate::port::{Envelope, Urgent, Verdict};
use crate::recovery::recover;
use crate::replay::{ReplayOptions, replay};
use orchestrion_world::id::{Attempt, Epoch, ModelId};
use orchestrion_world::ledger::{Ledger, full_digest};
use orchestrion_world::protocol::{CancelReason, Input, Intent, Order, Outcome as End, Refusal, Report};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Hears everything, and looks into the journal when it does.
#[derive(Debug, Default)]
struct Ear {
    dir: PathBuf,
    heard: Mutex<Vec<String>>,
    notices: Mutex<Vec<Notice>>,
    orders: Mutex<Vec<Order>>,
    steps: AtomicUsize,
    /// Of the pulse, where the system shows its threads.
    thread: Mutex<PathBuf>,
}

impl Audience for Ear {
    fn publish(&self, _: Tick, notices: &[Notice]) {
        for notice in notices {
            if let Notice::Accepted { task, .. } = notice {
                assert!(recorded(&self.dir, *task), "a notice before its record");
                self.heard.lock().unwrap().push(format!("accepted {}", task.0));
            }
            if let Notice::Ended { task, outcome: End::Cancelled { .. } } = notice {
                self.heard.lock().unwrap().push(format!("cancelled {}", task.0));
            }
        }
        self.notices.lock().unwrap().extend_from_slice(notices);
    }

    fn payload(&self, _: TaskId) -> Option<Payload> {
        None
    }

    fn gauges(&self, _: &Gauges, _: u64) {
        *self.thread.lock().unwrap() =
            std::fs::read_link("/proc/thread-self").map(|thread| Path::new("/proc").join(thread)).unwrap_or_default();
        self.steps.fetch_add(1, Ordering::SeqCst);
    }

    fn remember(&self, _: Past) {}

    fn wanted(&self, _: TaskId, _: u32, _: Ticks) -> Option<Wanted> {
        None
    }

    fn finished(&self, _: TaskId, _: &End, _: Option<WorkerId>) -> Option<Finished> {
        None
    }

    fn keeps(&self, _: TaskId) -> bool {
        false
    }
}

impl Stations for Ear {
    fn order(&self, order: Order, _: Option<Payload>) {
        if let Order::Start { task, .. } = order {
            assert!(recorded(&self.dir, task), "an order before its record");
        }
        self.orders.lock().unwrap().push(order);
    }
}

fn recorded(dir: &Path, task: TaskId) -> bool {
    inputs(dir).iter().any(|input| matches!(input, Input::Intent(Intent::Submit { task: id, .. }) if *id == task))
}

fn inputs(dir: &Path) -> Vec<Input> {
    let runs = runs(dir).unwrap();
    let mut reader = RunReader::new(&runs.last().unwrap().segments, None);
    let mut inputs = vec![];
    while let Some(entry) = reader.read().unwrap() {
        if let Entry::Step(record) = entry {
            assert!(matches!(record.outcome, Outcome::Stepped { .. }));
            inputs.extend(record.inputs);
        }
    }
    inputs
}

struct Stage {
    dir: tempfile::TempDir,
    pulse: Pulse,
    lanes: Lanes,
    ear: Arc<Ear>,
}

impl Stage {
    fn set() -> Stage {
        Self::set_on(Fsync::Never, |_| {})
    }

    fn set_on(fsync: Fsync, change: impl FnOnce(&mut Writer)) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let (lanes, inlets) = lanes(64, 64);
        let ear = Arc::new(Ear { dir: dir.path().to_path_buf(), ..Ear::default() });
        let config = PulseConfig {
            rules: rules(),
            seed: 4,
            build: "test".into(),
            client_batch: 32,
            journal: JournalConfig { fsync, ..config(dir.path()) },
        };
        let pulse = Pulse::start_on(config, change, inlets, ear.clone(), ear.clone()).unwrap();
        Stage { dir, pulse, lanes, ear }
    }

    fn report(&self, input: Input) {
        let Input::Report(report) = input else { panic!() };
        self.lanes.urgent.send(Urgent::Report(report)).unwrap();
    }

    fn submit(&self, task: u128) -> oneshot::Receiver<Verdict> {
        let (reply, verdict) = oneshot::channel();
        let intent = Intent::Submit { task: TaskId(task), spec: spec() };
        self.lanes.client.send(Envelope { intent, reply }).unwrap();
        verdict
    }

    fn cancel(&self, task: u128) -> oneshot::Receiver<()> {
        let (reply, done) = oneshot::channel();
        let cancel = Urgent::Cancel { task: TaskId(task), reason: CancelReason::Client, reply: Some(reply) };
        self.lanes.urgent.send(cancel).unwrap();
        done
    }

    fn steps(&self) -> usize {
        self.ear.steps.load(Ordering::SeqCst)
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come");
}

#[test]
fn verdicts_orders_and_acknowledgements_come_after_the_record_and_in_order() {
    let stage = Stage::set();
    stage.report(up(1, 0, 1, 50_000));
    let first = stage.submit(1).blocking_recv().unwrap();
    assert!(matches!(first, Verdict::Accepted { position: 0, .. }), "{first:?}");
    let duplicate = stage.submit(1).blocking_recv().unwrap();
    assert_eq!(duplicate, Verdict::Refused(Refusal::DuplicateTask));
    let second = stage.submit(2).blocking_recv().unwrap();
    assert!(matches!(second, Verdict::Accepted { .. }), "{second:?}");
    // A queued task ends with its cancel; the acknowledgement comes after the notice.
    stage.cancel(2).blocking_recv().unwrap();
    assert_eq!(*stage.ear.heard.lock().unwrap(), ["accepted 1", "accepted 2", "cancelled 2"]);
    assert!(inputs(stage.dir.path()).iter().any(|input| matches!(input, Input::Intent(Intent::Cancel { .. }))));
    let (worker, epoch, task, attempt) = (WorkerId(1), Epoch(1), TaskId(1), Attempt::of(1, 1));
    let start = Order::Start { worker, epoch, task, attempt, model: ModelId(0) };
    assert_eq!(*stage.ear.orders.lock().unwrap(), [start]);
    stage.pulse.stop().unwrap();
    let report = replay(stage.dir.path(), ReplayOptions::default()).unwrap();
    assert_eq!(report.tasks, 3);
}

#[test]
fn who_starts_after_a_stop_executes_nothing_again() {
    let stage = Stage::set();
    stage.report(up(1, 0, 1, 50_000));
    for task in 1..=3 {
        let verdict = stage.submit(task).blocking_recv().unwrap();
        assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
    }
    let Stage { dir, pulse, .. } = stage;
    pulse.stop().unwrap();
    let whole = replay(dir.path(), ReplayOptions::default()).unwrap();
    // Every record of the run, so that nothing is left to execute.
    std::fs::remove_file(dir.path().join("00000001.orj")).unwrap();
    let recovered = recover(&Taken::take(config(dir.path())).unwrap(), &rules(), 4).unwrap();
    assert_eq!(recovered.ledger.tasks.iter().map(|task| task.id).collect::<Vec<_>>(), [1, 2, 3].map(TaskId));
    assert_eq!(full_digest(&recovered.ledger).to_string(), whole.final_state);
}

#[test]
fn an_idle_pulse_takes_no_steps_and_burns_nothing() {
    let stage = Stage::set();
    // With a worker there is a timer, seconds away; without one there is the models' grace.
    stage.report(up(1, 0, 1, 50_000));
    until("the worker's step", || stage.steps() == 2);
    let written = std::fs::metadata(stage.dir.path().join("00000001.orj")).unwrap().len();
    let thread = stage.ear.thread.lock().unwrap().clone();
    let before = cpu_of(&thread);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(stage.steps(), 2);
    assert_eq!(std::fs::metadata(stage.dir.path().join("00000001.orj")).unwrap().len(), written);
    if let (Some(before), Some(after)) = (before, cpu_of(&thread)) {
        assert!(after - before <= 1, "{} clock ticks of CPU in 400 ms", after - before);
    }
    stage.pulse.stop().unwrap();
}

/// Clock ticks (10 ms) that a thread has used, where the system tells.
fn cpu_of(thread: &Path) -> Option<u64> {
    let stat = std::fs::read_to_string(thread.join("stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

#[test]
fn a_timer_fires_without_any_input() {
    let mut rules = rules();
    rules.health.beat_timeout = Ticks(60);
    let dir = tempfile::tempdir().unwrap();
    let (lanes, inlets) = lanes(8, 8);
    let ear = Arc::new(Ear { dir: dir.path().to_path_buf(), ..Ear::default() });
    let config = PulseConfig { rules, seed: 1, build: "test".into(), client_batch: 8, journal: config(dir.path()) };
    let pulse = Pulse::start(config, inlets, ear.clone(), ear.clone()).unwrap();
    let Input::Report(report) = up(1, 0, 1, 50_000) else { panic!() };
    lanes.urgent.send(Urgent::Report(report)).unwrap();
    let lost = |notice: &Notice| matches!(notice, Notice::PoolChanged { ready: 0, .. });
    until("the worker's loss", || ear.notices.lock().unwrap().iter().any(lost));
    let steps = ear.steps.load(Ordering::SeqCst);
    assert!((3..=4).contains(&steps), "boot, up, timeout: {steps} steps");
    pulse.stop().unwrap();
    assert_eq!(replay(dir.path(), ReplayOptions::default()).unwrap().steps, steps as u64);
}

#[test]
fn a_client_that_left_before_its_verdict_holds_nothing_up() {
    let stage = Stage::set();
    stage.report(up(1, 0, 1, 50_000));
    let (reply, gone) = oneshot::channel();
    drop(gone);
    let intent = Intent::Submit { task: TaskId(1), spec: spec() };
    stage.lanes.client.send(Envelope { intent, reply }).unwrap();
    assert!(matches!(stage.submit(2).blocking_recv(), Ok(Verdict::Accepted { .. })));
    assert!(recorded(stage.dir.path(), TaskId(1)), "its task is: a second request may ask for it");
    stage.pulse.stop().unwrap();
}

#[test]
fn a_full_disk_refuses_and_acknowledges_nothing_until_there_is_room() {
    let left = Arc::new(AtomicUsize::new(1 << 20));
    let quota = Arc::clone(&left);
    let stage = Stage::set_on(Fsync::Never, |writer| {
        writer.write_through(|disk| Box::new(Quota { disk, left: quota })).unwrap()
    });
    stage.report(up(1, 0, 1, 50_000));
    stage.submit(1).blocking_recv().unwrap();
    let health = stage.pulse.health();
    assert_eq!(health.condition(), Condition::Well);
    left.store(10, Ordering::SeqCst);
    let mut caught = stage.submit(2);
    until("the full disk", || !health.is_well());
    let Condition::JournalUnwritable { problem } = health.condition() else { panic!() };
    assert!(problem.contains("00000001.orj"), "{problem}");
    // Who comes now is sent away; whose step waits for its record is not told anything.
    let refused = stage.submit(3);
    assert!(refused.blocking_recv().is_err(), "its sender drops");
    assert!(caught.try_recv().is_err());
    assert!(!recorded(stage.dir.path(), TaskId(2)));
    left.store(1 << 20, Ordering::SeqCst);
    assert!(matches!(caught.blocking_recv(), Ok(Verdict::Accepted { .. })));
    assert!(recorded(stage.dir.path(), TaskId(2)) && !recorded(stage.dir.path(), TaskId(3)));
    until("work again", || health.is_well());
    stage.pulse.stop().unwrap();
    replay(stage.dir.path(), ReplayOptions::default()).unwrap();
}

#[test]
fn a_failed_sync_ends_the_pulse_and_nothing_of_its_step_is_told() {
    let broken = Arc::new(AtomicBool::new(false));
    let later = Arc::clone(&broken);
    let stage = Stage::set_on(Fsync::Always, |writer| {
        writer.write_through(|disk| Box::new(Forgetful { disk, broken: later })).unwrap();
    });
    stage.report(up(1, 0, 1, 50_000));
    stage.submit(1).blocking_recv().unwrap();
    broken.store(true, Ordering::SeqCst);
    assert!(stage.submit(2).blocking_recv().is_err(), "its sender drops");
    let health = stage.pulse.health();
    let error = stage.pulse.join().unwrap_err();
    assert!(matches!(&error, PulseError::Journal(JournalError::Sync { .. })), "{error}");
    assert!(error.to_string().contains("only a restart can tell"), "{error}");
    assert_eq!(health.condition(), Condition::Ended);
    assert_eq!(*stage.ear.heard.lock().unwrap(), ["accepted 1"]);
}

#[test]
fn a_stop_takes_what_waits_in_the_urgent_lane_and_ends_with_everything_recorded() {
    let stage = Stage::set();
    stage.report(up(1, 0, 1, 50_000));
    for task in 1..=20 {
        stage.submit(task).blocking_recv().unwrap();
    }
    let acks: Vec<_> = (1..=20).map(|task| stage.cancel(task)).collect();
    let health = stage.pulse.health();
    stage.pulse.stop().unwrap();
    assert_eq!(health.condition(), Condition::Ended);
    acks.into_iter().for_each(|ack| ack.blocking_recv().unwrap());
    let cancels = inputs(stage.dir.path());
    assert_eq!(cancels.iter().filter(|input| matches!(input, Input::Intent(Intent::Cancel { .. }))).count(), 20);
    assert!(stage.lanes.client.is_disconnected());
    replay(stage.dir.path(), ReplayOptions::default()).unwrap();
}

#[test]
fn lanes_that_nobody_holds_any_more_leave_the_pulse_asleep() {
    let Stage { dir: _dir, pulse, lanes, ear } = Stage::set();
    drop(lanes);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ear.steps.load(Ordering::SeqCst), 1);
    let stopper = pulse.stopper();
    let joined = std::thread::spawn(|| pulse.join());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!joined.is_finished());
    stopper.stop();
    joined.join().unwrap().unwrap();
}

#[test]
fn reports_go_before_submissions_of_the_same_step() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, inlets) = lanes(8, 8);
    let (reply, verdict) = oneshot::channel();
    let intent = Intent::Submit { task: TaskId(1), spec: spec() };
    lanes.client.send(Envelope { intent, reply }).unwrap();
    let Input::Report(report) = up(1, 0, 1, 50_000) else { panic!() };
    lanes.urgent.send(Urgent::Report(report)).unwrap();
    let ear = Arc::new(Ear { dir: dir.path().to_path_buf(), ..Ear::default() });
    let config =
        PulseConfig { rules: rules(), seed: 1, build: "t".into(), client_batch: 8, journal: config(dir.path()) };
    let pulse = Pulse::start(config, inlets, ear.clone(), ear).unwrap();
    assert!(matches!(verdict.blocking_recv(), Ok(Verdict::Accepted { .. })));
    pulse.stop().unwrap();
    let inputs = inputs(dir.path());
    assert!(matches!(&inputs[2..], [Input::Report(Report::WorkerUp { .. }), Input::Intent(_)]), "{inputs:?}");
}

/// An audience that fails.
#[derive(Debug)]
struct Deaf;

impl Audience for Deaf {
    fn publish(&self, _: Tick, notices: &[Notice]) {
        assert!(!notices.iter().any(|notice| matches!(notice, Notice::Accepted { .. })), "not listening");
    }

    fn payload(&self, _: TaskId) -> Option<Payload> {
        None
    }

    fn gauges(&self, _: &Gauges, _: u64) {}

    fn remember(&self, _: Past) {}

    fn wanted(&self, _: TaskId, _: u32, _: Ticks) -> Option<Wanted> {
        None
    }

    fn finished(&self, _: TaskId, _: &End, _: Option<WorkerId>) -> Option<Finished> {
        None
    }

    fn keeps(&self, _: TaskId) -> bool {
        false
    }
}

#[test]
fn a_panic_outside_of_a_step_ends_the_pulse_with_its_message() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, inlets) = lanes(8, 8);
    let ear = Arc::new(Ear::default());
    let config =
        PulseConfig { rules: rules(), seed: 1, build: "t".into(), client_batch: 8, journal: config(dir.path()) };
    let pulse = Pulse::start(config, inlets, Arc::new(Deaf), ear).unwrap();
    let health = pulse.health();
    let Input::Report(report) = up(1, 0, 1, 50_000) else { panic!() };
    lanes.urgent.send(Urgent::Report(report)).unwrap();
    let (reply, verdict) = oneshot::channel();
    let intent = Intent::Submit { task: TaskId(1), spec: spec() };
    lanes.client.send(Envelope { intent, reply }).unwrap();
    let error = pulse.join().unwrap_err();
    assert!(matches!(&error, PulseError::Panicked(message) if message == "not listening"), "{error}");
    assert_eq!(health.condition(), Condition::Ended);
    assert!(verdict.blocking_recv().is_err() && recorded(dir.path(), TaskId(1)));
}

#[test]
fn a_step_that_breaks_an_invariant_leaves_its_inputs_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (_lanes, inlets) = lanes(8, 8);
    let (_stop, stop_end) = flume::bounded(1);
    let writer = Writer::open(config(dir.path()), "t", Ledger::empty(4)).unwrap();
    let spool = Spool::begin(&config(dir.path()), []).unwrap();
    let ear = Arc::new(Ear::default());
    let intake = lanes::Intake::new(inlets, stop_end, 8);
    let simulation = Simulation::new(4);
    let mut beat = Beat::new(
        simulation,
        Shadow::start(&writer).unwrap(),
        writer,
        spool,
        Tick(0),
        intake,
        ear.clone(),
        ear,
        Health::well(),
    );
    beat.boot(vec![Input::Boot { wall_ms: 1 }, Input::SetRules(Box::new(rules()))]).unwrap();
    let fatal = vec![crate::fixture::submit(7)];
    let error = beat.broke(2, Tick(1), fatal.clone(), "leases_equal_slots".into());
    assert!(matches!(&error, PulseError::Broken { seq: 2, tick: 1, .. }), "{error}");
    assert!(error.to_string().contains("leases_equal_slots"), "{error}");
    let runs = runs(dir.path()).unwrap();
    let mut reader = RunReader::new(&runs[0].segments, None);
    let mut last = None;
    while let Some(entry) = reader.read().unwrap() {
        last = Some(entry);
    }
    let Some(Entry::Step(record)) = last else { panic!() };
    assert_eq!(record.inputs, fatal);
    assert_eq!(record.outcome, Outcome::Broke { audit: "leases_equal_slots".into() });
}
