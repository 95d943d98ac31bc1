"""Work spread over cores or machines: the same function over the same items, results in the order of the items.

Two engines. `local` is a pool of processes on this machine, made anew for each run, never by forking: a copy of a process whose
other threads hold locks would wait for ever. `ray` is Ray Data, on a cluster when the environment variable RAY_ADDRESS names one,
else on this machine; this package has to be installed wherever it runs. Whatever is written has to be written by the work itself, to a
place that all workers see; what comes back is small. An engine changes how long work takes and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection

from rsvlm.errors import ConfigError, RsvlmError, need

ENGINES = ("local", "ray")

# Several workers with several threads each would fight for the cores.
_THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")


def run(work: Callable, items: Iterable, engine: str = "local", workers: int = 0) -> Iterator:
    """Apply a function to items, several at once; results come in the order of the items.

    A local run holds about two items per worker at a time, so memory does not grow with their number; `items` may be a generator.
    Ray is given all items at the start: keep them small there (names of files, rows of a table). When the work raises, items that
    others work on are still finished and no new ones are begun; when the run is interrupted or its iterator closed, workers are
    stopped at once, and they stop by themselves when this process is killed.

    Args:
        work: A function of one item, found by its name in a module, or a `functools.partial` of one. It is sent along with every
            item: let it hold paths, not arrays. A script that calls this needs `if __name__ == "__main__":`, since local workers
            import it.
        items: Items to work on; picklable.
        engine: `local` or `ray`.
        workers: Number of processes. If 0, as many as there are cores (see `cores`), in a cluster as many as fit; 1 with `local`: this
            process itself.

    Raises:
        ConfigError: An unknown engine or a negative number of workers; raised at the call, as the next.
        MissingExtraError: `ray` is asked for and not installed.
        RsvlmError: A worker process died.
        Exception: Whatever the work raises, as it is.
    """
    if engine not in ENGINES:
        raise ConfigError(f"there is no engine '{engine}': choose {' or '.join(ENGINES)}")
    if workers < 0:
        raise ConfigError(f"workers is {workers}: give the number of processes, or 0 for one per core")
    if engine == "ray":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import, which reads it: nothing about us is sent
        need("ray.data", "scale")
        return _ray(work, items, workers, need("ray", "scale"))
    return _local(work, items, workers or cores())


def cores() -> int:
    """Return how many cores this process may use: the size of a pool that is given no other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local(work: Callable, items: Iterable, workers: int) -> Iterator:
    if workers == 1:
        yield from map(work, items)
        return
    context = get_context("spawn")
    # Nothing is ever sent through this pipe. Its closing, by us or by our death, is what tells the workers to end.
    ours, theirs = context.Pipe(duplex=False)[::-1]
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(theirs,))
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RsvlmError(
            "a worker process died, often for want of memory: run again with fewer workers; "
            'where this was called from a script, the call belongs under if __name__ == "__main__":'
        ) from error
    except BaseException as error:
        if not isinstance(error, Exception):  # an interrupt, or the iterator was closed: workers stop at once
            ours.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        ours.close()
        theirs.close()


def _start_worker(pipe: Connection) -> None:
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    # An interrupt from the keyboard reaches every process; the one that was called decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()


def _end_with(pipe: Connection) -> None:
    with contextlib.suppress(OSError):
        pipe.poll(None)
    os._exit(1)


def _ray(work: Callable, items: Iterable, workers: int, ray) -> Iterator:
    # Ray would take items apart into columns; packed, they come out as they went in.
    pack, unpack = ray.cloudpickle.dumps, ray.cloudpickle.loads
    rows = [{"item": pack(item)} for item in items]
    packed = pack(work)
    if not rows:
        return

    def apply(row: dict) -> dict:
        for name in _THREADS:  # before the work is unpacked, which imports what reads them
            os.environ.setdefault(name, "1")
        try:
            return {"result": pack((True, unpack(packed)(unpack(row["item"]))))}
        except Exception as error:  # told as it is, not wrapped in Ray's own error
            return {"result": pack((False, error))}

    if started := not ray.is_initialized():
        logging.getLogger("ray").setLevel(logging.WARNING)
        local = {"address": "local", "num_cpus": workers or cores(), "include_dashboard": False}
        ray.init(logging_level=logging.WARNING, log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else local))
    try:
        context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        with ray.data.DataContext.current(context):
            # One item per block: a block's results come out together, and one item is one unit of work.
            data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 10_000))
            del rows
            pool = ray.data.TaskPoolStrategy(size=workers or None)
            for row in data.map(apply, num_cpus=1, compute=pool).iter_rows():
                good, result = unpack(row["result"])
                if not good:
                    raise result
                yield result
    finally:
        if started:
            ray.shutdown()
