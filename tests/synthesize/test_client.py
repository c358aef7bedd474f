"""The client of OpenAI-compatible servers: what is tried again, what fails, what stops the run."""

import asyncio
import socket
import sys
import threading
import time

import pytest
from PIL import Image
from synthesize.stub_server import completion

from sayo.client import ChatClient, ChatError, ServerUnusable, as_completed, data_url, with_images
from sayo.errors import SayoError

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def ask(server):
    """Ask the stub server one question; `options` are the client's."""
    server.roles["echo"] = lambda body: "fine"

    def ask_once(url=None, fields=None, **options):
        client = ChatClient(url or server.url, "echo", **{"max_retries": 0, "timeout": 2.0, **options})
        [(_, reply)] = as_completed(lambda _: client.ask(HELLO, **fields or {}), [0])
        return reply

    return ask_once


@pytest.mark.parametrize(
    "fault", [(429, {}, b"slow down"), (503, {"Retry-After": "0.6"}, b""), (200, {"Content-Length": "99"}, b'{"cho')]
)
def test_passing_faults_are_retried(server, ask, fault):
    server.fault = lambda model, text, attempt: fault if attempt == 1 else None
    start = time.monotonic()
    assert ask(max_retries=1, timeout=0.5).text == "fine" and len(server.requests) == 2
    assert time.monotonic() - start >= (0.6 if fault[0] == 503 else 0)


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_garbage_is_a_failure(server, ask, content_type):
    nothing, message, number = b'{"choices": []}', b'{"choices": [{"message": null}]}', completion(7)
    for reply in (b"<html>", b"", b"[1]", b"null", nothing, message, number, b"[" * 100_000, completion(None)):
        server.fault = lambda *request: (200, {"Content-Type": content_type}, reply)  # noqa: B023
        with pytest.raises(ChatError, match="garbage"):
            ask()


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ((400, {}, b"image too large"), ChatError, "http 400.*image too large"),
        ((429, {"Retry-After": "86400"}, b"quota of the day"), ChatError, "http 429.*quota of the day"),
        ((307, {"Location": "/v1/chat/completions"}, b"over there"), ChatError, "http 307.*over there"),
        ((401, {}, b""), ServerUnusable, "key; check .* A_KEY"),
        ((404, {}, b""), ServerUnusable, "no such model or path"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_what_trying_again_cannot_mend_is_asked_once(server, ask, fault, error, message):
    server.fault = lambda *request: fault
    with pytest.raises(error, match=message):
        ask(max_retries=2, api_key_env="A_KEY")
    assert len(server.requests) == 1


def _trickle():
    for _ in range(100):
        yield b" "
        time.sleep(0.05)


@pytest.mark.parametrize(("delay", "fault"), [(1.0, lambda *_: None), (0.0, lambda *_: (200, {}, _trickle()))])
def test_slow_and_trickling_servers_time_out(server, ask, delay, fault):
    server.delay, server.fault, start = delay, fault, time.monotonic()
    with pytest.raises(ChatError, match=r"timeout: .*no reply within 0.2 s"):
        ask(max_retries=1, timeout=0.2)
    assert len(server.requests) == 2 and time.monotonic() - start < 4


def test_nobody_there(ask):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChatError, match="connection"):
        ask(f"http://127.0.0.1:{port}/v1")
    with pytest.raises(SayoError, match="is not the address of a server"):
        ask("file:///etc/passwd")


def test_the_missing_package_is_named(ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SayoError, match="pip install openai"):
        ask()


def test_the_request_and_what_comes_back(server, ask, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    server.fault = lambda *request: (200, {}, completion("fi", "length", usage={"prompt_tokens": 5}))
    fields = {"max_tokens": 7, "temperature": 0.0, "seed": 3, "top_p": None, "min_p": 0.1}
    assert ask(fields=fields, api_key_env="A_KEY") == ("fi", "length", 5, None)
    assert server.requests == [
        {"model": "echo", "messages": HELLO, "max_tokens": 7, "temperature": 0.0, "seed": 3, "min_p": 0.1}
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    server.fault = lambda *request: (200, {}, completion("x", usage={"prompt_tokens": -5, "completion_tokens": True}))
    assert ask(api_key_env="NOT_SET")[2:] == (None, None), "counts of a hostile server are not believed"
    assert "secret" not in server.headers[1]["Authorization"]
    server.fault = lambda *request: (200, {}, completion(None, "length", usage={"completion_tokens": 9}))
    assert ask() == ("", "length", None, 9), "it thought up to its limit"


def test_images_stand_before_the_question():
    turns = [{"role": "system", "content": "s"}, *HELLO, *HELLO]
    image = Image.new("RGB", (2, 3), "red")
    system, user, last = with_images(turns, [image, image])
    assert (system, last) == (turns[0], turns[2]) and turns[1] == HELLO[0]
    assert [part["type"] for part in user["content"]] == ["image_url", "image_url", "text"]
    assert user["content"][0]["image_url"]["url"] == data_url(image)
    assert with_images(turns, []) == turns


def test_items_are_drawn_as_workers_are_free_and_results_come_as_completed():
    drawn, running, most = [], 0, 0

    def items():
        for index in range(20):
            drawn.append(index)
            yield index

    async def work(index):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.2 if index == 0 else 0.01)
        running -= 1
        return -index

    results = []
    for item, result in as_completed(work, items(), num_workers=4):
        assert result == -item and len(drawn) <= len(results) + 4
        results.append(item)
    assert most == 4 and sorted(results) == list(range(20)) and results[-1] == 0


def test_leaving_the_loop_cancels_what_runs():
    cancelled = threading.Event()

    async def work(index):
        try:
            await asyncio.sleep(60 * index)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    results = as_completed(work, [0, 1], num_workers=2)
    assert next(results) == (0, None)
    results.close()
    assert cancelled.wait(5)
