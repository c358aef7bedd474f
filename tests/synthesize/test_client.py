"""Faults of a server: what is tried again, what fails, what stops the run."""

from __future__ import annotations

import socket
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from synthesize.stub_server import completion

from data_prep.synthesize.client import ChatClient, ChatError, ServerUnusable, parse_reply, seconds_to_wait

BODY = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
GOOD = completion("fine", usage={"prompt_tokens": 5, "completion_tokens": 2})
COUNTED = {"prompt_tokens": 3, "completion_tokens": 1}


@pytest.fixture
def client(server):
    server.roles["echo"] = lambda body: "fine"
    return ChatClient(server.url, attempts=3, timeout=2.0, backoff=0.01)


@pytest.mark.parametrize(
    "fault",
    [
        (429, {}, b"slow down"),
        (500, {}, b"oops"),
        (503, {}, b""),
        (200, {}, b"<html>gateway</html>"),
        (200, {}, b""),
        (200, {}, b"[1, 2]"),
        (200, {}, b"null"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": null}]}'),
        (200, {}, b'{"choices": [{"message": {"content": 7}}]}'),
        (200, {}, b"[" * 100_000),
        (200, {}, completion(None)),
        (200, {}, completion("  \n")),
        (200, {"Content-Length": "1000"}, b'{"choices"'),
    ],
)
def test_passing_faults_are_tried_again(server, client, fault):
    server.fault = lambda model, text, attempt: fault if attempt < 3 else None
    reply = client.chat(BODY)
    assert (reply.text, reply.attempts) == ("fine", 3)
    server.fault = lambda model, text, attempt: fault
    with pytest.raises(ChatError, match=f"http {fault[0]}" if fault[0] != 200 else "garbage|timeout"):
        client.chat(BODY)
    assert len(server.requests) == 6


def test_garbage_is_paid_for(server, client):
    server.fault = lambda model, text, attempt: (
        (200, {}, completion(None, usage=COUNTED)) if attempt < 3 else (200, {}, GOOD)
    )
    reply = client.chat(BODY)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.counted) == (11, 4, True)
    server.fault = lambda model, text, attempt: (200, {}, completion(None, usage=COUNTED))
    with pytest.raises(ChatError) as caught:
        client.chat(BODY)
    assert (caught.value.prompt_tokens, caught.value.completion_tokens) == (9, 3)


def test_retry_after_is_honoured(server, client):
    server.fault = lambda model, text, attempt: (429, {"Retry-After": "0.6"}, b"") if attempt == 1 else None
    start = time.monotonic()
    client.chat(BODY)
    assert time.monotonic() - start >= 0.6


def test_a_retry_after_of_a_day_is_not_waited_for(server, client):
    server.fault = lambda model, text, attempt: (429, {"Retry-After": "86400"}, b"quota of the day")
    with pytest.raises(ChatError, match="quota of the day"):
        client.chat(BODY)
    assert len(server.requests) == 1


def test_retry_after_in_all_its_forms():
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    assert 25 < seconds_to_wait(date) <= 30
    assert [
        seconds_to_wait(value) for value in ("7", None, "", "-3", "nan", "soon", "Wed, 21 Oct 2015 07:28:00 GMT")
    ] == [*(7.0, 0, 0, 0, 0, 0, 0)]


def test_a_bad_request_is_sent_once(server, client):
    server.fault = lambda model, text, attempt: (400, {}, b"image too large")
    with pytest.raises(ChatError, match="http 400: image too large"):
        client.chat(BODY)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "message"), [(401, "refuses the key"), (404, "no such model or path")])
def test_what_no_request_can_mend_stops(server, client, status, message):
    server.fault = lambda model, text, attempt: (status, {}, b"")
    with pytest.raises(ServerUnusable, match=message):
        client.chat(BODY)
    assert len(server.requests) == 1


def test_a_redirect_gets_neither_key_nor_body(server):
    server.fault = lambda model, text, attempt: (307, {"Location": "http://127.0.0.1:9/v1/chat/completions"}, b"")
    with pytest.raises(ServerUnusable, match=r"redirects to http://127.0.0.1:9"):
        ChatClient(server.url, api_key="secret").chat(BODY)


def test_a_slow_server_times_out(server):
    server.delay = 1.0
    with pytest.raises(ChatError, match=r"timeout: no reply within 0.1 s"):
        ChatClient(server.url, attempts=2, timeout=0.1, backoff=0.01).chat(BODY)
    assert len(server.requests) == 2


def test_a_trickling_server_times_out():
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(100):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return
                time.sleep(0.05)

    threading.Thread(target=trickle, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(ChatError, match="timeout"):
        ChatClient(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", attempts=1, timeout=0.3).chat(BODY)
    assert time.monotonic() - start < 3
    listener.close()


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChatError, match="connection"):
        ChatClient(f"http://127.0.0.1:{port}/v1", attempts=2, backoff=0.01).chat(BODY)


def test_stop_ends_the_waiting(server):
    client = ChatClient(server.url, backoff=60.0)
    server.fault = lambda model, text, attempt: (500, {}, b"")
    threading.Timer(0.3, client.stop).start()
    with pytest.raises(ChatError, match="stopped"):
        client.chat(BODY)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a:1/v1", "http://a:1/v1/chat/completions"),
        ("http://a:1/v1/", "http://a:1/v1/chat/completions"),
        ("https://a/v1/chat/completions", "https://a/v1/chat/completions"),
        ("https://a/x?api-version=2", "https://a/x/chat/completions?api-version=2"),
    ],
)
def test_addresses(url, expected):
    assert ChatClient(url).url == expected


def test_counts_of_a_hostile_server_are_not_believed():
    usage = {"prompt_tokens": -5, "completion_tokens": True}
    reply = parse_reply(completion("x", usage=usage))
    assert (reply.prompt_tokens, reply.completion_tokens, reply.counted) == (0, 0, False)


def test_text_in_parts_is_text():
    assert parse_reply(completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])).text == "ab"
