"""How fast llama.cpp (PyPI `xllamacpp`) is, as JSON: what `orch bench engine` says of this engine.

speed.py --model MODEL.gguf --threads N

One server, 8 slots: its load, a prompt of 512 tokens, an answer of 64 alone and 8 at a time, and the most memory the
process had, of which what Python takes without a model is taken off. Prompts are token ids, so that no tokenizer has
a say in their length; no answer ends early. Tokens a second are by the wall clock, as llama.cpp tells them itself
where it runs one answer.
"""

import argparse
import concurrent.futures
import json
import resource
import time

import xllamacpp

PROMPT, ANSWER, PARALLEL = 512, 64, 8


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", required=True)
    args.add_argument("--threads", type=int, required=True)
    args = args.parse_args()
    bare = peak()
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.n_ctx = PARALLEL * 1024
    params.n_parallel = PARALLEL
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.warmup = False
    params.verbosity = -1
    began = time.monotonic()
    server = xllamacpp.Server(params)
    load = time.monotonic() - began

    def answer(salt, prompt, count):
        tokens = [(i * 7919 + salt) % 10000 + 100 for i in range(prompt)]
        told = server.handle_completions(
            {"prompt": tokens, "n_predict": count, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        )
        assert told["usage"]["completion_tokens"] == count, told
        return told["timings"]

    answer(1, 8, 2)
    rss = peak() - bare
    prefill = answer(2, PROMPT, 1)["prompt_per_second"]
    decode = answer(3, 4, ANSWER)["predicted_per_second"]
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        began = time.monotonic()
        list(pool.map(lambda salt: answer(salt, 4, ANSWER), range(10, 10 + PARALLEL)))
        parallel = PARALLEL * ANSWER / (time.monotonic() - began)
    rss = max(rss, peak() - bare)
    print(json.dumps({"load_ms": load * 1e3, "prefill": prefill, "decode": decode, "parallel": parallel, "peak_rss_bytes": rss}))


main()
