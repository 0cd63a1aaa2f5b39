//! How a model writes that it calls a tool: a row for each family, known by what its chat template says.
//!
//! The rows are facts about templates that models ship. A call itself is JSON with a `name`; what stands around it and
//! what the rest is called differs.

use orchestrion_world::payload::CallForm;

struct Family {
    /// The template has this in it.
    mark: &'static str,
    form: CallForm,
}

const TABLE: [Family; 3] = [
    // Hermes, Qwen, and whoever learnt from them.
    Family {
        mark: "<tool_call>",
        form: CallForm { opens: "<tool_call>\n", closes: "</tool_call>", arguments: "arguments", in_list: false },
    },
    Family {
        mark: "[TOOL_CALLS]",
        form: CallForm { opens: "[TOOL_CALLS]", closes: "", arguments: "arguments", in_list: true },
    },
    // Llama 3.1 to 3.3: the whole answer is the call.
    Family {
        mark: "\"parameters\": dictionary",
        form: CallForm { opens: "", closes: "", arguments: "parameters", in_list: false },
    },
];

/// That of the first family whose mark the template has; `None`: its model was told of no tools.
pub(super) fn of_template(source: &str) -> Option<CallForm> {
    TABLE.iter().find(|family| source.contains(family.mark)).map(|family| family.form)
}
