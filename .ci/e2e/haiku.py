"""Asks a running server for a haiku about this minute with a word nobody wrote before.

haiku.py --url http://127.0.0.1:8080 [--obedient]

Of every model: at least three lines, each answer within 30 s, in pieces that come one after the other, counted
by the server's own counter, the same again with the same seed; and one of three fresh nonsense words, told
twice, is told a third time, which takes a model that reads (a canned answer cannot know the word, an echo does
not stop after it). With --obedient also: the haiku holds the minute in words and the nonsense word. That takes an
instruct model of about a billion parameters; SmolLM2-135M manages it now and then only.
"""

import argparse
import datetime
import secrets
import string
import sys
import time
import urllib.request

import openai

LIMIT = 30.0
ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen").split()
TENS = "twenty thirty forty fifty".split()


def fresh_word():
    return "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(8))


def in_words(number):
    if number < 20:
        return ONES[number]
    return TENS[number // 10 - 2] + ("-" + ONES[number % 10] if number % 10 else "")


def tokens_out(url):
    with urllib.request.urlopen(url + "/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("orchestrion_tokens_out_total"))


def haiku(client, model, minute, nonce, seed):
    """The text, when its pieces came, and the tokens it took."""
    question = (f"Write a haiku, a poem of three lines, about the minute {minute}. Put the word {nonce} into it. "
                "Write each line on a line of its own.")
    began, text, times, used = time.monotonic(), "", [], 0
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=64, temperature=0.3, seed=seed,
        stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            text += chunk.choices[0].delta.content
            times.append(time.monotonic() - began)
        used = chunk.usage.completion_tokens if chunk.usage else used
    return text, times, used


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--obedient", action="store_true")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url + "/v1", api_key="none", max_retries=0, timeout=LIMIT)
    model = client.models.list().data[0].id
    minute = in_words(datetime.datetime.now().minute)
    nonce = fresh_word()
    print(f"model {model}, minute {minute}, nonce {nonce}")

    for seed in range(8):
        before, began = tokens_out(args.url), time.monotonic()
        text, times, used = haiku(client, model, minute, nonce, seed)
        took, counted = time.monotonic() - began, tokens_out(args.url) - before
        lines = [line for line in text.splitlines() if line.strip()]
        obeyed = minute in text.lower() and nonce in text
        print(f"seed {seed}: {used} tokens, {len(times)} pieces in {times[-1] if times else 0:.2f} s\n{text}\n")
        assert counted == used > 0, f"the counter moved by {counted}, the answer took {used} tokens"
        assert took < LIMIT, f"an answer took {took:.1f} s"
        if len(lines) >= 3 and (obeyed or not args.obedient):
            break
    else:
        sys.exit("no seed gave three lines" + (" with the minute and the word" if args.obedient else ""))
    assert len(times) >= 10 and times[-1] - times[0] > 0, "it did not come in pieces"
    assert haiku(client, model, minute, nonce, seed)[0] == text, "the same seed gave another haiku"

    # A small model slips on one word now and then, not on three.
    for word in (nonce, fresh_word(), fresh_word()):
        told = client.completions.create(
            model=model, prompt=f"The code is {word}. I repeat: the code is {word}. Once more: the code is",
            max_tokens=16, temperature=0).choices[0].text
        print(f"the code is {word}; told:{told!r}")
        if told.strip().startswith(word) and told.strip() != word:
            break
    else:
        sys.exit("it read none of three words")
    print(f"a haiku of {len(lines)} lines; the minute and the word are {'' if obeyed else 'not '}in it")


main()
