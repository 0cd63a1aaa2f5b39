//! Every operation at every level, on the same numbers.

use super::digest;
use crate::generate::weights::Weights;
use crate::gguf::TensorKind;
use crate::kernel::drive::{Acts, Exec, Write};
use crate::kernel::matrix::{Matrix, Packing};
use crate::kernel::pool::Pool;
use crate::kernel::{Kernels, Level, Query, TILE};
use crate::kv::{KvShape, Kvs, PAGE, Pages};
use crate::model::LoadError;
use crate::numerics::to_f16;
use serde::Serialize;

/// How an operation came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Op {
    pub name: String,
    /// The first four bytes of the digest of what the definition gives here, in hexadecimal digits.
    pub digest: String,
    /// Whether the definition, as compiled here, gives the bits it gave everywhere else.
    pub golden: bool,
    /// Levels that give other bits than the definition.
    pub differing: Vec<String>,
}

/// What `digest` has to be: those of linear layers in the order of
/// [`TensorKind::all`], then the others.
const GOLDEN: [&str; 23] = [
    "15c39acb", "15c39acb", "41634798", "5220e3f2", "f715cf06", "6951fab7", "c4d23359", "0ac6e40c", "7e3c39ee",
    "541c5738", "b214e7b0", "95aadb32", "6167c395", "4d672334", "15c39acb", "b08891a3", "761e9e73", "2f95c2d1",
    "efd531a5", "0c24327a", "73a63c79", "a60ef0ec", "605cf1a5",
];

type Plain = fn(&'static Kernels) -> Vec<f32>;
type Make = Box<dyn Fn(&'static Kernels) -> Result<Vec<f32>, LoadError>>;

/// All of them.
pub fn ops() -> Result<Vec<Op>, LoadError> {
    let kinds =
        TensorKind::all().map(|kind| (format!("linear {}", kind.name()), Box::new(move |k| linear(kind, k)) as Make));
    let others: [(&str, Plain); 7] = [
        ("attention", attention),
        ("norm", |k| in_place(k, |k, x, w, _| (k.rms_norm_each)(x, &w[..100], 1e-5))),
        ("rotary embedding", |k| in_place(k, |k, x, _, angles| (k.rope)(x, angles))),
        ("SiLU", |k| gated(k.swiglu)),
        ("GELU", |k| gated(k.geglu)),
        ("exact GELU", |k| gated(k.biased_gelu)),
        ("layer norm", |k| in_place(k, |k, x, w, _| (k.layer_norm)(x, w, w, 1e-12))),
    ];
    let others = others.map(|(name, make)| (name.to_owned(), Box::new(move |k| Ok(make(k))) as Make));
    kinds.chain(others).zip(GOLDEN).map(|((name, make), golden)| op(name, &make, golden)).collect()
}

fn op(name: String, make: &Make, golden: &str) -> Result<Op, LoadError> {
    let expected = digest(&make(Kernels::of(Level::Scalar)?)?);
    let mut differing = vec![];
    for level in Level::ALL.into_iter().filter(|level| level.is_supported()) {
        if digest(&make(Kernels::of(level)?)?) != expected {
            differing.push(level.to_string());
        }
    }
    let digest: String = expected[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = digest == golden;
    Ok(Op { name, digest, golden, differing })
}

/// Numbers between −2 and 2, a few of them much larger.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let bytes = Weights::new(seed).matrix(TensorKind::F32, 1, n as u64, |_| false);
    let number = |(i, four): (usize, &[u8; 4])| f32::from_le_bytes(*four) * if i % 37 == 0 { 50.0 } else { 1.0 };
    bytes.as_chunks().0.iter().enumerate().map(number).collect()
}

/// Two segments and a short one, or three, for 1 … `TILE` rows and one more, and for so many that a level may unpack
/// weights before it multiplies.
fn linear(kind: TensorKind, kernels: &'static Kernels) -> Result<Vec<f32>, LoadError> {
    let (rows, cols) = (40, if kind.block_elems() > 32 { 768 } else { 608 });
    let bytes = Weights::new(1).matrix(kind, cols as u64, rows as u64, |_| false);
    let matrix = Matrix::new(&mut Packing::new(kernels.level, 2), kind, rows, cols, &bytes);
    let pool = Pool::new(2).map_err(|error| LoadError::Threads(error.kind()))?;
    let mut exec = Exec { kernels, pool };
    const MANY: usize = 71;
    let x = numbers(2, MANY * cols);
    let mut all = vec![];
    for count in (1..=TILE + 1).chain([MANY]) {
        let (mut acts, mut faulted) = (Acts::default(), vec![false; count]);
        exec.activate(&mut acts, (count, cols), &[&matrix], &mut faulted, &|row, out| {
            out.copy_from_slice(&x[row * cols..][..cols]);
        });
        let mut out = vec![0.0; count * rows];
        exec.linear(&[(&matrix, 0)], &acts, count, (&mut out, rows), Write::Set);
        all.extend(out);
    }
    Ok(all)
}

/// Tiles of queries over two splits, with and without a window, whose heads fill registers and do not.
fn attention(kernels: &'static Kernels) -> Vec<f32> {
    let mut all = vec![];
    for (head_dim, first) in [(64, 0), (80, 290), (40, 0), (6, 17)] {
        const POSITIONS: usize = 300;
        let mut pages = Pages::new(KvShape { layers: 1, heads: 1, head_dim });
        let table: Vec<_> = (0..POSITIONS.div_ceil(PAGE)).filter_map(|_| pages.take()).collect();
        let mut kvs = Kvs { store: pages.store_mut(), tables: vec![&table] };
        let stored: Vec<u16> = numbers(3, 2 * POSITIONS * head_dim).into_iter().map(to_f16).collect();
        for (position, both) in stored.chunks(2 * head_dim).enumerate() {
            let (key, value) = both.split_at(head_dim);
            kvs.write(0, 0, position, key, value);
        }
        for count in 1..=TILE {
            let asks = numbers(4, count * head_dim);
            let mut out = vec![0.0; count * head_dim];
            let mut queries: Vec<Query<'_>> = asks
                .chunks(head_dim)
                .zip(out.chunks_mut(head_dim))
                .enumerate()
                .map(|(i, (query, out))| Query { query, seen: first.min(POSITIONS - 1 - i)..POSITIONS - i, out })
                .collect();
            (kernels.attend)(&mut queries, kvs.head(0, 0, 0));
            all.extend(out);
        }
    }
    all
}

type InPlace = fn(&Kernels, &mut [f32], &[f32], &[[f32; 2]]);

fn in_place(kernels: &'static Kernels, change: InPlace) -> Vec<f32> {
    let (mut x, w) = (numbers(5, 1000), numbers(6, 1000));
    let angles: Vec<[f32; 2]> = numbers(7, 100).as_chunks().0.to_vec();
    change(kernels, &mut x, &w, &angles);
    x
}

fn gated(gate: fn(&[f32], &[f32], &mut [f32])) -> Vec<f32> {
    let mut out = vec![0.0; 1000];
    gate(&numbers(5, 1000), &numbers(6, 1000), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_the_definition_and_the_definition_is_what_it_was() {
        let found = ops().unwrap();
        assert_eq!(found.len(), TensorKind::all().count() + 7);
        let wrong: Vec<&Op> = found.iter().filter(|op| !op.golden || !op.differing.is_empty()).collect();
        assert_eq!(wrong, Vec::<&Op>::new());
    }

    #[test]
    fn another_bit_is_seen() {
        let make: Make = Box::new(|kernels| Ok(vec![if kernels.level == Level::Scalar { 1.0 } else { -1.0 }]));
        let seen = op("broken".to_owned(), &make, "00000000").unwrap();
        assert!(!seen.golden);
        assert_eq!(seen.differing.is_empty(), Level::detect() == Level::Scalar);
    }
}
