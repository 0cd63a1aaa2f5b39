//! Small steps by hand, and random days: budgets hold, pages add up, everybody ends.

use super::*;
use Class::{Batch, Interactive};
use Turn::{Begin, GiveWay, Run, Wait};
use proptest::prelude::*;

const LIMITS: Limits = Limits { budget: 16, alone: ALONE, free: 100, page: 4 };

/// (class, known, read, pages)
fn turns(rows: &[(Class, u32, u32, u32)], limits: Limits) -> Vec<Turn> {
    let rows: Vec<Row> =
        rows.iter().map(|&(class, known, read, pages)| Row { class, known, read, pages, own: pages }).collect();
    let mut plan = StepPlan::default();
    plan.plan(&rows, limits);
    plan.turns
}

#[test]
fn answers_run_beside_prompts_in_order_of_arrival() {
    let rows = [(Interactive, 9, 8, 2), (Interactive, 30, 20, 8), (Interactive, 40, 0, 0), (Interactive, 5, 0, 0)];
    assert_eq!(turns(&rows, LIMITS), [Run(1), Run(10), Begin(6), Wait]);
}

#[test]
fn a_slow_machine_reads_less_beside_answers() {
    let at = |per_second: u64| budget(MilliRate(per_second * 1_000), CHUNK);
    assert_eq!([0, 100, 1_000, 1_024, 4_000].map(at), [1, 6, 62, 64, 64]);
}

#[test]
fn interactive_prompts_go_first_and_an_eighth_is_left_for_batch() {
    // Beside an answer, which reads one.
    let beside = |rows: &[_]| turns(&[&[(Batch, 40, 39, 10)], rows].concat(), LIMITS)[1..].to_vec();
    let rows = [(Batch, 40, 0, 0), (Interactive, 40, 0, 0), (Interactive, 40, 0, 0)];
    assert_eq!(beside(&rows), [Begin(2), Begin(14), Wait]);
    // What one class leaves is the other's.
    assert_eq!(beside(&[(Batch, 40, 0, 0), (Interactive, 4, 0, 0)]), [Begin(12), Begin(4)]);
    assert_eq!(beside(&[(Batch, 1, 0, 0), (Interactive, 40, 0, 0)]), [Begin(1), Begin(15)]);
}

#[test]
fn prompts_that_delay_no_answer_are_read_in_fewer_steps() {
    let rows = [(Batch, 90, 0, 0), (Interactive, 90, 30, 23)];
    assert_eq!(turns(&rows, LIMITS), [Begin(8), Run(56)]);
    // The others begin no sooner. One that waits for pages answers nobody.
    assert_eq!(turns(&[(Interactive, 90, 0, 0), (Interactive, 9, 8, 0)], LIMITS), [Begin(64), Wait]);
    assert_eq!(turns(&[(Interactive, 20, 0, 0), (Interactive, 90, 0, 0)], LIMITS), [Begin(20), Wait]);
    assert_eq!(turns(&[(Interactive, 9, 0, 0), (Interactive, 90, 0, 0)], LIMITS), [Begin(9), Begin(7)]);
    let beside = [(Interactive, 90, 30, 23), (Interactive, 9, 8, 3)];
    assert_eq!(turns(&beside, LIMITS), [Run(16), Run(1)]);
    assert_eq!(turns(&beside[..1], Limits { alone: 1, ..LIMITS }), [Run(16)]);
}

#[test]
fn who_waits_begins_with_all_its_pages_and_nobody_overtakes_it() {
    let tight = Limits { free: 6, ..LIMITS };
    // Ten pages are not there; the short ones behind it wait too, of whatever class.
    assert_eq!(turns(&[(Interactive, 40, 0, 0), (Interactive, 4, 0, 0), (Batch, 4, 0, 0)], tight), [Wait, Wait, Wait]);
    // Five and one for the row that runs are.
    assert_eq!(turns(&[(Interactive, 9, 8, 3), (Interactive, 20, 0, 0)], tight), [Run(1), Begin(16)]);
    assert_eq!(turns(&[(Interactive, 9, 8, 3), (Interactive, 21, 0, 0)], tight), [Run(1), Wait]);
    // Alone it needs no reserve.
    assert_eq!(turns(&[(Interactive, 24, 0, 0)], tight), [Begin(24)]);
}

#[test]
fn the_youngest_batch_gives_way_first_and_nobody_begins_in_its_place() {
    let none = Limits { free: 0, ..LIMITS };
    let rows = [(Batch, 9, 8, 3), (Interactive, 9, 8, 2), (Batch, 9, 8, 3), (Interactive, 4, 0, 0)];
    assert_eq!(turns(&rows, none), [Run(1), Run(1), GiveWay, Wait]);
    // Who is last and lacks a page gives way itself.
    assert_eq!(turns(&[(Interactive, 9, 8, 3), (Interactive, 9, 8, 2)], none), [Run(1), GiveWay]);
}

#[test]
fn a_plan_lasts_until_the_pages_run_out() {
    let row = |known, pages| Row { class: Interactive, known, read: known - 1, pages, own: pages };
    let lasts = |rows: &[Row], free, most| {
        let limits = Limits { free, ..LIMITS };
        let mut plan = StepPlan::default();
        plan.plan(rows, limits);
        plan.lasts(rows, limits, most)
    };
    // Two positions are left in its page, then one page of four.
    assert_eq!(lasts(&[row(7, 2)], 0, 1_000), 2);
    assert_eq!(lasts(&[row(7, 2)], 1, 1_000), 6);
    assert_eq!(lasts(&[row(7, 2), row(8, 2)], 1, 1_000), 2);
    assert_eq!(lasts(&[row(7, 2), row(8, 2)], 1_000, 1_000), 1_000);
    assert_eq!(lasts(&[row(7, 2), Row { read: 0, ..row(7, 2) }], 1_000, 1_000), 1);
}

/// A task of the random day.
#[derive(Clone, Copy, Debug)]
struct Task {
    class: Class,
    arrives: u32,
    prompt: u32,
    answer: u32,
}

fn tasks() -> impl Strategy<Value = Vec<Task>> {
    let class = prop_oneof![Just(Interactive), Just(Batch)];
    let task = (class, 0u32..30, 1u32..40, 1u32..25);
    let task = task.prop_map(|(class, arrives, prompt, answer)| Task { class, arrives, prompt, answer });
    prop::collection::vec(task, 1..12)
}

proptest! {
    /// To the end of all tasks, in memory that holds the longest of them and little more.
    #[test]
    fn budgets_hold_pages_add_up_and_everybody_ends(mut tasks in tasks(), budget in 1u32..20, bound in 16u32..40) {
        tasks.sort_by_key(|task| task.arrives);
        let mut rows: Vec<(Row, u32)> = vec![];
        let (mut plan, mut step, mut ended) = (StepPlan::default(), 0, 0);
        let mut coming = tasks.iter().peekable();
        while ended < tasks.len() {
            while let Some(task) = coming.next_if(|task| task.arrives <= step) {
                let row = Row { class: task.class, known: task.prompt, read: 0, pages: 0, own: 0 };
                rows.push((row, task.prompt + task.answer));
            }
            let held: u32 = rows.iter().map(|(row, _)| row.pages).sum();
            prop_assert!(held <= bound);
            let limits = Limits { budget, alone: ALONE, free: bound - held, page: 4 };
            let now: Vec<Row> = rows.iter().map(|(row, _)| *row).collect();
            plan.plan(&now, limits);
            let lasts = plan.lasts(&now, limits, 50);
            let mut prompt_tokens = 0;
            for ((row, _), turn) in rows.iter_mut().zip(&plan.turns) {
                let answers = row.answers();
                match *turn {
                    Wait => prop_assert!(!answers, "an answer stands still"),
                    GiveWay => (row.read, row.pages) = (0, 0),
                    Begin(tokens) | Run(tokens) => {
                        prop_assert!(tokens > 0 && tokens <= row.left());
                        prompt_tokens += if answers { 0 } else { tokens };
                        row.read += tokens;
                        row.pages = row.pages.max(row.known.div_ceil(4));
                        row.known += u32::from(row.read == row.known);
                    }
                }
                row.own = row.pages;
            }
            let most = if now.iter().any(Row::answers) { budget } else { ALONE * budget };
            prop_assert!(prompt_tokens <= most);
            if rows.iter().any(|(row, _)| !row.waits()) {
                prop_assert!(plan.turns.iter().any(|turn| turn.tokens() > 0), "somebody gets on: {:?}", plan.turns);
            }
            // Repeated as long as it lasts, the plan stays what it is.
            for _ in 1..lasts {
                if rows.iter().any(|(row, end)| row.known > *end) {
                    break;
                }
                let now: Vec<Row> = rows.iter().map(|(row, _)| *row).collect();
                let held: u32 = now.iter().map(|row| row.pages).sum();
                let before = plan.turns.clone();
                plan.plan(&now, Limits { free: bound - held, ..limits });
                prop_assert_eq!(&plan.turns, &before);
                for (row, _) in rows.iter_mut().filter(|(row, _)| !row.waits()) {
                    row.read += 1;
                    row.pages = row.pages.max(row.known.div_ceil(4));
                    (row.known, row.own) = (row.known + 1, row.pages);
                }
            }
            let there = rows.len();
            rows.retain(|(row, end)| row.known < *end);
            ended += there - rows.len();
            step += 1;
            prop_assert!(step < 20_000, "it never ends");
        }
    }
}
