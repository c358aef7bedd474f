"""Who is asked what: the models behind the roles, with every answer kept in the journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.examples import RejectError
from data_prep.synthesize.client import ChatClient, ChatError
from data_prep.synthesize.journal import Journal
from data_prep.synthesize.rows import Question


@dataclass(frozen=True)
class Role:
    """A model behind a server.

    Attributes:
        client: the server.
        model: the name under which it serves the model.
        price_in, price_out: per million tokens of prompt and completion, or None.
    """

    client: ChatClient
    model: str
    price_in: float | None = None
    price_out: float | None = None


@dataclass(frozen=True)
class Roles:
    """Asks the model of a role, unless the journal knows the answer to the very same request.

    Attributes:
        roles: name -> model.
        journal: of the run.
        max_tokens, temperature, seed: of every request.
        extra: further fields of every request; None takes a field out.
    """

    roles: Mapping[str, Role]
    journal: Journal
    max_tokens: int = 4096
    temperature: float = 0.7
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def ask(
        self,
        role: str,
        row: Question,
        instruction: str,
        pictures: bool = False,
        sample: int = 0,
        step: str | None = None,
    ) -> str:
        """The text that the role's model answers.

        Args:
            role: who.
            row: about which question; its pictures go in front of the instruction when `pictures`.
            instruction: the user's turn.
            sample: number of the try; another number is another request.
            step: name of the call in the journal; the role's by default.

        Raises:
            RejectError: `server_error` when the request failed for good (the next run asks again), `truncated` when
                the answer ran into `max_tokens`, `image` when a picture cannot be sent.
            ServerUnusable: no request can succeed.
        """
        step = step or role
        body = self._body(role, row.pictures() if pictures else [], instruction, sample)
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        record = self.journal.get(key)
        if record is None:
            record = self._ask(role, body, {"id": row.id, "index": row.index, "step": f"{step}/{sample}"}, key)
        if record["truncated"]:
            raise RejectError("truncated", f"{step}/{sample}: cut off at {self.max_tokens} tokens; see --max-tokens")
        return record["text"]

    def cost(self) -> dict[str, Any]:
        """Calls, tokens and money per role and in total; money is None where a role has no price."""
        counts = {name: dict(spent) for name, spent in sorted(self.journal.spent.items())}
        for name, spent in counts.items():
            spent["cost"] = self._price(name, spent)
        total: dict[str, Any] = {}
        for spent in counts.values():
            for name, value in spent.items():
                before = total.get(name, 0)
                total[name] = None if value is None or before is None else before + value
        return {"by_role": counts, "total": total}

    def stop(self) -> None:
        """Send nothing any more."""
        for role in self.roles.values():
            role.client.stop()

    def _body(self, role: str, pictures: list[str], instruction: str, sample: int) -> dict[str, Any]:
        content: Any = instruction
        if pictures:
            images = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
            content = [*images, {"type": "text", "text": instruction}]
        body = {
            "model": self.roles[role].model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed + sample,
            **self.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _ask(self, role: str, body: dict[str, Any], where: dict[str, Any], key: str) -> dict[str, Any]:
        where = {**where, "role": role, "model": self.roles[role].model}
        try:
            reply = self.roles[role].client.chat(body)
        except ChatError as error:
            tokens = {"prompt_tokens": error.prompt_tokens, "completion_tokens": error.completion_tokens}
            if error.kind != "stopped" or any(tokens.values()):
                self.journal.append({**where, "error": str(error), **tokens})
            raise RejectError("server_error", f"{where['step']}: {error}") from None
        record = {**where, "key": key, **vars(reply)}
        self.journal.append(record)
        return record

    def _price(self, name: str, spent: Mapping[str, int]) -> float | None:
        role = self.roles.get(name)
        if role is None or role.price_in is None or role.price_out is None:
            return None
        return (spent["prompt_tokens"] * role.price_in + spent["completion_tokens"] * role.price_out) / 1e6
