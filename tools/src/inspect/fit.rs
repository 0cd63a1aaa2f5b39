//! Whether a model fits this machine, and how fast it may answer.
//!
//! Memory is counted: the weights as they lie in the file, and keys and values in f16 for every slot's whole
//! context. Speed is an estimate: a token reads all weights once, so that one answer is made at no more than
//! the bandwidth of memory over the bytes that are read. The bandwidth is measured, for a fraction of a second.

use crate::memory::{memory, size};
use orchestrion_gpu::gguf::Gguf;
use orchestrion_world::vram::in_pages;
use serde::Serialize;
use std::fmt;
use std::hint::black_box;
use std::time::Instant;

/// What is read to measure the bandwidth: more than the caches hold.
const PROBE_BYTES: usize = 256 << 20;
const PROBE_ROUNDS: usize = 3;

/// Hyperparameters that decide over memory; absent where the file does not say.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Shape {
    pub(super) layers: Option<u64>,
    pub(super) heads: Option<u64>,
    pub(super) kv_heads: Option<u64>,
    pub(super) head_size: Option<u64>,
    pub(super) context: Option<u64>,
}

impl Shape {
    pub(super) fn of(gguf: &Gguf) -> Shape {
        let arch = gguf.opt_str("general.architecture").ok().flatten().unwrap_or_default();
        let number = |key: &str| gguf.opt_u64(&format!("{arch}.{key}")).ok().flatten();
        let (heads, width) = (number("attention.head_count"), number("embedding_length"));
        let even = heads.zip(width).and_then(|(heads, width)| width.checked_div(heads));
        Shape {
            layers: number("block_count"),
            heads,
            kv_heads: number("attention.head_count_kv").or(heads),
            head_size: number("attention.key_length").or(even),
            context: number("context_length"),
        }
    }

    /// Keys and values of one position, in f16.
    fn kv_per_token(&self) -> Option<u64> {
        let both = 2 * size_of::<u16>() as u64;
        self.layers?.checked_mul(self.kv_heads?)?.checked_mul(self.head_size?)?.checked_mul(both)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [layers, heads, kv_heads, head_size, context] =
            [self.layers, self.heads, self.kv_heads, self.head_size, self.context]
                .map(|found| found.map_or_else(|| "?".to_owned(), |n| n.to_string()));
        write!(f, "{layers} layers, {heads} heads of {head_size} ({kv_heads} for keys and values), context {context}")
    }
}

/// Bytes, but for the counts.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Memory {
    pub(super) weights: u64,
    pub(super) kv_per_token: u64,
    pub(super) slots: u64,
    /// Tokens of prompt and answer, for each slot.
    pub(super) context: u64,
    pub(super) needed: u64,
    pub(super) available: u64,
    pub(super) fits: bool,
    /// What the same number of slots could have, at most what the model was trained for.
    pub(super) largest_context: u64,
    /// How many could have this context.
    pub(super) most_slots: u64,
}

impl Memory {
    /// `None` where the file does not say enough, or the machine does not.
    /// What `weights` and the cache of so many slots come to.
    pub(super) fn plan(weights: u64, shape: &Shape, slots: u64, context: Option<u64>) -> Option<Memory> {
        let trained = shape.context?;
        let context = context.unwrap_or(trained).min(trained);
        let kv_per_token = shape.kv_per_token().filter(|bytes| *bytes > 0)?;
        let available = memory().ok()?.available;
        let of = |slots: u64, context: u64| in_pages(context).saturating_mul(slots).saturating_mul(kv_per_token);
        let needed = weights.saturating_add(of(slots, context));
        let room = available.saturating_sub(weights);
        Some(Memory {
            weights,
            kv_per_token,
            slots,
            context,
            needed,
            available,
            fits: needed <= available,
            largest_context: (room / of(slots, 1).max(1)).saturating_mul(in_pages(1)).min(trained),
            most_slots: room / of(1, context).max(1),
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { slots, context, fits, largest_context, most_slots, .. } = self;
        let [weights, kv, needed, available] = [self.weights, self.kv_per_token, self.needed, self.available].map(size);
        let fits = if *fits { "fits" } else { "does not fit" };
        let held = in_pages(*context);
        writeln!(
            f,
            "{weights} of weights + {slots} slots × {held} tokens × {kv} = {needed}; {available} available: {fits}"
        )?;
        write!(
            f,
            "              {slots} slots fit with a context of {largest_context}, {most_slots} slots with {context}"
        )
    }
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Speed {
    pub(super) threads: usize,
    pub(super) bandwidth_bytes_per_s: f64,
    pub(super) bytes_per_token: u64,
    /// Of one answer with a short context: an upper bound and an estimate.
    pub(super) tokens_per_s: f64,
}

impl Speed {
    pub(super) fn estimate(gguf: &Gguf) -> Speed {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let bandwidth_bytes_per_s = bandwidth(threads);
        // Of the embedding only a row is read, unless it is the output head as well.
        let has_head = gguf.opt_tensor("output.weight").is_some();
        let is_read = |name: &str| !(has_head && name == "token_embd.weight");
        let read = gguf.tensors().filter(|tensor| is_read(tensor.name)).map(|tensor| tensor.bytes.len() as u64);
        let bytes_per_token = read.sum::<u64>();
        let tokens_per_s = bandwidth_bytes_per_s / bytes_per_token.max(1) as f64;
        Speed { threads, bandwidth_bytes_per_s, bytes_per_token, tokens_per_s }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Speed { threads, bandwidth_bytes_per_s, bytes_per_token, tokens_per_s } = self;
        let (rate, bytes) = (bandwidth_bytes_per_s / 1e9, size(*bytes_per_token));
        write!(f, "at most about {tokens_per_s:.0} tokens/s for one answer, an estimate: ")?;
        write!(f, "{rate:.1} GB/s read by {threads} threads over {bytes} for a token")
    }
}

/// Bytes a second that all threads together read from memory; the best of a few rounds. Two equal halves are
/// compared, which is the C library's fastest loop and the same in every build.
fn bandwidth(threads: usize) -> f64 {
    let memory = vec![1u8; PROBE_BYTES];
    let (left, right) = memory.split_at(PROBE_BYTES / 2);
    let part = left.len().div_ceil(threads);
    let round = |_| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for (left, right) in left.chunks(part).zip(right.chunks(part)) {
                scope.spawn(move || black_box(left == right));
            }
        });
        PROBE_BYTES as f64 / began.elapsed().as_secs_f64()
    };
    (0..PROBE_ROUNDS).map(round).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_gpu::generate::{GenSpec, generate};

    #[test]
    fn what_fits_is_counted_to_the_token() {
        let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
        let shape = Shape::of(&gguf);
        assert_eq!(shape.kv_per_token(), Some(4 * 2 * 16 * 2 * 2));
        let plan = |slots, context| Memory::plan(gguf.file_bytes(), &shape, slots, context).unwrap();
        assert_eq!(
            (plan(2, None).context, plan(2, Some(64)).context, plan(2, Some(1 << 40)).context),
            (2_048, 64, 2_048)
        );
        let tight = plan(1 << 30, Some(2_048));
        let room = tight.available - tight.weights;
        assert!(!tight.fits && tight.needed > tight.available);
        assert_eq!(tight.largest_context, room / ((1 << 30) * 32 * tight.kv_per_token) * 32);
        assert_eq!(tight.most_slots, room / (2_048 * tight.kv_per_token));
        assert!(plan(1, Some(16)).fits && plan(1, Some(16)).largest_context == 2_048);
        assert_eq!(plan(3, Some(33)).needed, plan(3, Some(64)).needed, "a context holds whole pages");
    }

    #[test]
    fn an_estimate_is_bandwidth_over_what_a_token_reads() {
        let tied = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
        let head = GenSpec { head: Some(orchestrion_gpu::gguf::TensorKind::F32), ..GenSpec::default() };
        let untied = Gguf::parse(generate(&head).unwrap()).unwrap();
        let bytes = |gguf: &Gguf, name: &str| gguf.tensor(name).unwrap().bytes.len() as u64;
        let (tied, untied) = (
            Speed::estimate(&tied),
            (Speed::estimate(&untied), bytes(&untied, "output.weight"), bytes(&untied, "token_embd.weight")),
        );
        assert_eq!(untied.0.bytes_per_token, tied.bytes_per_token + untied.1 - untied.2);
        assert!((tied.tokens_per_s - tied.bandwidth_bytes_per_s / tied.bytes_per_token as f64).abs() < 1e-6);
        assert!(tied.bandwidth_bytes_per_s > 1e8, "no machine is that slow: {tied:?}");
    }
}
