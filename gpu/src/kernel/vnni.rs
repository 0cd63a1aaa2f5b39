//! The AVX-512 VNNI level: its table, activations and everything elementwise.
//!
//! As `avx2`, for registers of 512 bits; matrices are in `vnni_tile`, attention in `vnni_attend`.
//!
//! Only `Kernels::of` hands the table out, after it has asked the processor.
#![allow(unsafe_code)]

use super::avx2::entries;
use super::matrix::Matrix;
use super::{Kernels, Level, Query, TileOut, avx2, vnni_attend, vnni_tile};
use crate::kv::Head;
use crate::numerics;
use crate::numerics::linear::{self, ActRow, NonFinite, Rounded};

pub(super) static TABLE: Kernels = Kernels {
    level: Level::Vnni,
    quantize,
    tile,
    rms_norm,
    rms_norm_each,
    layer_norm,
    rope,
    rope_halves,
    swiglu,
    geglu,
    biased_gelu,
    narrow: avx2::narrow,
    attend,
};

entries! { "avx512f,avx512bw,avx512vl,avx512vnni":
    fn quantize(x: &[f32], blocks: &mut [Rounded]) -> Result<(), NonFinite> = linear::quantize;
    fn tile(weights: &Matrix, group: usize, acts: &[ActRow<'_>], out: &mut TileOut) = vnni_tile::tile;
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = numerics::rms_norm;
    fn rms_norm_each(x: &mut [f32], weight: &[f32], eps: f32) = numerics::rms_norm_each;
    fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) = numerics::layer_norm;
    fn rope(x: &mut [f32], table: &[[f32; 2]]) = numerics::rope;
    fn rope_halves(x: &mut [f32], table: &[[f32; 2]]) = numerics::rope_halves;
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) = numerics::swiglu;
    fn geglu(gate: &[f32], up: &[f32], out: &mut [f32]) = numerics::geglu;
    fn biased_gelu(x: &[f32], bias: &[f32], out: &mut [f32]) = numerics::biased_gelu;
    fn attend(queries: &mut [Query<'_>], head: Head<'_>) = vnni_attend::attend;
}
