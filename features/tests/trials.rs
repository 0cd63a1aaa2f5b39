//! The server under hardship: kills, full disks, crowds, ten times the load, connections that are held, clients
//! that leave. One after the other, for they are measured by the machine they share.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod crowd;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod hangup;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod quota;
#[cfg(test)]
mod server;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod sse;

#[cfg(test)]
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
