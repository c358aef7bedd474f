"""One chat completion at a time from an OpenAI-compatible server, with retries and an honest count of tokens."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from sayo.answers.extract import completion_text

_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_HOPELESS = {
    401: "the server refuses the key; check the variable that --api-key-env names",
    403: "the server refuses the key; check the variable that --api-key-env names",
    404: "the server has no such model or path; check the model's name and --server, which ends in /v1",
}
_MAX_BYTES = 16 << 20  # of a reply
_LONGEST_WAIT = 300.0  # seconds between two attempts, whatever a server asks for


@dataclass(frozen=True)
class ChatReply:
    """What came back.

    Attributes:
        text: of the completion.
        truncated: it was cut off at the limit of tokens.
        prompt_tokens, completion_tokens: as the server counts them, summed over all attempts that it counted (an
            attempt that came back as garbage is paid for, too).
        counted: whether the server counted the attempt that succeeded.
        attempts: requests sent.
    """

    text: str
    truncated: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = False
    attempts: int = 1


class ChatError(RuntimeError):
    """This request failed for good.

    Args:
        kind: "http 500", "timeout", "connection", "garbage" or "stopped".
        message: what happened, for people.
        prompt_tokens, completion_tokens: what the failed attempts cost nevertheless.
    """

    def __init__(self, kind: str, message: str, prompt_tokens: int = 0, completion_tokens: int = 0):
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens


class ServerUnusable(RuntimeError):
    """No request to this server can succeed as things are; the message says what to change."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would lose its body and hand the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class ChatClient:
    """A server's `/chat/completions`; may be used by many threads at once.

    Args:
        url: base address such as `http://host:8000/v1`; a query stays where it is.
        api_key: sent as bearer token, or None.
        attempts: times that a request is sent before it fails.
        timeout: seconds for one request, from sending to the last byte.
        backoff: seconds before the second attempt, doubled from attempt to attempt. A `Retry-After` (seconds or date)
            of at most 5 minutes is obeyed; a longer one fails the request.

    Raises:
        ValueError: the address is not http(s).
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, attempts: int = 6, timeout: float = 300.0, backoff: float = 1.0
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url!r} is no address of a server; give one such as http://localhost:8000/v1")
        path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.url = parts._replace(path=path).geturl()
        self.attempts, self.timeout, self.backoff = attempts, timeout, backoff
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "sayo"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let no request wait for another attempt, and send none any more."""
        self._stopped.set()

    def chat(self, body: Mapping[str, Any]) -> ChatReply:
        """Send a request (`model`, `messages`, ...) until it succeeds.

        Raises:
            ChatError: it failed for good.
            ServerUnusable: wrong key, model or address.
        """
        data = json.dumps(body).encode()
        prompt_tokens = completion_tokens = 0
        for attempt in range(1, self.attempts + 1):
            if self._stopped.is_set():
                raise ChatError("stopped", "the run was stopped", prompt_tokens, completion_tokens)
            outcome, pause = self._once(data)
            prompt_tokens += outcome.prompt_tokens
            completion_tokens += outcome.completion_tokens
            if isinstance(outcome, ChatReply):
                tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
                return replace(outcome, attempts=attempt, **tokens)
            if pause is None or pause > _LONGEST_WAIT or attempt == self.attempts:
                break
            wanted = self.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
            self._stopped.wait(max(pause, min(60.0, wanted)))
        raise ChatError(outcome.kind, str(outcome).partition(": ")[2], prompt_tokens, completion_tokens)

    def _once(self, data: bytes) -> tuple[ChatReply | ChatError, float | None]:
        """One request, and the least seconds to wait before another (None: do not try again)."""
        try:
            request = urllib.request.Request(self.url, data, self._headers)
            with self._opener.open(request, timeout=self.timeout) as response:
                return parse_reply(self._read(response)), 0.0
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except TimeoutError:
            return ChatError("timeout", f"no reply within {self.timeout:g} s"), 0.0
        except (http.client.HTTPException, ConnectionError) as error:  # it hung up: nothing, or half a reply
            return ChatError("garbage", f"{type(error).__name__}: {error}"), 0.0
        except OSError as error:  # URLError, too
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return ChatError("timeout", f"no connection within {self.timeout:g} s"), 0.0
            return ChatError("connection", str(reason)), 0.0

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The body; a server that trickles or never ends runs into the limits."""
        deadline, parts, size = time.monotonic() + self.timeout, [], 0
        while part := response.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _MAX_BYTES:
                raise http.client.HTTPException(f"a reply of more than {_MAX_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise TimeoutError
        return b"".join(parts)

    def _refused(self, error: urllib.error.HTTPError) -> tuple[ChatError, float | None]:
        try:
            text = error.read1(500).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            text = ""
        if error.code in _HOPELESS:
            raise ServerUnusable(f"{_HOPELESS[error.code]} (HTTP {error.code}: {text})") from None
        if 300 <= error.code < 400:
            where = error.headers.get("Location")
            raise ServerUnusable(f"{self.url} redirects to {where}; give --server the final address") from None
        pause = seconds_to_wait(error.headers.get("Retry-After")) if error.code in _AGAIN else None
        return ChatError(f"http {error.code}", text), pause


def seconds_to_wait(value: str | None) -> float:
    """A `Retry-After` header (seconds or an HTTP date) in seconds; 0 for none, the past or nonsense."""
    try:
        seconds = float(value or 0)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - datetime.now(timezone.utc)).total_seconds()
    return seconds if seconds > 0 else 0.0  # also of NaN


def parse_reply(data: bytes) -> ChatReply | ChatError:
    """A chat completion, or a "garbage" error with the tokens that it cost nevertheless."""
    shown = repr(data[:200].decode(errors="replace"))
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        return ChatError("garbage", f"no JSON ({type(error).__name__}): {shown}")
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = [count or 0 for count in counts]
    try:
        choice = body["choices"][0]
        text = completion_text([{**choice["message"], "role": "assistant"}])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        return ChatError("garbage", f"no chat completion ({type(error).__name__}): {shown}", *tokens)
    truncated = choice.get("finish_reason") == "length"
    if not text.strip() and not truncated:
        return ChatError("garbage", f"the completion has no text: {shown}", *tokens)
    return ChatReply(text, truncated, *tokens, counted=None not in counts)


def _count(usage: Any, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None
