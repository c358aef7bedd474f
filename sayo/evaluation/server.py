"""Ask a model behind an OpenAI-compatible server (vLLM's, SGLang's, a hosted one), many questions at once."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from sayo.evaluation.local import Answered
from sayo.evaluation.records import Reply

_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_HOPELESS = {
    401: "the server refuses the key: set OPENAI_API_KEY",
    403: "the server refuses the key: set OPENAI_API_KEY",
    404: "the server has no such model or path: check --server (it ends in /v1) and --server-model",
}


class ServerDown(RuntimeError):
    """The server cannot be used at all; what was answered is kept, and the same command goes on later."""


class Server:
    """An OpenAI-compatible chat endpoint.

    A reply that fails for good is a failed reply with its kind ("http 500", "timeout", "connection", "garbage"), never
    an empty answer. The key is taken from the environment variable OPENAI_API_KEY.

    Args:
        url: base address, as `http://host:8000/v1`.
        model: the name under which the server serves it.
        num_samples: completions per question, one request each.
        temperature: 0 is greedy.
        concurrency: requests at once.
        attempts: times that a request is sent before it fails.
        timeout: seconds for one request.
        backoff: seconds before the second attempt; doubled from attempt to attempt (a `Retry-After` is obeyed), at
            most a minute.
        seed: sent with every request (plus the number of the sample), for servers that honour it.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        num_samples: int = 1,
        temperature: float = 0.0,
        max_new_tokens: int = 256,
        concurrency: int = 8,
        attempts: int = 6,
        timeout: float = 300.0,
        backoff: float = 1.0,
        seed: int = 0,
    ):
        self.url, self.model = url.rstrip("/") + "/chat/completions", model
        self.num_samples, self.temperature, self.max_new_tokens = num_samples, temperature, max_new_tokens
        self.concurrency, self.attempts, self.timeout, self.backoff = concurrency, attempts, timeout, backoff
        self.seed = seed

    def answer(self, rows: Iterable[Mapping[str, Any]], attention: bool = False) -> Iterator[Answered]:
        """Every row with its replies, as they come in. A server shows no attention, whether wanted or not.

        Raises:
            ServerDown: the key, the model or the address is wrong, or nothing but failures to connect came back.
        """
        rows, silent = iter(rows), 0
        pool = ThreadPoolExecutor(self.concurrency)
        open_: dict[Future, Mapping[str, Any]] = {}
        try:
            while True:
                # Two questions per worker keep everybody busy without holding every picture of the task.
                while len(open_) < 2 * self.concurrency and (row := next(rows, None)) is not None:
                    open_[pool.submit(self._replies, row)] = row
                if not open_:
                    return
                for future in wait(open_, return_when=FIRST_COMPLETED).done:
                    row, replies = open_.pop(future), future.result()
                    silent = silent + 1 if all(reply.error == "connection" for reply in replies) else 0
                    yield row, replies
                    if silent >= max(3, self.concurrency):
                        raise ServerDown(f"{self.url} does not answer ({replies[-1].message}). Is it running?")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _replies(self, row: Mapping[str, Any]) -> list[Reply]:
        messages = chat_messages(row)
        return [self._ask(messages, self.seed + sample) for sample in range(self.num_samples)]

    def _ask(self, messages: list[dict], seed: int) -> Reply:
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": seed,
        }
        data = json.dumps(body).encode()
        reply = Reply(error="connection", message="not asked")
        for attempt in range(self.attempts):
            reply, pause = self._once(data)
            if reply.error is None or pause is None:
                return reply
            if attempt + 1 < self.attempts:
                wanted = self.backoff * 2**attempt * random.uniform(0.75, 1.25)
                time.sleep(min(60.0, max(pause, wanted)))
        return reply

    def _once(self, data: bytes) -> tuple[Reply, float | None]:
        """One request: its reply, and the least seconds to wait before another attempt (None: do not try again)."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        try:
            request = urllib.request.Request(self.url, data, headers)
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return parse_reply(response.read()), 0.0
        except urllib.error.HTTPError as error:
            text = _body(error)
            if error.code in _HOPELESS:
                raise ServerDown(f"{_HOPELESS[error.code]} (HTTP {error.code}: {text})") from None
            pause = _seconds(error.headers.get("Retry-After")) if error.code in _AGAIN else None
            return Reply(error=f"http {error.code}", message=text), pause
        except TimeoutError:
            return Reply(error="timeout", message=f"no reply within {self.timeout:g} s"), 0.0
        except (http.client.HTTPException, ConnectionError) as error:  # it hung up: nothing, or half a reply
            return Reply(error="garbage", message=f"{type(error).__name__}: {error}"), 0.0
        except OSError as error:  # URLError, too
            if isinstance(getattr(error, "reason", None), TimeoutError):
                return Reply(error="timeout", message=f"no reply within {self.timeout:g} s"), 0.0
            return Reply(error="connection", message=str(getattr(error, "reason", error))), 0.0


def parse_reply(data: bytes) -> Reply:
    """The text of a chat completion; anything else is a failed reply of kind "garbage".

    An empty text from a model that did generate tokens is an (empty) response; nothing at all is garbage.
    """
    try:
        body = json.loads(data)
        choice = body["choices"][0]
        text = choice["message"]["content"]
        reasoning = choice["message"].get("reasoning_content") or choice["message"].get("reasoning")
        length = (body.get("usage") or {}).get("completion_tokens")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = data[:200].decode(errors="replace")
        return Reply(error="garbage", message=f"no chat completion ({type(error).__name__}): {shown!r}")
    if text is None and (reasoning or length):
        text = ""  # it thought up to its limit and never answered
    if not isinstance(text, str):
        return Reply(error="garbage", message=f"the completion has no text: {data[:200].decode(errors='replace')!r}")
    length = length if isinstance(length, int) else None
    return Reply(text, length=length, truncated=choice.get("finish_reason") == "length")


def chat_messages(row: Mapping[str, Any]) -> list[dict]:
    """The row's prompt as chat messages, its pictures as lossless data URLs in front of the user's text."""
    pictures = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in row["images"]]
    messages = []
    for message in row["prompt"]:
        content: Any = message["content"]
        if message["role"] == "user" and pictures:
            content, pictures = [*pictures, {"type": "text", "text": content}], []
        messages.append({"role": message["role"], "content": content})
    return messages


def data_url(image: Any) -> str:
    """A PIL picture as a PNG data URL."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read()[:500].decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _seconds(value: str | None) -> float:
    try:
        return max(0.0, float(value or 0))
    except ValueError:  # a date
        return 0.0
