"""Engines: the same results in the same order, errors as they are, no worker left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT

from rsvlm.data import workers as engines
from rsvlm.errors import ConfigError, MissingExtraError, RsvlmError

HERE = ROOT / "tests"


class OwnError(Exception):
    """An error of the work's own kind, with more than a message."""

    def __init__(self, item: int) -> None:
        super().__init__(item)
        self.item = item


def square(plus: int, item: int) -> int:
    time.sleep(0.02 * (item % 3))  # later items are often done earlier
    return item * item + plus


def fail_at_five(item: int) -> int:
    if item == 5:
        raise OwnError(item)
    return item


def die_at_three(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def tell_process(item: int) -> tuple[int, str, str]:
    return os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"]


def sleep_and_touch(folder: str, item: int) -> int:
    Path(folder, f"started-{item}-{os.getpid()}").touch()
    time.sleep(60)
    return item


def counted(items: int, taken: list[int]) -> Iterator[int]:
    for item in range(items):
        taken.append(item)
        yield item


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False


def wait_for(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(met)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_of_the_items(workers):
    assert list(engines.run(partial(square, 7), iter(range(20)), workers=workers)) == [i * i + 7 for i in range(20)]
    assert list(engines.run(partial(square, 7), [], workers=workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_few_items_are_held_and_errors_come_as_they_are(workers):
    taken: list[int] = []
    results = engines.run(fail_at_five, counted(1000, taken), workers=workers)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4] and len(taken) <= 5 + 2 * workers
    with pytest.raises(OwnError) as caught:
        next(results)
    assert caught.value.item == 5 and len(taken) <= 6 + 2 * workers


def test_one_worker_is_this_process_and_many_are_others_with_one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert {pid for pid, *_ in engines.run(tell_process, range(3), workers=1)} == {os.getpid()}
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    found = list(engines.run(tell_process, range(8), workers=2))
    assert os.getpid() not in {pid for pid, *_ in found} and {
        threads for _, *threads in map(list, found) for threads in threads
    } == {"1"}


def test_a_worker_that_dies_is_told():
    with pytest.raises(RsvlmError, match="a worker process died.*memory"):
        list(engines.run(die_at_three, range(50), workers=2))


def test_a_closed_run_stops_its_workers(tmp_path):
    results = engines.run(partial(sleep_and_touch, str(tmp_path)), range(7), workers=2)

    def interrupt(*_):
        raise KeyboardInterrupt

    def send():
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2, 60)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        threading.Thread(target=send).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            next(results)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 55  # less than the work takes
    pids = [int(path.name.rpartition("-")[2]) for path in tmp_path.iterdir()]
    assert pids and wait_for(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_workers_end_when_their_maker_is_killed(tmp_path):
    program = (
        "from functools import partial\nimport test_workers\nfrom rsvlm.data import workers\n"
        f"list(workers.run(partial(test_workers.sleep_and_touch, {str(tmp_path)!r}), range(4), workers=2))\n"
    )
    path = os.pathsep.join([str(HERE), str(HERE / "data"), str(ROOT)])
    maker = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path})
    try:
        assert wait_for(lambda: len(list(tmp_path.iterdir())) == 2, 60)
    finally:
        maker.kill()
        maker.wait()
    pids = [int(path.name.rpartition("-")[2]) for path in tmp_path.iterdir()]
    assert wait_for(lambda: not any(alive(pid) for pid in pids))


def test_bad_requests_stop_at_the_call(monkeypatch):
    with pytest.raises(ConfigError, match="local or ray"):
        engines.run(abs, [1], engine="spark")
    with pytest.raises(ConfigError, match="workers is -1"):
        engines.run(abs, [1], workers=-1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"rsvlm\[scale\]"):
        engines.run(abs, [1], engine="ray")


def test_cores_are_those_this_process_may_use():
    assert 1 <= engines.cores() <= (os.cpu_count() or 1)
