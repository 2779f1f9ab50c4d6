"""The same function over many items: in order, a BLAS thread each, and what ends it early."""

import signal
import subprocess
import sys
import threading

import numpy  # noqa: F401 (its BLAS)
import pytest
import sklearn.linear_model  # noqa: F401 (OpenMP)
from conftest import ROOT
from threadpoolctl import threadpool_info

from ser.run import parallel


@pytest.mark.parametrize("count", [0, 1, 100])
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


def test_each_item_has_one_thread_of_blas_and_openmp():
    def threads(_) -> int:
        return max(pool["num_threads"] for pool in threadpool_info())

    before = threadpool_info()
    assert set(parallel.over(threads, range(100), None)) == {1}
    assert threadpool_info() == before


# The samples keep a thread inside a library for a while; more is printed than a pipe holds.
SCRIPT = """
import sys
import numpy as np
import soxr
from ser.run import errors, parallel

samples = np.zeros(1_000_000, np.float32)

def resample(item):
    print(item, flush=True)
    if str(item) in sys.argv:
        raise errors.UserError(f"item {item}")
    soxr.resample(samples, 48000, 16000)

@errors.one_line
def main():
    parallel.over(resample, range(20_000), None)

main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, None])
def test_a_signal_or_an_error_ends_all_threads_and_is_one_line(tmp_path, end):
    (tmp_path / "resampling.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "resampling", "" if end else "20"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # `&` has it ignored
    )  # fmt: skip
    first = process.stdout.readline()
    if end:
        process.send_signal(end)
    begun, stderr = process.communicate()
    assert process.returncode == (128 + end if end else 1)
    assert stderr == f"resampling: {'interrupted' if end else 'item 20'}\n"
    assert len([first, *begun.splitlines()]) < 20_000, "the rest is left alone"
