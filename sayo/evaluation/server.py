"""Ask a model behind an OpenAI-compatible server, many questions at once."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sayo.client import ChatClient, ChatError, as_completed, with_images
from sayo.evaluation.local import Answered, LocalModel
from sayo.evaluation.records import Reply


class ServerModel:
    """A served policy, and the same weights in this process where its attention is wanted.

    Args:
        reader: reads the attention of the answers in a scoring pass; None where none is wanted.
        num_samples: completions per question, one request each.
        concurrency: questions at once.
        seed: sent with every request (plus the number of the sample), for servers that honour it.
    """

    def __init__(
        self,
        client: ChatClient,
        reader: LocalModel | None = None,
        *,
        num_samples: int = 1,
        temperature: float = 0.0,
        max_new_tokens: int = 256,
        concurrency: int = 16,
        seed: int = 0,
    ):
        self.client, self.reader = client, reader
        self.num_samples, self.concurrency, self.seed = num_samples, concurrency, seed
        self._fields = {"temperature": temperature, "max_tokens": max_new_tokens}

    def answer(self, rows: Iterable[Mapping[str, Any]], attention: bool = False) -> Iterator[Answered]:
        """Every row with its replies as they come; a failed request is a failed reply, or raises ServerUnusable."""
        for row, replies in as_completed(self._ask, rows, self.concurrency):
            yield row, self.reader.read(row, replies) if attention and self.reader else replies

    async def _ask(self, row: Mapping[str, Any]) -> list[Reply]:
        messages, replies = with_images(row["prompt"], row["images"]), []
        for seed in range(self.seed, self.seed + self.num_samples):
            try:
                reply = await self.client.ask(messages, seed=seed, **self._fields)
                truncated = reply.finish_reason == "length"
                replies.append(Reply(reply.text, length=reply.completion_tokens, truncated=truncated))
            except ChatError as error:
                replies.append(Reply(error=error.kind, message=error.message))
        return replies
