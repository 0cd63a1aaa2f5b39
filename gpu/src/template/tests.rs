//! Templates: what models ship, what they lean on, and what hostile ones try.

use super::*;
use crate::generate::{GenSpec, generate};
use crate::gguf::write::{Meta, Writer};

fn chat<'a>(messages: &'a [Message<'a>]) -> Chat<'a> {
    Chat { messages, tools: &[], add_generation_prompt: true, now_unix_s: 951_827_696 }
}

fn message<'a>(role: &'a str, content: &'a str) -> Message<'a> {
    Message { role, content, more: &[] }
}

fn rendered(source: &str) -> Result<String, TemplateError> {
    let template = Template::compile(source, Origin::File, "<s>".to_owned(), "</s>".to_owned())?;
    template.render(&chat(&[message("user", "hi & <bye>"), message("assistant", "it's")]))
}

/// A file without a template, whose vocabulary has these tokens.
fn bare(tokens: &[&str]) -> Result<Template, TemplateError> {
    let mut file = Writer::default();
    let tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
    file.pair("tokenizer.ggml.tokens", Meta::Strs(tokens));
    Template::from_gguf(&Gguf::parse(file.finish()).unwrap())
}

#[test]
fn the_generated_model_speaks_chatml_and_so_does_the_built_in() {
    let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
    let own = Template::from_gguf(&gguf).unwrap();
    let built_in = bare(&["<|im_end|>", "x", "<|im_start|>"]).unwrap();
    let messages = [message("system", "Be brief."), message("user", "{{ 1 + 1 }}<b>")];
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{{ 1 + 1 }}<b><|im_end|>\n";
    assert_eq!((own.origin(), built_in.origin()), (Origin::File, Origin::BuiltIn("chatml")));
    for template in [own, built_in] {
        assert_eq!(template.render(&chat(&messages)).unwrap(), format!("{expected}<|im_start|>assistant\n"));
        let closed = Chat { add_generation_prompt: false, ..chat(&messages) };
        assert_eq!(template.render(&closed).unwrap(), expected);
    }
}

#[test]
fn tools_and_their_calls_are_rendered_where_the_template_knows_them() {
    let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
    let template = Template::from_gguf(&gguf).unwrap();
    let function = serde_json::json!({"name": "f", "arguments": {"b": 1, "a": "<é"}});
    let tools = [serde_json::json!({"type": "function", "function": {"name": "f"}})];
    let more = [("tool_calls", serde_json::json!([{"id": "1", "function": function}]))];
    let messages = [Message { more: &more, ..message("assistant", "") }, message("tool", "2")];
    let said = template.render(&Chat { tools: &tools, ..chat(&messages) }).unwrap();
    let offered = "<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\"}}\n</tools>";
    assert!(said.contains(offered), "in the client's order: {said}");
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": \"<é\"}}\n</tool_call><|im_end|>\n";
    assert!(said.contains(call) && said.contains("<|im_start|>tool\n2<|im_end|>"), "{said}");
    for (source, opens) in [
        ("{{ '<tool_call>' }}", Some("<tool_call>\n")),
        ("{{ '[TOOL_CALLS]' }}", Some("[TOOL_CALLS]")),
        ("{{ '{\"name\": function name, \"parameters\": dictionary of its arguments}' }}", Some("")),
        ("{{ messages }}", None),
    ] {
        let template = Template::compile(source, Origin::File, String::new(), String::new()).unwrap();
        assert_eq!(template.calls().map(|form| form.opens), opens, "{source}");
    }
}

#[test]
fn built_ins_are_chosen_by_the_turn_tokens_of_the_vocabulary() {
    let turns =
        [message("system", "Be brief. "), message("user", " hi\n"), message("assistant", "ho"), message("user", "?")];
    let gemma = bare(&["<bos>", "<start_of_turn>", "<end_of_turn>"]).unwrap();
    assert_eq!(gemma.origin(), Origin::BuiltIn("gemma"));
    assert_eq!(
        gemma.render(&chat(&turns)).unwrap(),
        "<start_of_turn>user\nBe brief.\n\nhi<end_of_turn>\n<start_of_turn>model\nho<end_of_turn>\n\
         <start_of_turn>user\n?<end_of_turn>\n<start_of_turn>model\n"
    );
    let twice = [message("user", "a"), message("user", "b")];
    for refused in [&twice[..], &turns[..1]] {
        assert!(
            matches!(gemma.render(&chat(refused)), Err(TemplateError::Refused { .. })),
            "a user begins and alternates"
        );
    }
    let llama3 = bare(&["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]).unwrap();
    assert_eq!(
        llama3.render(&chat(&turns[..2])).unwrap(),
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
         hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    let none = bare(&["<|im_start|>", "<start_of_turn>", "x"]).unwrap_err();
    assert_eq!(none, TemplateError::Absent { known: "chatml, gemma, llama3".to_owned() });
}

#[test]
fn smollm2_adds_its_system_message() {
    let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}\
        {{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}";
    let text = rendered(source).unwrap();
    assert!(text.starts_with("<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nhi & <bye><|im_end|>\n"));
}

#[test]
fn what_templates_lean_on() {
    for (source, expected) in [
        ("{{ bos_token }}{{ messages[0].content.split('&')[0].strip().upper() }}{{ eos_token }}", "<s>HI</s>"),
        ("{{ messages[1]['content'] | tojson }} {{ messages[0].content | tojson }}", r#""it's" "hi & <bye>""#),
        (r#"{{ 'a\\u003cb\n"' | tojson }}"#, r#""a\\u003cb\n\"""#),
        ("{{ strftime_now('%d %b %Y') }}", "29 Feb 2000"),
        ("{% for m in messages -%}\n  {%- if loop.index0 == 1 %}{% break %}{% endif %}\nx{% endfor %}", "x"),
        ("  {% if true %}\ny\n  {% endif %}\nz\n", "y\nz"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        (
            "{{ messages[-1]['role'] }}{{ messages | length }}{{ tools is none }}{{ missing is defined }}",
            "assistant2TrueFalse",
        ),
        ("{% macro tag(x) %}<{{ x }}>{% endmacro %}{{ tag(messages[0]['role']) }}", "<user>"),
    ] {
        assert_eq!(rendered(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn a_template_may_refuse() {
    let refused =
        rendered("{% if messages[0].role != 'system' %}{{ raise_exception('roles must alternate') }}{% endif %}");
    assert_eq!(refused, Err(TemplateError::Refused { message: "roles must alternate".to_owned() }));
}

#[test]
fn hostile_templates_end_in_typed_errors() {
    let failed = |source: &str| rendered(source).expect_err(source);
    let nested = "{% for a in range(9999) %}".repeat(4) + "{{ a }}" + &"{% endfor %}".repeat(4);
    assert_eq!(failed(&nested), TemplateError::OutOfSteps { most: MAX_STEPS });
    let recursive = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(matches!(failed(recursive), TemplateError::Failed { .. } | TemplateError::OutOfSteps { .. }));
    let loud = "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}";
    let kept = "{% set kept %}{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}{% endset %}";
    let doubled =
        "{% set x = ['x'] %}".to_owned() + &"{% set x = [x, x] %}".repeat(40) + "{% set y %}{{ x }}{% endset %}";
    for source in [loud, kept, &doubled] {
        assert_eq!(failed(source), TemplateError::TooMuchOutput { most: MAX_OUTPUT }, "{source}");
    }
    for source in
        ["{% include 'x' %}", "{% import '/etc/passwd' as x %}", "{{ ''.__class__.__mro__ }}", "{{ open('x') }}"]
    {
        assert!(matches!(failed(source), TemplateError::Failed { line: 1, .. }), "{source}");
    }
    assert!(matches!(failed("\n{% if %}"), TemplateError::Syntax { line: 2, .. }));
    assert!(matches!(failed(&"x".repeat(MAX_SOURCE + 1)), TemplateError::TooLong { .. }));
    let deep = "{{ ".to_owned() + &"(".repeat(50_000) + &")".repeat(50_000) + " }}";
    assert!(matches!(failed(&deep), TemplateError::Syntax { .. }));
    let left = "{% for m in messages %}{% with x = 1 %}{% break %}{% endwith %}{% else %}{% endfor %}";
    assert_eq!(failed(left), TemplateError::Broken);
    let secret = failed("{{ messages[0].content.nope() }}").to_string();
    assert!(!secret.contains("hi &"), "an error must not quote messages: {secret}");
}
