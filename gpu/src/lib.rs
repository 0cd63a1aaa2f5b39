//! How tokens are made: GGUF files, tokenizers, canonical numerics, engines and their stations.

pub mod engine;
pub mod generate;
pub mod gguf;
pub mod grammar;
mod kernel;
mod kv;
mod likelihood;
mod model;
mod numerics;
pub mod safetensors;
pub mod sampler;
mod seal;
pub mod selftest;
pub mod station;
pub mod supply;
pub mod template;
pub mod tokenizer;
