//! Shares and orders, without a world.

use super::*;
use crate::protocol::{Determinism, TaskSpec};
use crate::time::Tick;
use crate::units::Sha256;
use proptest::prelude::*;

const LINE: (ModelId, Class) = (ModelId(0), Class::Interactive);

fn task(ordinal: u64, tenant: u64, tokens: u32) -> Task {
    let spec = TaskSpec {
        model: LINE.0,
        class: LINE.1,
        tenant: TenantId(tenant),
        session: None,
        prompt_tokens: tokens,
        prompt_digest: Sha256::default(),
        prefix: Box::default(),
        max_tokens: 0,
        deadline: None,
        seed: 0,
        determinism: Determinism::BestEffort,
        placement: None,
    };
    Task::queued(TaskId(ordinal.into()), ordinal, spec, Tick(0))
}

/// The order in which tasks leave, by tenant, where tenant n has the weight `weights[n]`.
fn served(tasks: &[Task], weights: &[u32], first: usize) -> Vec<u64> {
    let mut queues = Queues::default();
    tasks.iter().for_each(|task| queues.push(task));
    let next = |_| {
        let head = queues.head(LINE.0)?;
        let task = tasks.iter().find(|task| task.id == head)?;
        queues.take(task, weights[task.spec.tenant.0 as usize]);
        Some(task.spec.tenant.0)
    };
    (0..first).map_while(next).collect()
}

#[test]
fn one_tenant_is_served_as_it_came_however_large() {
    let tasks: Vec<Task> = [900, 1, 50].iter().zip(1..).map(|(&tokens, n)| task(n, 0, tokens)).collect();
    let mut queues = Queues::default();
    tasks.iter().rev().for_each(|task| queues.push(task));
    for task in &tasks {
        assert_eq!(queues.head(LINE.0), Some(task.id));
        queues.take(task, 1);
    }
    assert_eq!((queues.head(LINE.0), queues.len(LINE.0, LINE.1)), (None, 0));
}

#[test]
fn the_look_ahead_is_bounded_and_each_tenant_has_a_part() {
    let mut queues = Queues::default();
    for n in 0..300 {
        queues.push(&task(n, u64::from(n > 100) + u64::from(n > 200), 10));
    }
    let (ahead, all) = queues.ahead(LINE.0, LINE.1);
    let first: Vec<u128> = (0..16).chain(101..117).chain(201..217).collect();
    assert_eq!((ahead.iter().map(|task| task.0).collect::<Vec<_>>(), all), (first, false));
    for n in 300..1_300 {
        queues.push(&task(n, 3 + n, 10));
    }
    assert_eq!(queues.ahead(LINE.0, LINE.1).0.len(), AHEAD);
    let mut few = Queues::default();
    (0..3).for_each(|n| few.push(&task(n, n, 10)));
    assert!(few.ahead(LINE.0, LINE.1).1);
}

#[test]
fn who_is_gone_past_neither_holds_the_time_back_nor_loses_its_turn() {
    let mut queues = Queues::default();
    // Tenant 0 waits for something; tenant 1 goes past it, again and again.
    (0..10).for_each(|n| queues.push(&task(n, n.min(1), 100)));
    for n in 1..9 {
        queues.take(&task(n, 1, 100), 1);
        assert_eq!(queues.head(LINE.0), Some(TaskId(0)), "and stays first");
    }
    // Who comes now begins where the others are: it has no arrears to make good.
    (10..13).for_each(|n| queues.push(&task(n, 2, 100)));
    queues.take(&task(0, 0, 100), 1);
    let next = |queues: &mut Queues, n, tenant| {
        let head = queues.head(LINE.0);
        queues.take(&task(n, tenant, 100), 1);
        assert_eq!(head, Some(TaskId(n.into())));
    };
    next(&mut queues, 10, 2);
    next(&mut queues, 9, 1);
    next(&mut queues, 11, 2);
}

#[test]
fn tokens_are_shared_by_weight() {
    // Tenant 1 has thrice the weight; tenant 2's tasks are thrice as long at the weight of tenant 0.
    let tasks: Vec<Task> = (0..300).map(|n| task(n, n % 3, if n % 3 == 2 { 300 } else { 100 })).collect();
    let order = served(&tasks, &[1, 3, 1], 70);
    let of = |tenant| order.iter().filter(|&&t| t == tenant).count();
    assert_eq!([of(0), of(1), of(2)], [16, 48, 6]);
}

#[test]
fn rest_earns_nothing_and_a_newcomer_does_not_wait_behind_a_flood() {
    let mut queues = Queues::default();
    let flood: Vec<Task> = (0..100).map(|n| task(n, 0, 100)).collect();
    flood.iter().for_each(|task| queues.push(task));
    flood.iter().take(50).for_each(|task| assert!(queues.take(task, 1).is_some()));
    let late: Vec<Task> = (100..110).map(|n| task(n, 1, 100)).collect();
    late.iter().for_each(|task| queues.push(task));
    let next = |queues: &mut Queues| {
        let head = queues.head(LINE.0).unwrap();
        let task = flood.iter().chain(&late).find(|task| task.id == head).unwrap();
        queues.take(task, 1);
        task.spec.tenant.0
    };
    let order: Vec<u64> = (0..8).map(|_| next(&mut queues)).collect();
    assert_eq!(order, [1, 0, 1, 0, 1, 0, 1, 0], "at once, and then by turns: fifty missed turns are not made up for");
}

proptest! {
    #[test]
    fn a_restored_line_goes_on_as_it_was(
        moves in prop::collection::vec((0u64..4, 1u32..50, 0u8..4), 1..80),
    ) {
        let weights = [1, 2, 5, 9];
        let (mut queues, mut shares, mut waiting, mut ordinal) = (Queues::default(), Shares::default(), vec![], 0);
        for (tenant, tokens, kind) in moves {
            ordinal += 1;
            match kind {
                0 | 1 => {
                    let task = task(ordinal, tenant, tokens);
                    queues.push(&task);
                    waiting.push(task);
                }
                2 => {
                    let Some(head) = queues.head(LINE.0) else { continue };
                    let at = waiting.iter().position(|task: &Task| task.id == head).unwrap();
                    let task = waiting.remove(at);
                    let older = waiting.iter().any(|t| t.spec.tenant == task.spec.tenant && t.ordinal < task.ordinal);
                    prop_assert!(!older, "first come, first served within a tenant");
                    let tenant = task.spec.tenant;
                    let (now, tag) = queues.take(&task, weights[tenant.0 as usize]).unwrap();
                    shares.advance(now, tenant, tag);
                }
                _ => {
                    let Some(task) = waiting.pop() else { continue };
                    queues.remove(&task);
                }
            }
            let mut restored = Queues::default();
            restored.restore(LINE.0, LINE.1, shares.clone());
            waiting.iter().for_each(|task| restored.push(task));
            let next = |queues: &Queues| queues.lines.get(&LINE).map(|line| line.next.clone()).unwrap_or_default();
            prop_assert_eq!(next(&restored), next(&queues));
            prop_assert_eq!(queues.len(LINE.0, LINE.1), waiting.len());
        }
    }
}
