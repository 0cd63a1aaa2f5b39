//! A task's way through its grammar, one token after the other.
//!
//! What may come next takes a fraction of a millisecond to find, for large grammars some: a thread beside
//! finds it while the engine runs the step that asks for it, so that a step waits only for what is left. Taking
//! up a token is short, and at once says whether the grammar is complete.

use super::{GrammarError, Shop, no_thread};
use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;
use orchestrion_world::payload::Grammar;
use std::sync::Arc;

/// Where the answer stands and what may come next.
type Place = Result<(Box<Matcher>, SimpleVob), GrammarError>;

/// What the thread is asked.
pub(super) enum Job {
    Begin { grammar: Arc<Grammar>, reply: flume::Sender<Place> },
    Next { matcher: Box<Matcher>, reply: flume::Sender<Place> },
}

/// One set of tokens; ids beyond the vocabulary are in none.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a>(&'a [u32]);

impl Allowed<'_> {
    pub fn has(self, token: usize) -> bool {
        self.0.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }
}

/// See the module's description.
pub struct Follower {
    jobs: flume::Sender<Job>,
    /// Of the last job, whose other end is the thread's alone: it closes should the thread end.
    places: flume::Receiver<Place>,
    /// None while the thread has it.
    place: Option<(Box<Matcher>, SimpleVob)>,
}

impl Follower {
    pub(super) fn begin(jobs: flume::Sender<Job>, grammar: Arc<Grammar>) -> Result<Follower, GrammarError> {
        let (reply, places) = flume::bounded(1);
        jobs.send(Job::Begin { grammar, reply }).map_err(|_| GrammarError::Gone)?;
        Ok(Follower { jobs, places, place: None })
    }

    /// The tokens that may come next.
    pub fn allowed(&mut self) -> Result<Allowed<'_>, GrammarError> {
        let place = match self.place.take() {
            Some(place) => place,
            None => self.places.recv().map_err(|_| GrammarError::Gone)??,
        };
        Ok(Allowed(self.place.insert(place).1.as_slice()))
    }

    /// What it took to find what may come next: the lexer's work, and the parser's items.
    #[cfg(test)]
    pub(super) fn cost(&self) -> Option<(u64, usize)> {
        let stats = self.place.as_ref()?.0.last_step_stats().ok()?;
        Some((stats.lexer_cost, stats.all_items))
    }

    /// Takes up one of them, which does not end the answer; true where the grammar is complete with it.
    pub fn push(&mut self, token: u32) -> Result<bool, GrammarError> {
        self.allowed()?;
        let Some((mut matcher, _)) = self.place.take() else { return Err(GrammarError::Gone) };
        matcher.consume_token(token).map_err(|_| GrammarError::Stuck)?;
        let complete = matcher.is_stopped();
        if !complete {
            let (reply, places) = flume::bounded(1);
            self.places = places;
            self.jobs.send(Job::Next { matcher, reply }).map_err(|_| GrammarError::Gone)?;
        }
        Ok(complete)
    }
}

/// The thread that finds what may come next; it ends when nobody can ask it any more.
pub(super) fn spawn(shop: Arc<Shop>) -> Result<flume::Sender<Job>, GrammarError> {
    // A task has one job at a time, and its station no more tasks than slots.
    let (jobs, inbox) = flume::unbounded();
    let work = move || {
        for job in inbox {
            let (place, reply) = match job {
                // A copy that shares nothing: even what it costs is the task's own.
                Job::Begin { grammar, reply } => {
                    (shop.compile(&grammar).map(|matcher| Box::new(matcher.deep_clone())), reply)
                }
                Job::Next { matcher, reply } => (Ok(matcher), reply),
            };
            // An error means that the task was cancelled.
            let _ = reply.send(place.and_then(look));
        }
    };
    let spawned = std::thread::Builder::new().name("grammars".to_owned()).spawn(work);
    spawned.map_err(|e| no_thread(&e))?;
    Ok(jobs)
}

fn look(mut matcher: Box<Matcher>) -> Place {
    let allowed = matcher.compute_mask().map_err(|_| GrammarError::Stuck)?;
    Ok((matcher, allowed))
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("waits", &self.place.is_none()).finish_non_exhaustive()
    }
}
