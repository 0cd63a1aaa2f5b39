//! The gate under many hands at once, and how long results are kept.

use super::keeping::ENTRY_BYTES;
use super::*;
use crate::fixture::token;
use crate::port::Dropped;
use crate::recovery::Unfinished;
use crate::spool::Part;
use crate::spool::tests::{finished, part, wanted};
use crate::task_entry::{Ending, Frames, Reader};
use crate::token_log::Said;
use orchestrion_world::budget::Left;
use orchestrion_world::config::EvictionRule;
use orchestrion_world::id::{ModelId, WorkerId};
use orchestrion_world::payload::{Output, Sampling};
use orchestrion_world::protocol::{CancelReason, Class, EvictionReason, Finish, Setback, Usage};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

fn board(keep: Keep) -> Switchboard {
    Switchboard::new(keep, Arc::new(Telemetry::new(&[], EvictionRule::Lru)))
}

const LONG: Keep = Keep { ttl: Duration::from_secs(3_600), bytes: 1 << 20 };

fn opening(task: TaskId, surface: Surface) -> Opening {
    let sampling = Sampling {
        seed: 1,
        temperature: Permille(0),
        top_k: 0,
        top_p: Permille(1_000),
        min_p: Permille(0),
        repetition_penalty: Permille(1_000),
    };
    let (prompt, stop, bias) = ([1].into(), [].into(), [].into());
    let (class, salt, max_tokens, output) = (Class::Interactive, None, 1 << 20, Output::Text);
    let (logprobs, grammar) = (None, None);
    let payload = Payload { prompt, stop, sampling, bias, logprobs, grammar, max_tokens, class, salt, output };
    let (fingerprint, dropped) = ("fp".into(), Dropped::default());
    Opening { task, body: [0; 32], surface, class, fingerprint, dropped, part: None, payload }
}

fn admit(board: &Switchboard, task: TaskId, surface: Surface) -> Arc<Entry> {
    let Opened::New(entry) = board.open(opening(task, surface)) else { panic!("new") };
    let worker = WorkerId(1);
    for notice in [
        Notice::Accepted { task, position: 0, predicted_start: Ticks(0), left: Left::default() },
        Notice::Placed { task, attempt: Attempt::of(1, 1), pool: PoolId(0), worker },
        Notice::Started { task, attempt: Attempt::of(1, 1), worker },
    ] {
        board.hear(&notice);
    }
    entry
}

fn end(board: &Switchboard, task: TaskId, outcome: Outcome) {
    board.hear(&Notice::Ended { task, outcome });
}

fn done() -> Outcome {
    Outcome::Done(Usage {
        finish: Finish::Stop,
        tokens_in: 1,
        tokens_cached: 0,
        tokens_out: 1,
        prefill_us: 0,
        decode_us: 0,
    })
}

const CANCELLED: Outcome = Outcome::Cancelled { reason: CancelReason::Client, tokens_out: 0 };

/// Counts what a reader is given, and checks its order.
#[derive(Default)]
struct Count {
    started: u32,
    tokens: u32,
    ends: u32,
}

impl Frames for Count {
    fn started(&mut self, out: &mut Vec<u8>, _: &Begun) {
        assert_eq!((self.tokens, self.ends), (0, 0));
        self.started += 1;
        out.push(b's');
    }

    fn token(&mut self, out: &mut Vec<u8>, index: u32, Said { text, .. }: Said<'_>) {
        assert_eq!((self.started, self.ends), (1, 0));
        assert_eq!((index, text), (self.tokens, index.to_string().as_str()), "no gap, no duplicate");
        self.tokens += 1;
        out.push(b't');
    }

    fn ended(&mut self, out: &mut Vec<u8>, _: &Ending) {
        self.ends += 1;
        out.push(b'e');
    }
}

/// Takes until there is nothing more for now.
fn drain(reader: &mut Reader, count: &mut Count) -> bool {
    let cx = Context::from_waker(Waker::noop());
    loop {
        match reader.poll_take(&cx, count, &mut Vec::new()) {
            Poll::Ready(true) => {}
            Poll::Ready(false) => return true,
            Poll::Pending => return false,
        }
    }
}

/// Two stations push two attempts of the same tokens while readers follow and the core cancels at an
/// arbitrary moment: nobody gets a token after the gate, everybody the same prefix and one end.
#[test]
fn nothing_passes_the_gate_from_any_thread() {
    for round in 0..40u128 {
        let (board, task) = (board(LONG), TaskId(round));
        let entry = admit(&board, task, Surface::Queue);
        let acknowledged = AtomicBool::new(false);
        let in_log = AtomicU32::new(u32::MAX);
        std::thread::scope(|scope| {
            for attempt in [1, 2] {
                let (board, acknowledged, in_log) = (&board, &acknowledged, &in_log);
                scope.spawn(move || {
                    for index in 0.. {
                        let after = acknowledged.load(Ordering::SeqCst);
                        match board.token(task, Attempt::of(1, attempt), token(index, index, &index.to_string())) {
                            Pushed::Taken => {
                                assert!(!after, "a token entered after the acknowledgement");
                                assert!(index < in_log.load(Ordering::SeqCst));
                            }
                            Pushed::Skipped => {}
                            Pushed::Closed => break,
                            Pushed::Diverged => panic!("the same tokens diverged"),
                        }
                    }
                });
            }
            for _ in 0..2 {
                let (entry, acknowledged) = (&entry, &acknowledged);
                scope.spawn(move || {
                    let (mut reader, mut count) = (Reader::new(entry, None), Count::default());
                    loop {
                        let (after, before) = (acknowledged.load(Ordering::SeqCst), count.tokens);
                        let over = drain(&mut reader, &mut count);
                        assert!(!after || count.tokens == before, "a token left after the acknowledgement");
                        if over {
                            break;
                        }
                        std::thread::yield_now();
                    }
                    assert_eq!(count.ends, 1);
                });
            }
            std::thread::sleep(Duration::from_micros(200 * round as u64));
            end(&board, task, CANCELLED);
            in_log.store(entry.view().tokens, Ordering::SeqCst);
            acknowledged.store(true, Ordering::SeqCst);
        });
        assert_eq!(entry.view().tokens, in_log.load(Ordering::SeqCst));
        assert!(board.payload(task).is_none(), "the words go with the end");
    }
}

#[test]
fn done_drains_every_token_first_and_only_once() {
    let (board, task) = (board(LONG), TaskId(1));
    let entry = admit(&board, task, Surface::Queue);
    let mut reader = Reader::new(&entry, None);
    for index in 0..1_500 {
        board.token(task, Attempt::of(1, 1), token(index, index, &index.to_string()));
    }
    end(&board, task, done());
    end(&board, task, CANCELLED);
    let mut count = Count::default();
    assert!(drain(&mut reader, &mut count));
    assert_eq!((count.started, count.tokens, count.ends), (1, 1_500, 1));
    assert_eq!(entry.view().phase, Phase::Ended(done()), "the first end stands");

    // A cancel that came too late: who reads now gets no more tokens, who comes later gets them all.
    let mut late = Reader::new(&entry, None);
    entry.mute();
    let (mut muted, mut whole) = (Count::default(), Count::default());
    assert!(drain(&mut late, &mut muted));
    assert_eq!((muted.tokens, muted.ends), (0, 1));
    assert!(drain(&mut Reader::new(&entry, None), &mut whole));
    assert_eq!((whole.tokens, whole.ends), (1_500, 1));
}

#[test]
fn the_parts_of_an_earlier_process_are_one_task_again() {
    let board = board(LONG);
    let of = TaskId(70);
    let (mut kept, mut going) = (finished(Part::id(of, 1).0), wanted(of.0));
    kept.card.part = Some(part(of.0, 1, 2));
    going.card.part = Some(part(of.0, 0, 2));
    let (vector, wanted) = (kept.answer.vector.clone(), going);
    board.remember(Past { unfinished: vec![Unfinished { wanted, cut: false }], finished: vec![kept] });
    let entry = board.find(of).unwrap();
    assert!(entry.is_task() && entry.standing().phase == Phase::Queued);
    assert_eq!(entry.payload().unwrap().output, Output::Embedding);
    assert_eq!(entry.parts().nth(1).unwrap().answer().unwrap().vector, vector);
    end(&board, of, done());
    let Phase::Ended(Outcome::Done(used)) = entry.standing().phase else { panic!("{:?}", entry.standing()) };
    assert_eq!(used.tokens_in, 1 + 3, "of both");
    let bytes: usize = entry.parts().map(|part| ENTRY_BYTES + part.bytes()).sum();
    assert_eq!(locked(&board.kept).bytes, bytes, "kept once, together");
}

#[test]
fn an_answer_is_one_allocation_in_the_entry_in_the_spool_and_in_results() {
    let (board, task) = (board(LONG), TaskId(1));
    let entry = admit(&board, task, Surface::Queue);
    board.token(task, Attempt::of(1, 1), token(0, 7, "one"));
    assert!(entry.answer().is_none(), "not before the end");
    let spooled = board.finished(task, &done(), None).unwrap().answer;
    end(&board, task, done());
    assert_eq!((spooled.text.as_str(), &*spooled.ends), ("one", &[3][..]));
    assert!(Arc::ptr_eq(&spooled, &entry.answer().unwrap()));
}

#[test]
fn a_retry_shuts_the_lost_attempt_out() {
    let (board, task) = (board(LONG), TaskId(1));
    admit(&board, task, Surface::Queue);
    board.hear(&Notice::Retrying { task, lost: Attempt::of(1, 1), until: Tick(5), why: Setback::WorkerLost });
    assert_eq!(board.token(task, Attempt::of(1, 1), token(0, 7, "a")), Pushed::Closed);
    assert_eq!(board.token(task, Attempt::of(1, 2), token(0, 7, "a")), Pushed::Taken);
    assert!(board.payload(task).is_some(), "the next attempt needs it");
}

#[test]
fn results_leave_oldest_first_by_bytes_and_by_age() {
    let small = board(Keep { ttl: Duration::from_secs(3_600), bytes: 3 * (ENTRY_BYTES + 100) });
    for task in (1..=4).map(TaskId) {
        admit(&small, task, Surface::Queue);
        end(&small, task, done());
    }
    let kept: Vec<bool> = (1..=4).map(|task| small.find(TaskId(task)).is_some()).collect();
    assert_eq!(kept, [false, true, true, true]);

    let brief = board(Keep { ttl: Duration::from_millis(5), bytes: 1 << 20 });
    admit(&brief, TaskId(1), Surface::Queue);
    end(&brief, TaskId(1), done());
    admit(&brief, TaskId(2), Surface::Queue);
    std::thread::sleep(Duration::from_millis(10));
    brief.retain(None);
    assert!(brief.find(TaskId(1)).is_none());
    assert!(brief.find(TaskId(2)).is_some(), "a live task never leaves");
}

#[test]
fn a_task_of_the_openai_surface_leaves_with_its_end_and_a_refused_one_at_once() {
    let board = board(LONG);
    let entry = admit(&board, TaskId(1), Surface::OpenAi);
    end(&board, TaskId(1), done());
    assert!(board.find(TaskId(1)).is_none());
    assert!(drain(&mut Reader::new(&entry, None), &mut Count::default()), "its connection still reads it");

    let refusal = orchestrion_world::protocol::Refusal::UnknownModel;
    board.open(opening(TaskId(2), Surface::Queue));
    board.hear(&Notice::Refused { task: TaskId(2), refusal });
    assert!(board.find(TaskId(2)).is_none(), "so that the same request may come again");
    // A refusal for the id of a live task is about somebody else's submission.
    admit(&board, TaskId(3), Surface::Queue);
    board.hear(&Notice::Refused { task: TaskId(3), refusal });
    assert!(board.find(TaskId(3)).is_some());
}

#[test]
fn waiting_and_leaving_leaves_no_waker_behind() {
    let board = board(LONG);
    let entry = admit(&board, TaskId(1), Surface::Queue);
    for _ in 0..100 {
        let mut reader = Reader::new(&entry, Some(0));
        assert!(!drain(&mut reader, &mut Count { started: 1, ..Count::default() }));
        assert_eq!(entry.waiting(), 1);
    }
    assert_eq!((entry.waiting(), entry.readers()), (0, 0));
}

#[test]
fn evictions_are_counted_by_policy_and_reason() {
    let telemetry = Arc::new(Telemetry::new(&[], EvictionRule::Cost));
    let board = Switchboard::new(Keep { ttl: Duration::from_secs(1), bytes: 1 }, Arc::clone(&telemetry));
    let (worker, model) = (WorkerId(1), ModelId(0));
    let demand = EvictionReason::Demand { by: ModelId(1) };
    for reason in [demand, EvictionReason::Pressure, demand] {
        board.hear(&Notice::ShardChanged { worker, model, change: ShardChange::Evicting { reason } });
    }
    board.hear(&Notice::ShardChanged { worker, model, change: ShardChange::Gone });
    let text = telemetry.encode(true).unwrap();
    for (reason, count) in [("demand", 2), ("pressure", 1), ("corrupt", 0)] {
        let line = format!("orchestrion_evictions_total{{policy=\"cost\",reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{line} in {text}");
    }
}
