//! THE page: what happens in a step, in order. Every system stands here, and nowhere else is order made.
//!
//! Free, then place: what ends gives its slot and memory back before anything is admitted or placed.
//! One chain, one thread, no `Commands`: two systems can never see each other's writes in two orders.

use bevy_ecs::prelude::{IntoScheduleConfigs, Schedule};
use bevy_ecs::schedule::{LogLevel, ScheduleBuildSettings, SingleThreadedExecutor, SystemSet};

/// The phases of a step; each is the file of the same name.
#[derive(SystemSet, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Intake,
    Health,
    Progress,
    Release,
    Jobs,
    Sessions,
    Admission,
    Eviction,
    Placement,
    Dispatch,
    Report,
}

/// Every phase, in order.
pub const PHASES: [Phase; 11] = [
    Phase::Intake,
    Phase::Health,
    Phase::Progress,
    Phase::Release,
    Phase::Jobs,
    Phase::Sessions,
    Phase::Admission,
    Phase::Eviction,
    Phase::Placement,
    Phase::Dispatch,
    Phase::Report,
];

/// Two systems without an order between them are an error, not a choice of the library's.
pub(crate) fn settings() -> ScheduleBuildSettings {
    ScheduleBuildSettings {
        ambiguity_detection: LogLevel::Error,
        hierarchy_detection: LogLevel::Error,
        ..Default::default()
    }
}

/// The schedule that [`crate::Simulation::step`] runs.
pub(crate) fn schedule(settings: ScheduleBuildSettings) -> Schedule {
    let mut schedule = Schedule::default();
    schedule.set_executor(SingleThreadedExecutor::new());
    schedule.set_build_settings(settings);
    let [a, b, c, d, e, f, g, h, i, j, k] = PHASES;
    schedule.configure_sets((a, b, c, d, e, f, g, h, i, j, k).chain());
    schedule.add_systems((
        crate::intake::take_in.in_set(Phase::Intake),
        crate::health::watch_workers.in_set(Phase::Health),
        crate::progress::follow.in_set(Phase::Progress),
        crate::release::release.in_set(Phase::Release),
        crate::jobs::work_off.in_set(Phase::Jobs),
        crate::sessions::end_sessions.in_set(Phase::Sessions),
        crate::admission::admit.in_set(Phase::Admission),
        crate::eviction::evict.in_set(Phase::Eviction),
        crate::placement::place.in_set(Phase::Placement),
        crate::dispatch::dispatch.in_set(Phase::Dispatch),
        crate::report::report.in_set(Phase::Report),
    ));
    schedule
}
