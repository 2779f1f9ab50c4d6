"""The benchmarks of fine-tuning run, in small, and print their figures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_models import write_checkpoint

pytestmark = pytest.mark.slow


def benchmark(
    python: str | Path, name: str, *options: object, **env: str
) -> subprocess.CompletedProcess:
    """Run a benchmark, whatever its exit code."""
    return subprocess.run(
        [python, "-m", f"benchmarks.{name}", *map(str, options)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def check(done: subprocess.CompletedProcess) -> None:
    """There are rates of all three sides; of ours the ratio is 1."""
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(ours|trainer|trainer best) +([\d.]+) +([\d.]+) ", done.stdout, re.M)
    assert [side for side, *_ in rows] == ["ours", "trainer", "trainer best"], done.stdout
    assert all(float(rate) > 0 for _, rate, _ in rows) and float(rows[0][2]) == 1
    assert "of the matrix rate" in done.stdout


def test_in_small_without_a_gpu(warm, tmp_path):
    config = write_checkpoint(tmp_path / "tiny")
    options = ("--config", config, "--clips", 40)
    check(benchmark(warm / "python", "train", *options, CUDA_VISIBLE_DEVICES=""))


@pytest.mark.gpu
def test_in_small_on_a_gpu():
    done = benchmark(sys.executable, "gpu", "--folds", 2, "--epochs", 1, "--clips", 192)
    check(done)
    assert not done.stdout.startswith("CPU")
    assert done.stdout.count("GiB on the GPU") == 3
