//! Arithmetic of how long things take, from integer rates. Pure; reads nothing but its arguments.

use orchestrion_world::protocol::{ModelFacts, TaskSpec};
use orchestrion_world::time::{TICKS_PER_SECOND, Tick, Ticks};
use orchestrion_world::units::MilliRate;
use orchestrion_world::worker::Drain;

/// How long `tokens` take at `rate`, rounded up. A rate of zero is not known to move at all.
pub(crate) fn length(tokens: u64, rate: MilliRate) -> Ticks {
    let per_tick = TICKS_PER_SECOND * 1_000;
    // Any real count fits, and a division of 128 bits takes five times as long.
    if let Some(milli) = tokens.checked_mul(per_tick) {
        return Ticks(milli.div_ceil(rate.0.max(1)));
    }
    let ticks = (u128::from(tokens) * u128::from(per_tick)).div_ceil(u128::from(rate.0.max(1)));
    Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
}

/// The rate at which `tokens` were made in `us` microseconds; `None` where there is nothing to learn.
pub(crate) fn rate(tokens: u64, us: u64) -> Option<MilliRate> {
    (tokens > 0 && us > 0).then(|| {
        let rate = u128::from(tokens) * 1_000_000_000 / u128::from(us);
        MilliRate(u64::try_from(rate).unwrap_or(u64::MAX))
    })
}

/// A learned figure as far as it is worth comparing: its five leading bits. What is learned wavers by more than a
/// sixteenth, and that should not decide what the session, the load and the memory of a worker can.
pub(crate) fn coarse(learned: u64) -> u64 {
    let shift = (u64::BITS - learned.leading_zeros()).saturating_sub(5);
    learned >> shift << shift
}

/// An exponentially weighted mean in integers: an eighth of the way to the sample, at least one step,
/// so that it arrives.
pub(crate) fn learn(mean: u64, sample: u64) -> u64 {
    let way = mean.abs_diff(sample).div_ceil(8);
    if sample > mean { mean + way } else { mean - way }
}

/// How long a task runs on a model as it stands on a worker that would then share itself among `sharers` tasks.
/// It assumes that the whole answer is used.
pub(crate) fn run(spec: &TaskSpec, model: &ModelFacts, sharers: u64) -> Ticks {
    run_at((spec.prompt_tokens, spec.max_tokens), model.prefill, model.decode, sharers)
}

/// As [`run`], of so many tokens of prompt and answer at these rates.
pub(crate) fn run_at((prompt, answer): (u32, u32), prefill: MilliRate, decode: MilliRate, sharers: u64) -> Ticks {
    let alone = length(prompt.into(), prefill).0.saturating_add(length(answer.into(), decode).0);
    Ticks(alone.saturating_mul(sharers))
}

/// How long until a task with `ahead` others before it starts, where `free` of `slots` slots are free
/// and a task holds its slot for `service`.
pub(crate) fn wait(ahead: u64, free: u64, slots: u64, service: Ticks) -> Ticks {
    match (ahead + 1).checked_sub(free) {
        None | Some(0) => Ticks(0),
        Some(turns) => {
            let ticks = u128::from(turns) * u128::from(service.0) / u128::from(slots.max(1));
            Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
        }
    }
}

/// Fewer say little of a rate.
const DRAIN_LEAST: u64 = 4;
/// Counts are halved here, so that what came lately weighs most.
const DRAIN_MOST: u64 = 64;

/// Likewise of tokens of prompts: some prompts long.
const READ_MOST: u64 = 8_192;

/// Takes in that `left` tasks went to a slot at `now`, and whether others still wait. A slot that was free
/// before anybody waited says nothing of how fast slots become free.
pub(crate) fn drained(drain: Drain, now: Tick, left: u64, waiting: bool) -> Drain {
    drained_of(DRAIN_MOST, drain, now, left, waiting)
}

/// Takes in that `tokens` of a worker's prompts were read by `now`, and whether others are still to be read.
pub(crate) fn read(reading: Drain, now: Tick, tokens: u64, waiting: bool) -> Drain {
    drained_of(READ_MOST, reading, now, tokens, waiting)
}

fn drained_of(most: u64, drain: Drain, now: Tick, left: u64, waiting: bool) -> Drain {
    let Drain { since, mut ticks, left: mut counted } = drain;
    if let Some(since) = since.filter(|_| left > 0) {
        ticks = ticks.saturating_add(now.since(since).0);
        counted += left;
        if counted >= most {
            (ticks, counted) = (ticks / 2, counted / 2);
        }
    }
    let since = if left > 0 { Some(now) } else { since.or(Some(now)) };
    Drain { since: since.filter(|_| waiting), ticks, left: counted }
}

/// How long until `turns` tasks have left the queue, at the rate that was observed; `None` where it was
/// not.
pub(crate) fn drains_in(drain: Drain, turns: u64) -> Option<Ticks> {
    (drain.left >= DRAIN_LEAST).then(|| {
        let ticks = (u128::from(turns) * u128::from(drain.ticks)).div_ceil(u128::from(drain.left));
        Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drain_is_counted_while_somebody_waits_without_a_break() {
        let idle = drained(Drain::default(), Tick(5), 4, false);
        assert_eq!(idle, Drain::default(), "free slots say nothing");
        // Two fill the slots, the rest waits; then one goes every 10 ticks.
        let mut drain = drained(idle, Tick(100), 2, true);
        assert_eq!(drain, Drain { since: Some(Tick(100)), ticks: 0, left: 0 });
        for n in 1..=6 {
            assert_eq!(drains_in(drain, 1), (n > 4).then_some(Ticks(10)));
            drain = drained(drain, Tick(100 + n * 10), 1, true);
            drain = drained(drain, Tick(103 + n * 10), 0, true);
        }
        assert_eq!(drains_in(drain, 7), Some(Ticks(70)));
        // The last one goes, and an hour later somebody waits again: the hour does not count.
        let gone = drained(drain, Tick(170), 1, false);
        assert_eq!(gone, Drain { since: None, ticks: 70, left: 7 });
        let again = drained(gone, Tick(3_600_000), 0, true);
        assert_eq!(
            drained(again, Tick(3_600_010), 1, true),
            Drain { since: Some(Tick(3_600_010)), ticks: 80, left: 8 }
        );
        // What waited and was cancelled waits no more.
        assert_eq!(drained(again, Tick(3_600_020), 0, false).since, None);
    }

    #[test]
    fn the_drain_follows_a_change_of_pace_and_longer_queues_take_longer() {
        let mut drain = Drain { since: Some(Tick(0)), ticks: 0, left: 0 };
        let mut now = 0;
        for (pace, times) in [(10, 1_000), (40, 200)] {
            for _ in 0..times {
                now += pace;
                drain = drained(drain, Tick(now), 1, true);
                assert!(drain.left < DRAIN_MOST);
            }
            let one = drains_in(drain, 1).unwrap().0;
            assert!(one.abs_diff(pace) <= 1, "{one} for {pace}");
        }
        let waits: Vec<_> = (0..500).map(|turns| drains_in(drain, turns).unwrap()).collect();
        assert!(waits.is_sorted());
        assert_eq!(drains_in(Drain { since: None, ticks: u64::MAX, left: 4 }, u64::MAX), Some(Ticks(u64::MAX)));
    }

    #[test]
    fn lengths_and_rates_are_inverse() {
        assert_eq!(length(100, MilliRate(50_000)), Ticks(2_000));
        assert_eq!(rate(100, 2_000_000), Some(MilliRate(50_000)));
        assert_eq!(length(1, MilliRate(u64::MAX)), Ticks(1));
        assert_eq!(length(u64::MAX, MilliRate(0)), Ticks(u64::MAX));
        assert_eq!(rate(0, 5), None);
    }

    #[test]
    fn coarse_figures_keep_their_order_and_lose_less_than_a_sixteenth() {
        let mut last = 0;
        for n in (0..100_000).chain((17..64).map(|bit| (1 << bit) - 1)).chain([u64::MAX]) {
            let coarse = coarse(n);
            assert!(last <= coarse && coarse <= n && (n - coarse).saturating_mul(16) <= n, "{n}: {coarse}");
            last = coarse;
        }
        assert_eq!([31, 32, 33, 63, 1_000].map(coarse), [31, 32, 32, 62, 992]);
    }

    #[test]
    fn learning_arrives_and_never_overshoots() {
        let (mut up, mut down) = (0, 2_000);
        for _ in 0..100 {
            up = learn(up, 1_000);
            down = learn(down, 1_000);
            assert!(up <= 1_000 && down >= 1_000);
        }
        assert_eq!((up, down), (1_000, 1_000));
        assert_eq!(learn(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_free_slot_means_no_wait() {
        assert_eq!(wait(0, 1, 4, Ticks(100)), Ticks(0));
        assert_eq!(wait(3, 0, 4, Ticks(100)), Ticks(100));
        assert_eq!(wait(7, 0, 4, Ticks(100)), Ticks(200));
    }
}
