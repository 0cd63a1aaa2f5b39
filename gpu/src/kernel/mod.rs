//! The table of kernels: for each level of instruction sets one function for everything hot.
//!
//! A level is chosen once, at load, by what the processor has or by what the configuration forces; how many rows are
//! multiplied at a time decides no more than where weights are unpacked. Every level gives the bits of `numerics` (tests
//! compare whole matrices), so the choice is one of speed alone.
//!
//! `scalar` calls the definition, `avx2` is AVX2 + FMA + F16C, `vnni` is AVX-512 with its byte products;
//! `matrix` and `packed` hold weights in the layout of their level, `arena` their memory, `pool` the threads, `drive` spreads work over
//! them. A new level is a file and a row.

pub(crate) mod arena;
mod attend;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_attend;
#[cfg(target_arch = "x86_64")]
mod avx2_tile;
mod ceiling;
pub(crate) mod drive;
pub(crate) mod matrix;
mod packed;
pub(crate) mod pool;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(target_arch = "x86_64")]
mod vnni_attend;
#[cfg(target_arch = "x86_64")]
mod vnni_load;
#[cfg(target_arch = "x86_64")]
mod vnni_sweep;
#[cfg(target_arch = "x86_64")]
mod vnni_tile;

pub use ceiling::Ceilings;

use crate::kv::Head;
use crate::numerics::linear::{ActRow, NonFinite, Rounded};
use drive::Sums;
use matrix::Matrix;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Queries an attention kernel takes at a time.
pub(crate) const TILE: usize = 8;
/// Which instructions the engine uses. The tokens are the same at every level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The definition itself: slow, runs anywhere.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 (F, BW, VL) with VNNI, and what `Avx2` has.
    Vnni,
}

/// A level this processor cannot run, or a name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    #[error("this processor does not have what level `{0}` needs")]
    Unsupported(Level),
    #[error("`{0}` is no kernel level: scalar, avx2, vnni")]
    Unknown(String),
}

impl Level {
    /// Every level, the slowest first.
    pub const ALL: [Level; 3] = [Level::Scalar, Level::Avx2, Level::Vnni];

    /// The fastest level this processor runs.
    pub fn detect() -> Level {
        Level::ALL.into_iter().rev().find(|level| level.is_supported()).unwrap_or(Level::Scalar)
    }

    /// Whether this processor runs it.
    pub fn is_supported(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Vnni => {
                Level::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Vnni => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Vnni => "vnni",
        })
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Level::ALL.into_iter().find(|l| l.to_string() == s).ok_or_else(|| LevelError::Unknown(s.to_owned()))
    }
}

/// A query of one head: what it asks, which positions it sees, where its answer goes.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) seen: Range<usize>,
    pub(crate) out: &'a mut [f32],
}

type Quantize = fn(&[f32], &mut [Rounded]) -> Result<(), NonFinite>;

/// The functions of a level. Each equals the function of the same name in `numerics`, bit for bit.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(crate) level: Level,
    /// int8 blocks of one row.
    pub(crate) quantize: Quantize,
    /// Groups of weight rows times rows of activations.
    pub(crate) linear: fn(&Matrix, Range<usize>, &[ActRow<'_>], &mut Sums<'_>),
    /// x, weight, eps, out.
    pub(crate) rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// x in place, weight, eps.
    pub(crate) rms_norm_each: fn(&mut [f32], &[f32], f32),
    /// x in place, weight, bias, eps.
    pub(crate) layer_norm: fn(&mut [f32], &[f32], &[f32], f32),
    /// Heads in place, angles.
    pub(crate) rope: fn(&mut [f32], &[[f32; 2]]),
    pub(crate) rope_halves: fn(&mut [f32], &[[f32; 2]]),
    /// gate, up, out.
    pub(crate) swiglu: fn(&[f32], &[f32], &mut [f32]),
    pub(crate) geglu: fn(&[f32], &[f32], &mut [f32]),
    /// x, bias, out.
    pub(crate) biased_gelu: fn(&[f32], &[f32], &mut [f32]),
    /// f32 to f16 bits.
    pub(crate) narrow: fn(&[f32], &mut [u16]),
    /// 1 … `TILE` queries on one head.
    pub(crate) attend: fn(&mut [Query<'_>], Head<'_>),
}

impl Kernels {
    /// The table of a level; the only way to one, so that no kernel runs where its instructions are not.
    pub(crate) fn of(level: Level) -> Result<&'static Kernels, LevelError> {
        if !level.is_supported() {
            return Err(LevelError::Unsupported(level));
        }
        match level {
            Level::Scalar => Ok(&scalar::TABLE),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Ok(&avx2::TABLE),
            #[cfg(target_arch = "x86_64")]
            Level::Vnni => Ok(&vnni::TABLE),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Vnni => Err(LevelError::Unsupported(level)),
        }
    }
}

#[cfg(test)]
mod tests;
