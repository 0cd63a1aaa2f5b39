"""Compares the perplexity of a text with llama.cpp's, for a model and for each tensor type.

perplexity.py --trace TRACE --model MODEL.gguf --text FILE [--positions 400] [--orch ORCH] [TYPE ...]

Without types the model as it stands. A type is of the model's matrices, dequantized and quantized again by PyPI
`gguf`; the types it cannot make, those of 256 to a block, are of a model that ORCH generates. llama.cpp tells its
likeliest tokens only (see teacher.py), so a position counts where the text's next token is among them, for
both sides. Exits with 1 where the two perplexities differ by more than half a percent; a generated model is sure of
its noise, so that rounding moves llama.cpp's own by more than that, and ours is held to float32's (`llama.py`).
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

import engine
import llama
import teacher

BAR, TOP = 0.005, 4096
GENERATED = ("Q4_K", "Q5_K", "Q6_K")


def rewritten(path, to, kind=None, more=()):
    """The model with its matrices in another type, or with `more` numbers: (key of its architecture, u32)."""
    reader = GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    file = GGUFWriter(to, arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kinds = field.types
        file.add_key_value(field.name, field.contents(), kinds[0], kinds[1] if kinds[0] == GGUFValueType.ARRAY else None)
    for key, value in more:
        file.add_uint32(f"{arch}.{key}", value)
    for t in reader.tensors:
        if kind is None:
            file.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
            continue
        floats = dequantize(t.data, t.tensor_type).reshape([int(n) for n in t.shape][::-1])
        if floats.ndim == 1:
            file.add_tensor(t.name, floats)
        else:
            matrix = GGMLQuantizationType[kind]
            file.add_tensor(t.name, quantize(floats, matrix), raw_dtype=matrix)
    file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()


def perplexities(trace, path, text, positions):
    """Ours, llama.cpp's, float32's, and the share of positions that count."""
    fields = GGUFReader(path).fields
    adds = fields.get("tokenizer.ggml.add_bos_token")
    # A model that was never without its beginning-of-text token guesses wildly without it.
    start = [fields["tokenizer.ggml.bos_token_id"].contents()] if adds and adds.contents() else []
    tokens = (start + engine.tokenize(trace, path, text))[:positions]
    oracle = llama.Llama(path)
    mine = llama.log_softmax(engine.layers(trace, path, oracle, tokens)["logits"])
    theirs = teacher.llama_cpp(path, tokens, oracle.vocab, min(TOP, oracle.vocab))
    here, following = np.arange(len(tokens) - 1), np.array(tokens[1:])
    counted = ~np.isnan(theirs[here, following])
    here, following = here[counted], following[counted]
    exact = llama.log_softmax(dict(oracle.run(tokens))["logits"])
    return [float(np.exp(-d[here, following].astype(np.float64).mean())) for d in (mine, theirs, exact)] + [counted.mean()]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--trace", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("--text", required=True)
    args.add_argument("--positions", type=int, default=400)
    args.add_argument("--orch")
    args.add_argument("types", nargs="*")
    args = args.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.types or [None]:
            path, name = args.model, os.path.basename(args.model)
            if kind:
                path, name = f"{folder}/{kind}.gguf", f"{name} as {kind}"
            if kind in GENERATED:
                command = [args.orch, "gen", path, "--type", kind, "--dim", "256"]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
                name = f"generated {kind}"
            elif kind:
                rewritten(args.model, path, kind)
            ours, theirs, exact, share = perplexities(args.trace, path, args.text, args.positions)
            apart = ours / (exact if kind in GENERATED else theirs) - 1
            held = abs(apart) <= BAR
            missed += not held
            print(f"{name}: ours {ours:.4f}, llama.cpp {theirs:.4f}, float32 {exact:.4f}, {apart:+.3%}, {share:.1%} of {args.positions}"
                  f" positions (bar {BAR:.1%})" + ("" if held else "  MISSED"), flush=True)
            if kind:
                os.remove(path)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
