//! Report: closes the step. Brings the field up to date with what was touched and digests the effects, so that a
//! replay can be compared step by step. The state is digested when somebody asks.

use crate::{Outbox, Step};
use bevy_ecs::prelude::ResMut;
use orchestrion_world::field::refresh;
use orchestrion_world::ledger::{decisions, keep_touched_few};
use orchestrion_world::store::World;

pub(crate) fn report(mut world: ResMut<'_, World>, mut outbox: ResMut<'_, Outbox>) {
    let world = &mut *world;
    #[cfg(feature = "planted")]
    crate::planted::misreport(world);
    // The next step will say about as much.
    let room = Vec::with_capacity(world.mail.effects.len());
    let effects = std::mem::replace(&mut world.mail.effects, room);
    let decisions = decisions(&effects);
    refresh(world);
    keep_touched_few(world);
    outbox.0 = Some(Step { effects, decisions });
}
