"""Run a function over many jobs, in this process or in several, with the results in the order of the jobs."""

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError
from sayo.errors import SayoError


def run_jobs(function: Callable[..., Any], jobs: Iterable[tuple], num_proc: int) -> Iterator[Any]:
    """Yield `function(*job)`, in order; at most one job waits for each process. PrepareError: a process died."""
    if num_proc == 1:
        yield from (function(*job) for job in jobs)
        return
    # spawn: a fork would copy the locks of pyarrow's and rich's threads in whatever state they are
    context = multiprocessing.get_context("spawn")

    def submit(job: tuple) -> Future:
        """Workers inherit the mask that is set meanwhile: Ctrl-C is for this process, and they finish their shards."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return executor.submit(function, *job)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    running: deque[Future] = deque()
    with ProcessPoolExecutor(num_proc, context, _start_worker) as executor:
        try:
            for job in jobs:
                running.append(submit(job))
                if len(running) > num_proc:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise PrepareError(
                "a worker process died (out of memory?). Run the same command with a smaller --num-proc; finished "
                "shards are kept"
            ) from None
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    """A killed command must not leave workers behind that write into the next run's folder."""
    import pyarrow as pa

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    gc.freeze()  # what the imports made lives on: the collector need not walk through it again and again
    threading.Thread(target=watch, daemon=True).start()
    pa.set_cpu_count(1)


class Stopped(SayoError):
    """Ctrl-C."""

    exit_status, label = 130, "stopped"


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Keep other commands out of the folder `out` meanwhile, and turn Ctrl-C into one line.

    Raises:
        PrepareError: another command is writing there.
        Stopped: Ctrl-C.
    """
    from filelock import FileLock, Timeout

    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.absolute().with_name(f".{out.absolute().name}.lock"), timeout=0)
    try:
        with lock:
            try:
                yield
            finally:
                os.unlink(lock.lock_file)
    except Timeout:
        raise PrepareError(
            f"--out: another command is writing into {out}; wait for it, or choose another folder"
        ) from None
    except KeyboardInterrupt:
        kept = len(list(out.glob("data/*.parquet")))
        raise Stopped(f"{kept} complete files in {out}/data are kept; the same command goes on after them") from None


@contextmanager
def progress_bar(total: int, verb: str) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """(`advance(rows)`, `say(text)`) of a bar on stderr with the rows done and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = verb, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(verb, total=total)
        yield lambda rows: progress.advance(task, rows), progress.console.print
