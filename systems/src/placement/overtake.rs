//! Who may go past a head that waits for certain workers. The head claims every worker that it may ever have:
//! those behind it go to others only, so they take nothing that it waits for, and it is the first to be asked
//! when one of them has room. Whoever waits for any worker claims them all, and nobody goes past it.
//!
//! The look-ahead is bounded (`Queues::ahead`); batch work is looked at when all interactive work was.

use super::choose::Request;
use super::load::Weighs;
use super::{Settled, blocked, request, settle};
use orchestrion_world::config::Rules;
use orchestrion_world::id::{ModelId, TaskId};
use orchestrion_world::placement::Claim;
use orchestrion_world::protocol::Class;
use orchestrion_world::store::World;
use std::collections::{BTreeMap, BTreeSet};

/// Those of a model that are looked at, in order.
pub(super) fn line(world: &World, model: ModelId) -> Vec<TaskId> {
    let queues = &world.queues;
    let (mut line, all) = queues.ahead(model, Class::Interactive);
    if all {
        line.extend(queues.ahead(model, Class::Batch).0);
    }
    line
}

/// What a task that waits claims; none where it waits for whichever worker has room next.
pub(super) fn claim(request: &Request) -> Option<Claim> {
    let placement = request.spec.placement.as_deref()?;
    Some(Claim { task: request.task, placement: placement.clone() })
}

/// Places those behind a head that waits, each of whom `left` is told. `weighs` says whether loads are weighed in
/// this step.
pub(super) fn overtake(
    world: &mut World,
    rules: &Rules,
    model: ModelId,
    head: Claim,
    weighs: Weighs,
    mut left: impl FnMut(Class),
) {
    // Who waits, and whose claims kept it: asked again only where one of these is before it no more.
    let mut asked: BTreeMap<TaskId, BTreeSet<TaskId>> = BTreeMap::from([(head.task, BTreeSet::new())]);
    'anew: loop {
        // Whoever leaves changes who is next: those behind go by the claims of those that are before them now.
        let mut claims: Vec<Claim> = vec![];
        for id in line(world, model) {
            let Some(mut request) = request(world, id) else { continue };
            let same = |claim: &Claim| request.spec.placement.as_deref() == Some(&claim.placement);
            if claims.iter().any(same) {
                continue;
            }
            let claimers: BTreeSet<TaskId> = claims.iter().map(|claim| claim.task).collect();
            let waits = asked.get(&id).is_some_and(|kept| kept.is_subset(&claimers));
            request.claims = std::mem::take(&mut claims);
            match if waits { Settled::Waits } else { settle(world, rules, &request) } {
                Settled::Waits => {
                    let first = asked.insert(id, claimers).is_none();
                    let gave_way = if first { blocked(world, rules, &request, weighs) } else { 0 };
                    let Some(claim) = claim(&request) else { return };
                    // Who gave way to it waits now too, and may have room elsewhere.
                    if gave_way > 0 {
                        continue 'anew;
                    }
                    request.claims.push(claim);
                    claims = request.claims;
                }
                Settled::Placed => {
                    left(request.spec.class);
                    continue 'anew;
                }
                Settled::Failed => continue 'anew,
            }
        }
        return;
    }
}
