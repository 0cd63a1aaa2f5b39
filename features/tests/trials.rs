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
mod numbers;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod quota;
#[cfg(test)]
mod server;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod sse;

#[cfg(test)]
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// SplitMix64: habits and moments are drawn, the same in each run.
#[cfg(test)]
fn draw(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
