//! A recorded day once more: what came from outside, to the same world, with simulated stations.
//!
//! Arrivals, cancels, workers and rules are the recording's, at their ticks; every report is the simulation's. An
//! answer is as long as it was; one that nobody saw to its end is as long as answers of its class were, in
//! proportion to what was asked for. Deterministic: the same recording, rules and costs come to the same courses.

use crate::calibrate::Costs;
use crate::failure::{Code, Failure};
use orchestrion_api::recording::{Course, Courses, Event, Gauged, Recording};
use orchestrion_scenarios::cluster::Cluster;
use orchestrion_scenarios::station::{Build, Job, Said};
use orchestrion_systems::Simulation;
use orchestrion_world::config::{Rules, overrides};
use orchestrion_world::id::TaskId;
use orchestrion_world::protocol::{Class, Effect, Finish, Input, Intent, Notice, Order};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Digest;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::slice::Iter;

/// How long a run goes on after the recording's end for tasks to end.
const PATIENCE: Ticks = Ticks(3_600_000);

/// What the simulated day came to.
#[derive(Clone, Debug)]
pub(crate) struct Again {
    pub(crate) courses: Courses,
    pub(crate) gauged: Gauged,
    pub(crate) steps: u64,
    pub(crate) state: Digest,
    pub(crate) ended: Tick,
}

/// The rules with `set` changed.
pub(crate) fn changed(rules: &Rules, set: &[(String, String)]) -> Result<Box<Rules>, Failure> {
    let mut rules = rules.clone();
    overrides::apply(&mut rules, set).map_err(Failure::of(Code::BadConfig))?;
    Ok(Box::new(rules))
}

/// Runs a recording under its rules with `set` changed.
pub(crate) fn again(recording: &Recording, set: &[(String, String)], costs: &Costs) -> Result<Again, Failure> {
    let mut run = Run {
        simulation: Simulation::new(recording.seed),
        cluster: Cluster::default(),
        said: Said::default(),
        jobs: jobs(recording),
        names: &recording.rules,
        costs,
        set,
        living: 0,
        again: Again {
            courses: Courses::default(),
            gauged: Gauged::default(),
            steps: 0,
            state: Digest(0),
            ended: recording.begins,
        },
    };
    let rules = changed(&recording.rules, set)?;
    run.step(recording.begins, vec![Input::Boot { wall_ms: 0 }, Input::SetRules(rules)]);
    let mut events = recording.events.iter().peekable();
    let mut now = recording.begins;
    while let Some(due) = run.due(&mut events) {
        now = now.max(due);
        if now > recording.ends + PATIENCE {
            break;
        }
        run.cluster.run(now, &mut run.said);
        let mut inputs = run.take_reports();
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= now) {
            inputs.extend(run.happen(now, event)?);
            inputs.extend(run.take_reports());
        }
        if !inputs.is_empty() || run.simulation.is_due(now) {
            run.step(now, inputs);
        }
    }
    run.again.state = run.simulation.state();
    Ok(run.again)
}

struct Run<'a> {
    simulation: Simulation,
    cluster: Cluster,
    said: Said,
    jobs: BTreeMap<TaskId, Job>,
    /// By which pools are called.
    names: &'a Rules,
    costs: &'a Costs,
    set: &'a [(String, String)],
    /// Tasks that were accepted and have not ended.
    living: u64,
    again: Again,
}

impl Run<'_> {
    /// When something happens next; none at the end.
    fn due(&mut self, events: &mut Peekable<Iter<'_, (Tick, Event)>>) -> Option<Tick> {
        let event = events.peek().map(|(at, _)| *at);
        if event.is_none() && self.living == 0 {
            return None;
        }
        // What an order was answered with at once is heard at once.
        let said = (!self.said.reports.is_empty()).then(|| self.simulation.now());
        [event, said, self.cluster.next_due(), self.simulation.next_wake()].into_iter().flatten().min()
    }

    fn take_reports(&mut self) -> Vec<Input> {
        self.said.firsts.clear();
        self.said.reports.drain(..).map(Input::Report).collect()
    }

    /// What an event is to the world; what it is to a station, that says itself.
    fn happen(&mut self, now: Tick, event: &Event) -> Result<Option<Input>, Failure> {
        Ok(match event {
            Event::Rules(rules) => Some(Input::SetRules(changed(rules, self.set)?)),
            Event::Submit(task, spec) => Some(Input::Intent(Intent::Submit { task: *task, spec: spec.clone() })),
            Event::Close(session) => Some(Input::Intent(Intent::Close { session: *session })),
            Event::Cancel(task, reason) => Some(Input::Intent(Intent::Cancel { task: *task, reason: *reason })),
            Event::Up(worker, facts) => {
                let cost = self.costs.of(self.names, facts);
                self.cluster.rise(now, *worker, Some(Build::fixed(facts.clone(), cost)), &mut self.said);
                None
            }
            Event::Down(worker) => {
                self.cluster.crash(*worker, &mut self.said);
                None
            }
        })
    }

    fn step(&mut self, now: Tick, inputs: Vec<Input>) {
        let step = self.simulation.step(now, inputs.clone());
        self.again.courses.take(now, &inputs, &step.effects);
        self.again.gauged.look(now, &self.simulation);
        (self.again.steps, self.again.ended) = (self.again.steps + 1, now);
        for effect in &step.effects {
            match effect {
                Effect::Order(order) => {
                    let job = match order {
                        Order::Start { task, .. } => self.jobs.get(task).cloned(),
                        _ => None,
                    };
                    self.cluster.order(now, order, job, &mut self.said);
                }
                Effect::Notice(Notice::Accepted { .. }) => self.living += 1,
                Effect::Notice(Notice::Ended { .. }) => self.living = self.living.saturating_sub(1),
                Effect::Notice(_) => {}
            }
        }
    }
}

/// How long each task's answer is.
fn jobs(recording: &Recording) -> BTreeMap<TaskId, Job> {
    // Tokens made of tokens asked for, by class.
    let share = [Class::Interactive, Class::Batch].map(|class| {
        let done = recording.courses.iter().filter(|(_, course)| course.spec.class == class);
        let done = done.filter_map(|(_, course)| Some((course.done()?.1.tokens_out, course.spec.max_tokens)));
        done.fold((0u64, 0u64), |(made, asked), (out, max)| (made + u64::from(out), asked + u64::from(max)))
    });
    let mut jobs = BTreeMap::new();
    for (_, event) in &recording.events {
        let Event::Submit(task, spec) = event else { continue };
        let (answer, finish) = match recording.courses.get(*task).and_then(Course::done) {
            Some((_, usage)) => (usage.tokens_out, usage.finish),
            None => {
                let (made, asked) = share[usize::from(spec.class == Class::Batch)];
                let likely = (u64::from(spec.max_tokens) * made).checked_div(asked).unwrap_or(spec.max_tokens.into());
                (u32::try_from(likely).unwrap_or(u32::MAX), Finish::Length)
            }
        };
        let (model, class, prompt) = (spec.model, spec.class, spec.prompt_tokens);
        let (beginnings, known) = (spec.beginnings().collect(), None);
        let job = Job { model, class, prompt, beginnings, known, answer: answer.max(1), finish };
        jobs.entry(*task).or_insert(job);
    }
    jobs
}
