//! What goes by the urgent lane and waits for its step: looks at sessions and pools, closes, jobs, cancels.

use super::Door;
use crate::port::Urgent;
use crate::problem::Problem;
use crate::task_entry::{Admission, Entry, Phase};
use orchestrion_systems::SessionView;
use orchestrion_systems::view::PoolView;
use orchestrion_world::id::{JobId, PoolId, SessionId};
use orchestrion_world::job::{Action, JobRefusal};
use orchestrion_world::protocol::CancelReason;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Door {
    /// What the core knows of a session now.
    pub(crate) async fn session(&self, session: SessionId) -> Result<Option<SessionView>, Problem> {
        let (reply, view) = oneshot::channel();
        let look = Urgent::Look { session, reply };
        self.parts.lanes.urgent.send_async(look).await.map_err(|_| Problem::stopping())?;
        self.recorded(view).await?.map_err(|_| Problem::stopping())
    }

    /// Ends a session; returns once that stands in the journal.
    pub(crate) async fn close(&self, session: SessionId) -> Result<(), Problem> {
        let (reply, closed) = oneshot::channel();
        let close = Urgent::Close { session, reply };
        self.parts.lanes.urgent.send_async(close).await.map_err(|_| Problem::stopping())?;
        self.recorded(closed).await?.map_err(|_| Problem::stopping())
    }

    /// How the pools are.
    pub(crate) async fn pools(&self) -> Result<Vec<PoolView>, Problem> {
        let (reply, pools) = oneshot::channel();
        self.parts.lanes.urgent.send_async(Urgent::Pools { reply }).await.map_err(|_| Problem::stopping())?;
        self.recorded(pools).await?.map_err(|_| Problem::stopping())
    }

    /// Begins a job, and returns once that stands in the journal.
    pub(crate) async fn operate(&self, pool: PoolId, action: Action) -> Result<Result<JobId, JobRefusal>, Problem> {
        let job = JobId(uuid::Uuid::new_v4().as_u64_pair().0);
        let (reply, begun) = oneshot::channel();
        let operate = Urgent::Operate { job, pool, action, reply };
        self.parts.lanes.urgent.send_async(operate).await.map_err(|_| Problem::stopping())?;
        let begun = self.recorded(begun).await?.map_err(|_| Problem::stopping())?;
        Ok(begun.map(|()| job))
    }

    /// Cancels and returns once the cancels stand in the journal and the gates are closed. Without effect
    /// on a task that has ended.
    pub(crate) async fn cancel(
        &self,
        entries: impl Iterator<Item = &Arc<Entry>>,
        reason: CancelReason,
    ) -> Result<(), Problem> {
        let mut closing = Vec::new();
        for entry in entries {
            // The lanes are two: a cancel sent now could overtake the submission.
            let is_in = matches!(self.recorded(entry.admitted()).await?, Admission::Accepted { .. });
            if is_in && !matches!(entry.phase(), Phase::Ended(_)) {
                let (reply, closed) = oneshot::channel();
                let cancel = Urgent::Cancel { task: entry.task, reason, reply: Some(reply) };
                self.parts.lanes.urgent.send_async(cancel).await.map_err(|_| Problem::stopping())?;
                closing.push(closed);
            }
        }
        for closed in closing {
            self.recorded(closed).await?.map_err(|_| Problem::stopping())?;
        }
        Ok(())
    }
}
