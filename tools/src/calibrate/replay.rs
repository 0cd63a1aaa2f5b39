//! The recorded orders of a pool on simulated stations: when would they have been carried out at a given cost?
//!
//! Who ran beside whom, and when each came, is the recording's; only the stations' own time is simulated. So an
//! error here is the cost model's alone and not the scheduler's.

use super::Residual;
use crate::whatif::figures::{Span, spread};
use orchestrion_api::recording::{Event, Recording};
use orchestrion_scenarios::cluster::Cluster;
use orchestrion_scenarios::cost::Cost;
use orchestrion_scenarios::station::{Build, Job, Said};
use orchestrion_world::id::{Attempt, Epoch, ModelId, PoolId, TaskId, WorkerId};
use orchestrion_world::protocol::{Finish, Order, Report, Usage, WorkerFacts};
use orchestrion_world::time::{Tick, Ticks};
use std::collections::{BTreeMap, BTreeSet};

/// The newest so many attempts of a pool are enough, and a day of them is not too much to play a thousand times.
const ATTEMPTS_MAX: usize = 2_000;

/// Here a pool has one cost, whatever it served.
const MODEL: ModelId = ModelId(0);

/// What stations were told, in order, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    acts: Vec<(Tick, Act)>,
    /// By their number.
    known: Vec<Known>,
}

#[derive(Clone, Debug)]
enum Act {
    Up(WorkerId, Box<WorkerFacts>),
    Down(WorkerId),
    Start(WorkerId, usize),
    Cancel(WorkerId, usize),
}

#[derive(Clone, Debug)]
struct Known {
    job: Job,
    placed: Tick,
    /// How long it took: to being taken up, and by the station's own clock; none where it did not end by itself.
    took: Option<(Ticks, Usage)>,
}

impl Attempts {
    pub(super) fn of(recording: &Recording, pool: PoolId, span: Span) -> Attempts {
        let mut attempts = Attempts::default();
        let mut workers = BTreeSet::new();
        for (at, event) in &recording.events {
            match event {
                Event::Up(worker, facts) if facts.pool == pool => {
                    workers.insert(*worker);
                    // A slot that was free when it was given is not yet, where the simulation is late.
                    let roomy = WorkerFacts { slots: u16::MAX, ..facts.clone() };
                    attempts.acts.push((*at, Act::Up(*worker, Box::new(roomy))));
                }
                Event::Down(worker) if workers.contains(worker) => attempts.acts.push((*at, Act::Down(*worker))),
                _ => {}
            }
        }
        let courses = recording.courses.iter().flat_map(|(_, course)| course.tries.iter().map(move |t| (course, t)));
        let mut tries: Vec<_> = courses.filter(|(_, t)| workers.contains(&t.worker)).collect();
        tries.retain(|(course, _)| span.holds(course.came));
        tries.sort_by_key(|(_, t)| t.placed);
        let oldest = tries.len().saturating_sub(ATTEMPTS_MAX);
        for (course, attempt) in &tries[oldest..] {
            let number = attempts.known.len();
            let ended = attempt.finished.map(|(_, usage)| usage);
            let answer = ended.map_or(course.spec.max_tokens, |usage| usage.tokens_out).max(1);
            let finish = ended.map_or(Finish::Length, |usage| usage.finish);
            let whole = ended.filter(|usage| usage.finish != Finish::Cancelled);
            let took = attempt.started.zip(whole).map(|(at, usage)| (at.since(attempt.placed), usage));
            let (class, prompt) = (course.spec.class, course.spec.prompt_tokens);
            let known = Some(ended.map_or(0, |usage| usage.tokens_cached));
            let job = Job { model: MODEL, class, prompt, beginnings: Box::default(), known, answer, finish };
            attempts.known.push(Known { job, placed: attempt.placed, took });
            attempts.acts.push((attempt.placed, Act::Start(attempt.worker, number)));
            attempts.acts.extend(attempt.called_back.map(|at| (at, Act::Cancel(attempt.worker, number))));
        }
        // Stable: a worker is up before it is told something in the same tick.
        attempts.acts.sort_by_key(|(at, _)| *at);
        attempts
    }

    /// Of a worker that was told something.
    pub(super) fn facts(&self) -> Option<&WorkerFacts> {
        self.acts.iter().find_map(|(_, act)| match act {
            Act::Up(_, facts) => Some(&**facts),
            _ => None,
        })
    }

    /// How many can be held against the record.
    pub(super) fn scored(&self) -> usize {
        self.known.iter().filter(|known| known.took.is_some()).count()
    }

    /// Lengths in microseconds at a cost, beside those recorded: until taken up, prompt, answer.
    pub(super) fn play(&self, cost: &Cost) -> Vec<[(u64, u64); 3]> {
        let mut stage =
            Stage { cluster: Cluster::default(), said: Said::default(), played: vec![None; self.known.len()] };
        let mut lives: BTreeMap<WorkerId, Epoch> = BTreeMap::new();
        for (at, act) in &self.acts {
            stage.until(*at, &self.known);
            match act {
                Act::Up(worker, facts) => {
                    lives.entry(*worker).or_insert(Epoch(0)).0 += 1;
                    stage.cluster.crash(*worker, &mut stage.said);
                    let came_with = facts.came_with.map(|(_, model)| (MODEL, model));
                    let build = Build::fixed(WorkerFacts { came_with, ..(**facts).clone() }, *cost);
                    stage.cluster.rise(*at, *worker, Some(build), &mut stage.said);
                }
                Act::Down(worker) => stage.cluster.crash(*worker, &mut stage.said),
                Act::Start(worker, number) | Act::Cancel(worker, number) => {
                    let (worker, task, attempt) = (*worker, TaskId(*number as u128), Attempt::of(1, 1));
                    let epoch = lives.get(&worker).copied().unwrap_or(Epoch(1));
                    let (order, job) = match act {
                        Act::Cancel(..) => (Order::Cancel { worker, epoch, task, attempt }, None),
                        _ => (
                            Order::Start { worker, epoch, task, attempt, model: MODEL },
                            self.known.get(*number).map(|k| k.job.clone()),
                        ),
                    };
                    stage.cluster.order(*at, &order, job, &mut stage.said);
                }
            }
        }
        // Long enough for the last ones, and stations never end by themselves.
        let last = self.acts.last().map_or(Tick(0), |(at, _)| *at);
        stage.until(last + Ticks(600_000), &self.known);
        let lengths = self.known.iter().zip(&stage.played).filter_map(|(known, played)| {
            let ((start, usage), (started, simulated)) = (known.took?, (*played)?);
            Some([
                (start.0 * 1_000, started.0 * 1_000),
                (usage.prefill_us, simulated?.prefill_us),
                (usage.decode_us, simulated?.decode_us),
            ])
        });
        lengths.collect()
    }

    /// How far off the prompts and answers are at a cost.
    pub(super) fn residual(&self, cost: &Cost, pool: &str) -> Residual {
        let lengths = self.play(cost);
        let off = |which: usize| {
            let of = lengths.iter().map(|of| of[which]).filter(|(recorded, _)| *recorded > 0);
            spread(of.map(|(recorded, simulated)| recorded.abs_diff(simulated) * 1_000 / recorded).collect())
        };
        let (prefill, decode) = (off(1), off(2));
        Residual {
            pool: pool.to_owned(),
            attempts: lengths.len() as u64,
            prefill_p50_permille: prefill.p50.unwrap_or(0),
            prefill_p90_permille: prefill.p90.unwrap_or(0),
            decode_p50_permille: decode.p50.unwrap_or(0),
            decode_p90_permille: decode.p90.unwrap_or(0),
        }
    }
}

/// When it was taken up, and what it came to.
type Played = Option<(Ticks, Option<Usage>)>;

struct Stage {
    cluster: Cluster,
    said: Said,
    played: Vec<Played>,
}

impl Stage {
    /// Lets the stations work, tick by tick as the scheduler would hear of it.
    fn until(&mut self, until: Tick, known: &[Known]) {
        while let Some(due) = self.cluster.next_due().filter(|due| *due <= until) {
            self.cluster.run(due, &mut self.said);
            self.said.firsts.clear();
            for report in self.said.reports.drain(..) {
                match report {
                    Report::Started { task, .. } => {
                        if let (Some(played), Some(known)) =
                            (self.played.get_mut(task.0 as usize), known.get(task.0 as usize))
                        {
                            *played = Some((due.since(known.placed), None));
                        }
                    }
                    Report::Finished { task, usage, .. } => {
                        if let Some(Some((_, ended))) = self.played.get_mut(task.0 as usize) {
                            *ended = Some(usage);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
