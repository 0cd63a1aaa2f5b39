//! Folders made for the purpose: one that is a model, and those that are not.

use super::*;
use crate::engine::{Engine, EngineOptions, Level, Wants, Work};
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;
use serde_json::{Value, json};

const WIDTH: u64 = 32;

/// A model's files, changed before they are written.
struct Files {
    config: Value,
    pooling: Value,
    tokenizer: Value,
    header: Value,
    data: Vec<u8>,
}

impl Files {
    fn valid() -> Files {
        let vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b"];
        let added = (0..5).map(|id| json!({"id": id, "content": vocab[id], "special": true}));
        let tokenizer = json!({
            "added_tokens": added.collect::<Vec<Value>>(),
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocab.iter().zip(0..).map(|(text, id)| ((*text).to_owned(), id.into()))
                    .collect::<serde_json::Map<String, Value>>()},
        });
        let config = json!({"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 16, "type_vocab_size": 2, "vocab_size": vocab.len()});
        let mut files = Files {
            config,
            pooling: json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}),
            tokenizer,
            header: json!({"__metadata__": {"format": "pt"}}),
            data: Vec::new(),
        };
        for (name, rows) in [("word", vocab.len() as u64), ("position", 16), ("token_type", 2)] {
            files.tensor(&format!("embeddings.{name}_embeddings.weight"), &[rows, WIDTH]);
        }
        let layer = "encoder.layer.0";
        for (name, [outputs, inputs]) in [
            ("attention.self.query", [WIDTH; 2]),
            ("attention.self.key", [WIDTH; 2]),
            ("attention.self.value", [WIDTH; 2]),
            ("attention.output.dense", [WIDTH; 2]),
            ("intermediate.dense", [2 * WIDTH, WIDTH]),
            ("output.dense", [WIDTH, 2 * WIDTH]),
        ] {
            files.tensor(&format!("{layer}.{name}.weight"), &[outputs, inputs]);
            files.tensor(&format!("{layer}.{name}.bias"), &[outputs]);
        }
        let norms = [format!("{layer}.attention.output"), format!("{layer}.output"), "embeddings".to_owned()];
        for norm in norms {
            files.tensor(&format!("{norm}.LayerNorm.weight"), &[WIDTH]);
            files.tensor(&format!("{norm}.LayerNorm.bias"), &[WIDTH]);
        }
        files.tensor("pooler.dense.weight", &[WIDTH, WIDTH]);
        files
    }

    fn tensor(&mut self, name: &str, shape: &[u64]) {
        let begin = self.data.len();
        for i in 0..shape.iter().product::<u64>() {
            self.data.extend((((i * 7 + begin as u64 + 3) % 23) as f32 / 32.0 - 0.3).to_le_bytes());
        }
        self.header[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, self.data.len()]});
    }

    fn read(&self) -> Result<Vec<u8>, SafetensorsError> {
        self.read_with(&serde_json::to_vec(&self.header).unwrap())
    }

    fn read_with(&self, header: &[u8]) -> Result<Vec<u8>, SafetensorsError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        for (name, json) in [FILES[0], FILES[1], FILES[2]].iter().zip([&self.config, &self.tokenizer, &self.pooling]) {
            std::fs::write(folder.path().join(name), serde_json::to_vec(json).unwrap()).unwrap();
        }
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(folder.path().join(WEIGHTS), [&length[..], header, &self.data].concat()).unwrap();
        gguf_of(folder.path())
    }
}

#[test]
fn a_folder_becomes_a_model_that_reads_texts() {
    let gguf = Gguf::parse(Files::valid().read().unwrap()).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert_eq!(tokenizer.encode("A abb c [SEP]", false), [5, 5, 7, 7, 1, 1, 1, 1]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(2), Some(3)));
    let mut engine = Engine::load(&gguf, EngineOptions { level: Level::Scalar, threads: 1, ctx_max: 99 }).unwrap();
    let (sequence, tokens) = (engine.open_pooled(4), [2, 5, 7, 3]);
    engine.step(&[Work { sequence, tokens: &tokens, wants: Wants::Nothing }]).unwrap();
    assert_eq!(engine.pooled(sequence).unwrap().len() as u64, WIDTH);
    let mut part = Files::valid();
    let renamed = part.header.as_object().unwrap().iter().map(|(name, value)| match name.as_str() {
        "__metadata__" => (name.clone(), value.clone()),
        _ => (format!("bert.{name}"), value.clone()),
    });
    part.header = Value::Object(renamed.collect());
    assert_eq!(part.read().unwrap(), Files::valid().read().unwrap());
}

#[test]
fn what_would_run_as_something_else_is_refused() {
    type Change = fn(&mut Files);
    let cases: [(Change, &str); 19] = [
        (|f| f.config["model_type"] = "roberta".into(), "model_type"),
        (|f| f.config["hidden_act"] = "gelu_new".into(), "hidden_act"),
        (|f| f.config["position_embedding_type"] = "relative_key".into(), "position_embedding_type"),
        (|f| f.config["num_hidden_layers"] = 4_000_000_000u32.into(), "num_hidden_layers"),
        (|f| f.config["hidden_size"] = (-1).into(), "JSON"),
        (|f| f.config["hidden_size"] = (1u64 << 62).into(), "shape"),
        (|f| f.config["num_hidden_layers"] = 2.into(), "no tensor `encoder.layer.1.attention.self.query.weight`"),
        (|f| f.pooling["pooling_mode_max_tokens"] = true.into(), "pooling mode"),
        (|f| f.pooling["pooling_mode_cls_token"] = true.into(), "pooling mode"),
        (|f| f.tokenizer["normalizer"]["lowercase"] = false.into(), "normalizer"),
        (|f| f.tokenizer["model"]["vocab"]["b"] = 5.into(), "an id of its own"),
        (|f| f.tokenizer["model"]["vocab"]["b"] = 4_000_000_000u32.into(), "an id of its own"),
        (|f| f.tokenizer["added_tokens"][0]["id"] = 7.into(), "added_tokens"),
        (|f| f.tokenizer["model"]["max_input_chars_per_word"] = 200.into(), "max_input_chars_per_word"),
        (|f| f.tensor("extra", &[1]), "1 tensors that the model does not use"),
        (|f| f.data.push(0), "and the file"),
        (|f| f.header["embeddings.LayerNorm.bias"]["dtype"] = "F16".into(), "not its shape's"),
        (|f| f.header["embeddings.LayerNorm.bias"]["dtype"] = "F4".into(), "not known"),
        (|f| f.header["embeddings.LayerNorm.bias"]["shape"] = json!([1u64 << 62, 16]), "not its shape's"),
    ];
    for (i, (change, expected)) in cases.into_iter().enumerate() {
        let mut files = Files::valid();
        change(&mut files);
        let refused = files.read().expect_err(&format!("case {i} is read")).to_string();
        assert!(refused.contains(expected), "case {i}: {refused}");
    }
}

#[test]
fn a_hostile_header_is_refused() {
    let mut files = Files::valid();
    let header = serde_json::to_string(&files.header).unwrap();
    let twice = header.replacen('{', r#"{"pooler.dense.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"#, 1);
    assert!(files.read_with(twice.as_bytes()).unwrap_err().to_string().contains("stands twice"));
    for cut in [0, 1, header.len() / 2] {
        assert!(files.read_with(&header.as_bytes()[..cut]).is_err());
    }
    let overlapping = files.header["embeddings.LayerNorm.weight"]["data_offsets"].clone();
    files.header["embeddings.LayerNorm.bias"]["data_offsets"] = overlapping;
    assert!(files.read().unwrap_err().to_string().contains("a tensor begins at byte"));
    assert!(Header::read(&[0xff; 64]).unwrap_err().to_string().contains("there is room for"));
    assert!(Header::read(b"1234").is_err());
}
