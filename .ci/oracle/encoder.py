"""Compares an encoder's layers with plain numpy, its vectors or scores with llama.cpp's, and its token ids with HF
`tokenizers`.

encoder.py --trace TRACE --model MODEL.gguf --text FILE [--bar 0.9999] [--tokenizer tokenizer.json]

The second forward pass is BERT's formulae in float32 over dequantized weights; it shares nothing with the engine but
the file. Keys and values are rounded to f16 here as there. Exits with 1 where a stage adds more than 5e-3 of what the
same weights add here (relative RMS; a layer alone, on the engine's own stream), or where a cosine is below the bar.
llama.cpp takes GELU in its tanh form, whatever the model was trained with. It ends a pair without a separator and knows
one type of text: it is compared on such pairs, with a copy of the model whose types are the same.
"""

import argparse
import math
import shutil
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

import embedding
import engine
import perplexity
import tokenizer as strings

PLAIN = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
STAGE_BAR = 5e-3
erf = np.vectorize(math.erf, otypes=[np.float64])


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def int8(x):
    """Rounded as for a quantized matrix, in blocks of 32."""
    blocks = x.reshape(-1, 32)
    most = np.abs(blocks).max(axis=1, keepdims=True)
    d = most / np.float32(127)
    q = np.rint(np.divide(blocks * np.float32(127), most, out=np.zeros_like(blocks), where=most > 0))
    return (q * d).reshape(x.shape).astype(np.float32)


class Bert:
    def __init__(self, path):
        reader = GGUFReader(path)
        field = lambda key, default=None: reader.fields[key].contents() if key in reader.fields else default
        assert field("general.architecture") == "bert"
        self.layers, self.width = field("bert.block_count"), field("bert.embedding_length")
        self.heads, self.eps = field("bert.attention.head_count"), field("bert.attention.layer_norm_epsilon")
        self.separator = field("tokenizer.ggml.seperator_token_id")
        self.first = field("tokenizer.ggml.bos_token_id")
        self.pooling = field("bert.pooling_type")
        self.w, self.rounds = {}, set()
        for t in reader.tensors:
            self.w[t.name] = dequantize(t.data, t.tensor_type).reshape([int(n) for n in t.shape][::-1])
            if t.tensor_type not in PLAIN:
                self.rounds.add(t.name)
        self.vocab = len(self.w["token_embd.weight"])

    def linear(self, x, name):
        x = int8(x) if f"{name}.weight" in self.rounds else x
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x, name):
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(self.eps))
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def embedding(self, tokens):
        kinds = np.cumsum([0] + [t == self.separator for t in tokens[:-1]])
        kinds = np.minimum(kinds, len(self.w["token_types.weight"]) - 1)
        x = self.w["token_embd.weight"][tokens] + self.w["position_embd.weight"][: len(tokens)]
        return self.norm(x + self.w["token_types.weight"][kinds], "token_embd_norm")

    def attention(self, x, i):
        q, k, v = (self.linear(x, f"blk.{i}.attn_{part}") for part in "qkv")
        k, v = (y.astype(np.float16).astype(np.float32) for y in (k, v))
        split = lambda y: y.reshape(len(x), self.heads, -1).transpose(1, 0, 2)
        q, k, v = split(q), split(k), split(v)
        scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(self.width // self.heads))
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        out = (weights @ v).transpose(1, 0, 2).reshape(len(x), self.width)
        return self.norm(x + self.linear(out, f"blk.{i}.attn_output"), f"blk.{i}.attn_output_norm")

    def feed_forward(self, x, i):
        up = self.linear(x, f"blk.{i}.ffn_up").astype(np.float64)
        up = (up / 2 * (1 + erf(up / math.sqrt(2)))).astype(np.float32)
        return self.norm(x + self.linear(up, f"blk.{i}.ffn_down"), f"blk.{i}.layer_output_norm")

    def run(self, tokens):
        x = self.embedding(tokens)
        yield "embedding", x
        for i in range(self.layers):
            x = self.attention(x, i)
            yield f"attention {i}", x
            x = self.feed_forward(x, i)
            yield f"layer {i}", x


    def score(self, hidden):
        x = hidden[:1]
        if "cls.weight" in self.w:
            x = np.tanh(self.linear(x, "cls"))
        return float(self.linear(x, "cls.output")[0, 0])


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def stages(args, bert, tokens):
    """How many stages missed; the last hidden states, ours and numpy's."""
    ours = engine.layers(args.trace, args.model, bert, tokens, args.level)
    missed, worst, before = 0, 0.0, None
    for stage, theirs in bert.run(tokens):
        mine = ours[stage]
        if before is None:
            expected = theirs
        else:
            kind, i = stage.split()
            expected = (bert.attention if kind == "attention" else bert.feed_forward)(before, int(i))
        off = rms(mine - expected) / rms(expected)
        worst, before = max(worst, off), mine
        if not off <= STAGE_BAR:
            missed += 1
            print(f"{stage}: off by {off:.2e}  MISSED")
    print(f"{len(tokens)} positions, {len(ours)} stages, each alone: {worst:.2e} at most (bar {STAGE_BAR:.0e})")
    return missed, theirs


def ranks(args, bert):
    """Whether a score missed; of pieces of the text, for its first words."""
    with open(args.text, encoding="utf-8") as f:
        words = f.read().split()
    query, *texts = [" ".join(words[9 * i :][: 6 + 3 * i]) for i in range(9)]
    asked, *documents = strings.ours(args.trace, args.model, [query] + texts, False)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(args.model, f"{folder}/typeless.gguf")
        types = next(t for t in GGUFReader(copy, "r+").tensors if t.name == "token_types.weight")
        types.data[:] = types.data[0]
        types.data.flush()
        pairs = [[bert.first] + asked + [bert.separator] + document for document in documents]
        last = lambda pair: engine.layers(args.trace, args.model, bert, pair, args.level)[f"layer {bert.layers - 1}"]
        whole = [pair + [bert.separator] for pair in pairs]
        heads = [embedding.ours(args.trace, args.model, pair, folder)[0] - bert.score(last(pair)) for pair in whole]
        mine = [embedding.ours(args.trace, copy, pair, folder)[0] for pair in pairs]
        theirs = embedding.ranks(copy, query, texts)
    here, there = np.max(np.abs([heads, mine - theirs]), axis=1) / np.std(theirs)
    missed = not (here <= STAGE_BAR and there <= args.score_bar)
    print(f"scores of {len(documents)} documents, in their standard deviation: the head {here:.1e} from numpy at most (bar"
          f" {STAGE_BAR:.0e}), all {there:.1e} from llama.cpp (bar {args.score_bar})" + "  MISSED" * missed)
    return missed


def ids(args):
    """Strings whose ids differ from HF's."""
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(args.tokenizer)
    reference.no_truncation(), reference.no_padding()
    # What a user wrote is text, even where it spells a token that steers.
    reference.encode_special_tokens = True
    tried = strings.SPACES + strings.WORDS + strings.NUMBERS + strings.SCRIPTS + strings.EMOJI + strings.CODE
    tried += strings.SPECIALS + strings.FORMS + strings.MIXED + ["[CLS] [SEP] [MASK]", "a" * 100, "a" * 101, "##ing", "▁the"]
    tried += [f"a{chr(c)}b {chr(c)}" for c in range(0x30000) if not 0xD800 <= c < 0xE000]
    mine = strings.ours(args.trace, args.model, tried, False)
    differing = [s for s, got in zip(tried, mine) if got != reference.encode(s, add_special_tokens=False).ids]
    print(f"token ids of {len(tried)} strings: {len(differing)} differ from HF's", [ascii(s) for s in differing[:8]])
    return len(differing)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--trace", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("--text", required=True)
    args.add_argument("--level", default="avx2")
    args.add_argument("--bar", type=float, default=0.9999)
    args.add_argument("--score-bar", type=float, default=2e-2)
    args.add_argument("--tokenizer")
    args = args.parse_args()
    bert = Bert(args.model)
    tokens = engine.tokenize(args.trace, args.model, args.text)[:300]
    missed, hidden = stages(args, bert, tokens)
    # A pair, whose second text is of another type. llama.cpp knows one only.
    missed += stages(args, bert, tokens[:100] + [bert.separator] + tokens[100:200])[0]
    if bert.pooling == 4:
        sys.exit(1 if missed + ranks(args, bert) else 0)
    with tempfile.TemporaryDirectory() as folder:
        for name, kind, pool in (("mean", 1, lambda h: h.mean(axis=0)), ("first", 2, lambda h: h[0])):
            path = f"{folder}/{name}.gguf"
            perplexity.rewritten(args.model, path, more=[("pooling_type", kind)])
            mine = embedding.ours(args.trace, path, tokens, folder)
            here, there = cosine(mine, pool(hidden)), cosine(mine, embedding.theirs(path, tokens))
            held = min(here, there) >= args.bar and abs(np.linalg.norm(mine) - 1) < 1e-5
            missed += not held
            print(f"{name} of {len(tokens)} tokens: cosine {here:.7f} with numpy, {there:.7f} with llama.cpp (bar {args.bar})"
                  + ("" if held else "  MISSED"))
    if args.tokenizer:
        missed += ids(args)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
