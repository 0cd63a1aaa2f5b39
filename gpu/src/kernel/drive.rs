//! Work of a whole batch, spread over the threads: linear layers, norms, feed-forward gates, attention.
//!
//! Each output is computed by one thread, whole, by the level's kernel; parts are cut by outputs, never
//! within a sum. So neither the number of threads nor the rows that share a batch change a bit.
//!
//! Reads and writes flat row-major buffers of the model's scratch. Decides no order of layers.
#![allow(unsafe_code)]

use super::matrix::{GROUP, Matrix};
use super::pool::{Pool, Scatter};
use super::{Kernels, Query};
use crate::kv::Head;
use crate::numerics::attention::seen;
use crate::numerics::linear::{ActRow, BLOCK, NonFinite, Rounded, check_finite};
use std::ops::Range;

/// Rows of activations in a tile: so few that their outputs, each of which is a cache line of its own far from the
/// others, are on their way to memory while the next sums are made.
const ROWS: usize = 8;

/// Rows of activations up to which a linear layer is cut into one part for each thread.
const FEW: usize = 64;

/// The level's kernels and the threads they run on.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) kernels: &'static Kernels,
    pub(crate) pool: Pool,
}

/// Rows of activations for linear layers. Buffers are kept from use to use, and never cleared: a layer's rows are
/// written before they are read.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    cols: usize,
    /// The rows as they came, where a weight needs them so; else a row for each part that rounds them.
    x: Vec<f32>,
    plain: bool,
    /// The rows in int8 blocks, where a weight needs them.
    blocks: Vec<Rounded>,
    per_row: usize,
}

impl Acts {
    fn reset(&mut self, (rows, parts): (usize, usize), cols: usize, readers: &[&Matrix]) {
        self.cols = cols;
        self.plain = readers.iter().any(|m| !m.is_quantized());
        self.per_row = if readers.iter().any(|m| m.is_quantized()) { cols / BLOCK } else { 0 };
        let x = if self.plain { rows } else { parts } * cols;
        self.x.resize(self.x.len().max(x), 0.0);
        self.blocks.resize(self.blocks.len().max(rows * self.per_row), Rounded::default());
    }

    fn row(&self, i: usize) -> ActRow<'_> {
        let x = if self.plain { &self.x[i * self.cols..][..self.cols] } else { &[] };
        ActRow { x, blocks: &self.blocks[i * self.per_row..][..self.per_row] }
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

/// Where sums of some groups of weight rows go, in each row of a linear layer's outputs.
pub(crate) struct Sums<'a> {
    out: &'a Scatter<'a, f32>,
    /// Of the first output in a row, and from row to row.
    at: usize,
    stride: usize,
    /// Weight rows, of which the last group may have fewer than `GROUP`.
    rows: usize,
    groups: Range<usize>,
    write: Write,
}

impl<'a> Sums<'a> {
    /// # Safety
    /// Nobody else has outputs of these groups while it lives.
    unsafe fn new(
        out: &'a Scatter<'a, f32>,
        (at, stride): (usize, usize),
        rows: usize,
        groups: Range<usize>,
        write: Write,
    ) -> Self {
        Sums { out, at, stride, rows, groups, write }
    }

    /// Sums of `G` groups from one on with `T` rows of activations from one on.
    #[inline(always)]
    pub(super) fn put<const G: usize, const T: usize>(
        &mut self,
        (row, group): (usize, usize),
        sums: &[[[f32; GROUP]; G]; T],
    ) {
        assert!(self.groups.start <= group && group + G <= self.groups.end, "a part writes its groups");
        let first = group * GROUP;
        let width = (G * GROUP).min(self.rows - first);
        for (t, sums) in sums.iter().enumerate() {
            let start = (row + t) * self.stride + self.at + first;
            // SAFETY: by the contract of `new`, and nothing keeps what it is given here.
            let out = unsafe { self.out.part(start..start + width) };
            match (self.write, out.as_chunks_mut::<GROUP>().0.as_chunks_mut::<G>().0) {
                // Of a length known here: no call for so few numbers.
                (Write::Set, [out]) => *out = *sums,
                (Write::Add, [out]) => *out = std::array::from_fn(|g| std::array::from_fn(|i| out[g][i] + sums[g][i])),
                (Write::Set, _) => out.copy_from_slice(&sums.as_flattened()[..width]),
                (Write::Add, _) => out.iter_mut().zip(sums.as_flattened()).for_each(|(o, s)| *o += *s),
            }
        }
    }
}

/// Group by group and few rows of activations at a time, for kernels that make a tile of sums.
pub(super) fn tiles(
    groups: Range<usize>,
    acts: &[ActRow<'_>],
    out: &mut Sums<'_>,
    tile: impl Fn(usize, &[ActRow<'_>], &mut [[f32; GROUP]]),
) {
    let mut sums = [[0.0; GROUP]; ROWS];
    for group in groups {
        for (t, acts) in acts.chunks(ROWS).enumerate() {
            tile(group, acts, &mut sums[..acts.len()]);
            for (i, sums) in sums[..acts.len()].iter().enumerate() {
                out.put((t * ROWS + i, group), &[[*sums]]);
            }
        }
    }
}

impl Exec {
    /// Fills `acts` with `rows` rows made by `make(row, out)`, in the forms that `readers` need. A row with an
    /// infinity or a NaN becomes zeros and its `faulted` is set, so that other rows are not disturbed.
    pub(crate) fn activate(
        &mut self,
        acts: &mut Acts,
        (rows, cols): (usize, usize),
        readers: &[&Matrix],
        faulted: &mut [bool],
        make: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let per_part = rows.div_ceil(self.pool.threads() * 8).max(1);
        let parts = rows.div_ceil(per_part);
        acts.reset((rows, parts), cols, readers);
        let (plain, blocks) = (acts.plain, acts.per_row);
        let (x, rounded) = (Scatter::new(&mut acts.x), Scatter::new(&mut acts.blocks));
        let faulted = Scatter::new(&mut faulted[..rows]);
        let kernels = self.kernels;
        self.pool.run(parts, &|part| {
            for row in part * per_part..rows.min((part + 1) * per_part) {
                let place = if plain { row } else { part };
                // SAFETY: a part takes what belongs to its rows of each buffer, or a row that is its own.
                let (x, rounded, faulted) = unsafe {
                    (
                        x.part(place * cols..(place + 1) * cols),
                        rounded.part(row * blocks..(row + 1) * blocks),
                        &mut faulted.part(row..row + 1)[0],
                    )
                };
                make(row, x);
                let checked = if blocks > 0 { (kernels.quantize)(x, rounded) } else { check_finite(x) };
                if checked == Err(NonFinite) {
                    *faulted = true;
                    x.fill(0.0);
                    rounded.fill(Rounded::default());
                }
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
        // With few rows a part is over so soon that being dealt it costs more than an even end gains. An even number of
        // groups: a kernel may take two at a time.
        let shares = if rows <= FEW { 1 } else { 8 };
        let per_part = groups.div_ceil(self.pool.threads() * shares).next_multiple_of(2);
        let parts: Vec<(&Matrix, usize, Range<usize>)> = layers
            .iter()
            .flat_map(|(w, at)| (0..w.groups()).step_by(per_part).map(|g| (*w, *at, g..w.groups().min(g + per_part))))
            .collect();
        let rows: Vec<ActRow<'_>> = (0..rows).map(|i| acts.row(i)).collect();
        let out = Scatter::new(out);
        let kernels = self.kernels;
        self.pool.run(parts.len(), &|part| {
            let (weights, at, groups) = &parts[part];
            let groups = groups.clone();
            // SAFETY: outputs of a group belong to the one part that holds the group.
            let mut sums = unsafe { Sums::new(&out, (*at, stride), weights.rows, groups.clone(), write) };
            (kernels.linear)(weights, groups, &rows, &mut sums);
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
