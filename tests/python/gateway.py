"""Calls examples/gateway as programs with the libraries of OpenAI and Anthropic do.

For each use that it was told of it prints a line of JSON, in the order of its calls.
"""

import asyncio
import json
import sys
import time

import anthropic
import openai

MESSAGES = [{"role": "user", "content": "Say hello"}]


def openai_client(base, customer, kind=openai.OpenAI):
    return kind(base_url=f"{base}/v1", api_key="sk-test", default_headers={"x-customer-id": customer})


def anthropic_client(base, customer, kind=anthropic.Anthropic):
    return kind(base_url=base, api_key="sk-test", default_headers={"x-customer-id": customer})


def dump(answer):
    return answer.model_dump() if hasattr(answer, "model_dump") else answer


def tell(customer, model, inputs, outputs):
    use = {"customer": customer, "model": model}
    use |= {"input_tokens": inputs, "output_tokens": outputs, "total_tokens": inputs + outputs}
    print(json.dumps(use))


def tell_openai(answer):
    usage = answer["usage"]
    inputs = usage.get("prompt_tokens", usage.get("input_tokens"))
    outputs = usage.get("completion_tokens", usage.get("output_tokens"))
    tell("py_openai", answer["model"], inputs, outputs)


def tell_anthropic(message):
    usage = message["usage"]
    inputs = usage["input_tokens"] + usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
    tell("py_anthropic", message["model"], inputs, usage["output_tokens"])


OPENAI_CHAT = {"model": "large-2", "messages": MESSAGES, "max_completion_tokens": 30}
OPENAI_STREAM = OPENAI_CHAT | {"stream": True, "stream_options": {"include_usage": True}}
OPENAI_RESPONSE = {"model": "large-3", "input": "Say hello", "max_output_tokens": 40}
ANTHROPIC_MESSAGE = {"model": "poet-1", "messages": MESSAGES, "max_tokens": 50}


def test_openai_sees_the_same(gateway, upstream):
    through = openai_client(gateway, "py_openai")
    direct = openai_client(upstream, "py_openai")

    assert dump(through.models.list()) == dump(direct.models.list())

    answer = dump(through.chat.completions.create(**OPENAI_CHAT))
    assert answer == dump(direct.chat.completions.create(**OPENAI_CHAT))
    assert answer["choices"][0]["message"]["content"] == "Hello, world", answer
    tell_openai(answer)

    chunks = [dump(chunk) for chunk in through.chat.completions.create(**OPENAI_STREAM)]
    assert chunks == [dump(chunk) for chunk in direct.chat.completions.create(**OPENAI_STREAM)]
    assert len(chunks) == 6, chunks
    tell_openai(chunks[-1])

    answer = dump(through.responses.create(**OPENAI_RESPONSE))
    assert answer == dump(direct.responses.create(**OPENAI_RESPONSE))
    tell_openai(answer)

    events = [dump(event) for event in through.responses.create(**OPENAI_RESPONSE, stream=True)]
    assert events == [dump(event) for event in direct.responses.create(**OPENAI_RESPONSE, stream=True)]
    tell_openai(events[-1]["response"])


async def test_openai_sees_the_same_async(gateway, upstream):
    async with (
        openai_client(gateway, "py_openai", openai.AsyncOpenAI) as through,
        openai_client(upstream, "py_openai", openai.AsyncOpenAI) as direct,
    ):
        answer = dump(await through.chat.completions.create(**OPENAI_CHAT))
        assert answer == dump(await direct.chat.completions.create(**OPENAI_CHAT))
        tell_openai(answer)

        seen = []
        for client in [through, direct]:
            stream = await client.chat.completions.create(**OPENAI_STREAM)
            seen.append([dump(chunk) async for chunk in stream])
        assert seen[0] == seen[1]
        tell_openai(seen[0][-1])


def final(stream):
    """The events of a stream, and the message that the library makes of them."""
    with stream as events:
        seen = [dump(event) for event in events]
        return seen, dump(events.get_final_message())


def test_anthropic_sees_the_same(gateway, upstream):
    through = anthropic_client(gateway, "py_anthropic")
    direct = anthropic_client(upstream, "py_anthropic")

    count = {"model": "poet-1", "messages": MESSAGES}
    assert dump(through.messages.count_tokens(**count)) == dump(direct.messages.count_tokens(**count))

    message = dump(through.messages.create(**ANTHROPIC_MESSAGE))
    assert message == dump(direct.messages.create(**ANTHROPIC_MESSAGE))
    assert message["content"][0]["text"] == "Hello, world", message
    tell_anthropic(message)

    events = [dump(event) for event in through.messages.create(**ANTHROPIC_MESSAGE, stream=True)]
    assert events == [dump(event) for event in direct.messages.create(**ANTHROPIC_MESSAGE, stream=True)]
    start = events[0]["message"]
    tell_anthropic(start | {"usage": start["usage"] | {"output_tokens": events[-2]["usage"]["output_tokens"]}})

    seen = final(through.messages.stream(**ANTHROPIC_MESSAGE))
    assert seen == final(direct.messages.stream(**ANTHROPIC_MESSAGE))
    tell_anthropic(seen[1])


async def test_anthropic_sees_the_same_async(gateway, upstream):
    async with (
        anthropic_client(gateway, "py_anthropic", anthropic.AsyncAnthropic) as through,
        anthropic_client(upstream, "py_anthropic", anthropic.AsyncAnthropic) as direct,
    ):
        message = dump(await through.messages.create(**ANTHROPIC_MESSAGE))
        assert message == dump(await direct.messages.create(**ANTHROPIC_MESSAGE))
        tell_anthropic(message)

        seen = []
        for client in [through, direct]:
            async with client.messages.stream(**ANTHROPIC_MESSAGE) as stream:
                events = [dump(event) async for event in stream]
                seen.append((events, dump(await stream.get_final_message())))
        assert seen[0] == seen[1]
        tell_anthropic(seen[0][1])


def same(gateway, upstream):
    test_openai_sees_the_same(gateway, upstream)
    asyncio.run(test_openai_sees_the_same_async(gateway, upstream))
    test_anthropic_sees_the_same(gateway, upstream)
    asyncio.run(test_anthropic_sees_the_same_async(gateway, upstream))


def usage(gateway, upstream):
    """Where the gateway asks for usage, a stream ends in a chunk of that alone."""
    ask = OPENAI_CHAT | {"stream": True}
    chunks = [dump(chunk) for chunk in openai_client(gateway, "py_openai").chat.completions.create(**ask)]
    without = [dump(chunk) for chunk in openai_client(upstream, "py_openai").chat.completions.create(**ask)]
    assert chunks[:-1] == without, chunks
    assert chunks[-1]["choices"] == [], chunks[-1]
    tell_openai(chunks[-1])


def refused(call, library):
    """What the library raises. It tells with each request how often it has tried before."""
    try:
        call()
    except library.RateLimitError as error:
        assert error.status_code == 429, error
        assert error.response.headers["x-should-retry"] == "false", error.response.headers
        assert error.response.request.headers["x-stainless-retry-count"] == "0", error.request.headers
        return error
    raise AssertionError("the call was not refused")


async def awaited(client, call):
    async with client:
        return await call(client)


def denied(gateway):
    """Of 1,000 tokens a day 907 are used, then 200 more are asked for."""
    # In its last minute the wait for the next day is short, and they would try again.
    while time.time() % 86_400 > 86_400 - 90:
        time.sleep(1)

    def chat(client, tokens):
        return client.chat.completions.create(model="large-2", messages=MESSAGES, max_tokens=tokens)

    def create(client, tokens):
        return client.messages.create(model="poet-1", messages=MESSAGES, max_tokens=tokens)

    client = openai_client(gateway, "py_openai")
    chat(client, 900)
    error = refused(lambda: chat(client, 200), openai)
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "tokens", None), error.body
    assert 'The limit "Daily token limit" of 1000 has no room' in error.message, error.message
    wait = int(error.response.headers["retry-after"])
    assert 60 < wait <= 86_400, wait

    client = anthropic_client(gateway, "py_anthropic")
    create(client, 900)
    error = refused(lambda: create(client, 200), anthropic)
    assert error.body["type"] == "error", error.body
    assert error.body["error"]["type"] == "rate_limit_error", error.body
    assert 'The limit "Daily token limit" of 1000 has no room' in error.body["error"]["message"], error.body

    def in_async(kind, customer, call):
        make = openai_client if kind is openai.AsyncOpenAI else anthropic_client
        return lambda tokens: asyncio.run(
            awaited(make(gateway, customer, kind), lambda client: call(client, tokens))
        )

    for library, call in [
        (openai, in_async(openai.AsyncOpenAI, "py_async_openai", chat)),
        (anthropic, in_async(anthropic.AsyncAnthropic, "py_async_anthropic", create)),
    ]:
        call(900)
        refused(lambda: call(200), library)


def poor(gateway):
    """Ten credits are too few."""
    client = openai_client(gateway, "py_openai")
    error = refused(lambda: client.chat.completions.create(**OPENAI_CHAT), openai)
    assert error.code == "insufficient_quota", error.body
    client = anthropic_client(gateway, "py_anthropic")
    error = refused(lambda: client.messages.create(**ANTHROPIC_MESSAGE), anthropic)
    assert error.body["error"]["type"] == "billing_error", error.body


def waits(gateway, library):
    """Of 100 tokens a minute most are used, then more are asked for than are left, with three seconds
    of the minute to go: it waits and tries again by itself."""
    if library == "openai":
        calls = openai_client(gateway, "py_openai").chat.completions.with_raw_response
    else:
        calls = anthropic_client(gateway, "py_anthropic").messages.with_raw_response
    ask = {"model": "large-2", "messages": MESSAGES}
    first = calls.create(**ask, max_tokens=60)
    assert first.retries_taken == 0, first.retries_taken
    begun = time.monotonic()
    second = calls.create(**ask, max_tokens=61)
    waited = time.monotonic() - begun
    assert second.retries_taken == 1, second.retries_taken
    assert waited >= 3, waited


if __name__ == "__main__":
    case, *arguments = sys.argv[1:]
    {"same": same, "usage": usage, "denied": denied, "poor": poor, "waits": waits}[case](*arguments)
