//! A task of several inputs at the door: its parts are taken in all together or not at all.

use super::{Admitted, Door, Ticket, Wish, conflict};
use crate::port::Prepared;
use crate::problem::Problem;
use crate::task_entry::{Admission, Entry};
use orchestrion_world::id::TenantId;
use orchestrion_world::protocol::CancelReason;
use std::sync::Arc;
use std::time::Instant;

impl Door {
    /// Admits `wishes`, the parts of one task in their order. Words that cannot be prepared come with their place.
    pub(crate) async fn admit_parts(
        self: &Arc<Self>,
        tenant: TenantId,
        wishes: Vec<Wish>,
    ) -> Result<Admitted, (usize, Problem)> {
        let whole = |problem| (0, problem);
        let Some(first) = wishes.first() else { return Err(whole(Problem::no_task())) };
        // A repeated request costs no tokenisation.
        if let Some(entry) = self.parts.switchboard.find(first.ticket.task) {
            let is_same = entry.body == first.ticket.body;
            return if is_same { self.all_again(entry).await.map_err(whole) } else { Err(whole(conflict())) };
        }
        let _seats = self.seat(wishes.len() as u32).map_err(whole)?;
        let mut prepared = Vec::new();
        for (place, Wish { ticket, ctx, words }) in wishes.into_iter().enumerate() {
            prepared.push((ticket, self.prepare(words, ctx).await.map_err(|problem| (place, problem))?));
        }
        self.submit_parts(tenant, prepared).await.map_err(whole)
    }

    async fn submit_parts(
        self: &Arc<Self>,
        tenant: TenantId,
        prepared: Vec<(Ticket, Prepared)>,
    ) -> Result<Admitted, Problem> {
        // Nothing is waited for between these, so whoever leaves leaves all or none.
        let (mut submitted, mut failed) = (Vec::new(), None);
        for (ticket, prepared) in prepared {
            match self.submit(tenant, ticket, prepared) {
                Ok(part) => submitted.push(part),
                Err(problem) => {
                    failed = Some(problem);
                    break;
                }
            }
        }
        let entries: Vec<Arc<Entry>> = submitted.iter().map(|part| Arc::clone(&part.entry)).collect();
        if let (Some((first, others)), None) = (entries.split_first(), &failed) {
            first.lead(others.to_vec());
            // All may have ended by now.
            self.parts.switchboard.keep(first, Instant::now());
        }
        let settled = tokio::spawn(Arc::clone(self).settle(entries, failed.is_none()));
        let mut admitted: Option<Admitted> = None;
        for part in submitted {
            match self.verdict(part).await {
                Ok(part) => {
                    let left = part.left;
                    admitted.get_or_insert(part).left = left;
                }
                Err(problem) => failed = failed.or(Some(problem)),
            }
        }
        match (admitted, failed) {
            (Some(admitted), None) => Ok(admitted),
            (_, failed) => {
                // So that the same request finds nothing of this one. Where nothing can be recorded now, it finds it
                // later.
                let _ = self.recorded(settled).await;
                Err(failed.unwrap_or_else(Problem::no_task))
            }
        }
    }

    /// Takes back what is admitted of a task that is not, whether its client waits for that or has left.
    async fn settle(self: Arc<Self>, parts: Vec<Arc<Entry>>, mut all: bool) {
        for part in &parts {
            all &= matches!(part.admitted().await, Admission::Accepted { .. });
        }
        // The first goes last: until then the same request is told of this one.
        for part in parts.iter().rev().filter(|_| !all) {
            self.cancel_left(part, CancelReason::Disconnect).await;
            if matches!(part.admitted().await, Admission::Accepted { .. }) {
                part.finished().await;
            }
            self.parts.switchboard.take_back(part);
        }
    }

    /// The first admission of all parts.
    async fn all_again(&self, entry: Arc<Entry>) -> Result<Admitted, Problem> {
        for part in entry.parts() {
            self.again(Arc::clone(part)).await?;
        }
        // Others of it are not there yet, or no more.
        if !entry.is_task() {
            return Err(Problem::ingress_full());
        }
        self.again(entry).await
    }

    /// What stands before them has failed, and nobody is told of them.
    pub(super) async fn cancel_idle_parts(&self) {
        let idle = self.parts.switchboard.idle_parts();
        // A pulse that is gone has ended them; one that cannot record has the cancels before it.
        let _ = self.cancel(idle.iter(), CancelReason::Disconnect).await;
    }
}
