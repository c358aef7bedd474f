"""Who is asked what: the models behind the roles, with every answer on disk as soon as it comes."""

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError
from data_prep.synthesize.rows import PreparedQuestion
from sayo.client import ChatClient, ChatError, with_images
from sayo.errors import RejectedError, SayoError


class ReplyJournal(AbstractContextManager):
    """`journal.jsonl`: one line per answer, appended in one write and flushed to the disk.

    A line holds `key` (the digest of the whole request), `id` and `index` of the row, `role`, `sample`, `model`, and
    the fields of `sayo.client.ChatReply`. A last line that was torn when a run was killed is cut off.

    Raises:
        PrepareError: another run writes to it, or a line in its middle is broken.
    """

    def __init__(self, path: Path):
        self.answers: dict[str, dict[str, Any]] = {}  # key -> line
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrepareError(f"another run writes to {path}; wait for it, or choose another --out") from None
        end = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    self._file.truncate(end)
                    break
                try:
                    answer = json.loads(line)
                    self.answers[answer["key"]] = answer
                except (ValueError, KeyError, TypeError):
                    mend = "remove that line to ask again, or choose another --out"
                    raise PrepareError(f"{path}, line {number} is not an answer: {mend}") from None
                end += len(line)

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, answer: dict[str, Any]) -> None:
        """Write an answer down."""
        line = json.dumps(answer).encode() + b"\n"  # ASCII, so that lone surrogates pass unharmed
        while line:  # a full disk raises; a short write is finished
            line = line[self._file.write(line) :]
        os.fsync(self._file.fileno())
        self.answers[answer["key"]] = answer

    def tokens(self) -> dict[str, dict[str, int]]:
        """role (and "total") -> `answers`, `prompt_tokens`, `completion_tokens`, `answers_without_counts`."""
        tokens: dict[str, Counter[str]] = {}
        for answer in self.answers.values():
            counts = {name: answer[name] or 0 for name in ("prompt_tokens", "completion_tokens")}
            uncounted = int(None in (answer["prompt_tokens"], answer["completion_tokens"]))
            for role in (answer["role"], "total"):
                tokens.setdefault(role, Counter()).update(answers=1, **counts, answers_without_counts=uncounted)
        return {role: dict(counts) for role, counts in sorted(tokens.items())}


@dataclass(frozen=True)
class Roles:
    """Asks the model of a role, unless the journal has the answer to the very same request.

    Attributes:
        seed: of the first sample; the next ones have the next seeds.
        fields: further fields of every request, such as `max_tokens`; None is not sent.
    """

    clients: Mapping[str, ChatClient]
    journal: ReplyJournal
    seed: int
    fields: Mapping[str, Any]

    async def ask(
        self, role: str, row: PreparedQuestion, instruction: str, images: bool = False, sample: int = 0
    ) -> str:
        """The answer to an instruction, which comes after the images of the row if `images`.

        Raises:
            RejectedError: `truncated`, the answer was cut off; `image`, there is none or one is broken.
            ChatError: the request failed for good; the next run asks again.
            ServerUnusable: no request can succeed.
        """
        if images and not row.images:
            raise RejectedError("image", "the row has no image")
        try:
            messages = with_images([{"role": "user", "content": instruction}], row.images if images else [])
        except (OSError, ValueError, SyntaxError) as error:  # see sayo.client.data_url
            raise RejectedError("image", f"cannot be read ({type(error).__name__}: {error})") from None
        client = self.clients[role]
        fields = {"seed": self.seed + sample, **self.fields}
        request = json.dumps({"model": client.model, "messages": messages, **fields}, sort_keys=True)
        key = hashlib.sha256(request.encode()).hexdigest()
        answer = self.journal.answers.get(key)
        if answer is None:
            try:
                reply = await client.ask(messages, **fields)
            except ChatError as error:
                raise ChatError(error.kind, f"{role}/{sample}: {error.message}") from None
            where = {"key": key, "id": row.id, "index": row.index, "role": role, "sample": sample}
            answer = {**where, "model": client.model, **reply._asdict()}
            self.journal.append(answer)
        if answer["finish_reason"] == "length":
            raise RejectedError("truncated", f"{role}/{sample}: cut off at the limit of tokens; see --max-tokens")
        return answer["text"]


def clients_of(
    roles: Sequence[str], models: str, servers: str, keys: str, *, concurrency: int, timeout: float
) -> dict[str, ChatClient]:
    """role -> model, from the options `--model`, `--server`, `--api-key-env`, `--concurrency` and `--timeout`."""
    kwargs = {"timeout": timeout, "patience": max(20, 2 * concurrency)}  # one bad moment fails all that are under way
    by_role, urls = _by_role(models, roles, "--model"), _by_role(servers, roles, "--server")
    variables = _by_role(keys, roles, "--api-key-env")
    return {role: ChatClient(urls[role], by_role[role], api_key_env=variables[role], **kwargs) for role in by_role}


def _by_role(value: str, roles: Sequence[str], option: str) -> dict[str, str]:
    """ "x" for all roles, or "describe=x,reason=y"."""
    parts = [part.partition("=") for part in value.split(",")]
    if not any(name in roles for name, equals, _ in parts if equals):
        return dict.fromkeys(roles, value)
    given = {name: text for name, _, text in parts}
    if set(given) != set(roles):
        raise SayoError(f"{option} {value}: give one value, or one for each of {', '.join(roles)}")
    return given
