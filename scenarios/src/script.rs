//! Scenario scripts: what a person writes to ask the scheduler something.
//!
//! One statement a line, after `> `; `#` lines are prose; `<` lines are answers and skipped. First the
//! cluster, then what happens, by time in milliseconds:
//! ```text
//! > queue interactive=2 batch=4 policy=drop-lru
//! > pool a model=tiny
//! > worker w1 pool=a slots=2 prefill=1000 decode=50
//! > 0 submit t1 prompt=100 answer=50
//! > 30 cancel t1
//! > 50 late w1 by=20 for=300
//! ```

mod cluster;
mod rules;
mod tenants;
mod wish;
mod words;

use crate::alike::beginnings;
use crate::engine::Flaw;
use crate::line::Trouble;
use orchestrion_world::config::{HealthRules, PoolRules, QueueRules, Rules};
use orchestrion_world::id::{JobId, ModelId, PoolId, SessionId, TaskId, TenantId, WorkerId};
use orchestrion_world::job::Action;
use orchestrion_world::protocol::{CancelReason, Class, Determinism, FaultClass, ShardFault, TaskSpec, WorkerFacts};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::{Permille, Sha256};
use rules::{declare, placement};
use std::str::FromStr;
use words::{Words, number};

/// A scenario as read.
#[derive(Clone, Debug)]
pub struct Script {
    /// Of the world.
    pub seed: u64,
    pub rules: Rules,
    pub workers: Vec<(WorkerId, WorkerFacts)>,
    /// How long an engine's step takes, which a cancel has to wait for.
    pub step: Ticks,
    /// By time; what stands together happens in one step, in this order.
    pub events: Vec<Event>,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Tick,
    pub act: Act,
    /// The statement as written, with the prose above it, for the transcript.
    pub text: String,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Submit(TaskId, TaskSpec),
    Cancel(TaskId, CancelReason),
    /// The worker's process ends and says so.
    Die(WorkerId),
    /// The worker stops: no work, no beats, until it is reset.
    Hang(WorkerId),
    /// A worker that died comes back.
    Rise(WorkerId),
    /// The attempt that runs this task fails.
    Fault(TaskId, FaultClass),
    /// An operator asks something of a pool; jobs are numbered as they stand in the script.
    Operate(JobId, PoolId, Action),
    /// From here on something is wrong with the worker, or nothing is any more.
    Flaw(WorkerId, Option<Flaw>),
    /// The weights that the worker uses are found to be corrupt.
    Corrupt(WorkerId),
    /// They change, and nobody knows until they are verified.
    Flip(WorkerId),
    /// One of the attempts that run on this worker fails.
    FaultAt(WorkerId, FaultClass),
    /// From here on, tasks take this share of their time there.
    Slow(WorkerId, Permille),
    /// For a while, what the worker says arrives otherwise.
    Trouble(WorkerId, Trouble, Ticks),
    /// What the worker said last arrives once more, of older lives too.
    Ghost(WorkerId),
    /// The process is killed, workers and all; it is back, with its state, after so long.
    Restart(Ticks),
    /// Every trouble ends and every worker is up. A run that goes on from here has to settle.
    Heal,
    /// The attempt that runs this task makes no more tokens, though its worker lives.
    Stall(TaskId),
    /// One of the attempts that run on this worker makes no more.
    StallAt(WorkerId),
    /// A process takes the journal up: what the one before showed its readers is gone.
    Boot,
    /// The next load on the worker comes to nothing, or to other bytes.
    Spoil(WorkerId, ShardFault),
    /// The rules change.
    Rule(Box<Rules>),
    /// From here on, every placement decision about this task is told in full.
    Watch(TaskId),
    /// The client ends the session.
    Close(SessionId),
    /// The client asks for the session of this name.
    Look(SessionId, String),
    /// Nothing: the transcript goes on to here.
    Wait,
}

/// Why a script cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}: `{text}`")]
pub struct ScriptError {
    pub line: usize,
    pub text: String,
    pub problem: String,
}

/// The seed of a world whose script names none.
const SEED: u64 = 1;
/// Sections of the rules.
const DECLARATIONS: [&str; 8] = ["tenant", "sessions", "queue", "retry", "timeouts", "health", "placement", "eviction"];

/// Defaults that a script need not repeat: short lengths, so that a case fits a screen.
fn default_rules() -> Rules {
    let rules = Rules::default();
    let health = rules.health.clone();
    Rules {
        queue: QueueRules { interactive_max: 100, batch_max: 100, ..rules.queue },
        health: HealthRules { beat_timeout: Ticks(3_000), no_worker_grace: Ticks(10_000), workers_max: 64, ..health },
        ..rules
    }
}

impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Script, ScriptError> {
        let mut script = Script { seed: SEED, rules: default_rules(), workers: vec![], step: Ticks(0), events: vec![] };
        let statements = text.lines().enumerate().filter_map(|(n, l)| Some((n + 1, l.strip_prefix("> ")?)));
        // Ids are places in sorted lists, so pools and models are collected before workers and tasks.
        for (line, text) in statements {
            script.open(text).map_err(|problem| ScriptError { line, text: text.into(), problem })?;
        }
        cluster::sort(&mut script.rules);
        let mut rules = script.rules.clone();
        let mut prose = String::new();
        for (n, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                prose += line;
                prose.push('\n');
            } else if let Some(text) = line.strip_prefix("> ") {
                let told = std::mem::take(&mut prose);
                let error = |problem| ScriptError { line: n + 1, text: text.into(), problem };
                script.follow(&mut rules, text, told).map_err(error)?;
            }
        }
        Ok(script)
    }
}

impl Script {
    /// What has to be known before the rest can be read.
    fn open(&mut self, text: &str) -> Result<(), String> {
        let mut words = Words::of(text);
        match words.verb {
            "seed" => self.seed = number(words.name()?)?,
            "pool" => {
                let (name, model) = (words.name()?.to_owned(), words.take("model")?);
                self.rules.pools.push(PoolRules { name, model });
            }
            "engine" => self.step = Ticks(words.or("step", 0)?),
            "loadable" => self.rules.loadable.push(cluster::loadable(&mut words)?),
            verb if DECLARATIONS.contains(&verb) => declare(&mut self.rules, &mut words)?,
            _ => return Ok(()),
        }
        words.end()
    }

    fn follow(&mut self, rules: &mut Rules, text: &str, prose: String) -> Result<(), String> {
        let mut words = Words::of(text);
        if words.verb == "worker" {
            let id = worker_id(words.name()?)?;
            let facts = cluster::worker(&self.rules, &mut words)?;
            self.workers.push((id, facts));
            return words.end();
        }
        let Ok(at) = words.verb.parse().map(Tick) else {
            return match words.verb {
                "seed" | "pool" | "engine" | "loadable" => Ok(()),
                verb if DECLARATIONS.contains(&verb) => Ok(()),
                verb => Err(format!("`{verb}` is neither a declaration nor a time")),
            };
        };
        if self.events.last().is_some_and(|before| before.at > at) {
            return Err("events go forward in time".into());
        }
        let act = self.act(rules, &mut words)?;
        words.end()?;
        self.events.push(Event { at, act, text: format!("{prose}> {text}") });
        Ok(())
    }

    fn act(&self, rules: &mut Rules, words: &mut Words<'_>) -> Result<Act, String> {
        Ok(match words.name()? {
            "submit" => {
                let id = task_id(words.name()?)?;
                Act::Submit(id, self.spec(words)?)
            }
            "cancel" => Act::Cancel(task_id(words.name()?)?, CancelReason::Client),
            "die" => Act::Die(worker_id(words.name()?)?),
            "hang" => Act::Hang(worker_id(words.name()?)?),
            "rise" => Act::Rise(worker_id(words.name()?)?),
            "fault" => {
                let whose = words.name()?;
                let class = fault_class(words.optional("class").unwrap_or("transient"))?;
                match worker_id(whose) {
                    Ok(worker) => Act::FaultAt(worker, class),
                    Err(_) => Act::Fault(task_id(whose)?, class),
                }
            }
            "slow" => Act::Slow(worker_id(words.name()?)?, Permille(words.or("share", 1000)?)),
            word @ ("mute" | "late" | "jumble" | "twice") => {
                let worker = worker_id(words.name()?)?;
                Act::Trouble(worker, trouble(word, words)?, Ticks(words.or("for", 1_000)?))
            }
            "ghost" => Act::Ghost(worker_id(words.name()?)?),
            "restart" => Act::Restart(Ticks(words.or("down", 0)?)),
            "heal" => Act::Heal,
            "rule" => {
                rules.placement = placement(rules, words)?;
                Act::Rule(Box::new(rules.clone()))
            }
            "set" => {
                words.verb = words.name()?;
                declare(rules, words)?;
                Act::Rule(Box::new(rules.clone()))
            }
            "stall" => {
                let whose = words.name()?;
                match worker_id(whose) {
                    Ok(worker) => Act::StallAt(worker),
                    Err(_) => Act::Stall(task_id(whose)?),
                }
            }
            "boot" => Act::Boot,
            "close" => {
                let tenant = words.optional("tenant").map_or(TenantId::DEFAULT, TenantId::of);
                Act::Close(tenants::session(tenant, words.name()?))
            }
            "look" => {
                let tenant = words.optional("tenant").map_or(TenantId::DEFAULT, TenantId::of);
                let name = words.name()?;
                Act::Look(tenants::session(tenant, name), name.to_owned())
            }
            verb @ ("drain" | "resume" | "reload" | "purge" | "verify") => {
                let pool = words.name()?;
                let pool = self.rules.pools.binary_search_by(|p| p.name.as_str().cmp(pool));
                let number = self.events.iter().filter(|event| matches!(event.act, Act::Operate(..))).count();
                // One that nobody knows is a question too.
                let pool = PoolId(pool.unwrap_or(self.rules.pools.len()) as u16);
                Act::Operate(JobId(number as u64 + 1), pool, self.action(verb, words)?)
            }
            "spoil" => {
                let worker = worker_id(words.name()?)?;
                let fault = match words.name()? {
                    "load" => ShardFault::Transient,
                    "bytes" => ShardFault::Corrupt,
                    other => return Err(format!("a worker's next `load` or its `bytes` can be spoilt, not `{other}`")),
                };
                Act::Spoil(worker, fault)
            }
            "break" => Act::Flaw(worker_id(words.name()?)?, Some(Flaw::FailsToStart)),
            "deafen" => Act::Flaw(worker_id(words.name()?)?, Some(Flaw::Deaf)),
            "mend" => Act::Flaw(worker_id(words.name()?)?, None),
            "corrupt" => Act::Corrupt(worker_id(words.name()?)?),
            "flip" => Act::Flip(worker_id(words.name()?)?),
            "watch" => Act::Watch(task_id(words.name()?)?),
            "wait" => Act::Wait,
            other => return Err(format!("nobody knows how to `{other}`")),
        })
    }

    fn action(&self, verb: &str, words: &mut Words<'_>) -> Result<Action, String> {
        let deadline = Ticks(words.or("deadline", 10_000)?);
        Ok(match verb {
            "drain" => Action::Drain { deadline },
            "reload" => {
                let model = self.rules.models.binary_search(&words.take("model")?);
                Action::Reload { model: ModelId(model.unwrap_or(self.rules.models.len()) as u16), deadline }
            }
            "purge" => {
                let (force, at_once) = (words.flag("force"), words.flag("at-once"));
                Action::Purge { drain: (!at_once).then_some(deadline), force }
            }
            "verify" => Action::Verify,
            _ => Action::Resume,
        })
    }

    fn spec(&self, words: &mut Words<'_>) -> Result<TaskSpec, String> {
        let strict = words.flag("strict");
        let class = if words.flag("batch") { Class::Batch } else { Class::Interactive };
        let model = match words.optional("model") {
            // A name nobody serves is a question too.
            Some(name) => self.rules.models.binary_search(&name.to_owned()).unwrap_or(self.rules.models.len()),
            None => 0,
        };
        let tenant = words.optional("tenant").map_or(TenantId::DEFAULT, TenantId::of);
        let deadline = words.optional("deadline").map(number).transpose()?.map(Ticks);
        let prompt = words.or("prompt", 100)?;
        // `prefix=guide:64`: it begins with the 64 tokens of the guide.
        let shared = words.optional("prefix").map(|text| text.split_once(':').ok_or(text)).transpose();
        let shared = shared.map_err(|text| format!("`{text}` is no beginning, as guide:64 is"))?;
        let prefix = shared.map(|(name, shared)| Ok::<_, String>(beginnings(name, number(shared)?, prompt)));
        let prefix = prefix.transpose()?.unwrap_or_default().iter().map(|key| key.of(tenant)).collect();
        Ok(TaskSpec {
            model: ModelId(model as u16),
            class,
            tenant,
            session: words.optional("session").map(|name| tenants::session(tenant, name)),
            prompt_tokens: prompt,
            prompt_digest: Sha256::default(),
            prefix,
            max_tokens: words.or("answer", 50)?,
            deadline,
            seed: 0,
            determinism: if strict { Determinism::Strict } else { Determinism::BestEffort },
            placement: wish::placement(&self.rules, words)?,
        })
    }
}

fn trouble(word: &str, words: &mut Words<'_>) -> Result<Trouble, String> {
    Ok(match word {
        "mute" => Trouble::Mute,
        "late" => Trouble::Late(Ticks(words.or("by", 100)?)),
        "jumble" => Trouble::Jumble(Ticks(words.or("by", 100)?)),
        "twice" => Trouble::Twice,
        other => return Err(format!("no trouble is called `{other}`")),
    })
}

/// `t7` is task 7.
pub fn task_id(name: &str) -> Result<TaskId, String> {
    let number = name.strip_prefix('t').and_then(|n| n.parse().ok());
    number.map(TaskId).ok_or_else(|| format!("a task is called t1, t2, …, not `{name}`"))
}

fn fault_class(name: &str) -> Result<FaultClass, String> {
    match name {
        "transient" => Ok(FaultClass::Transient),
        "retryable" => Ok(FaultClass::Retryable),
        "invalid-input" => Ok(FaultClass::InvalidInput),
        "fatal" => Ok(FaultClass::Fatal),
        "diverged" => Ok(FaultClass::Diverged),
        other => Err(format!("no class of faults is called `{other}`")),
    }
}

fn worker_id(name: &str) -> Result<WorkerId, String> {
    let number = name.strip_prefix('w').and_then(|n| n.parse().ok());
    number.map(WorkerId).ok_or_else(|| format!("a worker is called w1, w2, …, not `{name}`"))
}
