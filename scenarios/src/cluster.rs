//! Simulated stations together: orders in, reports out, in virtual time. The core cannot tell it from the
//! stations of a server.
//!
//! Holds who is looked at when. What a station does with its time is in `station`; what breaks it comes from
//! outside.

use crate::cost::Cost;
use crate::station::{Command, Job, Said, Station};
use orchestrion_world::id::{Epoch, WorkerId};
use orchestrion_world::protocol::{FaultClass, Order, Report, WorkerFacts};
use orchestrion_world::time::{Tick, Ticks};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Nanoseconds in a tick.
const TICK: u64 = 1_000_000;

/// Every simulated worker.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    places: BTreeMap<WorkerId, usize>,
    seats: Vec<Seat>,
    /// When whom; an entry whose seat was planned anew since is void.
    agenda: BinaryHeap<Reverse<(u64, usize, u32)>>,
}

/// A worker's place, whether or not it lives.
#[derive(Clone, Debug)]
struct Seat {
    cost: Cost,
    facts: WorkerFacts,
    epoch: Epoch,
    station: Option<Station>,
    planned: u32,
}

impl Cluster {
    /// The next tick at which a station is to be looked at: what happens within a tick is told at its end.
    pub fn next_due(&mut self) -> Option<Tick> {
        while let Some(Reverse((at, place, planned))) = self.agenda.peek().copied() {
            let seat = &self.seats[place];
            if seat.planned == planned && seat.station.is_some() {
                return Some(Tick(at.div_ceil(TICK)));
            }
            self.agenda.pop();
        }
        None
    }

    /// Adds what happened up to `now` to `said`.
    pub fn run(&mut self, now: Tick, said: &mut Said) {
        while self.next_due().is_some_and(|at| at <= now) {
            let Some(Reverse((at, place, _))) = self.agenda.pop() else { return };
            if let Some(station) = &mut self.seats[place].station {
                station.turn(at, said);
            }
            self.plan(place);
        }
    }

    /// A worker comes up; one that was there before comes up as another, with what it had.
    pub fn rise(&mut self, now: Tick, worker: WorkerId, made_of: Option<(Cost, WorkerFacts)>, said: &mut Said) {
        let place = match (self.places.get(&worker), made_of) {
            (Some(&place), _) => place,
            (None, Some((cost, facts))) => {
                self.places.insert(worker, self.seats.len());
                self.seats.push(Seat { cost, facts, epoch: Epoch(0), station: None, planned: 0 });
                self.seats.len() - 1
            }
            (None, None) => return,
        };
        let seat = &mut self.seats[place];
        if seat.station.is_some() {
            return;
        }
        seat.epoch.0 += 1;
        let station = Station::new(now.0 * TICK, (worker, seat.epoch), seat.cost, seat.facts.clone(), said);
        seat.station = Some(station);
        self.plan(place);
    }

    /// How long a worker takes from its start to being ready.
    pub fn loads_in(&self, worker: WorkerId) -> Option<Ticks> {
        let seat = &self.seats[*self.places.get(&worker)?];
        let model = seat.facts.came_with?;
        Some(Ticks(seat.cost.load(model.weights).div_ceil(TICK)))
    }

    /// Carries an order to its station; a dead one hears nothing. A start needs to know what it will come to.
    pub fn order(&mut self, now: Tick, order: &Order, job: Option<Job>) {
        let command = match *order {
            Order::Start { epoch, task, attempt, .. } => match job {
                Some(job) => Command::Start(task, attempt, epoch, job),
                None => return,
            },
            Order::Cancel { task, attempt, .. } => Command::Cancel(task, attempt),
            Order::Reset { epoch, .. } => Command::Reset(epoch),
            Order::LoadShard { epoch, model, .. } | Order::FreeShard { epoch, model, .. } => {
                Command::Change(epoch, model)
            }
        };
        self.touch(order.worker(), |station| station.order(now.0 * TICK, command));
    }

    /// A worker's process ends and says so.
    pub fn crash(&mut self, worker: WorkerId, said: &mut Said) {
        let Some(seat) = self.places.get(&worker).map(|&place| &mut self.seats[place]) else { return };
        if let Some(station) = seat.station.take() {
            seat.epoch = station.epoch;
            let error = Some(FaultClass::Fatal);
            said.reports.push(Report::WorkerDown { worker, epoch: station.epoch, error });
        }
    }

    /// A worker does nothing until then: no work, no beats, no answer to orders.
    pub fn hang(&mut self, worker: WorkerId, until: Tick) {
        self.touch(worker, |station| station.hang(until.0.saturating_mul(TICK)));
    }

    /// A worker's beats are lost until then.
    pub fn mute(&mut self, worker: WorkerId, until: Tick) {
        self.touch(worker, |station| station.mute(until.0.saturating_mul(TICK)));
    }

    /// A worker runs at so many thousandths of its pace.
    pub fn pace(&mut self, worker: WorkerId, permille: u32) {
        self.touch(worker, |station| station.pace(permille));
    }

    fn touch(&mut self, worker: WorkerId, touch: impl FnOnce(&mut Station)) {
        let Some(&place) = self.places.get(&worker) else { return };
        if let Some(station) = &mut self.seats[place].station {
            touch(station);
            self.plan(place);
        }
    }

    fn plan(&mut self, place: usize) {
        let seat = &mut self.seats[place];
        let Some(station) = &seat.station else { return };
        seat.planned = seat.planned.wrapping_add(1);
        self.agenda.push(Reverse((station.due(), place, seat.planned)));
    }
}
