"""Compares every layer of the engine with a plain numpy llama over dequantized weights.

forward.py --trace TRACE --model MODEL.gguf [--text FILE] [--level vnni|avx2|scalar]

Three figures for what each stage adds to the residual stream, relative RMS:
- drift: the two streams, each fed by its own earlier layers, in float32 here. A wrong layer is a jump.
- float: the layer alone, on the engine's stream. The engine rounds activations to int8 in blocks of 32
  (0.54 % of a dot for Gaussian values, more with outliers), so this is what int8 costs.
- int8: the layer alone, with the same rounding of activations and of the cache here. What is left is
  the order of sums, and a few activations that round to the other side: a wrong formula cannot hide.
Exits with 1 when a bar is missed.
"""

import argparse
import sys

import numpy as np

import engine
import llama

DRIFT, FLOAT, INT8 = 0.10, 0.10, 5e-3


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def layer(oracle, stage, before):
    """What `stage` adds to the stream `before` (the logits replace it)."""
    if stage == "logits":
        return oracle.logits(before)
    kind, i = stage.split()
    return (oracle.attention if kind == "attention" else oracle.feed_forward)(before, int(i))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--trace", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("--text", help="prose, UTF-8, of which 256 tokens are taken; else a fixed pseudo-random prompt")
    args.add_argument("--level", default="avx2")
    args = args.parse_args()
    oracle, rounded = llama.Llama(args.model), llama.Llama(args.model)
    rounded.int8 = True
    if args.text:
        tokens = engine.tokenize(args.trace, args.model, args.text)[:256]
    else:
        tokens = [(i * 7919 + 13) % oracle.vocab for i in range(48)]
    ours = engine.layers(args.trace, args.model, oracle, tokens, args.level)

    bad, worst, before = 0, [0.0, 0.0, 0.0], None
    for stage, theirs in oracle.run(tokens):
        mine = ours[stage]
        drift = rms(mine - theirs) / rms(theirs)
        figures = [drift, drift, drift]  # nothing is rounded to int8 before the first layer
        if before is not None:
            added = mine if stage == "logits" else mine - before
            for at, second in ((1, oracle), (2, rounded)):
                expected = layer(second, stage, before)
                figures[at] = rms(added - expected) / rms(expected)
        missed = any(not f <= bar for f, bar in zip(figures, (DRIFT, FLOAT, INT8)))
        bad += missed
        worst = [max(a, b) for a, b in zip(worst, figures)]
        print("%-14s drift %.2e  float %.2e  int8 %.2e%s" % (stage, *figures, "  MISSED" if missed else ""))
        before = mine
    print("worst          drift %.2e  float %.2e  int8 %.2e" % tuple(worst))
    print(f"bars           drift {DRIFT:.2e}  float {FLOAT:.2e}  int8 {INT8:.2e}")
    print(f"{len(tokens)} positions, {len(ours)} stages, {bad} missed")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
