//! Dispatch: turns leases into orders. A station has as many slots as its worker's leases can fill, so
//! an order never finds it full.

use crate::release::patience;
use bevy_ecs::prelude::ResMut;
use orchestrion_world::protocol::{Class, Notice, Order};
use orchestrion_world::store::World;
use orchestrion_world::task::Life;
use orchestrion_world::victims::reconsider;

pub(crate) fn dispatch(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    let now = world.core.now;
    let mut placed = std::mem::take(&mut world.mail.placed);
    for (id, worker) in placed.drain(..) {
        let Some((epoch, pool)) = world.worker(worker).map(|w| (w.epoch, w.facts.pool)) else { continue };
        let Some(mut task) = world.task_mut(id) else { continue };
        let legal = task.life.advance(Life::Placed { worker });
        assert!(legal.is_ok(), "audit `at most one live attempt`: {id}: {legal:?}");
        task.attempts += 1;
        (task.placed, task.heard) = (now, now);
        let (attempt, model, session, class) = (task.attempt(), task.spec.model, task.spec.session, task.spec.class);
        if let Some(session) = session
            && let Some(mut session) = world.session_mut(session)
        {
            session.worker = Some(worker);
        }
        patience::wind(world, id);
        if class == Class::Batch {
            reconsider(world, id);
        }
        let mail = &mut world.mail;
        mail.notice(Notice::Placed { task: id, attempt, pool, worker });
        mail.order(Order::Start { worker, epoch, task: id, attempt, model });
    }
    world.mail.placed = placed;
}
