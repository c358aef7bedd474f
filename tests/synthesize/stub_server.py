"""A chat-completions server on loopback: it reads what it is sent, answers by role, and fails when it is told to."""

import base64
import io
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


def pictures_of(body: dict) -> list[Image.Image]:
    content = body["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in content[:-1]] if isinstance(content, list) else []
    return [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB") for url in urls]


def text_of(body: dict) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def seen_colour(body: dict) -> str:
    """What a model that is shown the picture sees: its colour, from its pixels."""
    red, green, blue = pictures_of(body)[0].getpixel((1, 1))
    return max((red, "red"), (2 * green, "green"), (blue, "blue"))[1]


def describe(body: dict) -> str:
    colour, question = seen_colour(body), text_of(body).rpartition("Question: ")[2]
    return (
        f"<think>my own thoughts</think><scan>one field</scan><elements>a {colour} field for {question}</elements>"
        f"<links>none</links><description>The field is {colour}.</description>"
    )


def reason(body: dict) -> str:
    colour = re.search(r"The field is (\w+)\.", text_of(body))[1]
    question = text_of(body).rpartition("Question: ")[2]
    return f"<reasoning>{question} I gather what matters, and it is {colour}.</reasoning><answer>{colour}</answer>"


def anchor(body: dict) -> str:
    reasoning, answer = text_of(body).partition("Reasoning:\n")[2].split("\n\nAnswer: ")
    end = "So, checking the image again, I see it clearly before me and stay with what I found there."
    return f"<reasoning>{reasoning} {end}</reasoning>\n<answer>{answer}</answer>"


def cot(body: dict) -> str:
    question, colour = text_of(body).splitlines()[0], seen_colour(body)
    return f"<think>{question} It seems {colour}.</think> \\boxed{{{colour}}}"


def back(body: dict) -> str:
    assert pictures_of(body), "the writer must see the image"
    text = text_of(body)
    answer = text.rpartition("Right answer: ")[2]
    reasoning = text.partition("Reasoning:\n")[2].partition("</think>")[0]
    return (
        f"Here it is: <response>{reasoning}</think>\n<back> I look at the field again: it is filled evenly, from "
        f"the left edge to the right one. </back>\n<think> So it stays. </think>\n\\boxed{{{answer}}}</response>"
    )


def toy(body: dict) -> str:
    return "<answer>B</answer>"


ROLES = {role.__name__: role for role in (describe, reason, anchor, cot, back, toy)}


LATE = "I gather what there is to know about it and weigh it. Then I look back at the field."


def reasoned(reasoning: str, answer: str = "red") -> Callable[[dict], str]:
    """A role that always reasons like this."""
    return lambda body: f"<reasoning>{reasoning}</reasoning><answer>{answer}</answer>"


def response(back: str, boxed: str = "red", after: str = "So it stays.") -> Callable[[dict], str]:
    """A role that always looks back like this."""
    text = f"<think>It seems red.</think>\n<back>{back}</back>\n<think>{after}</think>\n\\boxed{{{boxed}}}"
    return lambda body: f"<response>{text}</response>"


class Handler(BaseHTTPRequestHandler):
    """One request to the `StubServer`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        stub, data = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(data)
        with stub.lock:
            stub.requests.append(body)
            stub.headers.append(self.headers)
            stub.attempts[data] += 1
            attempt = stub.attempts[data]
            stub.running += 1
            stub.most_at_once = max(stub.most_at_once, stub.running)
        time.sleep(stub.delay)
        fault = stub.fault(body["model"], text_of(body), attempt)
        if self.path != "/v1/chat/completions":
            fault = 404, {}, b"no such path"
        status, headers, reply = fault or (200, {}, completion(stub.roles[body["model"]](body), usage=stub.usage))
        with stub.lock:
            stub.running -= 1
        with suppress(OSError):  # the client has gone
            self.send_response(status)
            parts = [reply] if isinstance(reply, bytes) else reply  # a generator trickles
            length = len(reply) if isinstance(reply, bytes) else 1000
            for name, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for part in parts:
                self.wfile.write(part)

    def log_message(self, *args):
        pass


class StubServer(ThreadingHTTPServer):
    """Models are named after the roles; `fault(model, text, attempt)` may return (status, headers, body) instead.

    Attributes:
        url: base address.
        requests: what was received, parsed; headers: theirs.
        roles: model -> function of the request's body to the answer; tests replace them.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.roles: dict[str, Callable[[dict], str]] = dict(ROLES)
        self.fault: Callable[[str, str, int], tuple[int, dict, Any] | None] = lambda model, text, attempt: None
        self.delay, self.usage = 0.0, {"prompt_tokens": 100, "completion_tokens": 10}
        self.requests, self.headers = [], []
        self.most_at_once = self.running = 0
        self.attempts, self.lock = Counter(), threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def models(self) -> Counter[str]:
        return Counter(body["model"] for body in self.requests)

    def close(self) -> None:
        self.shutdown()
        self.server_close()


def completion(text: object, finish_reason: str = "stop", usage: object = None) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage}).encode()
