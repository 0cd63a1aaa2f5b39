//! Proof by replay: a script asks, a simulated engine works, the core decides, the transcript answers.
//!
//! [`script`] reads a scenario, [`stage`] runs it in virtual time with every audit after every step,
//! [`transcript`] writes question and answer as one text. The cases beside this crate are the regression
//! suite of the scheduler and the documentation of how it behaves. [`storm`] draws scenarios from a seed and
//! demands of each what must hold of all.

mod alike;
pub mod bench;
pub mod clients;
pub mod cluster;
pub mod cost;
pub mod draw;
pub mod engine;
pub mod expect;
pub mod file;
pub mod history;
pub mod line;
pub mod moves;
pub mod report;
pub mod sample;
pub mod script;
pub mod simulate;
pub mod stage;
pub mod station;
pub mod storm;
pub mod summary;
pub mod trace;
pub mod transcript;
