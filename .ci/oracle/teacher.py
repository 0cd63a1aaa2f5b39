"""Judges the engine's next-token distributions beside llama.cpp's, teacher-forced on real text.

teacher.py --trace TRACE --model MODEL.gguf --text FILE [--positions 1024] [--top 2048]

At each position three distributions: the engine's, llama.cpp's (PyPI `xllamacpp`, one completion for each
prefix) and a float32 oracle's (`llama.py`). llama.cpp tells its likeliest `--top` tokens, and all others
count as one more; it hands them over as JSON, which for a whole vocabulary takes a second a position. Bars:
(a) the engine's best token is llama.cpp's wherever llama.cpp's best two are 1 nat or more apart, unless the
    oracle has the engine's too: then it is llama.cpp that strays, which is counted and printed;
(b) its top-1 agreement with the oracle is at least llama.cpp's own less one point;
(c) its mean KL(oracle ‖ engine) is at most 1.1 times llama.cpp's.
Exits with 1 when a bar is missed.
"""

import argparse
import sys

import numpy as np
import xllamacpp

import engine
import llama


def llama_cpp(model, tokens, vocab, top):
    """Log-probabilities [positions, vocab] of llama.cpp; NaN for tokens that are not among the `top`."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = len(tokens) + 16
    params.n_parallel = 1
    params.cpuparams.n_threads = 2
    params.warmup = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    out = np.full((len(tokens), vocab), np.nan, np.float32)
    for i in range(len(tokens)):
        answer = server.handle_completions(
            {
                "prompt": tokens[: i + 1],
                "n_predict": 1,
                "n_probs": top,
                "temperature": 0,
                "cache_prompt": True,
                # An answer without text (an end token, a part of a character) has no probabilities. Those
                # reported are of the model before any sampler, so it may answer with the text's first word.
                "logit_bias": [[tokens[0], 1000]],
            }
        )
        if "choices" not in answer:
            sys.exit(f"llama.cpp: {answer}")
        for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            out[i, entry["id"]] = entry["logprob"]
        assert (~np.isnan(out[i])).sum() == top and np.nansum(np.exp(out[i])) < 1 + 1e-3, "no distribution"
    return out


def kl(p, q, told):
    """KL(p ‖ q) at a position, with all tokens that are not `told` taken as one."""
    p, q = p[told].astype(np.float64), q[told].astype(np.float64)
    rest = lambda d: np.log1p(-min(np.exp(d).sum(), 1 - 1e-12))
    return (np.exp(p) * (p - q)).sum() + np.exp(rest(p)) * (rest(p) - rest(q))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--trace", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("--text", required=True, help="prose, UTF-8")
    args.add_argument("--positions", type=int, default=1024)
    args.add_argument("--top", type=int, default=2048)
    args = args.parse_args()
    tokens = engine.tokenize(args.trace, args.model, args.text)[: args.positions]
    assert len(tokens) >= args.positions, f"only {len(tokens)} tokens of text"
    oracle = llama.Llama(args.model)
    exact = llama.log_softmax(dict(oracle.run(tokens))["logits"])
    ours = llama.log_softmax(engine.layers(args.trace, args.model, oracle, tokens)["logits"])
    theirs = llama_cpp(args.model, tokens, oracle.vocab, min(args.top, oracle.vocab))
    told = ~np.isnan(theirs)
    theirs[~told] = -np.inf

    best = {name: d.argmax(-1) for name, d in (("oracle", exact), ("ours", ours), ("theirs", theirs))}
    top = np.array([np.partition(row, -2)[-2:] for row in theirs])
    clear = top[:, 1] - top[:, 0] >= 1.0
    alone = clear & (best["theirs"] != best["ours"]) & (best["ours"] == best["oracle"])
    differ = int((best["ours"] != best["theirs"])[clear & ~alone].sum())
    agree = {name: float((best[name] == best["oracle"]).mean()) * 100 for name in ("ours", "theirs")}
    far = {name: float(np.mean([kl(*rows) for rows in zip(exact, d, told)])) for name, d in (("ours", ours), ("theirs", theirs))}
    nats = lambda d: float(-d[np.arange(len(tokens) - 1), tokens[1:]].mean())
    unlikely = float(1 - np.mean([np.exp(row[known]).sum() for row, known in zip(exact, told)]))
    bars = [
        (f"(a) another best token at {differ} of {clear.sum()} clear positions (bar 0); at {alone.sum()} more llama.cpp"
         " differs from the engine and the oracle", differ == 0),
        (f"(b) top-1 agreement with the oracle: ours {agree['ours']:.2f} %, llama.cpp {agree['theirs']:.2f} %"
         " (bar: less by one point at most)", agree["ours"] >= agree["theirs"] - 1),
        (f"(c) mean KL from the oracle: ours {far['ours']:.3e}, llama.cpp {far['theirs']:.3e},"
         f" ratio {far['ours'] / far['theirs']:.3f} (bar 1.1)", far["ours"] <= 1.1 * far["theirs"]),
    ]
    print(f"{len(tokens)} positions; nats per token of the text: oracle {nats(exact):.4f}, ours {nats(ours):.4f};"
          f" llama.cpp's {told[0].sum()} likeliest tokens leave {unlikely:.2%} of the probability to the others")
    for line, held in bars:
        print(line + ("" if held else "  MISSED"))
    sys.exit(0 if all(held for _, held in bars) else 1)


if __name__ == "__main__":
    main()
