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


def test_bad_requests_quotas_of_a_day_and_redirects_are_not_retried(server, ask):
    server.fault = lambda *request: (400, {}, b"image too large")
    with pytest.raises(ChatError, match=r"http 400.*image too large"):
        ask(max_retries=2)
    server.fault = lambda *request: (429, {"Retry-After": "86400"}, b"quota of the day")
    with pytest.raises(ChatError, match=r"http 429.*quota of the day"):
        ask(max_retries=2)
    server.fault = lambda *request: (307, {"Location": f"{server.url}/chat/completions"}, b"over there")
    with pytest.raises(ChatError, match=r"http 307.*over there"):
        ask(max_retries=2)
    assert len(server.requests) == 3


@pytest.mark.parametrize(("status", "message"), [(401, "key; check .* A_KEY"), (404, "no such model or path")])
def test_what_no_request_can_mend_stops(server, ask, status, message):
    server.fault = lambda *request: (status, {}, b"")
    with pytest.raises(ServerUnusable, match=message):
        ask(max_retries=2, api_key_env="A_KEY")
    assert len(server.requests) == 1


def test_a_slow_server_times_out(server, ask):
    server.delay = 1.0
    with pytest.raises(ChatError, match=r"timeout: .*no reply within 0.1 s"):
        ask(max_retries=1, timeout=0.1)
    assert len(server.requests) == 2


def test_a_trickling_server_times_out(server, ask):
    def trickle():
        for _ in range(100):
            yield b" "
            time.sleep(0.05)

    server.fault = lambda *request: (200, {}, trickle())
    start = time.monotonic()
    with pytest.raises(ChatError, match="timeout"):
        ask(timeout=0.3)
    assert time.monotonic() - start < 3


def test_nobody_there(ask):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChatError, match="connection"):
        ask(f"http://127.0.0.1:{port}/v1")
    for url in ("localhost:8000", "file:///etc/passwd"):
        with pytest.raises(SayoError, match="is not the address of a server"):
            ask(url)


def test_the_missing_package_is_named(ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SayoError, match=r"pip install 'sayo\[client\]'"):
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
