//! The best logit of a head that is split, exactly, from half of its bytes and a little more.
//!
//! All groups of rows are looked at by the upper halves of their codes. Some that look best are computed, so that it is
//! known how good the best is at least; then all that may be as good. What is computed has the canonical bits, and what
//! is left out is worse for certain (`split` says why).

use super::drive::{Acts, Exec};
use super::matrix::{GROUP, Matrix};
use super::split::{Asker, Peak, Split, TINY, reach};
use crate::numerics::linear::BLOCK;

/// Groups that a thread takes at a time, to look at and to compute.
const LOOKS: usize = 256;
const COMPUTES: usize = 8;
/// Groups computed first, each the one that looks best in its part of the head.
const LEADERS: usize = 4;

/// Searches left out after so many that did not pay.
const LONGEST_PAUSE: u32 = 32;

/// Memory of a search, kept from one to the next, and how searches fare: where many rows are nearly as good as the best,
/// all logits are had for less.
#[derive(Debug, Default)]
pub(crate) struct Search {
    pause: u32,
    /// Of `pause`, what is still to be left out.
    left: u32,
    reach: Vec<f32>,
    /// Of each group, of each row of activations.
    peaks: Vec<Peak>,
    computed: Vec<[f32; GROUP]>,
}

impl Search {
    /// Hears how much of the head was read: half of it to look, and what was computed after that.
    fn fared(&mut self, read: u64, of: u64) {
        self.pause = if read < of / 8 * 7 { 0 } else { LONGEST_PAUSE.min(2 * self.pause + 1) };
        self.left = self.pause;
    }
}

impl Exec {
    /// Logits of each row of activations, the largest and those that equal it among them; in place of others, which are
    /// less, stands `f32::MIN`. Gives how many bytes of the head were read; `None` where the head is not split, numbers
    /// are too large for the bound, or searches do not pay.
    pub(crate) fn best(
        &mut self,
        head: &Matrix,
        acts: &Acts,
        rows: usize,
        logits: &mut Vec<f32>,
        search: &mut Search,
    ) -> Option<u64> {
        let split = head.split()?;
        if search.left > 0 {
            search.left -= 1;
            return None;
        }
        let (groups, blocks) = (head.groups(), head.cols / BLOCK);
        search.reach.resize(rows * blocks, 0.0);
        for (row, out) in search.reach.chunks_mut(blocks).enumerate() {
            reach(acts.row(row).blocks, out)?;
        }
        logits.clear();
        logits.resize(rows * head.rows, f32::MIN);
        self.look(split, groups, acts, search);
        let peak = |row: usize, group: usize| search.peaks[group * rows + row];
        let part = groups.div_ceil(LEADERS);
        let leader = |row, from: usize| {
            let better = |a: &usize, b: &usize| peak(row, *a).centre.total_cmp(&peak(row, *b).centre);
            (from..groups.min(from + part)).max_by(better)
        };
        let leaders = |row| (0..groups).step_by(part).filter_map(move |from| Some((row, leader(row, from)?)));
        let leaders: Vec<(usize, usize)> = (0..rows).flat_map(leaders).collect();
        self.compute(head, acts, &leaders, &mut search.computed, logits);
        let mut rest = Vec::new();
        for row in 0..rows {
            let logits = &logits[row * head.rows..][..head.rows];
            let known = leaders.iter().filter(|(of, _)| *of == row);
            let known = known.flat_map(|(_, group)| logits.chunks(GROUP).nth(*group)).flatten();
            let least = known.fold(f32::MIN, |best, logit| best.max(*logit)) - TINY;
            let may = |group: &usize| peak(row, *group).upper >= least && logits[group * GROUP] <= f32::MIN;
            rest.extend((0..groups).filter(may).map(|group| (row, group)));
        }
        self.compute(head, acts, &rest, &mut search.computed, logits);
        let read = split.read_to_look() + split.read_to_compute(leaders.len() + rest.len());
        search.fared(read, head.bytes() as u64);
        Some(read)
    }

    /// Fills the peaks.
    fn look(&mut self, split: &Split, groups: usize, acts: &Acts, Search { reach, peaks, .. }: &mut Search) {
        let blocks = split.scales(0).len();
        let reaches = reach.chunks(blocks).enumerate();
        let askers: Vec<Asker<'_>> =
            reaches.map(|(row, reach)| Asker { blocks: acts.row(row).blocks, reach }).collect();
        let rows = askers.len();
        peaks.resize(groups * rows, Peak::default());
        let kernels = self.kernels;
        self.each_part(peaks, LOOKS * rows, &|part, peaks| {
            for (group, peaks) in peaks.chunks_mut(rows).enumerate() {
                (kernels.look)(split, part * LOOKS + group, &askers, peaks);
            }
        });
    }

    /// Logits of the groups asked for, each with its row of activations.
    fn compute(
        &mut self,
        head: &Matrix,
        acts: &Acts,
        asked: &[(usize, usize)],
        computed: &mut Vec<[f32; GROUP]>,
        logits: &mut [f32],
    ) {
        computed.resize(asked.len(), [0.0; GROUP]);
        let kernels = self.kernels;
        self.each_part(computed, COMPUTES, &|part, computed| {
            for ((row, group), sums) in asked[part * COMPUTES..].iter().zip(computed) {
                (kernels.tile)(head, *group, &[acts.row(*row)], std::slice::from_mut(sums));
            }
        });
        for ((row, group), sums) in asked.iter().zip(computed) {
            let first = group * GROUP;
            let width = GROUP.min(head.rows - first);
            logits[row * head.rows + first..][..width].copy_from_slice(&sums[..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kernels, Level};
    use super::*;
    use crate::gguf::TensorKind;
    use crate::kernel::drive::Write;
    use crate::kernel::matrix::Packing;
    use crate::kernel::pool::Pool;
    use crate::numerics::linear::{ActRow, Rounded, dot, quantize, row_bytes};
    use crate::numerics::noise::Noise;
    use proptest::prelude::*;

    fn levels() -> Vec<&'static Kernels> {
        Level::ALL[1..].iter().filter_map(|level| Kernels::of(*level).ok()).collect()
    }

    fn rounded(x: &[f32]) -> Vec<Rounded> {
        let mut blocks = vec![Rounded::default(); x.len() / BLOCK];
        assert_eq!(quantize(x, &mut blocks), Ok(()));
        blocks
    }

    /// Peaks of a head's groups for one row of activations.
    fn peaks(kernels: &Kernels, head: &Matrix, blocks: &[Rounded]) -> Vec<Peak> {
        let mut reach = vec![0.0; blocks.len()];
        assert_eq!(super::reach(blocks, &mut reach), Some(()));
        let asker = Asker { blocks, reach: &reach };
        let peak = |group| {
            let mut peak = [Peak::default()];
            (kernels.look)(head.split().unwrap(), group, &[asker], &mut peak);
            peak[0]
        };
        (0..head.groups()).map(peak).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn no_logit_is_above_its_bound(
            rows in 1usize..70, blocks in 1usize..40, kind in 0u8..4, seed: u64,
        ) {
            let (mut noise, cols, q8) = (Noise(seed), blocks * BLOCK, TensorKind::Q8_0);
            let mut bytes = noise.weights(q8, rows * cols);
            // Lower halves that all point one way, with activations along them: what the bound allows for.
            if kind == 0 {
                let codes = bytes.iter_mut().enumerate().filter(|(i, _)| i % 34 > 1);
                codes.for_each(|(_, code)| *code = *code & 0xf0 | [0, 15][usize::from(*code) / 8 % 2]);
            }
            let x = match kind {
                0 => {
                    let first = bytes[..row_bytes(q8, cols)].chunks(34).flat_map(|block| &block[2..]);
                    first.map(|code| f32::from(code & 15) - 7.5).collect()
                }
                1 => noise.evens(cols),
                2 => noise.wild(cols),
                _ => noise.evens(cols).iter().map(|x| x * 1e-29).collect::<Vec<f32>>(),
            };
            let acts = rounded(&x);
            let logit = |row: &[u8]| dot(q8, row, ActRow { x: &x, blocks: &acts });
            for kernels in levels() {
                let head = Matrix::head(&mut Packing::new(kernels.level, 2), q8, rows, cols, &bytes);
                let groups = bytes.chunks(GROUP * row_bytes(q8, cols));
                for (peak, group) in peaks(kernels, &head, &acts).iter().zip(groups) {
                    for row in group.chunks(row_bytes(q8, cols)) {
                        prop_assert!(logit(row) - TINY <= peak.upper, "{} {peak:?}", kernels.level);
                    }
                }
            }
        }

        #[test]
        fn the_best_is_that_of_all_logits(
            rows in 1usize..900, blocks in 1usize..12, count in 1usize..11, threads in 1usize..4, twice: bool,
            seed: u64,
        ) {
            let (mut noise, cols, q8) = (Noise(seed), blocks * BLOCK, TensorKind::Q8_0);
            let mut bytes = noise.weights(q8, rows * cols);
            if twice {
                // Rows that are the same, so that logits are.
                let half = rows / 2 * row_bytes(q8, cols);
                bytes.copy_within(..half, half);
            }
            let x = noise.wild(count * cols);
            for kernels in levels() {
                let head = Matrix::head(&mut Packing::new(kernels.level, threads), q8, rows, cols, &bytes);
                let mut exec = Exec { kernels, pool: Pool::new(threads).unwrap() };
                let (mut acts, mut faulted) = (Acts::default(), vec![false; count]);
                exec.activate(&mut acts, (count, cols), true, &mut faulted, &|row, out| {
                    out.copy_from_slice(&x[row * cols..][..cols]);
                });
                let mut all = vec![0.0; count * rows];
                exec.linear(&[(&head, 0)], &acts, count, (&mut all, rows), Write::Set);
                let mut found = vec![7.0];
                let read = exec.best(&head, &acts, count, &mut found, &mut Search::default());
                prop_assert!(read.is_some() && found.len() == all.len());
                for (found, all) in found.chunks(rows).zip(all.chunks(rows)) {
                    let best = all.iter().fold(f32::MIN, |best, logit| best.max(*logit));
                    for (found, logit) in found.iter().zip(all) {
                        let is_left_out = *found <= f32::MIN && *logit < best;
                        prop_assert!(is_left_out || found.to_bits() == logit.to_bits(), "{found} {logit} {best}");
                    }
                }
            }
        }
    }

    /// Where all logits are the same, all are computed, and soon searches are left out.
    #[test]
    fn searches_that_do_not_pay_pause() {
        for kernels in levels() {
            let (rows, cols) = (512, 64);
            let bytes = vec![0; rows * row_bytes(TensorKind::Q8_0, cols)];
            let head = Matrix::head(&mut Packing::new(kernels.level, 1), TensorKind::Q8_0, rows, cols, &bytes);
            let mut exec = Exec { kernels, pool: Pool::new(1).unwrap() };
            let (mut acts, mut found, mut search) = (Acts::default(), vec![], Search::default());
            exec.activate(&mut acts, (1, cols), true, &mut [false], &|_, out| out.fill(1.0));
            let mut has_searched = || exec.best(&head, &acts, 1, &mut found, &mut search).is_some();
            for pause in [1, 3, 7, 15, 31, 32, 32] {
                assert!(has_searched() && (0..pause).all(|_| !has_searched()));
            }
            assert!(found.iter().all(|logit| *logit == 0.0));
        }
    }

    /// A head with one row along the activations: its logit is told by half of the head, and nearly nothing else is read.
    #[test]
    fn what_is_clearly_worse_is_not_computed() {
        let (mut noise, rows, cols, q8) = (Noise(3), 4096, 640, TensorKind::Q8_0);
        let mut bytes = noise.weights(q8, rows * cols);
        let x = noise.evens(cols);
        let acts = rounded(&x);
        let row = &mut bytes[1234 * row_bytes(q8, cols)..][..row_bytes(q8, cols)];
        for (block, act) in row.chunks_mut(34).zip(&acts) {
            block[2..].iter_mut().zip(act.q).for_each(|(code, q)| *code = q as u8);
            block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
        }
        for kernels in levels() {
            let head = Matrix::head(&mut Packing::new(kernels.level, 1), q8, rows, cols, &bytes);
            let mut exec = Exec { kernels, pool: Pool::new(2).unwrap() };
            let (mut held, mut faulted, mut found) = (Acts::default(), [false], vec![]);
            exec.activate(&mut held, (1, cols), true, &mut faulted, &|_, out| out.copy_from_slice(&x));
            let read = exec.best(&head, &held, 1, &mut found, &mut Search::default());
            assert_eq!(found.iter().filter(|logit| **logit > f32::MIN).count(), LEADERS * GROUP);
            assert!(found.iter().all(|logit| *logit <= found[1234]));
            assert!(read.is_some_and(|read| read < head.bytes() as u64 * 6 / 10), "{read:?} of {}", head.bytes());
            // Numbers for which the bound is not proven.
            exec.activate(&mut held, (1, cols), true, &mut faulted, &|_, out| out.fill(1e30));
            assert_eq!(exec.best(&head, &held, 1, &mut found, &mut Search::default()), None);
        }
    }

    /// The bound is no wider than it has to be: a row whose lower halves lie along the activations comes close to it.
    #[test]
    fn a_logit_comes_near_its_bound() {
        let q8 = TensorKind::Q8_0;
        let mut bytes = vec![0; row_bytes(q8, 256)];
        let mut x = vec![];
        for (i, byte) in bytes.iter_mut().enumerate() {
            match i % 34 {
                0 => {}
                1 => *byte = 0x3c,
                at => {
                    *byte = 0x70 | [0, 15][at / 3 % 2];
                    x.push(if at / 3 % 2 == 1 { 1.0 } else { -1.0 });
                }
            }
        }
        let acts = rounded(&x);
        let logit = dot(q8, &bytes, ActRow { x: &x, blocks: &acts });
        for kernels in levels() {
            let head = Matrix::head(&mut Packing::new(kernels.level, 1), q8, 1, 256, &bytes);
            let Peak { centre, upper } = peaks(kernels, &head, &acts)[0];
            let share = (logit - centre) / (upper - centre);
            assert!((0.98..1.0).contains(&share), "{logit} {centre} {upper}");
        }
    }
}
