"""Compares the engine with numpy for each tensor type: one generated model of it, embedding and every layer.

kinds.py --trace TRACE --orch ORCH [TYPE ...]

The embedding has to equal PyPI `gguf`'s dequantization bit for bit; then `forward.py` says what it says of
any model. Exits with 1 when a type misses.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np

import engine
import llama

TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()


def misses(args, kind, path):
    command = [args.orch, "gen", path, "--type", kind, "--dim", "256", "--layers", "2"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    oracle = llama.Llama(path)
    rows = engine.layers(args.trace, path, oracle, range(oracle.vocab))["embedding"]
    unequal = int(np.sum(rows != oracle.embed))
    forward = os.path.join(os.path.dirname(__file__), "forward.py")
    done = subprocess.run(
        [sys.executable, forward, "--trace", args.trace, "--model", path], text=True, stdout=subprocess.PIPE
    )
    worst = [line for line in done.stdout.splitlines() if line.startswith("worst") or "MISSED" in line]
    print(f"{kind}: {unequal} of {rows.size} weights differ from gguf's; " + "\n".join(worst), flush=True)
    return unequal > 0 or done.returncode != 0


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--trace", required=True)
    args.add_argument("--orch", required=True)
    args.add_argument("types", nargs="*", default=TYPES)
    args = args.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        missed = [kind for kind in args.types if misses(args, kind, f"{folder}/{kind}.gguf")]
    print("missed:", ", ".join(missed) or "none")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
