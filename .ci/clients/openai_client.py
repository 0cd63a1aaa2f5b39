"""Uses a running server through the official `openai` package, as its users do.

openai_client.py --url http://127.0.0.1:8080/v1 --model tiny [--key KEY] [--only WORD]

Starts nothing itself. With --key the server is expected to know that key and to refuse others. The case
about a full queue needs a server with a short one (see `run`). Every function whose name begins with
`case_` is a case; prints one line for each and exits with 1 when one fails.
"""

import argparse
import asyncio
import concurrent.futures
import json
import math
import sys
import time
import traceback

import openai

QUESTION = [{"role": "user", "content": "Name three colours."}]
# Greedily the tiny model never comes to an end.
LONG = {"max_tokens": 1500, "temperature": 0}


class Setting:
    """What the cases share: the clients and how to ask."""

    def __init__(self, url, model, key):
        self.url, self.model, self.key = url, model, key
        self.client = self.connect()

    def connect(self, kind=openai.OpenAI, key=None, **more):
        more.setdefault("max_retries", 0)
        more.setdefault("timeout", 60)
        return kind(base_url=self.url, api_key=key or self.key or "none", **more)

    def chat(self, client=None, **more):
        fields = {"model": self.model, "messages": QUESTION, "max_tokens": 12, "temperature": 0.9, "seed": 7} | more
        return (client or self.client).chat.completions.create(**fields)

    def complete(self, **more):
        fields = {"model": self.model, "prompt": "Once upon a time", "max_tokens": 12, "seed": 7} | more
        return self.client.completions.create(**fields)


def refused(kind, ask):
    """The error of a request that has to fail so."""
    try:
        ask()
    except kind as error:
        assert type(error) is kind, type(error)
        return error
    raise AssertionError(f"expected {kind.__name__}")


def text(chunks, index=0):
    choices = (choice for chunk in chunks for choice in chunk.choices if choice.index == index)
    return "".join(choice.delta.content or "" for choice in choices)


def case_models_are_listed_and_shown(s):
    assert s.model in [model.id for model in s.client.models.list()]
    assert s.client.models.retrieve(s.model).object == "model"
    assert refused(openai.NotFoundError, lambda: s.client.models.retrieve("gpt-9")).code == "model_not_found"


def case_chat_answers(s):
    answer = s.chat()
    choice = answer.choices[0]
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "length", 0)
    assert choice.message.content and answer.id.startswith("chatcmpl-") and answer.model == s.model


def case_usage_adds_up(s):
    usage = s.chat().usage
    assert usage.completion_tokens == 12 and usage.total_tokens == usage.prompt_tokens + 12


def case_the_seed_repeats_the_answer(s):
    one, same, other = (s.chat(seed=seed, max_tokens=30).choices[0].message.content for seed in (7, 7, 8))
    assert one == same != other


def case_both_names_of_the_length(s):
    assert s.chat(max_tokens=openai.omit, max_completion_tokens=5).usage.completion_tokens == 5
    assert s.chat(max_tokens=9, max_completion_tokens=5).usage.completion_tokens == 5


def case_a_stream_is_the_same_text(s):
    chunks = list(s.chat(stream=True))
    assert text(chunks) == s.chat().choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1


def case_a_stream_tells_its_usage(s):
    chunks = list(s.chat(stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12


def case_stop_ends_before_its_text(s):
    whole = s.chat(max_tokens=60).choices[0].message.content
    stop = whole[10:12]
    for given in (stop, [stop, "never seen 1", "never seen 2", "never seen 3"]):
        choice = s.chat(max_tokens=60, stop=given).choices[0]
        assert choice.finish_reason == "stop" and choice.message.content == whole[: whole.index(stop)]
    assert refused(openai.BadRequestError, lambda: s.chat(stop=["a", "b", "c", "d", "e"])).param == "stop"


def case_n_gives_n_choices(s):
    answer = s.chat(n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3 and texts[0] == s.chat().choices[0].message.content
    assert answer.usage.completion_tokens == 36
    assert [choice.message.content for choice in s.chat(n=3).choices] == texts


def case_n_streams_by_index(s):
    chunks = list(s.chat(n=3, stream=True, stream_options={"include_usage": True}))
    whole = [choice.message.content for choice in s.chat(n=3).choices]
    assert [text(chunks, index) for index in range(3)] == whole
    assert sum(choice.finish_reason == "length" for chunk in chunks for choice in chunk.choices) == 3
    assert chunks[-1].usage.completion_tokens == 36


def case_completions_continue_a_prompt(s):
    answer = s.complete()
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].text and answer.usage.completion_tokens == 12
    assert s.complete(prompt=["Once upon a time"]).choices[0].text == answer.choices[0].text
    assert s.complete(prompt=[5, 6, 7]).usage.prompt_tokens == 3
    assert s.complete(max_tokens=openai.omit).usage.completion_tokens == 16


def case_completions_stream(s):
    chunks = list(s.complete(stream=True, n=2, stream_options={"include_usage": True}))
    whole = [choice.text for choice in s.complete(n=2).choices]
    for index, expected in enumerate(whole):
        choices = (choice for chunk in chunks for choice in chunk.choices if choice.index == index)
        assert "".join(choice.text for choice in choices) == expected
    assert chunks[-1].usage.completion_tokens == 24


def case_several_prompts_are_answered_in_one(s):
    answer = s.complete(prompt=["Once upon a time", "The sea"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == s.complete().choices[0].text
    assert answer.usage.completion_tokens == 48
    alone = sum(s.complete(prompt=prompt).usage.prompt_tokens for prompt in ("Once upon a time", "The sea"))
    assert answer.usage.prompt_tokens == alone


def case_log_probabilities_are_told(s):
    choice = s.chat(logprobs=True, top_logprobs=4, temperature=0).choices[0]
    assert len(choice.logprobs.content) == 12
    assert bytes(sum((token.bytes for token in choice.logprobs.content), [])).decode(errors="replace") == choice.message.content
    for token in choice.logprobs.content:
        likeliest = token.top_logprobs
        assert len(likeliest) == 4 and sum(math.exp(other.logprob) for other in likeliest) <= 1.000001
        assert likeliest[0].logprob == token.logprob == max(other.logprob for other in likeliest)
    plain = s.chat(temperature=0).choices[0]
    assert plain.logprobs is None and plain.message.content == choice.message.content
    chunks = s.chat(logprobs=True, top_logprobs=4, temperature=0, stream=True)
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == choice.logprobs.content


def case_log_probabilities_of_completions(s):
    choice = s.complete(logprobs=2, temperature=0).choices[0]
    told = choice.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == 12
    assert all(1 <= len(top) <= 2 and max(top.values()) == mine for top, mine in zip(told.top_logprobs, told.token_logprobs))
    assert told.text_offset[0] == 0 and told.text_offset == sorted(told.text_offset)


def case_a_bias_bans_and_forces(s):
    forced = s.complete(logit_bias={"70": 100}, logprobs=0, max_tokens=5).choices[0].logprobs.tokens
    assert len(forced) == 5 and len(set(forced)) == 1
    free = s.complete(prompt=[5, 6, 7], temperature=0, logprobs=0).choices[0].logprobs.tokens
    banned = s.complete(prompt=[5, 6, 7], temperature=0, logprobs=0, logit_bias={str(id): -100 for id in range(300)})
    assert banned.choices[0].logprobs.tokens != free
    assert refused(openai.BadRequestError, lambda: s.chat(logit_bias={"9999999": 1})).param == "logit_bias"


def case_unknown_models_are_404(s):
    error = refused(openai.NotFoundError, lambda: s.chat(model="gpt-9"))
    assert (error.code, error.param) == ("model_not_found", "model") and s.model in error.message
    assert error.request_id


def case_json_by_a_schema(s):
    schema = {"type": "object", "properties": {"colours": {"type": "array", "items": {"enum": ["red", "blue"]},
              "minItems": 1, "maxItems": 3}}, "required": ["colours"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema, "strict": True}}
    answer = s.chat(response_format=form, max_tokens=400)
    colours = json.loads(answer.choices[0].message.content)["colours"]
    assert 1 <= len(colours) <= 3 and set(colours) <= {"red", "blue"} and answer.choices[0].finish_reason == "stop"
    assert text(list(s.chat(response_format=form, max_tokens=400, stream=True))) == answer.choices[0].message.content


def case_tools_are_called(s):
    city = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Lima"]}}, "required": ["city"],
            "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": name, "parameters": city}} for name in ("weather", "news")]
    asked = {"tools": tools, "tool_choice": "required", "max_tokens": 400}
    choice = s.chat(**asked).choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None and call.type == "function"
    assert call.function.name in ("weather", "news") and json.loads(call.function.arguments)["city"] in ("Oslo", "Lima")
    chunks = list(s.chat(stream=True, **asked))
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []]
    told = deltas[0].function
    assert (deltas[0].index, told.name, told.arguments) == (0, call.function.name, call.function.arguments)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    turns = QUESTION + [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert s.chat(messages=turns, tools=tools).choices[0].message.content is not None
    assert refused(openai.BadRequestError, lambda: s.chat(tool_choice="required")).param == "tool_choice"


def case_wrong_values_are_400_with_their_name(s):
    for param, value in [("temperature", 3), ("n", 9), ("top_p", 2), ("max_tokens", 0), ("presence_penalty", 1),
                         ("frequency_penalty", 1), ("logprobs", 2), ("top_logprobs", 3), ("logit_bias", {"5": 101}),
                         ("response_format", {"type": "xml"}), ("messages", [])]:
        error = refused(openai.BadRequestError, lambda: s.chat(**{param: value}))
        assert (error.param, error.type) == (param, "invalid_request_error"), (param, error.body)
    for param, value in [("echo", True), ("suffix", "end"), ("best_of", 3), ("logprobs", 6), ("prompt", [])]:
        error = refused(openai.BadRequestError, lambda: s.complete(**{param: value}))
        assert error.param == param, (param, error.body)


def case_harmless_values_pass(s):
    s.chat(presence_penalty=0, frequency_penalty=0, logprobs=False, n=1, user="u", metadata={"a": "b"}, store=False,
           parallel_tool_calls=True, logit_bias={}, extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1})


def case_too_long_a_request_says_so(s):
    error = refused(openai.BadRequestError, lambda: s.chat(max_tokens=1_000_000))
    assert error.code == "context_length_exceeded"


def case_embeddings_are_vectors_of_length_one(s):
    ask = lambda **more: s.client.embeddings.create(model=s.model, **more)
    # The client asks for base64 and gives floats.
    texts = ["red", "green and blue", "red"]
    many = ask(input=texts)
    assert [one.index for one in many.data] == [0, 1, 2] and many.usage.prompt_tokens == many.usage.total_tokens > 3
    vectors = [one.embedding for one in many.data]
    assert vectors[0] == vectors[2] != vectors[1]
    assert all(abs(math.sqrt(sum(x * x for x in vector)) - 1) < 1e-5 for vector in vectors)
    alone = ask(input="green and blue", encoding_format="float").data[0].embedding
    assert max(abs(a - b) for a, b in zip(alone, vectors[1], strict=True)) < 1e-7
    short = ask(input="red", dimensions=8).data[0].embedding
    assert len(short) == 8 and abs(math.sqrt(sum(x * x for x in short)) - 1) < 1e-5
    assert ask(input=[[5, 6, 7], [5, 6]]).usage.prompt_tokens == 5
    error = refused(openai.BadRequestError, lambda: ask(input="x", dimensions=1 << 19))
    assert error.param == "dimensions", error.body
    error = refused(openai.BadRequestError, lambda: ask(input=""))
    assert error.param == "input", error.body


def case_an_encoder_makes_vectors_and_no_text(s):
    ask = lambda **more: s.client.embeddings.create(model="encoder", **more)
    texts = ["the barrel organ", "a cat and a dog", "the barrel organ"]
    many = ask(input=texts)
    vectors = [one.embedding for one in many.data]
    assert vectors[0] == vectors[2] != vectors[1] and many.usage.prompt_tokens == 5 + 7 + 5
    assert ask(input=texts[1]).data[0].embedding == vectors[1], "a vector depends on its company"
    error = refused(openai.BadRequestError, lambda: ask(input="cat " * 511))
    assert error.param == "input" and "at most 512" in error.message, error.body
    assert ask(input="cat " * 510).usage.prompt_tokens == 512
    error = refused(openai.BadRequestError, lambda: s.client.chat.completions.create(
        model="encoder", messages=[{"role": "user", "content": "hello"}]))
    assert error.param == "model" and "/v1/embeddings" in error.message, error.body


def case_a_reranker_orders_documents(s):
    # The client has no name for it; the shape is that of Cohere's and Jina's.
    ask = lambda **more: s.client.post("/rerank", cast_to=object, body={
        "model": "reranker", "query": "who ran?", "documents": ["a cat", {"text": "the barrel organ"}, "a cat and a dog"], **more})
    answer = ask()
    scores = [one["relevance_score"] for one in answer["results"]]
    assert answer["model"] == "reranker" and answer["usage"]["total_tokens"] > 0 and answer["id"], answer
    assert sorted(one["index"] for one in answer["results"]) == [0, 1, 2] and scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    best = ask(top_n=1, return_documents=True)["results"]
    assert len(best) == 1 and best[0].pop("document")["text"] and best[0] == answer["results"][0]
    raw = [one["relevance_score"] for one in ask(raw_scores=True)["results"]]
    assert all(abs(1 / (1 + math.exp(-x)) - score) < 1e-6 for x, score in zip(raw, scores, strict=True))
    error = refused(openai.BadRequestError, lambda: ask(documents=["a cat", "cat " * 511]))
    assert error.param == "documents[1]" and "truncation" in error.message, error.body
    error = refused(openai.BadRequestError, lambda: ask(model="encoder"))
    assert error.param == "model" and "/v1/embeddings" in error.message, error.body


def case_what_is_not_served_is_404(s):
    refused(openai.NotFoundError, lambda: s.client.moderations.create(input="x"))


def case_keys_are_asked_for(s):
    if not s.key:
        return
    for key in ("a-wrong-key-of-some-length", s.key[:-1], s.key + "x"):
        error = refused(openai.AuthenticationError, lambda: s.chat(s.connect(key=key)))
        assert error.code == "invalid_api_key" and key not in error.message
    refused(openai.AuthenticationError, lambda: s.connect(key="a-wrong-key-of-some-length").models.list())


def case_responses_carry_ids_and_times(s):
    raw = s.client.chat.completions.with_raw_response.create(model=s.model, messages=QUESTION, max_tokens=2)
    assert raw.headers["x-request-id"] and int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse()._request_id == raw.headers["x-request-id"]


def case_a_timeout_gives_up(s):
    impatient = s.connect(timeout=0.02)
    refused(openai.APITimeoutError, lambda: s.chat(impatient, **LONG, n=8))
    assert s.chat().choices, "and the server goes on"


def case_closing_a_stream_frees_its_slot(s):
    """More than the slots and the queue hold, one after the other: each must be gone before the next."""
    for _ in range(12):
        stream = s.chat(stream=True, **LONG)
        next(iter(stream))
        stream.close()
    began = time.monotonic()
    assert s.chat(max_tokens=3).usage.completion_tokens == 3
    assert time.monotonic() - began < 5


def case_a_full_queue_is_429_and_retried_when_told(s):
    told, asked, streams = [], [], []

    def answered(response):
        if response.status_code == 429:
            told.append((time.monotonic(), float(response.headers["retry-after-ms"]) / 1000))
            while streams:
                streams.pop().close()

    hooks = {"request": [lambda request: asked.append(time.monotonic())], "response": [answered]}
    with s.connect(max_retries=5, http_client=openai.DefaultHttpxClient(event_hooks=hooks)) as patient:
        for _ in range(5):
            streams += fill(s)
            assert s.chat(patient, max_tokens=3).usage.completion_tokens == 3
            if told:
                break
    assert told, "never refused"
    came, pause = told[0]
    again = min(at for at in asked if at > came)
    assert again - came >= pause > 0, f"came back after {again - came:.3f} s, told {pause:.3f} s"


def fill(s):
    """Long streams until the queue takes no more."""
    streams = []
    for _ in range(64):
        try:
            streams.append(s.chat(stream=True, **LONG))
        except openai.RateLimitError as error:
            assert int(error.response.headers["retry-after"]) >= 1 and error.code == "ADMISSION_REJECT"
            return streams
    raise AssertionError("the queue of this server is too long for this case")


def case_many_ask_at_once(s):
    with s.connect(max_retries=10) as client, concurrent.futures.ThreadPoolExecutor(12) as pool:
        ask = lambda seed: s.chat(client, seed=seed, max_tokens=20).choices[0].message.content
        crowd = list(pool.map(ask, list(range(6)) * 2))
    assert crowd[:6] == crowd[6:] and len(set(crowd)) == 6
    assert crowd[3] == s.chat(seed=3, max_tokens=20).choices[0].message.content, "alone as in the crowd"


def case_the_async_client(s):
    async def ask():
        async with s.connect(openai.AsyncOpenAI, max_retries=10) as client:
            fields = {"model": s.model, "messages": QUESTION, "max_tokens": 12, "seed": 7, "temperature": 0.9}
            plain = await asyncio.gather(*(client.chat.completions.create(**fields) for _ in range(4)))
            stream = await client.chat.completions.create(**fields, stream=True)
            streamed = text([chunk async for chunk in stream])
            assert {answer.choices[0].message.content for answer in plain} == {streamed}
            models = [model.id async for model in client.models.list()]
            assert s.model in models

    asyncio.run(ask())


def case_the_stream_helper(s):
    with s.client.chat.completions.stream(model=s.model, messages=QUESTION, max_tokens=12, seed=7) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.current_completion_snapshot
    assert "".join(pieces) == final.choices[0].message.content
    assert final.choices[0].finish_reason == "length"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--key")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    setting = Setting(args.url, args.model, args.key)
    cases = [(name, case) for name, case in globals().items() if name.startswith("case_") and args.only in name]
    failed = 0
    for name, case in cases:
        began = time.monotonic()
        try:
            case(setting)
            verdict = "ok"
        except Exception:
            verdict, failed = "FAILED", failed + 1
            traceback.print_exc()
        print(f"{verdict:6} {time.monotonic() - began:6.2f} s  {name[5:].replace('_', ' ')}", flush=True)
    print(f"{len(cases) - failed} of {len(cases)} cases hold with openai {openai.__version__}")
    sys.exit(failed > 0)


main()
