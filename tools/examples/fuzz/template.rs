//! Chat templates as strangers may write them, and chats as users may send them: both drawn from what templates are
//! made of. A template ends within its steps and its output, or is refused.

use super::Target;
use super::text::text;
use orchestrion_gpu::template::{Chat, Message, Template};
use orchestrion_scenarios::storm::draw::Draw;
use std::error::Error;

const BLOCKS: [(&str, &str); 14] = [
    ("{% for m in messages %}", "{% endfor %}"),
    ("{% for m in messages[1:] -%}", "{%- else %}{{ loop }}{% endfor %}"),
    ("{% for i in range(9) %}", "{% endfor %}"),
    ("{% for k, v in messages[0].items() %}", "{{ v[k] }}{% endfor %}"),
    ("{% if m.role == 'user' %}", "{% endif %}"),
    ("{% if loop.last and add_generation_prompt %}", "{% else %}{{ m }}{% endif %}"),
    ("{% if messages[0]['role'] == 'system' and tools is defined %}", "{% elif x is string %}{% endif %}"),
    ("{% if not m.content is string %}", "{% endif %}"),
    ("{% set x %}", "{% endset %}"),
    ("{% macro f(n, d=2) %}", "{{ f(n - 1) }}{% endmacro %}"),
    ("{% filter upper %}", "{% endfilter %}"),
    ("{% raw %}", "{% endraw %}"),
    ("{% with x = messages | last %}", "{% endwith %}"),
    ("{% call f(1) %}", "{% endcall %}"),
];
const PARTS: [&str; 32] = [
    "{% set x = messages[-1] %}",
    "{% set x = [x, x] %}",
    "{% set ns = namespace(a=1, b='') %}",
    "{% set ns.a = ns.a + 1 %}",
    "{% break %}",
    "{# a note #}",
    "{{ m.content }}",
    "{{ m['content'] | trim }}",
    "{{- m.role -}}",
    "{{ bos_token }}",
    "{{ eos_token + '\n' }}",
    "{{ f(1) }}",
    "{{ x | tojson(indent=4) }}",
    "{{ tools | tojson }}",
    "{{ strftime_now('%d %b %Y %H:%M') }}",
    "{{ strftime_now('%') }}",
    "{{ raise_exception('no') }}",
    "{{ messages | length / 0 }}",
    "{{ -9223372036854775808 * 9223372036854775807 }}",
    "{{ 2 ** 99999 }}",
    "{{ 'x' * 99999 }}",
    "{{ x[::-1] }}",
    "{{ messages[7].content[2:-2:3] }}",
    "{{ m.content.split('</think>')[-1].lstrip('\\n') }}",
    "{{ m.content.replace('a', 'b').startswith('c') }}",
    "{{ messages | map(attribute='role') | join(',') | title }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | last }}",
    "{{ messages | sort(attribute='content') | batch(2) | list }}",
    "{{ '%s %d' | format(1, 2) ~ caller() }}",
    "{{ m.content | int + 1.5 // 0 }}",
    "<|im_start|>",
    "\n",
];
const ROLES: [&str; 5] = ["user", "assistant", "system", "tool", ""];
/// Between a template and its messages, and between those.
const CUT: char = '\u{1}';

pub(super) fn target(_: u64) -> Result<Target, Box<dyn Error>> {
    Ok(Target { make: Box::new(|draw| Ok(drawn(draw).into_bytes())), read: Box::new(read) })
}

fn body(draw: &mut Draw, depth: u32) -> String {
    let mut body = String::new();
    for _ in 0..draw.within(1, 4) {
        if depth > 0 && draw.chance(40) {
            let (open, close) = draw.of(&BLOCKS);
            body += &[open, &self::body(draw, depth - 1), close].concat();
        } else {
            body += draw.of(&PARTS);
        }
    }
    body
}

fn drawn(draw: &mut Draw) -> String {
    let body = body(draw, 3);
    // Now and then out of steps, which takes its time.
    let body = if draw.chance(1) { body.replace("range(9)", "range(9999)") } else { body };
    let mut source: Vec<char> = body.chars().collect();
    let wrong = if draw.chance(30) { draw.below(4) } else { 0 };
    for _ in 0..wrong {
        let at = draw.index(source.len());
        match draw.below(3) {
            0 if source.is_empty() => {}
            0 => drop(source.remove(at)),
            1 => source.insert(at, draw.of(&['{', '%', '}', '(', '|', '\'', '-', '~', '\u{2581}'])),
            _ => source.truncate(source.len().saturating_sub(draw.index(8))),
        }
    }
    let messages: Vec<String> =
        (0..draw.below(4)).map(|_| draw.of(&ROLES).to_owned() + "\u{2}" + &text(draw)).collect();
    let source: String = source.into_iter().filter(|c| *c != CUT).collect();
    [source].into_iter().chain(messages).collect::<Vec<_>>().join(&CUT.to_string())
}

fn read(input: &[u8]) -> Result<&'static str, String> {
    let input = std::str::from_utf8(input).map_err(|error| error.to_string())?;
    let mut parts = input.split(CUT);
    let source = parts.next().unwrap_or_default();
    let Ok(template) = Template::of_source(source, "<s>", "</s>") else { return Ok("refused") };
    let more =
        [("tool_call_id", serde_json::json!("1")), ("tool_calls", serde_json::json!([{ "id": [1, null, 0.5] }]))];
    let messages: Vec<Message<'_>> = parts
        .map(|part| part.split_once('\u{2}').unwrap_or(("user", part)))
        .map(|(role, content)| Message { role, content, more: if role == "tool" { &more } else { &[] } })
        .collect();
    let tools = [serde_json::json!({ "type": "function", "function": { "name": "f", "parameters": {} } })];
    let chat = Chat { messages: &messages, tools: &tools, add_generation_prompt: true, now_unix_s: 1_800_000_000 };
    Ok(if template.render(&chat).is_ok() { "rendered" } else { "failed" })
}
