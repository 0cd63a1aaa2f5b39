//! The proofs: goldens of behaviour, determinism under shuffles and restores, invariants under random
//! scripts, and the schedule itself.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod digests;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod library;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod schedule;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod storm;
