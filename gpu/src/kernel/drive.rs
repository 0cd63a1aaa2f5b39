//! Work of a whole batch, spread over the threads: linear layers, norms, feed-forward gates, attention.
//!
//! Each output is computed by one thread, whole, by the level's kernel; parts are cut by outputs, never
//! within a sum. So neither the number of threads nor the rows that share a batch change a bit.
//!
//! Reads and writes flat row-major buffers of the model's scratch. Decides no order of layers.
#![allow(unsafe_code)]

use super::matrix::{GROUP, Matrix};
use super::pool::{Pool, Scatter};
use super::{Kernels, Query, ROWS};
use crate::kv::Head;
use crate::numerics::attention::seen;
use crate::numerics::linear::{ActRow, BLOCK, NonFinite, Rounded, check_finite};
use std::ops::Range;

/// The level's kernels and the threads they run on.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) kernels: &'static Kernels,
    pub(crate) pool: Pool,
}

/// Rows of activations for linear layers. Buffers are kept from use to use.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    cols: usize,
    x: Vec<f32>,
    blocks: Vec<Rounded>,
}

impl Acts {
    fn reset(&mut self, rows: usize, cols: usize, quantized: bool) {
        let blocks = if quantized { rows * (cols / BLOCK) } else { 0 };
        self.cols = cols;
        self.x.resize(rows * cols, 0.0);
        self.blocks.resize(blocks, Rounded::default());
    }

    fn row(&self, i: usize) -> ActRow<'_> {
        // No blocks in all where no weight needs them.
        let blocks = self.blocks.len().min(self.cols / BLOCK);
        ActRow { x: &self.x[i * self.cols..][..self.cols], blocks: &self.blocks[i * blocks..][..blocks] }
    }
}

/// Whether a linear layer's result replaces or is added to what is there (the residual stream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Set,
    Add,
}

/// Queries of one sequence's head that share its keys: rows of the batch, and the head's queries in each.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Which sequence of the batch.
    pub(crate) sequence: usize,
    pub(crate) kv_head: usize,
    /// (row, query head, position), at most `super::TILE`.
    pub(crate) queries: Vec<(usize, usize, usize)>,
}

impl Exec {
    /// Fills `acts` with `rows` rows made by `make(row, out)`, in int8 where `quantized`. A row with an
    /// infinity or a NaN becomes zeros and its `faulted` is set, so that other rows are not disturbed.
    pub(crate) fn activate(
        &mut self,
        acts: &mut Acts,
        (rows, cols): (usize, usize),
        quantized: bool,
        faulted: &mut [bool],
        make: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        acts.reset(rows, cols, quantized);
        let blocks = if quantized { cols / BLOCK } else { 0 };
        let (x, rounded) = (Scatter::new(&mut acts.x), Scatter::new(&mut acts.blocks));
        let faulted = Scatter::new(&mut faulted[..rows]);
        let kernels = self.kernels;
        self.pool.run(rows, &|row| {
            // SAFETY: part `row` takes what belongs to row `row` of each buffer.
            let (x, rounded, faulted) = unsafe {
                (
                    x.part(row * cols..(row + 1) * cols),
                    rounded.part(row * blocks..(row + 1) * blocks),
                    &mut faulted.part(row..row + 1)[0],
                )
            };
            make(row, x);
            let checked = if quantized { (kernels.quantize)(x, rounded) } else { check_finite(x) };
            if checked == Err(NonFinite) {
                *faulted = true;
                x.fill(0.0);
                rounded.fill(Rounded::default());
            }
        });
    }

    /// Lets `change` at each row of `stride` elements.
    pub(crate) fn each_row(&mut self, rows: &mut [f32], stride: usize, change: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let count = rows.len() / stride;
        let rows = Scatter::new(rows);
        self.pool.run(count, &|row| {
            // SAFETY: part `row` takes row `row`.
            change(row, unsafe { rows.part(row * stride..(row + 1) * stride) });
        });
    }

    /// Lets `change` at each row of one buffer with the same row of another, each of its stride.
    pub(crate) fn each_pair(
        &mut self,
        (rows, stride): (&mut [f32], usize),
        (others, other): (&mut [f32], usize),
        change: &(dyn Fn(&mut [f32], &mut [f32]) + Sync),
    ) {
        let count = rows.len() / stride;
        let (rows, others) = (Scatter::new(rows), Scatter::new(others));
        self.pool.run(count, &|row| {
            // SAFETY: part `row` takes row `row` of each.
            let (one, other) =
                unsafe { (rows.part(row * stride..(row + 1) * stride), others.part(row * other..(row + 1) * other)) };
            change(one, other);
        });
    }

    /// out[row · stride + at + i] = (weights · acts[row])ᵢ for each (weights, at).
    pub(crate) fn linear(
        &mut self,
        layers: &[(&Matrix, usize)],
        acts: &Acts,
        rows: usize,
        (out, stride): (&mut [f32], usize),
        write: Write,
    ) {
        let groups: usize = layers.iter().map(|(w, _)| w.groups()).sum();
        let per_part = groups.div_ceil(self.pool.threads() * 8);
        let parts: Vec<(&Matrix, usize, Range<usize>)> = layers
            .iter()
            .flat_map(|(w, at)| (0..w.groups()).step_by(per_part).map(|g| (*w, *at, g..w.groups().min(g + per_part))))
            .collect();
        let rows: Vec<ActRow<'_>> = (0..rows).map(|i| acts.row(i)).collect();
        let out = Scatter::new(out);
        let kernels = self.kernels;
        self.pool.run(parts.len(), &|part| {
            let (weights, at, groups) = &parts[part];
            let mut tile = [[0.0; GROUP]; ROWS];
            for group in groups.clone() {
                let first = group * GROUP;
                let width = GROUP.min(weights.rows - first);
                for (t, acts) in rows.chunks(ROWS).enumerate() {
                    let tile = &mut tile[..acts.len()];
                    (kernels.tile)(weights, group, acts, tile);
                    for (i, sums) in tile.iter().enumerate() {
                        let start = (t * ROWS + i) * stride + at + first;
                        // SAFETY: outputs of a group belong to the one part that holds the group.
                        let out = unsafe { out.part(start..start + width) };
                        match (write, <&mut [f32; GROUP]>::try_from(&mut *out)) {
                            // Of a length known here: no call for sixteen numbers.
                            (Write::Set, Ok(out)) => *out = *sums,
                            (Write::Set, Err(_)) => out.copy_from_slice(&sums[..width]),
                            (Write::Add, Ok(out)) => *out = std::array::from_fn(|i| out[i] + sums[i]),
                            (Write::Add, Err(_)) => out.iter_mut().zip(sums).for_each(|(o, s)| *o += *s),
                        }
                    }
                }
            }
        });
    }

    /// Answers all queries, each over what it sees within `window`: row r's head h reads
    /// `queries[r · stride + h · dim ..]` and writes `out[r · width + h · dim ..]`.
    pub(crate) fn attend<'kv>(
        &mut self,
        asked: &[Asked],
        window: Option<usize>,
        head: &(dyn Fn(&Asked) -> Head<'kv> + Sync),
        (queries, stride): (&[f32], usize),
        (out, width): (&mut [f32], usize),
    ) {
        let out = Scatter::new(out);
        let kernels = self.kernels;
        self.pool.run(asked.len(), &|part| {
            let asked = &asked[part];
            let head = head(asked);
            let mut tile: Vec<Query<'_>> = asked
                .queries
                .iter()
                .map(|(row, h, position)| {
                    let start = row * width + h * head.dim();
                    Query {
                        query: &queries[row * stride + h * head.dim()..][..head.dim()],
                        seen: seen(*position, window),
                        // SAFETY: a row's head stands in one `Asked`, once.
                        out: unsafe { out.part(start..start + head.dim()) },
                    }
                })
                .collect();
            (kernels.attend)(&mut tile, head);
        });
    }
}
