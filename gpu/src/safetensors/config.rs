//! What `config.json` and `1_Pooling/config.json` say, and what of it does not run.

use super::SafetensorsError;
use crate::gguf::write::{Meta, Writer};
use crate::model::arch::ENCODER;
use serde::Deserialize;

/// The sizes of a model. Dropout, classes and versions change nothing here and are not read.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    model_type: String,
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    layer_norm_eps: f32,
    pub(super) hidden_size: u64,
    pub(super) intermediate_size: u64,
    pub(super) num_hidden_layers: u32,
    num_attention_heads: u32,
    pub(super) max_position_embeddings: u64,
    pub(super) type_vocab_size: u64,
    pub(super) vocab_size: u64,
}

impl Config {
    /// Bounds are the GGUF reader's; here is what a GGUF could not say.
    pub(super) fn check(&self) -> Result<(), SafetensorsError> {
        let absolute = self.position_embedding_type.as_deref().is_none_or(|kind| kind == "absolute");
        for (field, held, expected) in [
            ("model_type", self.model_type == ENCODER, "`bert`"),
            ("hidden_act", self.hidden_act == "gelu", "`gelu`, the exact form"),
            ("position_embedding_type", absolute, "`absolute`"),
            ("is_decoder", !self.is_decoder, "false"),
            ("num_hidden_layers", (1..=512).contains(&self.num_hidden_layers), "1 to 512"),
        ] {
            if !held {
                return Err(SafetensorsError::Field { file: "config.json", field: field.to_owned(), expected });
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, file: &mut Writer) {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        file.pair("general.architecture", Meta::Str(ENCODER.to_owned()));
        file.pair("general.type", Meta::Str("model".to_owned()));
        let key = |key: &str| format!("{ENCODER}.{key}");
        for (name, value) in [
            ("block_count", self.num_hidden_layers),
            ("context_length", small(self.max_position_embeddings)),
            ("embedding_length", small(self.hidden_size)),
            ("feed_forward_length", small(self.intermediate_size)),
            ("attention.head_count", self.num_attention_heads),
        ] {
            file.pair(key(name), Meta::U32(value));
        }
        file.pair(key("attention.layer_norm_epsilon"), Meta::F32(self.layer_norm_eps));
        file.pair(key("attention.causal"), Meta::Bool(false));
        file.pair("tokenizer.ggml.token_type_count", Meta::U32(small(self.type_vocab_size)));
    }
}

/// What is made of the hidden states: one of these, and no other.
#[derive(Debug, Deserialize)]
pub(super) struct Pooling {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

impl Pooling {
    /// As GGUF numbers it.
    pub(super) fn id(&self) -> Result<u32, SafetensorsError> {
        let others = [
            self.pooling_mode_max_tokens,
            self.pooling_mode_mean_sqrt_len_tokens,
            self.pooling_mode_weightedmean_tokens,
        ];
        match (self.pooling_mode_mean_tokens, self.pooling_mode_cls_token, self.pooling_mode_lasttoken) {
            _ if others.contains(&true) => Err(()),
            (true, false, false) => Ok(1),
            (false, true, false) => Ok(2),
            (false, false, true) => Ok(3),
            _ => Err(()),
        }
        .map_err(|()| SafetensorsError::Field {
            file: "1_Pooling/config.json",
            field: "the pooling mode".to_owned(),
            expected: "one of the mean, the first token and the last",
        })
    }
}
