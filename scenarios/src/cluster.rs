//! Simulated stations together: orders in, reports out, in virtual time. The core cannot tell it from the
//! stations of a server.
//!
//! Holds who is looked at when. What a station does with its time is in `station`; what breaks it comes from
//! outside.

use crate::station::{Build, Command, Job, Said, Station};
use orchestrion_world::id::{Epoch, ModelId, WorkerId};
use orchestrion_world::protocol::{FaultClass, Order, Report, ShardFault};
use orchestrion_world::time::Tick;
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
    worker: WorkerId,
    build: Build,
    epoch: Epoch,
    station: Option<Station>,
    /// When its model will be loaded, which, and the life that begins then.
    loading: Option<(u64, ModelId, Epoch)>,
    /// What has loaded before does not come up.
    fails_until: u64,
    /// Its newest entry of the agenda, and when that is; none where it was taken.
    planned: u32,
    at: Option<u64>,
}

impl Seat {
    /// When it is to be looked at.
    fn due(&self) -> Option<u64> {
        self.station.as_ref().map(Station::due).or(self.loading.map(|(at, ..)| at))
    }
}

impl Cluster {
    /// The next tick at which a station is to be looked at: what happens within a tick is told at its end.
    pub fn next_due(&mut self) -> Option<Tick> {
        while let Some(Reverse((at, place, planned))) = self.agenda.peek().copied() {
            let seat = &mut self.seats[place];
            if seat.planned == planned {
                if seat.due().is_some() {
                    return Some(Tick(at.div_ceil(TICK)));
                }
                seat.at = None;
            }
            self.agenda.pop();
        }
        None
    }

    /// Adds what happened up to `now` to `said`.
    pub fn run(&mut self, now: Tick, said: &mut Said) {
        while self.next_due().is_some_and(|at| at <= now) {
            let Some(Reverse((at, place, _))) = self.agenda.pop() else { return };
            self.seats[place].at = None;
            if let Some(station) = &mut self.seats[place].station {
                station.turn(at, said);
            } else if let Some((_, model, epoch)) = self.seats[place].loading.take() {
                let Seat { worker, fails_until, .. } = self.seats[place];
                if at < fails_until {
                    said.reports.push(Report::WorkerDown { worker, epoch, error: Some(FaultClass::Fatal) });
                } else {
                    self.begin(place, at, epoch, Some(model), said);
                }
            }
            self.plan(place);
        }
    }

    fn begin(&mut self, place: usize, at: u64, epoch: Epoch, model: Option<ModelId>, said: &mut Said) {
        let seat = &mut self.seats[place];
        seat.epoch = epoch;
        seat.station = Some(Station::new(at, (seat.worker, epoch), &seat.build, model, said));
    }

    /// A worker comes up; one that was there before comes up as another, with what it had.
    pub fn rise(&mut self, now: Tick, worker: WorkerId, made_of: Option<Build>, said: &mut Said) {
        let place = match (self.places.get(&worker), made_of) {
            (Some(&place), _) => place,
            (None, Some(build)) => {
                self.places.insert(worker, self.seats.len());
                let (epoch, station, loading) = (Epoch(0), None, None);
                self.seats.push(Seat { worker, build, epoch, station, loading, fails_until: 0, planned: 0, at: None });
                self.seats.len() - 1
            }
            (None, None) => return,
        };
        let seat = &mut self.seats[place];
        if seat.station.is_some() {
            return;
        }
        seat.loading = None;
        let (epoch, model) = (Epoch(seat.epoch.0 + 1), seat.build.facts.came_with.map(|(model, _)| model));
        self.begin(place, now.0 * TICK, epoch, model, said);
        self.plan(place);
    }

    /// Carries an order to its station; a dead one hears nothing but that it is to begin again. A start needs to
    /// know what it will come to.
    pub fn order(&mut self, now: Tick, order: &Order, job: Option<Job>, said: &mut Said) {
        let command = match *order {
            Order::Start { epoch, task, attempt, .. } => match job {
                Some(job) => Command::Start(task, attempt, epoch, job),
                None => return,
            },
            Order::Cancel { task, attempt, .. } => Command::Cancel(task, attempt),
            Order::Reset { epoch, .. } => Command::Reset(epoch),
            Order::LoadShard { epoch, model, order, .. } => Command::Load(epoch, model, order),
            Order::FreeShard { epoch, model, order, .. } => Command::Free(epoch, model, order),
            Order::VerifyShard { epoch, model, job, .. } => Command::Verify(epoch, model, job),
            Order::Probe { .. } => Command::Probe,
            Order::SpawnWorker { worker, epoch, model } => return self.load(now, worker, epoch, model, said),
            Order::StopWorker { worker, epoch } => return self.stop(worker, epoch, said),
        };
        self.touch(order.worker(), |station| station.order(now.0 * TICK, command));
    }

    /// A worker begins anew: what it had is gone, a model is loaded. One that it cannot serve ends it.
    fn load(&mut self, now: Tick, worker: WorkerId, epoch: Epoch, model: ModelId, said: &mut Said) {
        let Some(&place) = self.places.get(&worker) else { return };
        let seat = &mut self.seats[place];
        (seat.station, seat.loading, seat.epoch) = (None, None, epoch);
        said.reports.push(Report::Loading { worker, epoch });
        let Some(offer) = seat.build.offer(model) else {
            return said.reports.push(Report::WorkerDown { worker, epoch, error: Some(FaultClass::Fatal) });
        };
        let loaded = (now.0 * TICK).saturating_add(offer.cost.load(offer.facts.weights));
        seat.loading = Some((loaded, model, epoch));
        self.plan(place);
    }

    /// A worker ends as it was told.
    fn stop(&mut self, worker: WorkerId, epoch: Epoch, said: &mut Said) {
        let Some(seat) = self.places.get(&worker).map(|&place| &mut self.seats[place]) else { return };
        seat.loading = None;
        if seat.station.take_if(|station| station.epoch == epoch).is_some() {
            said.reports.push(Report::WorkerDown { worker, epoch, error: None });
        }
    }

    /// A worker that loads before then does not come up.
    pub fn fail(&mut self, worker: WorkerId, until: Tick) {
        if let Some(&place) = self.places.get(&worker) {
            self.seats[place].fails_until = until.0.saturating_mul(TICK);
        }
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

    /// A worker finds that its weights are not those that were loaded.
    pub fn corrupt(&mut self, worker: WorkerId, said: &mut Said) {
        let seat = self.places.get(&worker).map(|&place| &self.seats[place]);
        if let Some(station) = seat.and_then(|seat| seat.station.as_ref()) {
            let epoch = station.epoch;
            let digest = station.shelf.any_facts().map(|facts| facts.digest);
            said.reports.extend(digest.map(|digest| Report::ShardCorrupt { worker, epoch, digest }));
        }
    }

    /// A worker's weights change, and it does not know.
    pub fn flip(&mut self, worker: WorkerId) {
        self.touch(worker, |station| station.shelf.flip());
    }

    /// What a worker is told to load before then comes to this.
    pub fn spoil(&mut self, worker: WorkerId, until: Tick, fault: ShardFault) {
        self.touch(worker, |station| station.shelf.spoil(until.0.saturating_mul(TICK), fault));
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
        let Some(due) = seat.due().filter(|due| seat.at != Some(*due)) else { return };
        seat.at = Some(due);
        seat.planned = seat.planned.wrapping_add(1);
        self.agenda.push(Reverse((due, place, seat.planned)));
    }
}
