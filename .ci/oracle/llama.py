"""A second llama: a plain numpy forward pass over dequantized weights, in float32.

With `int8` set, activations and the cache are rounded as the engine rounds them, still in plain numpy.
It shares nothing with the engine but the file: tensors are read and dequantized by PyPI `gguf`, sums are
BLAS's. GGUF lists ne[0], the contiguous row length, first, so numpy sees a matrix as [outputs, inputs].
"""

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

PLAIN = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)


class Llama:
    def __init__(self, path):
        reader = GGUFReader(path)
        field = lambda key, default=None: reader.fields[key].contents() if key in reader.fields else default
        assert field("general.architecture") == "llama"
        self.layers = field("llama.block_count")
        self.width = field("llama.embedding_length")
        self.feed = field("llama.feed_forward_length")
        self.heads = field("llama.attention.head_count")
        self.kv_heads = field("llama.attention.head_count_kv", self.heads)
        self.head_dim = field("llama.attention.key_length", self.width // self.heads)
        self.base = field("llama.rope.freq_base", 10000.0)
        self.eps = field("llama.attention.layer_norm_rms_epsilon")
        self.w = {}
        for t in reader.tensors:
            self.w[t.name] = dequantize(t.data, t.tensor_type).reshape([int(n) for n in t.shape][::-1])
        self.int8 = False
        self.quantized = {id(self.w[t.name]) for t in reader.tensors if t.tensor_type not in PLAIN}
        self.embed = self.w["token_embd.weight"]
        self.vocab = len(self.embed)
        self.head = self.w.get("output.weight", self.embed)

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

    def rope(self, x):
        """x: [positions, heads, head_dim]; the pairs (2i, 2i+1) turn."""
        pairs = np.arange(self.head_dim // 2)
        angle = np.arange(len(x))[:, None] * self.base ** (-2.0 * pairs / self.head_dim)
        if "rope_freqs.weight" in self.w:
            angle = angle / self.w["rope_freqs.weight"]
        cos, sin = (f(angle).astype(np.float32)[:, None, :] for f in (np.cos, np.sin))
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 1::2] * cos + x[..., 0::2] * sin
        return out

    def attention(self, x, name):
        n = len(x)
        part = lambda p, heads: self.linear(x, self.w[name + p]).reshape(n, heads, self.head_dim)
        q = self.rope(part("attn_q.weight", self.heads))
        k = self.kept(self.rope(part("attn_k.weight", self.kv_heads)))
        v = self.kept(part("attn_v.weight", self.kv_heads))
        out = np.empty_like(q)
        future = np.triu(np.full((n, n), -np.inf, np.float32), 1)
        for h in range(self.heads):
            g = h // (self.heads // self.kv_heads)
            s = q[:, h] @ k[:, g].T / np.float32(np.sqrt(self.head_dim)) + future
            s = np.exp(s - s.max(-1, keepdims=True))
            out[:, h] = (s / s.sum(-1, keepdims=True)) @ v[:, g]
        return self.linear(out.reshape(n, -1), self.w[name + "attn_output.weight"])

    def feed_forward(self, x, name):
        gate, up = (self.linear(x, self.w[name + part]) for part in ("ffn_gate.weight", "ffn_up.weight"))
        return self.linear(gate / (1 + np.exp(-gate)) * up, self.w[name + "ffn_down.weight"])

    def run(self, tokens):
        """Yields (stage, residual stream) in the order of `trace layers`, at last ("logits", logits)."""
        x = self.embed[tokens]
        yield "embedding", x
        for i in range(self.layers):
            name = f"blk.{i}."
            x = x + self.attention(self.norm(x, name + "attn_norm"), name)
            yield f"attention {i}", x
            x = x + self.feed_forward(self.norm(x, name + "ffn_norm"), name)
            yield f"layer {i}", x
        yield "logits", self.linear(self.norm(x, "output_norm"), self.head)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
