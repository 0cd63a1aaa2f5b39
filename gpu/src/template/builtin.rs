//! Templates by name, for files that bring none: the family is known by its turn tokens.
//!
//! A row applies where the vocabulary has all of its tokens as tokens, so that a turn is what the model was
//! trained on and no spelling of it. None puts the beginning-of-text token: whoever builds a prompt does.

use crate::gguf::{Gguf, GgufError};
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct BuiltIn {
    pub(super) name: &'static str,
    /// All of these are in the vocabulary.
    tokens: &'static [&'static str],
    pub(super) source: &'static str,
}

/// As most small instruct models have it, with tools as Hermes writes them; generated models bring it too, byte for
/// byte.
pub(crate) const CHATML: &str = "{% if tools %}{{ '<|im_start|>system\\nYou may call these functions:\\n<tools>' }}\
     {% for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}\
     {{ '\\n</tools>\\nWrite each call as\\n<tool_call>\\n{\"name\": <name>, \"arguments\": <object>}\\n</tool_call><|im_end|>\\n' }}\
     {% endif %}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content']}}\
     {% for call in message['tool_calls'] | default([]) %}\
     {{ '\\n<tool_call>\\n' + call['function'] | tojson + '\\n</tool_call>' }}{% endfor %}\
     {{ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const LLAMA3: &str = "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' \
     + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
     {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/// The system message opens the first user turn; roles alternate.
const GEMMA: &str = "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] | trim + '\\n\\n' %}\
     {% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}\
     {% if not turns %}{{ raise_exception('a system message needs a user message behind it') }}{% endif %}\
     {% for turn in turns %}{% if turn['role'] != ['user', 'assistant'][loop.index0 % 2] %}\
     {{ raise_exception('roles must alternate: user, assistant, user, …') }}{% endif %}\
     {{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else 'user') + '\\n' + (first if loop.first else '') \
     + turn['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
     {% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";

const TABLE: [BuiltIn; 3] = [
    BuiltIn { name: "chatml", tokens: &["<|im_start|>", "<|im_end|>"], source: CHATML },
    BuiltIn { name: "gemma", tokens: &["<start_of_turn>", "<end_of_turn>"], source: GEMMA },
    BuiltIn { name: "llama3", tokens: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], source: LLAMA3 },
];

/// The first row whose tokens the file's vocabulary has.
pub(super) fn of_vocabulary(gguf: &Gguf) -> Result<Option<&'static BuiltIn>, GgufError> {
    let Some(texts) = gguf.opt_strs("tokenizer.ggml.tokens")? else { return Ok(None) };
    let wanted: BTreeSet<&str> = const { &TABLE }.iter().flat_map(|row| row.tokens).copied().collect();
    let found: BTreeSet<&str> = texts.filter(|text| wanted.contains(text)).collect();
    Ok(const { &TABLE }.iter().find(|row| row.tokens.iter().all(|token| found.contains(token))))
}

/// Every name of the table, for the refusal.
pub(super) fn names() -> String {
    TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}
