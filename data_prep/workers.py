"""Run a function over many jobs, in this process or in several, with the results in the order of the jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from data_prep.examples import PrepareError

_POLL = 0.2  # seconds between two looks at how far the workers are
_on_rows: Callable[[int], None] | None = None  # of this process, set below


def report_rows(rows: int) -> None:
    """Called by a job in whatever process: that many more rows are done."""
    if _on_rows is not None:
        _on_rows(rows)


def run_jobs(
    function: Callable[..., Any], jobs: Iterable[tuple], num_proc: int, on_rows: Callable[[int], None]
) -> Iterator[Any]:
    """Yield `function(*job)` for each job, in order; at most one job waits for each process.

    Args:
        on_rows: is told how many more rows the jobs have reported since the last call.

    Raises:
        PrepareError: a worker process died.
    """
    global _on_rows
    if num_proc == 1:
        _on_rows = on_rows
        try:
            for job in jobs:
                yield function(*job)
        finally:
            _on_rows = None
        return
    import multiprocessing

    # spawn: a fork would copy the locks of pyarrow's and rich's threads in whatever state they are
    context = multiprocessing.get_context("spawn")
    counter, shown = context.Value("q", 0), 0
    running: deque[Future] = deque()

    def first_result() -> Any:
        nonlocal shown
        future = running.popleft()
        while not wait([future], timeout=_POLL).done:
            on_rows(counter.value - shown)
            shown = counter.value
        on_rows(counter.value - shown)
        shown = counter.value
        return future.result()

    with ProcessPoolExecutor(num_proc, context, _start_worker, (counter,)) as executor:
        try:
            for job in jobs:
                running.append(executor.submit(function, *job))
                if len(running) > num_proc:
                    yield first_result()
            while running:
                yield first_result()
        except BrokenProcessPool:
            raise PrepareError(
                "a worker process died (out of memory?). Run the same command with a smaller --num-proc; finished "
                "shards are kept"
            ) from None
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _start_worker(counter: Any) -> None:
    """A killed command must not leave workers behind that write into the next run's folder."""
    import gc
    import multiprocessing
    import os
    import threading

    import pyarrow as pa

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    def count(rows: int) -> None:
        with counter.get_lock():
            counter.value += rows

    global _on_rows
    _on_rows = count
    gc.freeze()  # what the imports made lives on: the collector need not walk through it again and again
    threading.Thread(target=watch, daemon=True).start()
    pa.set_cpu_count(1)


@contextmanager
def progress_bar(total: int, verb: str) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """(`advance(rows)`, `say(text)`) of a bar on stderr with rows/s and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn
    from rich.text import Text

    class RowsPerSecond(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} rows/s" if speed else "", style="progress.data.speed")

    columns = (verb, BarColumn(), MofNCompleteColumn(), RowsPerSecond(), "left", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(verb, total=total)
        yield lambda rows: progress.advance(task, rows), progress.console.print
