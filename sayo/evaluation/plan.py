"""What one call of `sayo evaluate` asks, of whom, and with which settings."""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sayo.evaluation.local import LocalModel
from sayo.evaluation.questions import Questions
from sayo.evaluation.run import Answerer
from sayo.evaluation.server import Server
from sayo.evaluation.tasks import TaskError, load_task


@dataclass(frozen=True)
class Plan:
    """The settings that results depend on; see `sayo evaluate --help`."""

    model: str
    server: str | None
    server_model: str
    num_samples: int
    temperature: float
    max_new_tokens: int
    system_prompt: str | None
    layers: str
    attention: bool
    seed: int
    steer: str | None = None

    @classmethod
    def of(
        cls,
        model: str,
        benchmark: bool,
        server: str | None,
        server_model: str | None,
        num_samples: int | None,
        temperature: float | None,
        max_new_tokens: int | None,
        **others: Any,
    ) -> Plan:
        """The settings with their defaults: a benchmark is answered once and greedily, own rows are sampled."""
        return cls(
            model=model,
            server=server,
            server_model=server_model or model,
            num_samples=num_samples or (1 if benchmark else 4),
            temperature=temperature if temperature is not None else (0.0 if benchmark else 1.0),
            max_new_tokens=max_new_tokens or (2048 if benchmark else 256),
            **others,
        )

    def settings(self) -> dict[str, Any]:
        """As `settings.json` keeps them. Where a server runs does not matter, what it serves does."""
        values = dataclasses.asdict(self)
        values["server"] = self.server is not None
        if self.server is None:
            del values["server_model"]
            values["model_files"] = files_mark(self.model)
        return values

    def answerer(self, *, batch_size: int, concurrency: int, timeout: float, attempts: int) -> Answerer:
        """The server's client, or the model, loaded."""
        options = {
            "num_samples": self.num_samples,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }
        if self.server:
            limits = {"concurrency": concurrency, "timeout": timeout, "attempts": attempts}
            return Server(self.server, self.server_model, **limits, **options)
        import torch

        from sayo.processors import load_auto_processor
        from sayo.recipes import ModelSection
        from sayo.training.setup import load_policy

        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        policy = load_policy(ModelSection(name_or_path=self.model, dtype=dtype))
        if torch.cuda.is_available():
            policy = policy.cuda()
        processor = load_auto_processor(self.model)
        return LocalModel(policy, processor, batch_size=batch_size, layers=self.layers, **options)

    def steering(self, answerer: Answerer) -> AbstractContextManager:
        """Within it the model answers, and is read, with its attention steered (`--steer`).

        Raises:
            TaskError: an unknown way to steer, or a server, whose attention is out of reach.
        """
        if self.steer is None:
            return nullcontext()
        if self.steer != "vrga":
            raise TaskError(f"--steer {self.steer}: the one way to steer here is vrga.")
        if not isinstance(answerer, LocalModel):
            raise TaskError("--steer needs the model in this process: leave --server out.")
        from sayo.steering import AttentionSteering

        return AttentionSteering(answerer.model, answerer.processor)


@dataclass(frozen=True)
class Work:
    """One task to run: its questions, and where they came from (part of the settings)."""

    questions: Questions
    source: dict[str, Any]


def planned(
    plan: Plan, tasks: str | None, data: str | None, split: str, data_root: Path | None, limit: int | None
) -> tuple[list[Work], dict[str, str]]:
    """The tasks to run, and the tasks that cannot be run with the reason.

    Raises:
        TaskError: neither tasks nor data are named, or a task twice.
    """
    if tasks is None and data is None:
        raise TaskError("Say what to ask: --tasks mmstar,vstar (see recipes/tasks) or --data FOLDER of prepared rows.")
    entries = [entry.strip() for entry in (tasks or "local").split(",") if entry.strip()]
    work: list[Work] = []
    failures: dict[str, str] = {}
    for entry in entries:
        name, _, path = entry.partition("=")
        try:
            work.append(_work(plan, name, path or None, data, split, data_root, limit))
        except TaskError as error:
            failures[name] = str(error)
    names = [item.questions.task.name for item in work]
    if len(set(names)) < len(names):
        raise TaskError(f"A task is named twice in --tasks {tasks}: each has one folder under --out.")
    return work, failures


def _work(
    plan: Plan, name: str, path: str | None, data: str | None, split: str, data_root: Path | None, limit: int | None
) -> Work:
    task = load_task(name)
    if task.columns is None:
        path, task = path or data, dataclasses.replace(task, split=split)
    if path is None and data_root is not None:
        path = next((str(p) for p in sorted(data_root.glob(f"{task.name}*")) if p.stem == task.name), None)
    questions = Questions(task, path, seed=plan.seed, limit=limit, system_prompt=plan.system_prompt)
    return Work(questions, {"data": path or task.dataset, "data_files": files_mark(path, "**/*") if path else None})


def files_mark(path: str, pattern: str = "*") -> str | None:
    """A mark that changes when local files do (names, sizes, times); None for what is not here (a hub id).

    A checkpoint that was trained on under its old name must not be given the old results.

    Args:
        path: a folder or a file.
        pattern: of the files in the folder; results may lie below a checkpoint, so its sub-folders are left out.
    """
    root = Path(path)
    if not root.exists():
        return None
    files = [root] if root.is_file() else sorted(file for file in root.glob(pattern) if file.is_file())
    kept = [file for file in files if file.suffix in (".safetensors", ".bin", ".json", ".parquet", ".jsonl", ".csv")]
    marks = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in kept]
    return hashlib.sha1("\n".join(marks).encode()).hexdigest()[:12]
