"""A chat-completions server on loopback: it reads what it is sent, answers by role, and fails when it is told to."""

import base64
import io
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.message import Message
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


ROLES = {"describe": describe, "reason": reason, "anchor": anchor, "cot": cot, "back": back}


class StubServer:
    """Models are named after the roles; `fault(model, text, attempt)` may return (status, headers, body) instead.

    Attributes:
        url: base address.
        requests: what was received, parsed; headers: theirs.
        roles: model -> function of the request's body to the answer; tests replace them.
    """

    def __init__(self):
        self.roles: dict[str, Callable[[dict], str]] = dict(ROLES)
        self.fault: Callable[[str, str, int], tuple[int, dict, Any] | None] = lambda model, text, attempt: None
        self.delay = 0.0
        self.usage = {"prompt_tokens": 100, "completion_tokens": 10}
        self.requests: list[dict] = []
        self.headers: list[Message] = []
        self.most_at_once = self._now = 0
        self._attempts: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        serve = self._serve

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                serve(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def models(self) -> Counter[str]:
        return Counter(body["model"] for body in self.requests)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        body = json.loads(data)
        with self._lock:
            self.requests.append(body)
            self.headers.append(handler.headers)
            self._attempts[data] += 1
            attempt = self._attempts[data]
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.delay)
        fault = self.fault(body["model"], text_of(body), attempt)
        if handler.path != "/v1/chat/completions":
            fault = 404, {}, b"no such path"
        status, headers, reply = fault or (200, {}, completion(self.roles[body["model"]](body), usage=self.usage))
        with self._lock:
            self._now -= 1
        try:
            handler.send_response(status)
            parts = [reply] if isinstance(reply, bytes) else reply  # a generator trickles
            length = len(reply) if isinstance(reply, bytes) else 1000
            for name, value in {"Content-Length": str(length), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            for part in parts:
                handler.wfile.write(part)
        except OSError:
            pass  # the client has gone


def completion(text: object, finish_reason: str = "stop", usage: object = None) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage}).encode()
