//! `orch gen`: a tiny model with random weights, the same bytes for the same arguments everywhere.

use crate::cli::GenArgs;
use crate::failure::{Code, Failure};
use orchestrion_gpu::generate::{GenSpec, GenWindow, generate};

pub(crate) fn run(args: &GenArgs) -> Result<(), Failure> {
    let GenArgs { out, seed, arch, kind, layers, dim, context, window, rank } = args;
    let base = GenSpec::of(arch).map_err(Failure::of(Code::Failed))?;
    // Where heads have a size of their own, they are whole blocks with it.
    let head_dim = base.head_dim.map(|_| *dim / 2);
    let sizes = GenSpec { layers: *layers, dim: *dim, ffn: 2 * *dim, head_dim, context: *context, ..base };
    let mut spec = GenSpec { seed: *seed, ..sizes };
    if let Some(size) = *window {
        spec.window = Some(GenWindow { size, pattern: None });
    }
    if let Some(kind) = kind {
        (spec.matrices, spec.embedding) = (*kind, *kind);
    }
    if *rank {
        if arch != "bert" {
            return Err(Failure::new(Code::Failed, "`--rank` is for `--arch bert`: only encoders score pairs"));
        }
        spec.head = Some(spec.matrices);
    }
    let bytes = generate(&spec).map_err(Failure::of(Code::Failed))?;
    let size = bytes.len();
    std::fs::write(out, bytes)
        .map_err(|error| Failure::new(Code::Failed, format!("cannot write {}: {error}", out.display())))?;
    eprintln!("wrote {} ({size} bytes)", out.display());
    Ok(())
}
