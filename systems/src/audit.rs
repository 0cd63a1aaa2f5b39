//! The invariants that a state can be checked for, each by name. Run after every step in tests and
//! simulation; the ones that take constant time are asserted where they could break, in production too.
//!
//! What only a history can show (a task ends exactly once, no token after a cancel) is audited over the
//! effects by the scenario stage. `memory`, `work` and `derived` hold the audits, this page their list.

mod derived;
mod memory;
mod work;

use derived::{
    crews_match, digest_matches, field_matches, nobody_waits_in_vain, pools_count_ready, queues_match_tasks,
    timers_match, victims_match,
};
use memory::{
    digests_as_declared, fixed_serve_their_pool, leases_on_what_serves, memory_adds_up, pinned_stays, quarantine_holds,
    residents_in_order,
};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::store::World;
use work::{
    budgets_kept, closed_pools_rest, deadlines_kept, jobs_keep_time, leases_match_tasks, leases_only_where_up,
    patience_kept, prefixes_kept, put_back_were_made, reading_has_prompts, repeats_are_strict, sessions_kept,
    verifications_wait,
};

/// A broken invariant: its name in [`AUDITS`], and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit `{name}`: {found}")]
pub struct Broken {
    pub name: &'static str,
    pub found: String,
}

type Audit = fn(&World, &Ledger) -> Result<(), String>;

/// Every audit of a state. The number is that of the design's list of invariants, where it has one.
pub const AUDITS: &[(&str, Audit)] = &[
    ("6 leases are the used slots, and a live task has its one", leases_match_tasks),
    ("a worker reads while it has prompts to read", reading_has_prompts),
    ("7 memory in use is what shards and leases take, within capacity", memory_adds_up),
    ("8 no lease on a worker that is not up", leases_only_where_up),
    ("8 nothing runs on a device in quarantine", quarantine_holds),
    ("pools and models count the workers that take tasks, and crews are who they are", crews_match),
    ("9 no model goes that has leases", leases_on_what_serves),
    ("10 what was loaded has the digest of its model", digests_as_declared),
    ("models on workers, and what is on its way to them", residents_in_order),
    ("9 what is pinned does not make way", pinned_stays),
    ("18 who can load no other model has that of its pool", fixed_serve_their_pool),
    ("12 attempts that were put back were made", put_back_were_made),
    ("13 no attempt after a token was shown, but in strict sameness", repeats_are_strict),
    ("an attempt ends in the first step at or after its time is over", patience_kept),
    ("14 a task ends in the first step at or after its deadline", deadlines_kept),
    ("15 sessions within their bound, turns and time, and theirs are the tasks that name them", sessions_kept),
    ("beginnings of prompts are within their bound, and whoever knows one has the model", prefixes_kept),
    ("16 no budget is overdrawn, and what is reserved is what tasks hold", budgets_kept),
    ("17 drains end by their deadline, and a pool knows its job", jobs_keep_time),
    ("17 nobody takes tasks in a pool that is closed", closed_pools_rest),
    ("a verification waits for the worker that it asked, in the life that it asked", verifications_wait),
    ("20 armed timers are those the entities call for", timers_match),
    ("nobody waits who could start", nobody_waits_in_vain),
    ("a pool counts its ready workers", pools_count_ready),
    ("queues hold exactly the queued tasks", queues_match_tasks),
    ("who gives way and which slots are called back is what tasks and leases say", victims_match),
    ("the field is what the workers and devices say", field_matches),
    ("22 the incremental digest is that of the whole ledger", digest_matches),
];

/// Runs them all on a world and its ledger.
pub(crate) fn audit(world: &World, ledger: &Ledger) -> Result<(), Broken> {
    AUDITS.iter().try_for_each(|&(name, check)| check(world, ledger).map_err(|found| Broken { name, found }))
}

fn check(holds: bool, found: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(found()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_audit_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = AUDITS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), AUDITS.len());
    }
}
