//! `orch serve`: puts the rooms together, opens the door, loads the models, and takes it all down again.
//!
//! The door opens first: a port that is taken is said before a model is fetched, and probes can watch the
//! loading. Then pulse and journal, then one station for each pool. Ctrl-C or SIGTERM ends it in order:
//! no new work, open streams get their time, the rest is cancelled, the journal is forced to disk.

mod banner;
#[cfg(test)]
mod house;
pub(crate) mod keys;
mod kitchen;
mod load;
mod stations;
#[cfg(test)]
mod strict_tests;
mod survey;
#[cfg(test)]
mod verify_tests;

use crate::cli::ServeArgs;
use crate::configuration::{Config, LogFormat};
use crate::failure::{Code, Failure};
use crate::version;
use kitchen::Kitchen;
use orchestrion_api::door::{Door, DoorParts, FromJournal};
use orchestrion_api::journal::JournalError;
use orchestrion_api::port::Urgent;
use orchestrion_api::pulse::{Pulse, PulseConfig, PulseError, lanes};
use orchestrion_api::recovery::RecoverError;
use orchestrion_api::serve::serve;
use orchestrion_api::switchboard::Switchboard;
use orchestrion_api::telemetry::Telemetry;
use orchestrion_world::protocol::CancelReason;
use stations::Depot;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Reports of all slots and cancels of all clients fit many times over; senders wait when it is full.
const URGENT_LANE: usize = 16_384;
/// Submissions that one step takes at most.
const CLIENT_BATCH: usize = 256;
/// Open streams get this long after a signal before their tasks are cancelled.
const DRAIN: Duration = Duration::from_secs(10);

pub(crate) fn run(args: ServeArgs) -> Result<(), Failure> {
    let config = Config::layered(&args)?;
    trace(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(live(config));
    // A model that is being fetched or read is for nobody any more: the process does not wait for it.
    runtime.shutdown_background();
    ended
}

/// Logs go to stderr: stdout is for what was asked for.
fn trace(config: &Config) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.log.filter));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log on a full disk loses lines. To say so it would print to stderr, and panic where that fails.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

async fn live(config: Config) -> Result<(), Failure> {
    let signals = signals()?;
    let bind = config.server.bind;
    let auth = keys::auth(&config.auth, bind, &keys::Sources::of(&config.auth))?;
    let listener = listen(bind, config.server.limits.connections).map_err(|error| taken(bind, &error))?;
    let address = listener.local_addr()?;

    let mut rules = config.rules();
    let pool_names: Vec<String> = rules.pools.iter().map(|pool| pool.name.clone()).collect();
    let telemetry = Arc::new(Telemetry::new(&pool_names, rules.eviction.policy));
    let switchboard = Arc::new(Switchboard::new(config.server.keep(), Arc::clone(&telemetry)));
    let kitchen = Arc::new(Kitchen::new(rules.models.clone()));
    let depot = Arc::new(Depot::default());
    let (lanes, inlets) = lanes(URGENT_LANE, config.queue.ingress_max);
    let urgent = lanes.urgent.clone();
    let loader = load::Loader::new(&config, &kitchen, urgent.clone(), &switchboard)?;
    let surveying = tokio::task::spawn_blocking({
        let loader = Arc::clone(&loader.0);
        move || survey::survey(&loader)
    });
    let surveyed = tokio::select! {
        found = surveying => found.map_err(Failure::of(Code::Failed))??,
        () = until(signals.clone()) => return Ok(()),
    };
    rules.loadable.clone_from(&surveyed.rows);
    let journal = config.journal()?;
    let journal_dir = journal.dir.clone();
    let queue = rules.queue.clone();
    let pulse = PulseConfig {
        rules,
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
        build: version::line().to_owned(),
        client_batch: CLIENT_BATCH,
        journal,
    };
    let pulse = Pulse::start(pulse, inlets, Arc::clone(&switchboard) as _, Arc::clone(&depot) as _)
        .map_err(|error| Failure::new(code_of(&error), error))?;

    let parts = DoorParts {
        lanes,
        health: pulse.health(),
        switchboard: Arc::clone(&switchboard),
        prepare: kitchen as _,
        explain: Arc::new(FromJournal(journal_dir.clone())),
        telemetry,
        auth,
        queue,
    };
    let door = Door::new(parts, config.server.clone());
    let (closing, closed) = watch::channel(false);
    let served = serve(listener, door.router(), config.server.limits.clone(), until(closed), DRAIN);
    let served = tokio::spawn(served);
    tokio::spawn(Arc::clone(&door).housekeeping());

    banner::opened(address, &journal_dir);
    let (stopper, heritage) = (pulse.stopper(), pulse.heritage());
    let mut ended = tokio::task::spawn_blocking(move || pulse.join());
    let mut loading = tokio::task::spawn_blocking({
        let (depot, urgent) = (Arc::clone(&depot), urgent.clone());
        move || load::pools(loader, surveyed, &depot, &heritage, &urgent)
    });

    let mut early = None;
    tokio::select! {
        loaded = &mut loading => match loaded.map_err(Failure::of(Code::Failed))? {
            Ok(models) => {
                banner::ready(address, &models);
                tokio::select! {
                    () = until(signals.clone()) => {}
                    join = &mut ended => early = Some(join),
                }
            }
            Err(failure) => {
                stopper.stop();
                // The journal ends whole. What went wrong first is what is told.
                let _ = ended.await;
                return Err(failure);
            }
        },
        () = until(signals.clone()) => {}
        join = &mut ended => early = Some(join),
    }
    if early.is_none() {
        banner::stopping();
        closing.send_replace(true);
        served.await.map_err(Failure::of(Code::Failed))?;
        cancel_rest(&switchboard, &urgent).await;
        stopper.stop();
    }
    depot.close();
    let join = match early {
        Some(join) => join,
        None => ended.await,
    };
    join.map_err(Failure::of(Code::Failed))?.map_err(|error| Failure::new(code_of(&error), error))
}

/// As many may knock at once as are let in: a client whose knock the system drops waits for long seconds, and
/// one that says nothing for ever. The kernel's `net.core.somaxconn` caps the number.
fn listen(bind: SocketAddr, connections: usize) -> std::io::Result<TcpListener> {
    let socket = if bind.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the plain way of listening does: a server that comes back finds its port.
    socket.set_reuseaddr(true)?;
    socket.bind(bind)?;
    socket.listen(u32::try_from(connections).unwrap_or(u32::MAX))
}

/// What still lives ends with a reason of its own, in the journal too.
async fn cancel_rest(switchboard: &Switchboard, urgent: &flume::Sender<Urgent>) {
    for task in switchboard.living() {
        let cancel = Urgent::Cancel { task, reason: CancelReason::Shutdown, reply: None };
        if urgent.send_async(cancel).await.is_err() {
            return;
        }
    }
}

/// Until it has been said.
async fn until(mut said: watch::Receiver<bool>) {
    // An error means that nobody is left to say it, which is an end as well.
    let _ = said.wait_for(|said| *said).await;
}

/// Listens for Ctrl-C and for what a supervisor sends, from the first moment on: the first one is heard
/// here, the second ends the process at once.
fn signals() -> Result<watch::Receiver<bool>, Failure> {
    let (heard, signals) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if heard.send_replace(true) {
                std::process::exit(130);
            }
        }
    });
    Ok(signals)
}

fn taken(bind: SocketAddr, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => "; is another server running? `--bind 127.0.0.1:0` takes any free port",
        _ => "",
    };
    Failure::new(Code::Unavailable, format!("cannot listen on {bind}: {error}{hint}"))
}

fn code_of(error: &PulseError) -> Code {
    match error {
        PulseError::Broken { .. } | PulseError::Panicked(_) => Code::Broken,
        PulseError::Rules(_)
        | PulseError::Recover(RecoverError::OtherPools { .. } | RecoverError::OtherRules { .. }) => Code::BadConfig,
        PulseError::Recover(RecoverError::Differs { .. } | RecoverError::Restore(_)) | PulseError::Restore(_) => {
            Code::BadData
        }
        PulseError::Journal(JournalError::Locked { .. }) => Code::Unavailable,
        PulseError::Journal(_) | PulseError::Recover(RecoverError::Journal(_)) | PulseError::Thread(_) => Code::Failed,
    }
}
