"""The one client of OpenAI-compatible servers, such as vLLM's, on the `openai` package (extra `client`)."""

import asyncio
import base64
import io
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sayo.errors import SayoError

Item, Result = TypeVar("Item"), TypeVar("Result")
_SENT_AS_STORED = ("JPEG", "PNG", "WEBP")  # what every server decodes
_ORIENTATION = 0x0112  # EXIF tag
_WRONG_KEY = "the server refuses the key; check the environment variable {key}"
_WRONG_ADDRESS = "the server has no such model or path; check the model's name and the address, which ends in /v1"
_KINDS = {"APITimeoutError": "timeout", "APIConnectionError": "connection"}
_REFUSALS = {401: _WRONG_KEY, 403: _WRONG_KEY, 404: _WRONG_ADDRESS}


class ServerUnusable(SayoError):
    """No request to this server can succeed as things are; the message says what to change."""


class ChatError(SayoError):
    """One request failed for good; `kind`: "http 500" (or another status), "timeout", "connection" or "garbage"."""

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


class ChatReply(NamedTuple):
    """A completion, why it ended ("stop", "length", ...), and its numbers of tokens (None: the server counts none)."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class ChatClient:
    """A model behind a server. The package retries timeouts, lost connections and status 408, 409, 429 and 5xx.

    Args:
        base_url: such as `http://host:8000/v1`.
        model: the name under which the server serves it.
        api_key_env: environment variable that holds the key; servers of your own need none.
        timeout: seconds for one attempt, from sending to the last byte.
        max_retries: attempts after the first, with growing pauses or those that the server asks for.
        patience: requests that fail in a row until the server counts as unusable.

    Raises:
        SayoError: `base_url` is not an address, or `openai` is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 300.0,
        max_retries: int = 5,
        patience: int = 20,
    ):
        if not base_url.startswith(("http://", "https://")):
            raise SayoError(f"{base_url!r} is not the address of a server; give one such as http://localhost:8000/v1")
        self.model, self.patience, self._api_key_env = model, patience, api_key_env
        self._failed_in_a_row = 0
        key = os.environ.get(api_key_env) or "none"
        self._server = _server(timeout, base_url=base_url, api_key=key, max_retries=max_retries)

    async def ask(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> ChatReply:
        """One completion. To be called in the function that is given to `as_completed`.

        Args:
            messages: see `with_images`.
            fields: of the request, such as `max_tokens`, `temperature`, `seed`; None is not sent.

        Raises:
            ChatError: the request failed for good.
            ServerUnusable: wrong key, model or address, or the `patience` is over.
        """
        fields = {name: value for name, value in fields.items() if value is not None}
        completions = self._server.chat.completions
        try:
            reply = _parse(await completions.create(model=self.model, messages=messages, extra_body=fields))
        except Exception as error:  # of the package, or of reading what is not a completion
            raise self._failure(error) from None
        self._failed_in_a_row = 0
        return reply

    def _failure(self, error: Exception) -> SayoError:
        status, cause = getattr(error, "status_code", None), error.__cause__ or error
        text = (error.response.text if status else f"{type(cause).__name__}: {cause}")[:300]
        if status in _REFUSALS:
            return ServerUnusable(f"{_REFUSALS[status].format(key=self._api_key_env)} (HTTP {status}: {text})")
        failure = ChatError(f"http {status}" if status else _KINDS.get(type(error).__name__, "garbage"), text)
        self._failed_in_a_row += 1
        if self._failed_in_a_row < self.patience:
            return failure
        return ServerUnusable(f"{self._failed_in_a_row} requests failed in a row, the last with {failure}")


def _server(timeout: float, **kwargs: Any) -> Any:
    """`AsyncOpenAI` whose time limit holds for a whole attempt; its own holds for each read, and a trickle passes."""
    try:
        import httpx2
        import openai
    except ImportError:
        raise SayoError("a server is asked by the openai package: pip install openai") from None

    class HttpClient(openai.DefaultAsyncHttpxClient):
        async def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
            try:
                return await asyncio.wait_for(super().send(request, **kwargs), timeout)
            except asyncio.TimeoutError:
                raise httpx2.ReadTimeout(f"no reply within {timeout:g} s", request=request) from None

    http_client = HttpClient(follow_redirects=False)  # which would send images to another host
    return openai.AsyncOpenAI(timeout=None, http_client=http_client, **kwargs)


def _parse(completion: Any) -> ChatReply:
    """An empty text is a reply where tokens were generated (the model thought up to its limit), else garbage."""
    choice = completion.choices[0]
    counts = [getattr(completion.usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    counts = [count if type(count) is int and count >= 0 else None for count in counts]
    text = choice.message.content or ("" if counts[1] else None)
    if not isinstance(text, str):
        raise ValueError(f"the completion has no text: {completion}")
    return ChatReply(text, choice.finish_reason, *counts)


def with_images(prompt: Iterable[Mapping[str, Any]], images: Iterable[Any]) -> list[dict[str, Any]]:
    """The prompt as messages, with the images (see `data_url`) in front of the text of its first user turn."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    messages = [dict(turn) for turn in prompt]
    if parts:
        turn = next(turn for turn in messages if turn["role"] == "user")
        turn["content"] = [*parts, {"type": "text", "text": turn["content"]}]
    return messages


def data_url(image: Any) -> str:
    """A PIL image as PNG; an undecoded one of `datasets` (`{"bytes", "path"}`) as stored, where that is upright.

    Raises:
        OSError, ValueError, SyntaxError: Pillow's ways to say that an image is broken.
    """
    from PIL import Image, ImageOps

    if isinstance(image, Mapping):
        data = image["bytes"] if image.get("bytes") is not None else Path(image["path"]).read_bytes()
        image = Image.open(io.BytesIO(data))
        if image.format in _SENT_AS_STORED and image.getexif().get(_ORIENTATION, 1) == 1:
            return f"data:image/{image.format.lower()};base64,{base64.b64encode(data).decode()}"
    buffer = io.BytesIO()
    ImageOps.exif_transpose(image).convert("RGB").save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def as_completed(
    function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], num_workers: int = 8
) -> Iterator[tuple[Item, Result]]:
    """`await function(item)` for `num_workers` items at once; yields (item, result) in the order in which they end.

    Items are drawn when a worker is free, so memory is bounded. An error of `function`, Ctrl-C and closing the
    iterator cancel the running requests and end at once.
    """
    items, running = iter(items), {}
    try:
        while True:
            for item in islice(items, num_workers - len(running)):
                running[asyncio.run_coroutine_threadsafe(function(item), _event_loop())] = item
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """Runs in a thread that goes with the process, so that requests go on while the caller works with a result."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="sayo.client", daemon=True).start()
    return loop
