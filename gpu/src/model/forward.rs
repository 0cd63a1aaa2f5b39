//! One pass over a batch of rows: any mix of prompt chunks and single tokens of any sequences.
//!
//! A row is a token of a sequence at a position; rows of a sequence stand in ascending order, its cache
//! already holds what came before, and its table has a page for each of its positions. Nothing a row computes depends on which other rows share the batch, so
//! the same sequence gives the same bits alone, among others, and however its prompt was cut.
//!
//! Reads weights and caches, writes caches at the rows' positions and logits of the rows that want them.
//! A row that meets an infinity or a NaN is marked and carries zeros on; the others are untouched.

use super::Decoder;
use super::arch::{Gate, Rope};
use crate::kernel::TILE;
use crate::kernel::drive::{Acts, Asked, Exec, Write};
use crate::kernel::matrix::Matrix;
use crate::kv::Kvs;

/// Numbers in a cache line, by which rows of outputs are longer than what they hold: rows a power of two apart would
/// share the few places that a near cache has for such addresses.
const LINE: usize = 16;

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
    pub(super) acts: Acts,
    /// The residual stream.
    pub(super) x: Vec<f32>,
    /// Queries, keys and values side by side.
    pub(super) qkv: Vec<f32>,
    pub(super) halves: Vec<u16>,
    pub(super) attended: Vec<f32>,
    /// Gate and up side by side.
    pub(super) gate_up: Vec<f32>,
    /// What a part of a layer made, where it is normalised before it joins the residual stream.
    made: Vec<f32>,
    /// Logits of the rows that wanted them, in their order.
    pub(crate) logits: Vec<f32>,
    /// For each row: an infinity or a NaN was met.
    pub(crate) faulted: Vec<bool>,
}

impl Decoder {
    pub(crate) fn forward(&mut self, exec: &mut Exec, rows: &[Row], kvs: &mut Kvs<'_>, b: &mut Buffers, tap: Tap<'_>) {
        let (h, n) = (self.hyper, rows.len());
        self.reach(exec, rows);
        b.faulted.clear();
        b.faulted.resize(n, false);
        b.x.resize(n * h.width, 0.0);
        let scale = h.arch.scaled_embedding.then_some((h.width as f32).sqrt());
        exec.each_row(&mut b.x, h.width, &|row, x| {
            self.embed.row(rows[row].token as usize, x);
            if let Some(scale) = scale {
                x.iter_mut().for_each(|x| *x *= scale);
            }
        });
        tap(Stage::Embedding, &b.x);
        let asked = asked(rows, (h.heads, h.kv_heads), exec.pool.threads());
        for layer in 0..h.layers {
            self.attention(exec, layer, rows, kvs, &asked, b);
            tap(Stage::Attention(layer), &b.x);
            self.feed_forward(exec, layer, n, b);
            tap(Stage::Layer(layer), &b.x);
        }
        self.logits(exec, rows, b);
    }

    /// Angles for all positions of the batch.
    fn reach(&mut self, exec: &mut Exec, rows: &[Row]) {
        let Some(last) = rows.iter().map(|row| row.position).max() else { return };
        for angles in [Some(&mut self.angles), self.windowed_angles.as_mut()].into_iter().flatten() {
            angles.reach(exec, last);
        }
    }

    fn attention(
        &self,
        exec: &mut Exec,
        layer: usize,
        rows: &[Row],
        kvs: &mut Kvs<'_>,
        asked: &[Asked],
        b: &mut Buffers,
    ) {
        let (h, w, n) = (&self.hyper, &self.layers[layer], rows.len());
        let (query, kv) = (h.query_width(), h.kv_width());
        let stride = query + 2 * kv + LINE;
        let kernels = exec.kernels;
        exec.activate(&mut b.acts, (n, h.width), &[&w.q, &w.k, &w.v], &mut b.faulted, &|row, out| {
            (kernels.rms_norm)(&b.x[row * h.width..][..h.width], &w.attn_norm, h.eps, out);
        });
        b.qkv.resize(n * stride, 0.0);
        let parts = [(&w.q, 0), (&w.k, query), (&w.v, query + kv)];
        exec.linear(&parts, &b.acts, n, (&mut b.qkv, stride), Write::Set);

        let window = h.window_of(layer);
        let angles = self.windowed_angles.as_ref().filter(|_| window.is_some()).unwrap_or(&self.angles);
        let rope = match h.arch.rope {
            Rope::Adjacent => kernels.rope,
            Rope::Halves => kernels.rope_halves,
        };
        let scale = 1.0 / (h.head_dim as f32).sqrt();
        exec.each_row(&mut b.qkv, stride, &|row, qkv| {
            if let Some(bias) = &w.qkv_bias {
                qkv.iter_mut().zip(bias).for_each(|(x, b)| *x += *b);
            }
            let (q, k) = qkv[..query + kv].split_at_mut(query);
            if let Some([q_norm, k_norm]) = &w.qk_norm {
                (kernels.rms_norm_each)(q, q_norm, h.eps);
                (kernels.rms_norm_each)(k, k_norm, h.eps);
            }
            let angles = angles.at(rows[row].position);
            for head in q.chunks_exact_mut(h.head_dim).chain(k.chunks_exact_mut(h.head_dim)) {
                rope(&mut head[..h.rope_dims], angles);
            }
            q.iter_mut().for_each(|q| *q *= scale);
        });
        b.halves.resize(2 * kv, 0);
        for (row, qkv) in rows.iter().zip(b.qkv.chunks_exact(stride)) {
            (kernels.narrow)(&qkv[query..query + 2 * kv], &mut b.halves);
            let (keys, values) = b.halves.split_at(kv);
            kvs.write(row.sequence, layer, row.position as usize, keys, values);
        }

        b.attended.resize(n * query, 0.0);
        let kvs: &Kvs<'_> = kvs;
        let head = |asked: &Asked| kvs.head(asked.sequence, layer, asked.kv_head);
        exec.attend(asked, window.map(|w| w.size), &head, (&b.qkv, stride), (&mut b.attended, query));
        exec.activate(&mut b.acts, (n, query), &[&w.o], &mut b.faulted, &|row, out| {
            out.copy_from_slice(&b.attended[row * query..][..query]);
        });
        self.join(exec, (&w.o, w.post_attn_norm.as_deref()), n, b);
    }

    fn feed_forward(&self, exec: &mut Exec, layer: usize, n: usize, b: &mut Buffers) {
        let (h, w) = (&self.hyper, &self.layers[layer]);
        let kernels = exec.kernels;
        exec.activate(&mut b.acts, (n, h.width), &[&w.gate, &w.up], &mut b.faulted, &|row, out| {
            (kernels.rms_norm)(&b.x[row * h.width..][..h.width], &w.ffn_norm, h.eps, out);
        });
        let stride = 2 * h.feed + LINE;
        b.gate_up.resize(n * stride, 0.0);
        let parts = [(&w.gate, 0), (&w.up, h.feed)];
        exec.linear(&parts, &b.acts, n, (&mut b.gate_up, stride), Write::Set);
        let gated = match h.arch.gate {
            Gate::Silu => kernels.swiglu,
            Gate::Gelu => kernels.geglu,
        };
        exec.activate(&mut b.acts, (n, h.feed), &[&w.down], &mut b.faulted, &|row, out| {
            let (gate, up) = b.gate_up[row * stride..][..2 * h.feed].split_at(h.feed);
            gated(gate, up, out);
        });
        self.join(exec, (&w.down, w.post_ffn_norm.as_deref()), n, b);
    }

    /// Adds what `matrix` makes of the activations to the residual stream, normalised where there is a norm.
    fn join(&self, exec: &mut Exec, (matrix, norm): (&Matrix, Option<&[f32]>), n: usize, b: &mut Buffers) {
        let (width, kernels) = (self.hyper.width, exec.kernels);
        let Some(norm) = norm else {
            return exec.linear(&[(matrix, 0)], &b.acts, n, (&mut b.x, width), Write::Add);
        };
        let stride = width + LINE;
        b.made.resize(n * stride, 0.0);
        exec.linear(&[(matrix, 0)], &b.acts, n, (&mut b.made, stride), Write::Set);
        exec.each_pair((&mut b.x, width), (&mut b.made, stride), &|x, made| {
            let made = &mut made[..width];
            (kernels.rms_norm_each)(made, norm, self.hyper.eps);
            x.iter_mut().zip(made).for_each(|(x, made)| *x += *made);
        });
    }

    /// The output head, for the rows that want it only: it is a third of a small model's work.
    fn logits(&self, exec: &mut Exec, rows: &[Row], b: &mut Buffers) {
        let h = &self.hyper;
        let wanted: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].wants_logits).collect();
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let kernels = exec.kernels;
        let mut faulted = vec![false; wanted.len()];
        exec.activate(&mut b.acts, (wanted.len(), h.width), &[head], &mut faulted, &|i, out| {
            (kernels.rms_norm)(&b.x[wanted[i] * h.width..][..h.width], &self.norm, h.eps, out);
        });
        b.logits.resize(wanted.len() * self.vocab, 0.0);
        exec.linear(&[(head, 0)], &b.acts, wanted.len(), (&mut b.logits, self.vocab), Write::Set);
        for (row, faulted) in wanted.iter().zip(faulted) {
            b.faulted[*row] |= faulted;
        }
    }
}

/// The batch's queries, `TILE` at a time, or fewer where not every thread would get some, each tile on one head of one
/// sequence. Rows of a sequence stand next to each other, so its keys are read once for several of them.
pub(super) fn asked(rows: &[Row], (heads, kv_heads): (usize, usize), threads: usize) -> Vec<Asked> {
    let per_kv = heads / kv_heads;
    let tile = TILE.min((rows.len() * heads).div_ceil(threads));
    let mut asked = Vec::new();
    let mut first = 0;
    for run in rows.chunk_by(|a, b| a.sequence == b.sequence) {
        for kv_head in 0..kv_heads {
            let queries: Vec<(usize, usize, usize)> = run
                .iter()
                .enumerate()
                .flat_map(|(i, row)| {
                    let mine = kv_head * per_kv..(kv_head + 1) * per_kv;
                    mine.map(move |head| (first + i, head, row.position as usize))
                })
                .collect();
            asked.extend(queries.chunks(tile).map(|q| Asked {
                sequence: run[0].sequence,
                kv_head,
                queries: q.to_vec(),
            }));
        }
        first += run.len();
    }
    asked
}
