"""Compares the vector of a text with llama.cpp's, pooled as the mean and as the last token's.

embedding.py --trace TRACE --model MODEL.gguf --text FILE [--bar 0.9999] [--tokens 200]

The model is written anew with each `pooling_type`. Exits with 1 where the cosine is below the bar: with float weights
nothing but the order of sums differs, with quantized ones both round activations, each in its way.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import xllamacpp

import engine
import perplexity


def ours(trace, model, tokens, folder):
    with open(f"{folder}/tokens", "w") as f:
        f.write(" ".join(map(str, tokens)))
    done = subprocess.run([trace, "embed", model, f"{folder}/tokens"], check=True, text=True, stdout=subprocess.PIPE)
    return np.array(json.loads(done.stdout))


def options(model):
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.embedding = True
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_parallel = 1
    params.cpuparams.n_threads = 2
    params.warmup = False
    params.verbosity = -1
    return params


def theirs(model, tokens):
    answer = xllamacpp.Server(options(model)).handle_embeddings({"input": [tokens]})
    if "data" not in answer:
        sys.exit(f"llama.cpp: {answer}")
    return np.array(answer["data"][0]["embedding"])


def ranks(model, query, documents):
    """The scores that a model's head gives the documents."""
    params = options(model)
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    answer = xllamacpp.Server(params).handle_rerank({"query": query, "documents": documents})
    if "results" not in answer:
        sys.exit(f"llama.cpp: {answer}")
    return np.array([r["relevance_score"] for r in sorted(answer["results"], key=lambda r: r["index"])])


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--trace", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("--text", required=True)
    args.add_argument("--bar", type=float, default=0.9999)
    args.add_argument("--tokens", type=int, default=200)
    args = args.parse_args()
    tokens = engine.tokenize(args.trace, args.model, args.text)[: args.tokens]
    vectors, missed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for pooling, kind in (("mean", 1), ("last", 3)):
            path = f"{folder}/{pooling}.gguf"
            perplexity.rewritten(args.model, path, more=[("pooling_type", kind)])
            a, b = ours(args.trace, path, tokens, folder), theirs(path, tokens)
            cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            held = cosine >= args.bar and abs(np.linalg.norm(a) - 1) < 1e-5
            missed += not held
            print(f"{os.path.basename(args.model)}, {pooling} of {len(tokens)} tokens: cosine {cosine:.7f}"
                  f" (bar {args.bar})" + ("" if held else "  MISSED"))
            vectors.append(a)
    # Two poolings that gave one vector would be one pooling.
    missed += float(vectors[0] @ vectors[1]) > 0.99999
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
