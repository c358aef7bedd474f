"""The server path against a real HTTP server on the loopback that misbehaves on purpose."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from evaluation.conftest import write_task, written
from PIL import Image

from sayo.evaluation.questions import Questions
from sayo.evaluation.run import run_task
from sayo.evaluation.server import Server, ServerDown, parse_reply
from sayo.evaluation.tasks import load_task


def completion(text, finish="stop", **message):
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode()


class Stub(ThreadingHTTPServer):
    """Answers with what `plan(number of the attempt, request)` says: (status, headers, body), or None to hang up."""

    daemon_threads = True

    def __init__(self, plan):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.attempts, self.requests = plan, Counter(), []
        self.open, self.most_open, self.lock = 0, 0, threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        stub, data = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(data)
        with stub.lock:
            stub.open += 1
            stub.most_open = max(stub.most_open, stub.open)
            stub.attempts[data] += 1
            attempt = stub.attempts[data]
            stub.requests.append((self.path, dict(self.headers), body))
        answer = stub.plan(attempt, body)
        with stub.lock:  # before the answer leaves: the client may ask its next question the moment it has it
            stub.open -= 1
        if answer is not None:
            status, headers, content = answer
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # a client that gave up on a slow answer
                self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def stub():
    started = []

    def start(plan):
        started.append(Stub(plan))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    row = written("mmstar")[0]["row"]
    rows = [{**row, "index": number, "question": f"Number {number}? A: x, B: y"} for number in range(12)]
    return write_task("mmstar", tmp_path_factory.mktemp("server") / "mmstar", rows)


def ask(stub_, files, folder, limit=12, **options):
    questions = Questions(load_task("mmstar"), files, limit=limit)
    server = Server(stub_.url, "toy", **{"backoff": 0.01, "timeout": 5, "attempts": 4, "concurrency": 4, **options})
    return run_task(server, questions, folder, {"model": "toy"})


def records(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


FAULTS = {
    "429": (429, {"Retry-After": "0"}, b"slow down"),
    "429 until a date": (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""),
    "500": (500, {}, b"out of memory"),
    "503": (503, {}, b""),
    "html": (200, {"Content-Type": "text/html"}, b"<html>gateway</html>"),
    "no choices": (200, {}, b'{"choices": []}'),
    "other JSON": (200, {}, b"[1, 2]"),
    "null": (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
    "not text": (200, {}, b'{"choices": [{"message": {"content": 5}}]}'),
    "not UTF-8": (200, {}, b"\xff\xfe\x00"),
    "nothing": (200, {}, b""),
    "hangs up": None,
    "half a reply": (200, {"Content-Length": "500"}, b'{"choices": ['),
}


@pytest.mark.parametrize("name", FAULTS)
def test_passing_faults_are_tried_again(stub, files, tmp_path, name):
    server = stub(lambda attempt, body: FAULTS[name] if attempt < 3 else (200, {}, completion("B")))
    summary = ask(server, files, tmp_path, limit=3)
    assert summary["accuracy"] == 1.0 and summary["failed"] == {} and summary["num_scored"] == 3
    assert set(server.attempts.values()) == {3}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("429", "http 429"), ("500", "http 500"), ("html", "garbage"), ("nothing", "garbage"), ("hangs up", "garbage")],
)
def test_lasting_faults_are_counted_and_are_no_wrong_answers(stub, files, tmp_path, name, kind):
    def plan(attempt, body):
        is_bad = "Number 1?" in body["messages"][0]["content"][1]["text"]
        return FAULTS[name] if is_bad else (200, {}, completion("B"))

    summary = ask(stub(plan), files, tmp_path, limit=4)
    assert summary["failed"] == {kind: 1}
    assert summary["accuracy"] == 1.0 and summary["num_scored"] == 3 and summary["num_questions"] == 4
    bad = records(tmp_path)[1]
    assert bad["correct"] == [None] and bad["accuracy"] is None and bad["errors"][0]["kind"] == kind


def test_a_refused_request_is_not_repeated(stub, files, tmp_path):
    server = stub(lambda attempt, body: (400, {}, b"image too large"))
    summary = ask(server, files, tmp_path, limit=2)
    assert summary["failed"] == {"http 400": 2} and summary["accuracy"] is None
    assert len(server.requests) == 2 and "image too large" in records(tmp_path)[0]["errors"][0]["message"]


def test_a_timeout_is_counted(stub, files, tmp_path):
    server = stub(lambda attempt, body: time.sleep(0.6) or (200, {}, completion("B")))
    summary = ask(server, files, tmp_path, limit=1, timeout=0.1, attempts=2)
    assert summary["failed"] == {"timeout": 1}


@pytest.mark.parametrize(("status", "message"), [(401, "OPENAI_API_KEY"), (404, "--server-model")])
def test_a_wrong_key_or_model_stops_the_run(stub, files, tmp_path, status, message):
    with pytest.raises(ServerDown, match=message):
        ask(stub(lambda attempt, body: (status, {}, b"no")), files, tmp_path)


def test_nobody_there_stops_the_run_and_is_tried_again(stub, files, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dead = Server(f"http://127.0.0.1:{port}/v1", "toy", backoff=0.001, attempts=2, concurrency=2)
    with pytest.raises(ServerDown, match="does not answer"):
        run_task(dead, Questions(load_task("mmstar"), files), tmp_path, {"model": "toy"})
    assert all(record["errors"][0]["kind"] == "connection" for record in records(tmp_path))
    summary = ask(stub(lambda attempt, body: (200, {}, completion("B"))), files, tmp_path)
    assert summary["accuracy"] == 1.0 and summary["failed"] == {}
    assert [record["index"] for record in records(tmp_path)] == list(range(12))


def test_what_is_sent(stub, files, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = stub(lambda attempt, body: (200, {}, completion("B")))
    questions = Questions(load_task("mmstar"), files, limit=1, system_prompt="Look closely.")
    client = Server(server.url + "/", "served-name", num_samples=2, temperature=0.5, max_new_tokens=7, seed=5)
    run_task(client, questions, tmp_path, {})
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("served-name", 0.5, 7)
    assert sorted(request[2]["seed"] for request in server.requests) == [5, 6]
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Look closely."}
    picture, text = user["content"]
    assert text["text"].startswith("Number 0?")
    data = base64.b64decode(re.fullmatch(r"data:image/png;base64,(.+)", picture["image_url"]["url"])[1])
    assert list(Image.open(io.BytesIO(data)).convert("RGB").tobytes()) == list(questions[0]["images"][0].tobytes())
    assert "secret" not in (tmp_path / "settings.json").read_text() + (tmp_path / "samples.jsonl").read_text()


def test_requests_run_side_by_side(stub, files, tmp_path):
    server = stub(lambda attempt, body: time.sleep(0.1) or (200, {}, completion("B")))
    ask(server, files, tmp_path, concurrency=6)
    assert 3 <= server.most_open <= 6


def test_killed_in_the_middle_it_goes_on(stub, files, tmp_path):
    server = stub(lambda attempt, body: (200, {}, completion("B")))
    with pytest.raises(KeyboardInterrupt):
        questions = Questions(load_task("mmstar"), files)
        client = Server(server.url, "toy", concurrency=1)

        def interrupted(todo):
            for index in todo:
                if index == 6:
                    raise KeyboardInterrupt
                yield index

        run_task(client, questions, tmp_path, {"model": "toy"}, progress=interrupted)
    done = len(records(tmp_path))
    asked = len(server.requests)
    summary = ask(server, files, tmp_path)
    assert summary["num_scored"] == 12
    assert len(server.requests) - asked == 12 - done and done >= 1


def test_an_empty_or_cut_off_response_is_a_response():
    assert parse_reply(completion("")).text == ""
    assert parse_reply(completion("half", finish="length")).truncated
    thought = parse_reply(completion(None, reasoning_content="hm"))
    assert thought.text == "" and thought.error is None
    assert parse_reply(completion("\ud800 half a character")).text


@pytest.mark.slow
def test_killed_for_real_it_goes_on(stub, files, tmp_path):
    """SIGKILL of the command between two answers; then the same command again."""
    server = stub(lambda attempt, body: time.sleep(0.2) or (200, {}, completion("B")))
    words = ["evaluate", "toy", "--tasks", f"mmstar={files}", "--server", server.url, "--concurrency", "1"]
    command = [sys.executable, "-c", "from sayo.cli import app; app()", *words, "--out", str(tmp_path)]
    results = tmp_path / "mmstar" / "samples.jsonl"
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (results.is_file() and results.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done, asked = results.read_text().count("\n"), len(server.requests)
    assert 3 <= done < 12
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert [record["index"] for record in records(tmp_path / "mmstar")] == list(range(12))
    assert len(server.requests) - asked == 12 - done
