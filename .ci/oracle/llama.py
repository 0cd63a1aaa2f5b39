"""A second forward pass: plain numpy over dequantized weights, in float32, of each architecture that runs.

With `int8` set, activations and the cache are rounded as the engine rounds them, still in plain numpy.
It shares nothing with the engine but the file: tensors are read and dequantized by PyPI `gguf`, sums are
BLAS's. GGUF lists ne[0], the contiguous row length, first, so numpy sees a matrix as [outputs, inputs].
"""

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

PLAIN = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
# Whose rotary pairs are (i, i + half), as GPT-NeoX has them.
HALVES = ("qwen2", "qwen3", "phi3", "gemma3")


class Llama:
    def __init__(self, path):
        reader = GGUFReader(path)
        field = lambda key, default=None: reader.fields[key].contents() if key in reader.fields else default
        self.arch = field("general.architecture")
        assert self.arch in ("llama", *HALVES), self.arch
        own = lambda key, default=None: field(f"{self.arch}.{key}", default)
        self.layers = own("block_count")
        self.width = own("embedding_length")
        self.feed = own("feed_forward_length")
        self.heads = own("attention.head_count")
        self.kv_heads = own("attention.head_count_kv", self.heads)
        self.head_dim = own("attention.key_length", self.width // self.heads)
        self.base = own("rope.freq_base", 10000.0)
        self.eps = own("attention.layer_norm_rms_epsilon")
        self.rope_dims = own("rope.dimension_count", self.head_dim)
        self.rope_scale = np.float32(own("rope.scaling.attn_factor", 1.0))
        self.gemma = self.arch == "gemma3"
        self.head_norms = self.arch in ("qwen3", "gemma3")
        self.window = own("attention.sliding_window")
        if self.gemma:
            self.pattern = own("attention.sliding_window_pattern", 6)
            self.window_base = own("rope.freq_base_swa", 10000.0)
        self.w = {}
        for t in reader.tensors:
            self.w[t.name] = dequantize(t.data, t.tensor_type).reshape([int(n) for n in t.shape][::-1])
        self.int8 = False
        self.quantized = {id(self.w[t.name]) for t in reader.tensors if t.tensor_type not in PLAIN}
        self.embed = self.w["token_embd.weight"]
        # Phi-3: the engine's context is the model's here.
        length = "long" if own("context_length") > own("rope.scaling.original_context_length", 1 << 32) else "short"
        self.factors = self.w.get(f"rope_factors_{length}.weight", self.w.get("rope_freqs.weight"))
        self.split(reader)
        self.vocab = len(self.embed)
        self.head = self.w.get("output.weight", self.embed)

    def split(self, reader):
        """Fused tensors into their parts: queries, keys and values; gate and up."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for t in reader.tensors:
            rows = {"attn_qkv": {"attn_q": query, "attn_k": kv, "attn_v": kv},
                    "ffn_up": {"ffn_gate": self.feed, "ffn_up": self.feed}}.get(t.name.split(".")[-2])
            if rows is None or self.arch != "phi3":
                continue
            whole, at = self.w.pop(t.name), 0
            for part, count in rows.items():
                name = t.name.rsplit(".", 2)[0] + f".{part}.weight"
                self.w[name] = whole[at : at + count]
                at += count
                if t.tensor_type not in PLAIN:
                    self.quantized.add(id(self.w[name]))

    def linear(self, x, weights):
        """x · weightsᵀ, with x as the engine rounds it where `int8` is set and the weights are quantized."""
        if self.int8 and id(weights) in self.quantized:
            blocks = x.reshape(*x.shape[:-1], -1, 32)
            largest = np.abs(blocks).max(-1, keepdims=True)
            q = np.rint(blocks * (np.float32(127) / np.where(largest == 0, 1, largest)))
            x = (q * (largest / np.float32(127))).reshape(x.shape)
        return x @ weights.T

    def kept(self, x):
        """Keys and values, as the cache holds them where `int8` is set."""
        return x.astype(np.float16).astype(np.float32) if self.int8 else x

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.eps)) * self.w[name + ".weight"]

    def windowed(self, layer):
        """Whether a layer sees a window only: gemma's all but each `pattern`-th, counted from one."""
        return (layer + 1) % self.pattern != 0 if self.gemma else bool(self.window)

    def rope(self, x, base):
        """x: [positions, heads, head_dim]; the pairs (2i, 2i+1) turn, or (i, i + half)."""
        half = self.rope_dims // 2
        angle = np.arange(len(x))[:, None] * base ** (-2.0 * np.arange(half) / self.rope_dims)
        if self.factors is not None:
            angle = angle / self.factors
        cos, sin = (f(angle).astype(np.float32)[:, None, :] * self.rope_scale for f in (np.cos, np.sin))
        x, rest = x[..., : self.rope_dims], x[..., self.rope_dims :]
        halves = self.arch in HALVES
        low, high = (np.s_[..., :half], np.s_[..., half:]) if halves else (np.s_[..., 0::2], np.s_[..., 1::2])
        out = np.empty_like(x)
        out[low] = x[low] * cos - x[high] * sin
        out[high] = x[high] * cos + x[low] * sin
        return np.concatenate([out, rest], -1)

    def attention(self, x, layer):
        """What the attention of a layer adds to the residual stream `x`."""
        name, n = f"blk.{layer}.", len(x)
        x = self.norm(x, name + "attn_norm")
        base = self.window_base if self.gemma and self.windowed(layer) else self.base

        def part(which, heads):
            made = self.linear(x, self.w[f"{name}attn_{which}.weight"]) + self.w.get(f"{name}attn_{which}.bias", 0)
            made = made.reshape(n, heads, self.head_dim)
            return self.norm(made, f"{name}attn_{which}_norm") if self.head_norms and which != "v" else made

        q = self.rope(part("q", self.heads), base)
        k = self.kept(self.rope(part("k", self.kv_heads), base))
        v = self.kept(part("v", self.kv_heads))
        out = np.empty_like(q)
        back = np.arange(n)[:, None] - np.arange(n)[None, :]
        unseen = (back < 0) | (back >= self.window) if self.windowed(layer) else back < 0
        for h in range(self.heads):
            g = h // (self.heads // self.kv_heads)
            s = np.where(unseen, -np.inf, q[:, h] @ k[:, g].T / np.float32(np.sqrt(self.head_dim)))
            s = np.exp(s - s.max(-1, keepdims=True))
            out[:, h] = (s / s.sum(-1, keepdims=True)) @ v[:, g]
        made = self.linear(out.reshape(n, -1), self.w[name + "attn_output.weight"])
        return self.norm(made, name + "post_attention_norm") if self.gemma else made

    def feed_forward(self, x, layer):
        """What the feed-forward part of a layer adds to the residual stream `x`."""
        name = f"blk.{layer}."
        x = self.norm(x, name + "ffn_norm")
        gate, up = (self.linear(x, self.w[name + part]) for part in ("ffn_gate.weight", "ffn_up.weight"))
        if self.gemma:
            cubic = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)
            gate = gate / 2 * (1 + np.tanh(cubic))
        else:
            gate = gate / (1 + np.exp(-gate))
        made = self.linear(gate * up, self.w[name + "ffn_down.weight"])
        return self.norm(made, name + "post_ffw_norm") if self.gemma else made

    def logits(self, x):
        return self.linear(self.norm(x, "output_norm"), self.head)

    def run(self, tokens):
        """Yields (stage, residual stream) in the order of `trace layers`, at last ("logits", logits)."""
        x = self.embed[tokens] * (np.sqrt(np.float32(self.width)) if self.gemma else np.float32(1))
        yield "embedding", x
        for i in range(self.layers):
            x = x + self.attention(x, i)
            yield f"attention {i}", x
            x = x + self.feed_forward(x, i)
            yield f"layer {i}", x
        yield "logits", self.logits(x)


def log_softmax(logits):
    """Of each row; one at a time, for a large vocabulary fills the memory in double precision."""
    out = np.empty(logits.shape, np.float32)
    for row, to in zip(logits, out):
        row = row.astype(np.float64) - row.max()
        to[:] = row - np.log(np.exp(row).sum())
    return out
