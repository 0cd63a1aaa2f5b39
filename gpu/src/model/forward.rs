//! One pass over a batch of rows: any mix of prompt chunks and single tokens of any sequences.
//!
//! A row is a token of a sequence at a position; rows of a sequence stand in ascending order and its cache
//! already holds what came before. Nothing a row computes depends on which other rows share the batch, so
//! the same sequence gives the same bits alone, among others, and however its prompt was cut.
//!
//! Reads weights and caches, writes caches at the rows' positions and logits of the rows that want them.
//! A row that meets an infinity or a NaN is marked and carries zeros on; the others are untouched.

use super::Model;
use crate::kernel::TILE;
use crate::kernel::drive::{Acts, Asked, Exec, Write};
use crate::kv::Kv;
use crate::numerics::rope_angles;

/// One token to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Index of its sequence among the caches given.
    pub(crate) sequence: usize,
    pub(crate) position: u32,
    pub(crate) token: u32,
    pub(crate) wants_logits: bool,
}

/// Points at which a tracer may look at the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// After the embedding.
    Embedding,
    /// After a layer's attention.
    Attention(usize),
    /// After a layer.
    Layer(usize),
}

/// Hears the residual stream, row-major, at each stage.
pub type Tap<'a> = &'a mut dyn FnMut(Stage, &[f32]);

/// Memory a pass works in, kept from pass to pass.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    acts: Acts,
    /// The residual stream.
    x: Vec<f32>,
    /// Queries, keys and values side by side.
    qkv: Vec<f32>,
    halves: Vec<u16>,
    attended: Vec<f32>,
    /// Gate and up side by side.
    gate_up: Vec<f32>,
    /// Logits of the rows that wanted them, in their order.
    pub(crate) logits: Vec<f32>,
    /// For each row: an infinity or a NaN was met.
    pub(crate) faulted: Vec<bool>,
}

impl Model {
    pub(crate) fn forward(&mut self, exec: &mut Exec, rows: &[Row], kvs: &mut [Kv], b: &mut Buffers, tap: Tap<'_>) {
        let (h, n) = (self.hyper, rows.len());
        self.reach(rows, kvs);
        b.faulted.clear();
        b.faulted.resize(n, false);
        b.x.resize(n * h.width, 0.0);
        for (row, x) in rows.iter().zip(b.x.chunks_exact_mut(h.width)) {
            self.embed.row(row.token as usize, x);
        }
        tap(Stage::Embedding, &b.x);
        let asked = asked(rows, h.heads, h.kv_heads);
        for layer in 0..h.layers {
            self.attention(exec, layer, rows, kvs, &asked, b);
            tap(Stage::Attention(layer), &b.x);
            self.feed_forward(exec, layer, n, b);
            tap(Stage::Layer(layer), &b.x);
        }
        self.logits(exec, rows, b);
    }

    /// Room in the caches and angles for all positions of the batch.
    fn reach(&mut self, rows: &[Row], kvs: &mut [Kv]) {
        for row in rows {
            kvs[row.sequence].grow(row.position as usize + 1);
            while self.angles.len() <= row.position as usize {
                let (position, factors) = (self.angles.len() as u32, self.rope_factors.as_deref());
                self.angles.push(rope_angles(position, self.hyper.head_dim, self.hyper.rope_base, factors));
            }
        }
    }

    fn attention(&self, exec: &mut Exec, layer: usize, rows: &[Row], kvs: &mut [Kv], asked: &[Asked], b: &mut Buffers) {
        let (h, w, n) = (&self.hyper, &self.layers[layer], rows.len());
        let (query, kv) = (h.query_width(), h.kv_width());
        let stride = query + 2 * kv;
        let kernels = exec.kernels;
        let quantized = [&w.q, &w.k, &w.v].iter().any(|m| m.is_quantized());
        exec.activate(&mut b.acts, (n, h.width), quantized, &mut b.faulted, &|row, out| {
            (kernels.rms_norm)(&b.x[row * h.width..][..h.width], &w.attn_norm, h.eps, out);
        });
        b.qkv.resize(n * stride, 0.0);
        let parts = [(&w.q, 0), (&w.k, query), (&w.v, query + kv)];
        exec.linear(&parts, &b.acts, n, (&mut b.qkv, stride), Write::Set);

        let scale = 1.0 / (h.head_dim as f32).sqrt();
        exec.each_row(&mut b.qkv, stride, &|row, qkv| {
            (kernels.rope)(&mut qkv[..query + kv], &self.angles[rows[row].position as usize]);
            qkv[..query].iter_mut().for_each(|q| *q *= scale);
        });
        b.halves.resize(2 * kv, 0);
        for (row, qkv) in rows.iter().zip(b.qkv.chunks_exact(stride)) {
            (kernels.narrow)(&qkv[query..], &mut b.halves);
            let (keys, values) = b.halves.split_at(kv);
            kvs[row.sequence].write(layer, row.position as usize, keys, values);
        }

        b.attended.resize(n * query, 0.0);
        let kvs: &[Kv] = kvs;
        let head = |asked: &Asked| kvs[asked.sequence].head(layer, asked.kv_head);
        exec.attend(asked, &head, (&b.qkv, stride), (&mut b.attended, query));
        exec.activate(&mut b.acts, (n, query), w.o.is_quantized(), &mut b.faulted, &|row, out| {
            out.copy_from_slice(&b.attended[row * query..][..query]);
        });
        exec.linear(&[(&w.o, 0)], &b.acts, n, (&mut b.x, h.width), Write::Add);
    }

    fn feed_forward(&self, exec: &mut Exec, layer: usize, n: usize, b: &mut Buffers) {
        let (h, w) = (&self.hyper, &self.layers[layer]);
        let kernels = exec.kernels;
        let quantized = w.gate.is_quantized() || w.up.is_quantized();
        exec.activate(&mut b.acts, (n, h.width), quantized, &mut b.faulted, &|row, out| {
            (kernels.rms_norm)(&b.x[row * h.width..][..h.width], &w.ffn_norm, h.eps, out);
        });
        b.gate_up.resize(n * 2 * h.feed, 0.0);
        let parts = [(&w.gate, 0), (&w.up, h.feed)];
        exec.linear(&parts, &b.acts, n, (&mut b.gate_up, 2 * h.feed), Write::Set);
        exec.activate(&mut b.acts, (n, h.feed), w.down.is_quantized(), &mut b.faulted, &|row, out| {
            let (gate, up) = b.gate_up[row * 2 * h.feed..][..2 * h.feed].split_at(h.feed);
            (kernels.swiglu)(gate, up, out);
        });
        exec.linear(&[(&w.down, 0)], &b.acts, n, (&mut b.x, h.width), Write::Add);
    }

    /// The output head, for the rows that want it only: it is a third of a small model's work.
    fn logits(&self, exec: &mut Exec, rows: &[Row], b: &mut Buffers) {
        let h = &self.hyper;
        let wanted: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].wants_logits).collect();
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let kernels = exec.kernels;
        let mut faulted = vec![false; wanted.len()];
        exec.activate(&mut b.acts, (wanted.len(), h.width), head.is_quantized(), &mut faulted, &|i, out| {
            (kernels.rms_norm)(&b.x[wanted[i] * h.width..][..h.width], &self.norm, h.eps, out);
        });
        b.logits.resize(wanted.len() * self.vocab, 0.0);
        exec.linear(&[(head, 0)], &b.acts, wanted.len(), (&mut b.logits, self.vocab), Write::Set);
        for (row, faulted) in wanted.iter().zip(faulted) {
            b.faulted[*row] |= faulted;
        }
    }
}

/// The batch's queries, `TILE` at a time, each tile on one head of one sequence. Rows of a sequence stand
/// next to each other, so its keys are read once for several of them.
fn asked(rows: &[Row], heads: usize, kv_heads: usize) -> Vec<Asked> {
    let per_kv = heads / kv_heads;
    let mut asked = Vec::new();
    let mut first = 0;
    for run in rows.chunk_by(|a, b| a.sequence == b.sequence) {
        for kv_head in 0..kv_heads {
            let queries: Vec<(usize, usize, usize)> = run
                .iter()
                .enumerate()
                .flat_map(|(i, row)| {
                    let mine = kv_head * per_kv..(kv_head + 1) * per_kv;
                    mine.map(move |head| (first + i, head, row.position as usize + 1))
                })
                .collect();
            asked.extend(queries.chunks(TILE).map(|q| Asked {
                sequence: run[0].sequence,
                kv_head,
                queries: q.to_vec(),
            }));
        }
        first += run.len();
    }
    asked
}
