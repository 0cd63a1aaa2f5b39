//! Where in a journal a task's story stands: in which runs, from which segment on, and how many inputs it has.
//!
//! Reads records and executes none.

use super::ExplainError;
use crate::journal::{Entry, JournalError, Run, RunReader, Segment};
use orchestrion_world::id::TaskId;
use orchestrion_world::protocol::{Input, Intent};
use std::collections::BTreeMap;

/// The parts of the runs that hold a task's story, in order.
pub(crate) struct Chapters<'a> {
    pub(crate) chapters: Vec<&'a [Segment]>,
    /// The step of the first one in which it was submitted; none where it was there before.
    pub(crate) came_in: Option<u64>,
    /// Inputs that it has.
    pub(crate) inputs: u32,
}

/// `ids`: what its inputs would be known as, each with its place.
pub(crate) fn chapters<'a>(
    runs: &'a [Run],
    task: TaskId,
    ids: &BTreeMap<TaskId, u32>,
) -> Result<Chapters<'a>, ExplainError> {
    let mut chapters: Vec<&[Segment]> = Vec::new();
    let (mut came_in, mut inputs) = (None, 0);
    for run in runs.iter().rev() {
        match find(run, ids)? {
            Some(found) => {
                inputs = inputs.max(found.inputs);
                chapters.push(run.from(found.came_in.map_or(0, |(segment, _)| segment)));
                came_in = found.came_in.map(|(_, seq)| seq);
                if came_in.is_some() {
                    break;
                }
            }
            // It is in an earlier run, or was: what took it over is all that is left.
            None if chapters.is_empty() => {}
            None => break,
        }
    }
    if chapters.is_empty() {
        return Err(ExplainError::Unknown { task });
    }
    chapters.reverse();
    Ok(Chapters { chapters, came_in, inputs })
}

/// How a run holds a task.
struct Found {
    /// The segment in which it was submitted, and the number of the step; none where the run began with it.
    came_in: Option<(usize, u64)>,
    /// As many inputs as there are up to the last that the run holds.
    inputs: u32,
}

/// Where the run's part of the task's story begins.
fn find(run: &Run, ids: &BTreeMap<TaskId, u32>) -> Result<Option<Found>, JournalError> {
    let mut reader = RunReader::new(&run.segments, None);
    let mut segments = 0;
    let mut found: Option<Found> = None;
    while let Some(entry) = reader.read()? {
        let (came_in, last) = match &entry {
            Entry::Segment(header) => {
                segments += 1;
                // Later ledgers hold it only if an earlier segment let it in.
                let ledger = header.ledger.as_ref().filter(|_| segments == 1);
                let held = ledger.iter().flat_map(|ledger| &ledger.tasks).map(|known| known.id);
                (None, held.filter_map(|id| ids.get(&id)).max())
            }
            Entry::Step(record) => {
                let submitted = record.inputs.iter().filter_map(submitted);
                (Some((segments - 1, record.seq)), submitted.filter_map(|id| ids.get(&id)).max())
            }
        };
        if let Some(last) = last {
            let found = found.get_or_insert(Found { came_in, inputs: 0 });
            found.inputs = found.inputs.max(last + 1);
            if found.inputs as usize == ids.len() {
                break;
            }
        }
    }
    Ok(found)
}

fn submitted(input: &Input) -> Option<TaskId> {
    match input {
        Input::Intent(Intent::Submit { task, .. }) => Some(*task),
        Input::Intent(_) | Input::Report(_) | Input::Boot { .. } | Input::SetRules(_) => None,
    }
}
