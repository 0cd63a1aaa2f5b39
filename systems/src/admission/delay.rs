//! Queue delay: whether a line is to take all who come. As in CoDel, a burst is no fault and a standing queue is:
//! what counts is the least time that anybody waited in an interval. Where that stays above the target, the line
//! is held: who would wait longer than the target is refused at once, and told when he would not. A line that is
//! held is never left empty, so that the slots stay busy.
//!
//! The target is that of the rules, but never less than a few tasks' time on a slot. A network's packets take
//! their line microseconds and a delay of 250 ms is a queue; an answer takes its slot for ten seconds, and five
//! people before one slot are no overload. Nobody who was admitted is dropped for it: deadlines do that.

use orchestrion_world::config::{QueueRules, Rules};
use orchestrion_world::id::ModelId;
use orchestrion_world::protocol::{AdmissionMode, Class, Notice};
use orchestrion_world::store::World;
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::worker::{Delay, Model};

/// Waiting eight times as long as an answer takes, somebody gives up; batch work is sent to wait.
const INTERACTIVE_SERVICES: u64 = 8;
const BATCH_SERVICES: u64 = 64;

/// How long a line may stand; none where the rules set no target, or nothing is known of its tasks yet.
pub(super) fn target(rules: &QueueRules, model: &Model, class: Class) -> Option<Ticks> {
    let (rule, services) = match class {
        Class::Interactive => (rules.interactive_delay, INTERACTIVE_SERVICES),
        Class::Batch => (rules.batch_delay, BATCH_SERVICES),
    };
    let service = model.line(class).service.filter(|_| rule.0 > 0)?;
    Some(rule.max(Ticks(service.0.saturating_mul(services))))
}

/// The target, where the line is held to it.
pub(super) fn held(rules: &QueueRules, model: &Model, class: Class) -> Option<Ticks> {
    target(rules, model, class).filter(|_| model.line(class).delay.mode == AdmissionMode::Held)
}

/// What becomes of a line at `now`, and the least delay that it was judged by.
fn judge(delay: Delay, now: Tick, target: Ticks, interval: Ticks) -> Delay {
    let Delay { until, least, mode } = delay;
    let Some(until) = until else {
        return Delay { until: least.map(|_| now + interval), least, mode };
    };
    let Some(seen) = least.filter(|_| now >= until) else { return delay };
    let mode = match mode {
        AdmissionMode::Open if seen > target => AdmissionMode::Held,
        // Held to the target, a line that is still too much for its slots hovers about it.
        AdmissionMode::Held if seen.0 <= target.0 / 2 => AdmissionMode::Open,
        mode => mode,
    };
    Delay { until: Some(now + interval), least: None, mode }
}

/// After tasks may have left a line: judges it where its interval is over. An empty line is open.
pub(crate) fn watch(world: &mut World, rules: &Rules, id: ModelId, class: Class) {
    let Some(model) = world.model(id) else { return };
    let before = model.line(class).delay;
    let target = target(&rules.queue, model, class);
    let after = match target {
        Some(target) if world.queues.len(id, class) > 0 => {
            judge(before, world.core.now, target, rules.queue.delay_interval.max(target))
        }
        Some(_) | None => Delay::default(),
    };
    if after == before {
        return;
    }
    if let Some(mut model) = world.model_mut(id) {
        model.line_mut(class).delay = after;
    }
    if after.mode != before.mode {
        // An empty line delays nobody.
        let delay = before.least.filter(|_| after != Delay::default()).unwrap_or_default();
        let mode = after.mode;
        let target = target.unwrap_or_default();
        world.mail.notice(Notice::ModeChanged { model: id, class, mode, delay, target });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line whose tasks leave every 100 ticks after these delays, judged by a target of 250 in 1,000.
    fn modes(delays: &[u64]) -> String {
        let mut delay = Delay::default();
        let told = delays.iter().zip(1..).map(|(&waited, n)| {
            delay.note(Ticks(waited));
            delay = judge(delay, Tick(n * 100), Ticks(250), Ticks(1_000));
            if delay.mode == AdmissionMode::Held { 'H' } else { '.' }
        });
        told.collect()
    }

    #[test]
    fn a_burst_is_taken_and_a_standing_queue_is_held() {
        let burst: Vec<u64> = (0..30).map(|n| 2_000 - 100 * n.min(19)).collect();
        assert_eq!(modes(&burst), ".".repeat(10) + &"H".repeat(10) + &".".repeat(10));
        let saw: Vec<u64> = (0..40).map(|n| (n % 10) * 300).collect();
        assert_eq!(modes(&saw), ".".repeat(40), "each burst drains before the next");
        assert_eq!(modes(&[300; 13]), "..........HHH", "an interval after it was first seen");
        let hovers = [[300; 11].as_slice(), &[200; 30]].concat();
        assert_eq!(modes(&hovers), ".".repeat(10) + &"H".repeat(31), "about the target it stays held");
        let over = [[300; 11].as_slice(), &[125; 12]].concat();
        assert!(modes(&over).ends_with(".."), "{}", modes(&over));
    }
}
