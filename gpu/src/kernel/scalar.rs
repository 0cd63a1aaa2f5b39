//! The scalar level: the definition, called as it stands.
//!
//! What every other level is compared with, and what runs where no other does.

use super::drive::{Sums, tiles};
use super::matrix::{Body, GROUP, Matrix};
use super::{Kernels, Level, Query};
use crate::kv::Head;
use crate::numerics::linear::{self, ActRow};
use crate::numerics::{self, attention};
use std::ops::Range;

pub(super) static TABLE: Kernels = Kernels {
    level: Level::Scalar,
    quantize: linear::quantize,
    linear: whole,
    rms_norm: numerics::rms_norm,
    rms_norm_each: numerics::rms_norm_each,
    layer_norm: numerics::layer_norm,
    rope: numerics::rope,
    rope_halves: numerics::rope_halves,
    swiglu: numerics::swiglu,
    geglu: numerics::geglu,
    biased_gelu: numerics::biased_gelu,
    narrow,
    attend,
};

fn whole(weights: &Matrix, groups: Range<usize>, acts: &[ActRow<'_>], out: &mut Sums<'_>) {
    tiles(groups, acts, out, |group, acts, out| tile(weights, group, acts, out));
}

fn tile(weights: &Matrix, group: usize, acts: &[ActRow<'_>], out: &mut [[f32; GROUP]]) {
    let Body::Native(kind, bytes) = &weights.body else { unreachable!("the scalar level loads native rows") };
    let stored = linear::row_bytes(*kind, weights.cols);
    for (r, row) in bytes.chunks_exact(stored).skip(group * GROUP).take(GROUP).enumerate() {
        for (out, x) in out.iter_mut().zip(acts) {
            out[r] = linear::dot(*kind, row, *x);
        }
    }
}

fn narrow(x: &[f32], out: &mut [u16]) {
    for (o, v) in out.iter_mut().zip(x) {
        *o = numerics::to_f16(*v);
    }
}

fn attend(queries: &mut [Query<'_>], head: Head<'_>) {
    for q in queries {
        attention::attend(q.query, &head, q.seen.clone(), q.out);
    }
}
