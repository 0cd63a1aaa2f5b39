//! Report: closes the step. Brings the field and the state digest up to date with what was touched and digests the
//! effects, so that a replay can be compared step by step.

use crate::{Outbox, Step};
use bevy_ecs::prelude::World;
use orchestrion_world::field::refresh;
use orchestrion_world::ledger::{decisions, update_digest};
use orchestrion_world::mail::Mail;

pub(crate) fn report(world: &mut World) {
    #[cfg(feature = "planted")]
    crate::planted::misreport(world);
    let effects = std::mem::take(&mut world.resource_mut::<Mail>().effects);
    let decisions = decisions(&effects);
    refresh(world);
    let state = update_digest(world);
    world.resource_mut::<Outbox>().0 = Some(Step { effects, decisions, state });
}
