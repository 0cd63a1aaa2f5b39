//! `orch gen`: a tiny model with random weights, the same bytes for the same arguments everywhere.

use crate::cli::GenArgs;
use crate::failure::{Code, Failure};
use orchestrion_gpu::generate::{GenSpec, generate};
use orchestrion_gpu::gguf::TensorKind;

pub(crate) fn run(args: &GenArgs) -> Result<(), Failure> {
    let GenArgs { out, seed, arch, kind, layers, dim, context } = args;
    let mut base = GenSpec::of(arch).map_err(Failure::of(Code::Failed))?;
    if let Some(name) = kind {
        let kind = tensor_kind(name)?;
        (base.matrices, base.embedding) = (kind, kind);
    }
    let spec = GenSpec { seed: *seed, layers: *layers, dim: *dim, ffn: 2 * *dim, context: *context, ..base };
    let bytes = generate(&spec).map_err(Failure::of(Code::Failed))?;
    let size = bytes.len();
    std::fs::write(out, bytes)
        .map_err(|error| Failure::new(Code::Failed, format!("cannot write {}: {error}", out.display())))?;
    eprintln!("wrote {} ({size} bytes)", out.display());
    Ok(())
}

fn tensor_kind(name: &str) -> Result<TensorKind, Failure> {
    TensorKind::all().find(|kind| kind.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names: Vec<_> = TensorKind::all().map(TensorKind::name).collect();
        Failure::new(Code::Failed, format!("`--kind`: expected one of {}, found `{name}`", names.join(", ")))
    })
}
