//! Encoders as their makers publish them: a folder of `model.safetensors`, `config.json`, `tokenizer.json` and
//! `1_Pooling/config.json`, read as hostile input.
//!
//! [`gguf_of`] writes what the folder says as a GGUF file, with llama.cpp's names, and everything else goes on from
//! there: one reader of weights, one of vocabularies, one digest that names a model. Whatever a file asks for that the
//! result would not do is refused. `header` finds the tensors, `config` and `vocabulary` read the JSON.

mod config;
mod header;
#[cfg(test)]
mod tests;
mod vocabulary;

use crate::gguf::TensorKind;
use crate::gguf::write::{Meta, Writer};
use crate::model::arch::ENCODER;
use config::{Config, Pooling};
use header::{Found, Header};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use vocabulary::Vocabulary;

/// The files of a model.
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const FILES: [&str; 4] = ["config.json", "tokenizer.json", "1_Pooling/config.json", WEIGHTS];
/// Of a file of JSON; the largest vocabularies take ten.
const JSON_MOST: u64 = 32 << 20;
/// Of the weights: encoders of this shape end at 1.4 GB.
const WEIGHTS_MOST: u64 = 4 << 30;

/// Why a folder is no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsError {
    #[error("`{file}` cannot be read ({kind}); a model's folder has {}", FILES.join(", "))]
    File { file: &'static str, kind: ErrorKind },
    #[error("`{file}` has more than {most} bytes")]
    TooLong { file: &'static str, most: u64 },
    #[error("`{file}` is not the JSON expected: line {line}, column {column}")]
    Json { file: &'static str, line: usize, column: usize },
    #[error("`{file}`: {field} is not supported as it stands; expected {expected}")]
    Field { file: &'static str, field: String, expected: &'static str },
    #[error("the weights' header: {problem}")]
    Header { problem: String },
    #[error("no tensor `{name}` among the weights")]
    MissingTensor { name: String },
    #[error("tensor `{name}` has the shape {found:?}; `config.json` asks for {expected:?}")]
    Shape { name: String, expected: Vec<u64>, found: Vec<u64> },
    #[error("the weights have {found} tensors that the model does not use")]
    UnknownTensors { found: usize },
}

/// The GGUF file of the model in `folder`; the same bytes for the same files, always.
pub(crate) fn gguf_of(folder: &Path) -> Result<Vec<u8>, SafetensorsError> {
    let config: Config = json(folder, "config.json")?;
    config.check()?;
    let pooling: Pooling = json(folder, "1_Pooling/config.json")?;
    let vocabulary: Vocabulary = json(folder, "tokenizer.json")?;
    let mut file = Writer::default();
    config.write(&mut file);
    file.pair(format!("{ENCODER}.pooling_type"), Meta::U32(pooling.id()?));
    vocabulary.write(&config, &mut file)?;
    let bytes = read(folder, WEIGHTS, WEIGHTS_MOST)?;
    let header = Header::read(&bytes)?;
    let mut tensors = Tensors { prefix: header.prefix(), header: &header, file: &mut file, used: 0 };
    tensors.write(&config)?;
    match header.len() - tensors.used - header.idle() {
        0 => Ok(file.finish()),
        found => Err(SafetensorsError::UnknownTensors { found }),
    }
}

fn read(folder: &Path, name: &'static str, most: u64) -> Result<Vec<u8>, SafetensorsError> {
    let failed = |e: std::io::Error| SafetensorsError::File { file: name, kind: e.kind() };
    let mut bytes = Vec::new();
    let file = File::open(folder.join(name)).map_err(failed)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(SafetensorsError::TooLong { file: name, most });
    }
    Ok(bytes)
}

fn json<T: serde::de::DeserializeOwned>(folder: &Path, file: &'static str) -> Result<T, SafetensorsError> {
    let bytes = read(folder, file, JSON_MOST)?;
    serde_json::from_slice(&bytes).map_err(|e| SafetensorsError::Json { file, line: e.line(), column: e.column() })
}

/// Tensors on their way from one file to the other.
struct Tensors<'a> {
    header: &'a Header<'a>,
    prefix: &'static str,
    file: &'a mut Writer,
    used: usize,
}

impl Tensors<'_> {
    fn write(&mut self, config: &Config) -> Result<(), SafetensorsError> {
        let Config { hidden_size: width, intermediate_size: feed, .. } = *config;
        for (theirs, ours, rows) in [
            ("word_embeddings", "token_embd", config.vocab_size),
            ("position_embeddings", "position_embd", config.max_position_embeddings),
            ("token_type_embeddings", "token_types", config.type_vocab_size),
        ] {
            self.matrix(&format!("embeddings.{theirs}"), ours, [width, rows])?;
        }
        self.norm("embeddings.LayerNorm", "token_embd_norm", width)?;
        for i in 0..config.num_hidden_layers {
            for (theirs, ours, inputs, outputs) in [
                ("attention.self.query", "attn_q", width, width),
                ("attention.self.key", "attn_k", width, width),
                ("attention.self.value", "attn_v", width, width),
                ("attention.output.dense", "attn_output", width, width),
                ("intermediate.dense", "ffn_up", width, feed),
                ("output.dense", "ffn_down", feed, width),
            ] {
                let (theirs, ours) = (format!("encoder.layer.{i}.{theirs}"), format!("blk.{i}.{ours}"));
                self.matrix(&theirs, &ours, [inputs, outputs])?;
                self.vector(&theirs, &ours, "bias", outputs)?;
            }
            for (theirs, ours) in
                [("attention.output.LayerNorm", "attn_output_norm"), ("output.LayerNorm", "layer_output_norm")]
            {
                self.norm(&format!("encoder.layer.{i}.{theirs}"), &format!("blk.{i}.{ours}"), width)?;
            }
        }
        Ok(())
    }

    fn found(&mut self, name: &str, expected: &[u64]) -> Result<Found<'_>, SafetensorsError> {
        let name = format!("{}{name}", self.prefix);
        self.used += 1;
        let found = self.header.tensor(&name).ok_or_else(|| SafetensorsError::MissingTensor { name: name.clone() })?;
        if found.shape != expected {
            return Err(SafetensorsError::Shape { name, expected: expected.to_vec(), found: found.shape.to_vec() });
        }
        Ok(found)
    }

    /// Rows of `inputs` numbers, which their file lists last and ours first.
    fn matrix(&mut self, theirs: &str, ours: &str, [inputs, outputs]: [u64; 2]) -> Result<(), SafetensorsError> {
        let found = self.found(&format!("{theirs}.weight"), &[outputs, inputs])?;
        let (kind, bytes) = (found.kind, found.bytes.to_vec());
        self.file.tensor(format!("{ours}.weight"), kind, &[inputs, outputs], bytes);
        Ok(())
    }

    fn norm(&mut self, theirs: &str, ours: &str, width: u64) -> Result<(), SafetensorsError> {
        self.vector(theirs, ours, "weight", width)?;
        self.vector(theirs, ours, "bias", width)
    }

    /// Vectors are F32 in GGUF, whatever they were.
    fn vector(&mut self, theirs: &str, ours: &str, part: &str, len: u64) -> Result<(), SafetensorsError> {
        let bytes = self.found(&format!("{theirs}.{part}"), &[len])?.widened();
        self.file.tensor(format!("{ours}.{part}"), TensorKind::F32, &[len], bytes);
        Ok(())
    }
}
