//! The corpus of malformed files: tables of named changes to one small valid file, each with the refusal it
//! has to meet. A case is code, not a blob: it says what is wrong with it.
//!
//! A refusal is compared as its kind and the field, key or tensor it names. Besides, no case may make the
//! reader allocate more than the file, which it is given, and [`SLACK`].

mod families;
mod layout;
mod meaning;
mod memory;
mod parts;

use super::{Gguf, GgufError};
use crate::engine::{Engine, EngineOptions, Level, LoadError};
use crate::generate::{GenSpec, generate};
use crate::template::{Template, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};
use parts::Parts;

/// What reading a file may take beside the file's own bytes.
const SLACK: usize = 64 << 20;

/// Name, what is done to the file, the refusal.
type Case = (&'static str, fn(&mut Parts), &'static str);

/// The smallest generated file of an architecture: everything a real one has, in a few kilobytes.
fn valid(arch: &str) -> Parts {
    // An encoder has keys and values for each head.
    let kv_heads = if arch == "bert" { 2 } else { 1 };
    let spec = GenSpec { layers: 1, dim: 32, heads: 2, kv_heads, ffn: 32, vocab: 270, ..GenSpec::of(arch).unwrap() };
    Parts::of(&generate(&spec).unwrap())
}

/// Everything that reads a file, in the order of `orch serve`.
fn refusal(bytes: Vec<u8>) -> Result<(), String> {
    let gguf = Gguf::parse(bytes).map_err(|e| of_gguf(&e))?;
    let options = EngineOptions { level: Level::Scalar, threads: 1, ctx_max: 16 };
    Engine::load(&gguf, options).map_err(|e| of_load(&e))?;
    Tokenizer::from_gguf(&gguf).map_err(|e| of_tokenizer(&e))?;
    Template::from_gguf(&gguf).map_err(|e| of_template(&e))?;
    Ok(())
}

fn of_gguf(error: &GgufError) -> String {
    match error {
        GgufError::Truncated { field, .. } => format!("truncated {field}"),
        GgufError::Read { .. } | GgufError::Longer { .. } | GgufError::Memory { .. } => "reading".to_owned(),
        GgufError::Magic { .. } => "magic".to_owned(),
        GgufError::Version { .. } => "version".to_owned(),
        GgufError::Range { field, .. } => format!("range {field}"),
        GgufError::Overflow { field, .. } => format!("overflow {field}"),
        GgufError::Utf8 { field, .. } => format!("utf-8 {field}"),
        GgufError::ValueType { field, .. } => format!("type {field}"),
        GgufError::Duplicate { field, .. } => format!("duplicate {field}"),
        GgufError::Multiple { field, .. } => format!("multiple {field}"),
        GgufError::Alignment { .. } => "alignment".to_owned(),
        GgufError::Overlap { .. } => "overlap".to_owned(),
        GgufError::Kind { found, .. } => format!("kind {found}"),
        GgufError::Missing { key, .. } => format!("missing {key}"),
        GgufError::WrongType { key, .. } => format!("wrong type {key}"),
        GgufError::NonFinite { field, .. } => format!("not finite {field}"),
        GgufError::MissingTensor { name } => format!("no tensor {name}"),
        GgufError::Shape { name, .. } => format!("shape {name}"),
    }
}

fn of_load(error: &LoadError) -> String {
    match error {
        LoadError::Gguf(error) => of_gguf(error),
        LoadError::Architecture { found, .. } => format!("architecture {found}"),
        LoadError::Hyper { key, .. } => format!("hyper {key}"),
        LoadError::UnknownTensors { found } => format!("{found} unknown tensors"),
        LoadError::Level(_) | LoadError::Threads(_) => format!("the machine: {error}"),
    }
}

fn of_tokenizer(error: &TokenizerError) -> String {
    match error {
        TokenizerError::Gguf(error) => of_gguf(error),
        TokenizerError::Model { found } => format!("tokenizer {found}"),
        TokenizerError::Pre { found, .. } => format!("pre {found}"),
        TokenizerError::Range { field, .. } => format!("range {field}"),
        TokenizerError::DuplicateToken { id, first } => format!("duplicate token {id} of {first}"),
        TokenizerError::Merge { index } => format!("merge {index}"),
        TokenizerError::Score { id } => format!("score {id}"),
        TokenizerError::Bpe => "bpe".to_owned(),
        TokenizerError::Missing { what } => format!("no token {what}"),
        TokenizerError::Pieces => "pieces".to_owned(),
        TokenizerError::Cased { .. } => "cased".to_owned(),
    }
}

fn of_template(error: &TemplateError) -> String {
    match error {
        TemplateError::Gguf(error) => of_gguf(error),
        TemplateError::Absent { .. } => "template absent".to_owned(),
        TemplateError::TooLong { .. } => "template too long".to_owned(),
        TemplateError::Syntax { line, .. } => format!("template line {line}"),
        TemplateError::Refused { .. } | TemplateError::OutOfSteps { .. } => "template ran".to_owned(),
        TemplateError::TooMuchOutput { .. } | TemplateError::Failed { .. } | TemplateError::Broken => {
            "template ran".to_owned()
        }
    }
}

#[test]
fn the_file_that_is_changed_is_valid() {
    for arch in ["llama", "qwen2", "qwen3", "phi3", "gemma3"] {
        assert_eq!(refusal(valid(arch).bytes()), Ok(()), "{arch}");
    }
    // Encoders chat with nobody.
    assert_eq!(refusal(valid("bert").bytes()), Err("template absent".to_owned()));
    let mut spm = valid("llama");
    spm.sentencepiece();
    assert_eq!(refusal(spm.bytes()), Ok(()));
}

#[test]
fn every_malformed_file_is_refused_for_its_reason() {
    let cases: Vec<&Case> = [layout::CASES, meaning::CASES, families::CASES].into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for (name, change, expected) in &cases {
        let mut parts = valid("llama");
        change(&mut parts);
        let file = parts.bytes();
        let len = file.len();
        let (found, allocated) = memory::most_allocated(|| refusal(file));
        if found.as_ref().err().map(String::as_str) != Some(*expected) {
            wrong.push(format!("{name}: expected `{expected}`, found {found:?}"));
        }
        if allocated > SLACK {
            wrong.push(format!("{name}: {allocated} bytes beside a file of {len}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let names: std::collections::BTreeSet<&str> = cases.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names.len(), cases.len(), "each case has a name of its own");
    assert!(cases.len() >= 120, "{} cases", cases.len());
}
