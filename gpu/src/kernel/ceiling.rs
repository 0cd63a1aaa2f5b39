//! What this machine could do at most, which measured speeds are held against: bytes read from memory and int8
//! products made in a second, by as many threads as an engine has.
//!
//! Memory is read from a buffer that no cache holds, on huge pages as weights are, each thread in one, two, four or
//! eight places at once and each asking ahead or not: the fastest of these counts, for which of them it is differs by
//! machine and by neighbours. Products are made in registers alone, with the level's instructions for them. No engine
//! uses anything of this.
#![allow(unsafe_code)]

use super::arena::Arena;
use super::matrix::GROUP;
use super::packed::Line;
use super::{Level, LevelError};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::hint::black_box;
use std::time::Instant;

/// Larger than the last cache of any processor this runs on.
const BUFFER: usize = 256 << 20;
/// Each is tried so often, and counts as the fastest: what slows one down is a neighbour.
const PASSES: usize = 3;
/// Lines that reading asks ahead for, as kernels do: a small page.
const AHEAD: usize = 4096 / size_of::<Line>();
/// Rounds of products: some tens of milliseconds.
const ROUNDS: usize = 2_000_000;

/// In a second, of all threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    pub read_bytes: f64,
    pub products: f64,
}

impl Ceilings {
    /// Measures both, one after the other.
    pub fn measure(level: Level, threads: usize) -> Result<Ceilings, LevelError> {
        if !level.is_supported() {
            return Err(LevelError::Unsupported(level));
        }
        let mut buffer = Arena::default().take::<Line>(BUFFER / size_of::<Line>());
        buffer.fill(Line([1; GROUP]));
        let ways = [read::<1, 0>, read::<2, 0>, read::<4, 0>, read::<8, 0>, read::<1, AHEAD>, read::<4, AHEAD>];
        let part = buffer.len() / threads;
        let best = |times: &mut dyn Iterator<Item = f64>| times.fold(f64::INFINITY, f64::min);
        let turns = ways.iter().cycle().take(PASSES * ways.len());
        let read = best(&mut turns.map(|way| seconds(threads, |thread| way(&buffer[thread * part..][..part]))));
        let made = best(&mut (0..PASSES).map(|_| seconds(threads, |_| products(level))));
        Ok(Ceilings {
            read_bytes: BUFFER as f64 / read,
            products: (threads * ROUNDS * products_per_round(level)) as f64 / made,
        })
    }
}

/// Reads all lines, in so many places at once, asking for what stands so far ahead.
fn read<const PLACES: usize, const AHEAD: usize>(lines: &[Line]) {
    let place = lines.len() / PLACES;
    let places: [&[Line]; PLACES] = std::array::from_fn(|i| &lines[i * place..][..place]);
    let mut sums = [[0; GROUP]; PLACES];
    for line in 0..place {
        for (sum, lines) in sums.iter_mut().zip(places) {
            #[cfg(target_arch = "x86_64")]
            if AHEAD > 0 {
                // SAFETY: every x86-64 has SSE, and asking ahead touches nothing, wherever it points.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(lines.as_ptr().wrapping_add(line + AHEAD).cast()) };
            }
            *sum = std::array::from_fn(|i| sum[i] ^ lines[line].0[i]);
        }
    }
    black_box(sums);
}

/// How long `work` takes on all threads at once.
fn seconds(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        (0..threads).for_each(|thread| {
            let work = &work;
            scope.spawn(move || work(thread));
        });
    });
    start.elapsed().as_secs_f64()
}

/// Registers that products are added to, enough to hide what one takes.
const SUMS: usize = 12;

fn products_per_round(level: Level) -> usize {
    match level {
        Level::Scalar => SUMS,
        Level::Avx2 => SUMS * 32,
        Level::Vnni => SUMS * 64,
    }
}

fn products(level: Level) {
    match level {
        Level::Scalar => {
            let mut sums = [0i32; SUMS];
            for round in 0..ROUNDS {
                sums.iter_mut().for_each(|sum| *sum += i32::from(black_box(round as i8)) * 3);
            }
            black_box(sums);
        }
        // SAFETY: `measure` has asked whether the level is supported.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { products_avx2() },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Vnni => unsafe { products_vnni() },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Vnni => unreachable!("supported on x86-64 alone"),
    }
}

/// Pairs of products, added in 16 bits: what codes of four bits take.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn products_avx2() {
    let weight = _mm256_set1_epi8(black_box(1));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            // Of the sum itself, so that no product is made once for all rounds.
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(weight, *sum));
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn products_vnni() {
    let (weight, x) = (_mm512_set1_epi8(black_box(1)), _mm512_set1_epi8(black_box(1)));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, weight, x);
        }
    }
    black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_here_has_ceilings() {
        for level in Level::ALL.into_iter().filter(|level| level.is_supported()) {
            let Ceilings { read_bytes, products } = Ceilings::measure(level, 2).unwrap();
            assert!(read_bytes > 1e8 && products > 1e6, "{level}: {read_bytes} bytes/s, {products} products/s");
        }
    }
}
