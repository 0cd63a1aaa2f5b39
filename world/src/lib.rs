//! What is: ids, time, units, the protocol, the entities and their ledger.
//!
//! Start with [`protocol`]: the four nouns. Nothing here decides; the systems do.

#![deny(clippy::float_arithmetic)]

pub mod budget;
pub mod config;
pub mod crew;
pub mod dice;
pub mod field;
pub mod health;
pub mod id;
pub mod job;
pub mod ledger;
pub mod mail;
pub mod payload;
pub mod placement;
mod places;
mod plain;
pub mod prefix;
pub mod protocol;
pub mod queues;
pub mod rate;
mod roster;
pub mod session;
pub mod store;
pub mod task;
pub mod tenant;
pub mod time;
pub mod units;
pub mod victims;
pub mod vram;
pub mod wheel;
pub mod worker;
