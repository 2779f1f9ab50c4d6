"""The same function over many items: in order, on whichever backend, nothing forked, and what
happens at an error or Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time

import joblib
import numpy  # noqa: F401 (its BLAS)
import pytest
import sklearn.linear_model  # noqa: F401 (OpenMP)
from conftest import ROOT
from threadpoolctl import threadpool_info

from ser.run import parallel


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_results_stand_in_order(count):
    assert parallel.over(lambda item: item + 1, range(count), "count") == list(range(1, count + 1))


def test_results_come_as_soon_as_their_turn_comes(capsys):
    last = threading.Event()

    def wait(item: int) -> int:
        assert item < 90 or last.wait(10)
        return item

    for item in parallel.streamed(wait, range(100), "count"):
        if item == 50:  # before the last have been done
            last.set()
    assert "100/100" in capsys.readouterr().err


def where(_) -> tuple[int, int]:
    """This process, and the largest number of threads that a library would start here."""
    return os.getpid(), max(pool["num_threads"] for pool in threadpool_info())


def test_all_work_is_done_in_this_process_with_a_thread_for_each_item():
    before = threadpool_info()
    assert set(parallel.over(where, range(100), None)) == {(os.getpid(), 1)}
    assert threadpool_info() == before


@pytest.mark.slow
def test_any_backend_of_joblib_can_do_the_work():
    """Threads are no more than a preference: as with Dask, chunks go to other processes here."""
    with joblib.parallel_config(backend="loky", n_jobs=2):
        done = parallel.over(where, range(20), None)
    assert os.getpid() not in {process for process, _ in done}
    assert {threads for _, threads in done} == {1}


def test_an_error_is_raised_and_the_rest_left_alone():
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        time.sleep(0.001)
        if item == 20:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        parallel.over(fail, range(2000), None)
    assert len(begun) < 1000


SCRIPT = """
import signal
import time
from ser.run import errors, parallel

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it

def nap(item):
    if item == 0:
        print(item, flush=True)
    time.sleep(0.05)

@errors.one_line
def main():
    parallel.over(nap, range(1000), None)

main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_one_line(tmp_path, end):
    (tmp_path / "napping.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "-m", "napping"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.send_signal(end)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + end
    assert stderr.splitlines() == ["napping: interrupted"]


FAILING = """
import numpy as np
import soxr
from ser.run import errors, parallel

samples = np.zeros(2_000_000, np.float32)

def resample(item):
    if item == 40:
        raise errors.UserError("item 40")
    soxr.resample(samples, 48000, 16000)

@errors.one_line
def main():
    parallel.over(resample, range(1000), None)

main()
"""


@pytest.mark.slow
def test_a_mistake_is_one_line_though_other_threads_are_at_work_in_a_library(tmp_path):
    """Where Python takes threads apart that are inside C++, the process is aborted."""
    (tmp_path / "failing.py").write_text(FAILING)
    done = subprocess.run(
        [sys.executable, "-m", "failing"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "failing: item 40\n")
