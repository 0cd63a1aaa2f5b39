"""Runs the engine's example `trace` and reads what it wrote."""

import json
import subprocess
import tempfile

import numpy as np


def tokenize(trace, model, path):
    """Token ids of the text file at `path`."""
    with open(path, encoding="utf-8") as f:
        line = json.dumps(f.read()) + "\n"
    command = [trace, "tokenize", model, "plain"]
    done = subprocess.run(command, input=line, text=True, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def layers(trace, model, llama, tokens, level="avx2", threads=2):
    """{stage: array} of the engine for the stages of `Llama.run`, or of an encoder's, which has no logits."""
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/tokens", "w") as f:
            f.write(" ".join(map(str, tokens)))
        out = folder + "/out"
        subprocess.run([trace, "layers", model, level, str(threads), folder + "/tokens", out], check=True)
        flat = np.fromfile(out, np.float32)
    stages, at = {}, 0
    names = ["embedding"] + [f"{part} {i}" for i in range(llama.layers) for part in ("attention", "layer")]
    for name in names + ["logits"] * hasattr(llama, "logits"):
        width = llama.vocab if name == "logits" else llama.width
        stages[name] = flat[at : at + len(tokens) * width].reshape(len(tokens), width)
        at += len(tokens) * width
    assert at == len(flat), "the trace is of another model"
    return stages
