"""Compares token ids with llama.cpp's, string by string, with and without parsing of special tokens; and turns
the ids of plain text back into text.

tokenizer.py --trace TRACE --model MODEL.gguf [--families]

With --families also each pre-tokenizer of the table, on a vocabulary made for the purpose: every pair of
bytes is a token, merged in the order of the bytes, so that nearly each wrong cut between two words shows in
the ids. It is tried on the same strings and on every code point behind a letter, a digit and a stop. So is
SentencePiece's merging, on a vocabulary of short pieces with few different scores, with and without the
space in front, and as phi-3 has it.

Needs the PyPI packages xllamacpp and, for --families, gguf and numpy. Exits with 1 on any difference.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import urllib.request

FAMILIES = [
    "default", "gpt-2", "phi-2", "mpt", "olmo", "smollm", "starcoder", "refact", "codeshell", "llama-bpe", "llama3",
    "llama-v3", "qwen2", "deepseek-r1-qwen", "stablelm2",
    "tekken", "gpt-4o", "dbrx",
]

SPACES = ["", " ", "  ", "   x", "x ", "x  ", " x ", "\n", "\n\n", "\n\n\nx", "x\n", "\t", "\t\tx", " \n ", "\r\n", "x\r\ny",
          "\r", " \t\n\r x", "a\n\n b", "a \n\n  b", "\u00a0", "a\u00a0b", "\u3000", "全\u3000角", "a\u2028b", "\u200b",
          "a\u200bb", "\u0085", "x\u0085 y", "\x0b\x0c", "\u1680 \u205f", " " * 100, "\n" * 50 + " " * 50 + "x"]
WORDS = ["hello", " hello", "Hello World", "The quick brown fox jumps over the lazy dog.", "don't", "DON'T", "I'll we've you're he'd",
         "it's 'tis 'S 'LL", "'", "''", "'s", "x'", "l'été", "naïve café", "ſ'ſ", "supercalifragilisticexpialidocious",
         "camelCase snake_case SCREAMING_CASE kebab-case", "e-mail@example.com", "https://example.com/a?b=c&d=%20#e", "!!!",
         "?!...", "a.b,c;d:e", "(a)[b]{c}<d>", "“quoted” ‘single’ «guillemets»", "em—dash en–dash", "#hashtag @user $5.99 50%"]
NUMBERS = ["0", "7", "42", "123", "1234", "12345", "1234567890", " 123", "a1b2c3", "3.14159", "1,000,000", "-17", "1e-9", "0x1F",
           "٣٤٥", "½ ⅓", "Ⅷ", "²³", "१२३", "2024-02-29T12:34:56Z", "007 008", "12 345"]
SCRIPTS = ["你好，世界", "日本語のテキスト", "カタカナ と ひらがな", "한국어 텍스트", "한국어".encode().decode(), "Привет, мир", "Ελληνικά",
           "العربية", "שלום עולם", "مرحبا 123 שלום", "हिन्दी पाठ", "ภาษาไทย", "தமிழ்", "አማርኛ", "ქართული", "Tiếng Việt",
           "Türkçe İıŞş", "ᚠᚢᚦ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐍈", "a\u0301e\u0301", "é vs e\u0301", "ﬁ ligature", "ＦＵＬＬ　ｗｉｄｔｈ", "\u202eRTL\u202c",
           "\u2066iso\u2069", "混合 mixed текст نص 1 2 3"]
EMOJI = ["🦀", "🦀🦀", "👩‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "a🦀b", " 🦀 ", "1️⃣", "☃☃", "⌘⇧", "\U0001fae8", "text 😀 more"]
CODE = ["fn main() {\n    println!(\"{}\", 1);\n}\n", "def f(x):\n\treturn x ** 2\n", "if (a && b) || !c { d += 1; }", "<div class=\"x\">&amp;</div>",
        "SELECT * FROM t WHERE a <> 'b';", "#include <stdio.h>\n\nint main(void)\n{\n        return 0;\n}", "a->b::c.d()[0]",
        "{\"key\": [1, 2.5, null, true]}", "```rust\nlet x = 1;\n```", "\\n \\t \\u0041", "C:\\Windows\\path", "$HOME/${x}", "// comment\n/* c */",
        "x = y if z else w  # why", "\u0000\u0001\u001f\u007f", "a\tb\tc", "|---|---|\n| a | b |"]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b",
            " <|im_end|> ", "<|im_start|><|im_start|>", "<|im_start", "im_end|>", "<|im_<|im_end|>end|>", "<repo_name>x<file_sep>",
            "<reponame>", "<filename>a<gh_stars>", "<empty_output>", "<|IM_START|>", "<s></s>", "[INST] x [/INST]", "<|unknown|>", "<jupyter_code>1"]
GEMMA = ["<start_of_turn>", "<end_of_turn>", "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n", "a<end_of_turn>b",
         " <end_of_turn> ", "<end_of_turn><end_of_turn>x", "<start_of_turn", "end_of_turn>", "<end_<end_of_turn>of_turn>", "<bos><eos>",
         "<pad><unk><mask>", "<unused0>x<unused98>", "[multimodal]", "<0x0A>", "<0x41><0x42>", "<0x00", "</s>", "a </s> b", "<table><tr><td>1</td></tr></table>",
         "<h1>t</h1>\n<b>x</b>", "<strong> x </strong>", "<b", "\u2581", "\u2581x", "a\u2581\u2581b", " \u2581 x"]
FORMS = ["\u00c5 \u212b A\u030a", "\u1e69 s\u0323\u0307 s\u0307\u0323", "\uac00 \u1100\u1161", "\ufb03 \u2460 \u33a5", "\u0958 \u0915\u093c", "e\u0301\u0301\u0301",
         "\u0301", "\ufeffx", "x\ufeff", "\ufffd\ufffd", "\ufffe\uffff", "\U0001d15e", "\U000e0041", "\U0010fffd", "\u2028\u2029", "\u00ad soft\u00adhyphen",
         "\u034f\u180e\u2060", "\x00", "a\x00b", "\x00\x00\x00", "\x01\x02\x1b[31m", "\x7f\x80\x9f", "\r\r\n\n", "\t \t \t", "  \n  \n    x", "\n \n  \n   ",
         "x" + " " * 31 + "y", "x" + " " * 33 + "y", "\n" * 31 + "x", "\n" * 32, "\t" * 32, "a" + "\t" * 5 + "b" + "\t" * 3]
MIXED = ["Donaudampfschifffahrtsgesellschaftskapitän", "pneumonoultramicroscopicsilicovolcanoconiosis", "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
         "Быстрая коричневая лиса", "敏捷的棕色狐狸跳过懒狗。", "素早い茶色の狐はのろまな犬を飛び越える", "빠른 갈색 여우", "الثعلب البني السريع", "Ο γρήγορος καφέ",
         "1 + 1 = 2; 3 × 4 ≤ 13", "10⁻³ µm ≈ ∞", "v1.2.3-rc.4+5", "192.168.0.1:8080", "f(x)=x^2-3x+7", "CO₂ H₂O", "AbCdEfG", "ALLCAPS", "iOS macOS",
         "let v: Vec<u8> = vec![0; 16];", "for (int i = 0; i < 10; ++i) { a[i] = i; }", "git commit -m 'x' && git push", "👩🏽‍💻👨🏿‍🔬", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "a‍b‌c", "🧑‍🤝‍🧑 🦄"]
LONG = ["the " * 2000, "x" * 5000, "é" * 3000, "字" * 3000, "1" * 3000, " " * 3000 + "x", "\n" * 3000, "!" * 3000, "aB1 é字🦀\n" * 500,
        "<|im_start|>" * 500, "'" * 1000]
PHI = ["<|user|>\nhi<|end|>\n<|assistant|>\n", "<|end|> \t\v\f\r\n x", "<|end|>\u00a0x", "<s> x", "</s>\n\ny", "<|endoftext|> z", "<unk> <tag>  x"]
STRINGS = PHI + SPACES + WORDS + NUMBERS + SCRIPTS + EMOJI + CODE + SPECIALS + GEMMA + FORMS + MIXED + LONG


def points():
    """The code points of the first two planes, and some of others, behind a letter, a digit, a stop and a space."""
    every = [c for c in [*range(0x20000), *range(0x2A6D0, 0x2A6F0), *range(0x2EBE0, 0x2EC00), *range(0x30000, 0x30020), *range(0xE0000, 0xE01F0)]
             if not 0xD800 <= c < 0xE000]
    for at in range(0, len(every), 500):
        yield "".join(f"X{chr(c)}\n5{chr(c)}\n.{chr(c)}\n {chr(c)}\n" for c in every[at:at + 500])


def alphabet():
    """GPT-2's printable character for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) if b in plain else chr(256 + others.index(b)) for b in range(256)]


def bytes_and_merges(file, pre):
    letters = alphabet()
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, *(a + b for a in letters for b in letters)]
    file.add_tokenizer_model("gpt2"), file.add_tokenizer_pre(pre), file.add_token_list(tokens)
    file.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    file.add_token_merges([f"{a} {b}" for a in letters for b in letters])
    return len(tokens)


def pieces_and_scores(file, space_prefix, more=()):
    draw = random.Random(7)
    letters = [chr(c) for c in range(0x21, 0x7F)] + ["\u2581", "é", "字", "\n", "\u0301"]
    pieces = {a + b for a in letters for b in letters} | {"".join(draw.choices(letters, k=3)) for _ in range(40000)}
    pieces |= {a + b for a in draw.sample(sorted(pieces), 200) for b in draw.sample(sorted(pieces), 20)}
    # No control token's name is within reach of merging: llama.cpp would make the token of it, we never do.
    special = {"<unk>": 2, "<start_of_turn>": 3, "<end_of_turn>": 3, **{f"<0x{b:02X}>": 6 for b in range(256)}, "  ": 4, "<tag>": 4, "\t": 4}
    special |= {name: 3 for name in more}
    plain = [piece for piece in letters + sorted(pieces) if piece not in special]
    file.add_tokenizer_model("llama"), file.add_tokenizer_pre("default"), file.add_token_list([*special, *plain])
    file.add_token_types([*special.values()] + [1] * len(plain))
    file.add_token_scores([0.0] * len(special) + [-float(draw.randrange(50)) for _ in plain])
    file.add_add_space_prefix(space_prefix)
    return len(special) + len(plain)


def write_family(path, arch, vocabulary, *how):
    import gguf
    import numpy as np

    file = gguf.GGUFWriter(path, arch)
    # llama.cpp knows phi-3's habit, tokens that swallow the white space behind them, by the model's name.
    file.add_name("phi-3" if arch == "phi3" else "family")
    file.add_block_count(1), file.add_context_length(64), file.add_embedding_length(32), file.add_feed_forward_length(32)
    file.add_head_count(1), file.add_head_count_kv(1), file.add_layer_norm_rms_eps(1e-5), file.add_rope_dimension_count(32)
    tokens = vocabulary(file, *how)
    file.add_bos_token_id(1), file.add_eos_token_id(2)
    shapes = {f"blk.0.{n}.weight": (32, 32) for n in
              ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]}
    if arch == "phi3":
        shapes = {"blk.0.attn_qkv.weight": (96, 32), "blk.0.attn_output.weight": (32, 32),
                  "blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_down.weight": (32, 32)}
    shapes |= {f"{n}.weight": (32,) for n in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]}
    shapes["token_embd.weight"] = (tokens, 32)
    for name, shape in shapes.items():
        file.add_tensor(name, np.zeros(shape, np.float32))
    file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()


def theirs(model, strings, special):
    """llama.cpp's ids; in a process of its own, since a server never quite goes."""
    code = f"import tokenizer; tokenizer.serve({model!r}, {special})"
    where = os.path.dirname(os.path.abspath(__file__))
    run = subprocess.run([sys.executable, "-c", code], input=json.dumps(strings), capture_output=True, text=True, cwd=where)
    lines = [line for line in run.stdout.splitlines() if line.startswith("IDS ")]
    if not lines:
        sys.exit(f"llama.cpp gave no ids for {model}:\n{run.stderr[-2000:]}")
    return json.loads(lines[-1][4:])


def serve(model, special):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = model, 64, 1, False
    server = xllamacpp.Server(params)
    ids = []
    for text in json.load(sys.stdin):
        body = json.dumps({"content": text, "add_special": False, "parse_special": special}).encode()
        request = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        ids.append(json.load(urllib.request.urlopen(request))["tokens"])
    print("IDS " + json.dumps(ids), flush=True)
    os._exit(0)


def asked(lines, *command):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run = subprocess.run(command, input=text, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed: {run.stderr}")
    return [json.loads(line) for line in run.stdout.split("\n")[:-1]]


def ours(trace, model, strings, special):
    return asked(strings, trace, "tokenize", model, "special" if special else "plain")


def there_and_back(name, trace, model, strings):
    """SentencePiece's space is the one character that does not come back as it was."""
    back = asked(ours(trace, model, strings, False), trace, "detokenize", model)
    lost = [text for text, again in zip(strings, back, strict=True) if again not in (text, text.replace("\u2581", " "))]
    print(f"{name}: {len(strings)} strings there and back, {len(lost)} came back as others {ascii(lost[:3])[:200]}")
    return len(lost)


def compare(name, trace, model, strings, modes):
    different = 0
    for special in modes:
        mine, other = ours(trace, model, strings, special), theirs(model, strings, special)
        assert len(mine) == len(other) == len(strings)
        for text, a, b in zip(strings, mine, other):
            if a != b:
                different += 1
                if different > 5:
                    continue
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                print(f"{name}, special={special}: {ascii(text[:24])}: id {at} of {len(b)}: {a[at:at + 8]}, expected {b[at:at + 8]}")
    print(f"{name}: {len(strings)} strings, {len(modes)} modes, {different} differences")
    return different


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--trace", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("--families", action="store_true")
    args = args.parse_args()
    trace, model = os.path.abspath(args.trace), os.path.abspath(args.model)
    different = compare(os.path.basename(model), trace, model, STRINGS, (True, False))
    different += there_and_back(os.path.basename(model), trace, model, STRINGS)
    if args.families:
        everything = STRINGS + list(points())
        with tempfile.TemporaryDirectory() as folder:
            families = [(pre, (True,), "llama", bytes_and_merges, pre) for pre in FAMILIES]
            families += [(f"llama, space {prefix}", (True, False), "llama", pieces_and_scores, prefix) for prefix in (True, False)]
            # In plain text llama.cpp merges letters into these names' tokens; we never do, so chats alone are compared.
            names = ("<s>", "</s>", "<|endoftext|>", "<|end|>", "<|user|>")
            families += [(f"phi3, space {prefix}", (True,), "phi3", pieces_and_scores, prefix, names) for prefix in (True, False)]
            path = os.path.join(folder, "family.gguf")
            for name, modes, *family in families:
                write_family(path, *family)
                different += compare(name, trace, path, everything, modes)
                os.remove(path)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
