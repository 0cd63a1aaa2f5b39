//! BERT-family encoders: every token of an input sees all of it, before it and behind it.
//!
//! An input is read in one pass: its rows stand next to each other and are all of it. Learnt embeddings of position
//! and type are added to a token's, and a layer's parts join the residual stream before they are normalised. Keys
//! and values stand in pages as a decoder's do, for as long as the pass takes. Nothing that an input comes to depends
//! on the others of its batch.
//!
//! Reads weights, writes pages and the buffers of the pass. What becomes of the hidden states, `pooling` says, and of a
//! pair that is to be scored, `head`.

mod head;
mod weights;

use super::forward::{Buffers, Row, Stage, Tap, asked};
use super::pooling::Pooled;
use crate::kernel::drive::{Asked, Exec, Write};
use crate::kernel::matrix::Matrix;
use crate::kv::{KvShape, Kvs};
use head::Head;
pub(crate) use weights::Encoder;
use weights::{Layer, Norm};

impl Encoder {
    pub(super) fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.hyper.layers, heads: self.hyper.heads, head_dim: self.hyper.head_dim() }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes() as u64).sum()
    }

    pub(super) fn products(&self) -> u64 {
        self.layers.iter().flat_map(Layer::matrices).map(|m| (m.rows * m.cols) as u64).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        let embeddings = [&self.tokens, &self.positions, &self.types].map(Matrix::bytes).iter().sum::<usize>();
        let head = self.head.as_ref().map_or(0, Head::bytes);
        (embeddings + self.norm.bytes() + head) as u64 + self.bytes_read()
    }

    /// `rows` are whole inputs, each from its position 0 on.
    pub(crate) fn forward(&self, exec: &mut Exec, rows: &[Row], kvs: &mut Kvs<'_>, b: &mut Buffers, tap: Tap<'_>) {
        b.faulted.clear();
        b.faulted.resize(rows.len(), false);
        b.logits.clear();
        self.embed(exec, rows, b);
        tap(Stage::Embedding, &b.x);
        // A query sees all up to a position; here that is its input's last.
        let inputs = rows.chunk_by(|a, b| a.sequence == b.sequence);
        let whole = inputs.flat_map(|input| {
            let position = input.len() as u32 - 1;
            input.iter().map(move |row| Row { position, ..*row })
        });
        let asked = asked(&whole.collect::<Vec<Row>>(), (self.hyper.heads, self.hyper.heads), exec.pool.threads());
        for (i, layer) in self.layers.iter().enumerate() {
            self.attention(exec, (i, layer), rows, kvs, &asked, b);
            tap(Stage::Attention(i), &b.x);
            self.feed_forward(exec, layer, rows.len(), b);
            tap(Stage::Layer(i), &b.x);
        }
    }

    /// Tokens, positions and types, added in this order and normalised.
    fn embed(&self, exec: &mut Exec, rows: &[Row], b: &mut Buffers) {
        let width = self.hyper.width;
        b.x.resize(rows.len() * width, 0.0);
        let mut other = vec![0.0; width];
        let mut kind = 0;
        for (row, x) in rows.iter().zip(b.x.chunks_exact_mut(width)) {
            kind = if row.position == 0 { 0 } else { kind };
            self.tokens.row(row.token as usize, x);
            for (matrix, at) in [(&self.positions, row.position as usize), (&self.types, kind)] {
                matrix.row(at, &mut other);
                x.iter_mut().zip(&other).for_each(|(x, other)| *x += *other);
            }
            // What stands behind a separator is the second text of a pair.
            if Some(row.token) == self.hyper.separator && kind + 1 < self.types.rows {
                kind += 1;
            }
        }
        self.normalise(exec, &self.norm, None, b);
    }

    fn attention(
        &self,
        exec: &mut Exec,
        (layer, w): (usize, &Layer),
        rows: &[Row],
        kvs: &mut Kvs<'_>,
        asked: &[Asked],
        b: &mut Buffers,
    ) {
        let (width, n) = (self.hyper.width, rows.len());
        let stride = 3 * width;
        exec.activate(&mut b.acts, (n, width), &[&w.q, &w.k, &w.v], &mut b.faulted, &|row, out| {
            out.copy_from_slice(&b.x[row * width..][..width]);
        });
        b.qkv.resize(n * stride, 0.0);
        exec.linear(&[(&w.q, 0), (&w.k, width), (&w.v, 2 * width)], &b.acts, n, (&mut b.qkv, stride), Write::Set);
        let scale = 1.0 / (self.hyper.head_dim() as f32).sqrt();
        exec.each_row(&mut b.qkv, stride, &|_, qkv| {
            qkv.iter_mut().zip(&w.qkv_bias).for_each(|(x, bias)| *x += *bias);
            qkv[..width].iter_mut().for_each(|q| *q *= scale);
        });
        b.halves.resize(2 * width, 0);
        for (row, qkv) in rows.iter().zip(b.qkv.chunks_exact(stride)) {
            (exec.kernels.narrow)(&qkv[width..], &mut b.halves);
            let (keys, values) = b.halves.split_at(width);
            kvs.write(row.sequence, layer, row.position as usize, keys, values);
        }
        b.attended.resize(n * width, 0.0);
        let kvs: &Kvs<'_> = kvs;
        let head = |asked: &Asked| kvs.head(asked.sequence, layer, asked.kv_head);
        exec.attend(asked, None, &head, (&b.qkv, stride), (&mut b.attended, width));
        exec.activate(&mut b.acts, (n, width), &[&w.o], &mut b.faulted, &|row, out| {
            out.copy_from_slice(&b.attended[row * width..][..width]);
        });
        self.join(exec, (&w.o, &w.o_bias, &w.attn_norm), n, b);
    }

    fn feed_forward(&self, exec: &mut Exec, w: &Layer, n: usize, b: &mut Buffers) {
        let (width, feed) = (self.hyper.width, self.hyper.feed);
        exec.activate(&mut b.acts, (n, width), &[&w.up], &mut b.faulted, &|row, out| {
            out.copy_from_slice(&b.x[row * width..][..width]);
        });
        b.gate_up.resize(n * feed, 0.0);
        exec.linear(&[(&w.up, 0)], &b.acts, n, (&mut b.gate_up, feed), Write::Set);
        let gelu = exec.kernels.biased_gelu;
        exec.activate(&mut b.acts, (n, feed), &[&w.down], &mut b.faulted, &|row, out| {
            gelu(&b.gate_up[row * feed..][..feed], &w.up_bias, out);
        });
        self.join(exec, (&w.down, &w.down_bias, &w.ffn_norm), n, b);
    }

    /// Adds what `matrix` makes of the activations to the residual stream, then the bias, and normalises the sum.
    fn join(&self, exec: &mut Exec, (matrix, bias, norm): (&Matrix, &[f32], &Norm), n: usize, b: &mut Buffers) {
        exec.linear(&[(matrix, 0)], &b.acts, n, (&mut b.x, self.hyper.width), Write::Add);
        self.normalise(exec, norm, Some(bias), b);
    }

    fn normalise(&self, exec: &mut Exec, norm: &Norm, bias: Option<&[f32]>, b: &mut Buffers) {
        let layer_norm = exec.kernels.layer_norm;
        exec.each_row(&mut b.x, self.hyper.width, &|_, x| {
            x.iter_mut().zip(bias.unwrap_or_default()).for_each(|(x, bias)| *x += *bias);
            layer_norm(x, &norm.weight, &norm.bias, self.hyper.eps);
        });
    }

    /// Whether a pair of texts comes to a number, and a text to no vector.
    pub(crate) fn scores(&self) -> bool {
        self.head.is_some()
    }

    /// Takes up row `row` of the pass that `buffers` holds.
    pub(crate) fn pool(&self, buffers: &Buffers, row: usize, pooled: &mut Pooled) {
        let width = self.hyper.width;
        pooled.take(self.hyper.pooling, buffers.x[row * width..][..width].to_vec());
    }

    /// What the head makes of an input that is pooled; without a head, what was pooled stays.
    pub(crate) fn score(&self, exec: &mut Exec, buffers: &mut Buffers, pooled: &mut Pooled) {
        if let (Some(head), Pooled::Hidden(hidden)) = (&self.head, &*pooled) {
            *pooled = Pooled::Score(head.score(exec, hidden, buffers));
        }
    }
}
