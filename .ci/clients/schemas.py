"""Answers by random schemas, validated by the `jsonschema` package, which shares nothing with the server.

schemas.py --url http://127.0.0.1:8080/v1 --model tiny --count 40 [--seed 1] [--key KEY]

Four requests run at a time. An answer that is complete has to be valid; one that is cut has to say so, and most have to
be complete. Every tenth is asked for again, alone, and has to be the same text. Prints the counts, the kinds of
schema that were refused, and what a token took with and without a schema.
"""

import argparse
import collections
import concurrent.futures
import json
import random
import re
import sys
import time

import jsonschema
import openai

WORDS = ["red", "green", "Ægir", "a \"b\"", "x\\y", "", "naïve", "7", "字"]


def scalar(r):
    low = r.randrange(-50, 50)
    return r.choice([
        lambda: {"type": "boolean"},
        lambda: {"type": "null"},
        lambda: {"type": "integer", "minimum": low, "maximum": low + r.randrange(200)},
        lambda: {"type": "number", "minimum": low, "maximum": low + 10},
        lambda: {"type": "string", "maxLength": r.randrange(1, 12)},
        lambda: {"type": "string", "pattern": r.choice(["^[a-c]{2,5}$", "^(yes|no)$", "^[0-9]{4}-[0-9]{2}$"])},
        lambda: {"enum": r.sample(WORDS, 3) + [low, None]},
        lambda: {"const": r.choice(WORDS)},
        lambda: {"type": "string", "format": r.choice(["date", "time", "uuid", "ipv4"])},
    ])()


def schema(r, depth):
    if depth == 0 or r.random() < 0.2:
        return scalar(r)
    kind = r.randrange(5)
    if kind == 0:
        low = r.randrange(3)
        return {"type": "array", "items": schema(r, depth - 1), "minItems": low, "maxItems": low + r.randrange(3)}
    if kind == 1:
        return {"anyOf": [schema(r, depth - 1), schema(r, depth - 1)]}
    names = r.sample(["name", "old", "größe", "a b", "x", "tags", "id"], r.randrange(1, 5))
    return {
        "type": "object",
        "properties": {name: schema(r, depth - 1) for name in names},
        "required": r.sample(names, r.randrange(len(names) + 1)),
        "additionalProperties": False,
    }


def rooted(r):
    """An object, at times with a part that is referred to."""
    root = {"type": "object", "properties": {"a": schema(r, 2), "b": schema(r, 1)}, "required": ["a", "b"],
            "additionalProperties": False}
    if r.random() < 0.3:
        root["$defs"] = {"part": schema(r, 1)}
        root["properties"]["b"] = {"$ref": "#/$defs/part"}
    return root


def main():
    given = argparse.ArgumentParser()
    given.add_argument("--url", required=True)
    given.add_argument("--model", required=True)
    given.add_argument("--key", default="none")
    given.add_argument("--count", type=int, default=40)
    given.add_argument("--seed", type=int, default=1)
    args = given.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key=args.key, max_retries=8, timeout=600)

    def ask(i, shaped=True, tokens=400):
        r = random.Random(args.seed * 1_000_003 + i)
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": rooted(r), "strict": True}}
        prompt = f"Describe {r.choice(['a cat', 'a town', 'the weather', 'nothing'])} in JSON."
        begun = time.monotonic()
        answer = client.chat.completions.create(
            model=args.model, messages=[{"role": "user", "content": prompt}], max_tokens=tokens, seed=i,
            temperature=r.choice([0, 0.7, 1.5]), response_format=form if shaped else {"type": "text"})
        took = time.monotonic() - begun
        return form["json_schema"]["schema"], answer.choices[0], answer.usage.completion_tokens, took

    counts, refused = collections.Counter(), collections.Counter()
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER

    def one(i):
        try:
            wanted, choice, _, _ = ask(i)
        except openai.BadRequestError as error:
            refused[re.sub(r"[0-9]+", "n", str(error.body["message"]))[:90]] += 1
            return "refused"
        if choice.finish_reason == "length":
            return "cut"
        assert choice.finish_reason == "stop", choice
        value = json.loads(choice.message.content)
        jsonschema.Draft202012Validator(wanted, format_checker=checker).validate(value)
        return "valid"

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(one, range(args.count)))
    counts.update(seen)
    for i in range(0, args.count, 10):
        if seen[i] != "refused":
            assert ask(i)[1].message.content == ask(i)[1].message.content, i
    print(dict(counts), dict(refused))
    per_token = {}
    for shaped in (True, False):
        tokens = took = 0
        for i in range(5):
            if seen[i] != "refused":
                _, _, made, seconds = ask(i, shaped, 60)
                tokens, took = tokens + made, took + seconds
        per_token["with" if shaped else "without"] = round(1000 * took / max(tokens, 1), 2)
    print(f"milliseconds a token, prompt included: {per_token}")
    if counts["valid"] < 0.6 * args.count or counts["refused"] > 0.1 * args.count:
        sys.exit("too few answers were complete")


if __name__ == "__main__":
    main()
