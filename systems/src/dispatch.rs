//! Dispatch: turns leases into orders. A station has as many slots as its worker's leases can fill, so
//! an order never finds it full.

use crate::release::patience;
use bevy_ecs::prelude::World;
use orchestrion_world::ledger::Core;
use orchestrion_world::mail::Mail;
use orchestrion_world::protocol::{Class, Notice, Order};
use orchestrion_world::store::Store;
use orchestrion_world::task::Life;
use orchestrion_world::victims::reconsider;

pub(crate) fn dispatch(world: &mut World) {
    let now = world.resource::<Core>().now;
    for (id, worker) in std::mem::take(&mut world.resource_mut::<Mail>().placed) {
        let Some((epoch, pool)) = world.worker(worker).map(|w| (w.epoch, w.facts.pool)) else { continue };
        let Some(mut task) = world.task_mut(id) else { continue };
        let legal = task.life.advance(Life::Placed { worker });
        assert!(legal.is_ok(), "audit `at most one live attempt`: {id}: {legal:?}");
        task.attempts += 1;
        (task.placed, task.heard) = (now, now);
        let (attempt, session, class) = (task.attempt(), task.spec.session, task.spec.class);
        if let Some(session) = session
            && let Some(mut session) = world.session_mut(session)
        {
            session.worker = Some(worker);
        }
        patience::wind(world, id);
        if class == Class::Batch {
            reconsider(world, id);
        }
        let mut mail = world.resource_mut::<Mail>();
        mail.notice(Notice::Placed { task: id, attempt, pool, worker });
        mail.order(Order::Start { worker, epoch, task: id, attempt });
    }
}
