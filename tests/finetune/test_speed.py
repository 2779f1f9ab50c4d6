"""The benchmarks of fine-tuning run, in small, and say what they measured."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, one_line
from tiny_models import write_checkpoint


def benchmark(name: str, *options: str, **env: str) -> subprocess.CompletedProcess:
    """Run a benchmark, whatever its exit code."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *map(str, options)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def rows(done: subprocess.CompletedProcess) -> dict[str, list[float]]:
    """The figures of each side, after clips per second the ratio and those in seconds."""
    assert done.returncode == 0, done.stderr
    found = re.findall(
        r"^(ours|trainer|trainer best) +([\d.]+) +([\d.]+)x((?: +[\d.]+s)+)", done.stdout, re.M
    )
    assert [side for side, *_ in found] == ["ours", "trainer", "trainer best"], done.stdout
    return {
        side: [float(rate), float(ratio), *map(float, re.findall(r"[\d.]+", seconds))]
        for side, rate, ratio, seconds in found
    }


def check(sides: dict[str, list[float]]) -> None:
    """All is positive; of our side the ratio is 1."""
    assert all(number > 0 for side in sides.values() for number in side[:2]), sides
    assert sides["ours"][1] == 1


@pytest.mark.slow
def test_training_in_small(tmp_path):
    config = write_checkpoint(tmp_path / "tiny")
    done = benchmark("train", "--config", config, "--clips", 20)
    check(rows(done))
    assert "20 clips, batch 8, 1 epochs" in done.stdout
    assert "% of the rate of matrix products" in done.stdout


@pytest.mark.slow
def test_all_folds_in_small_without_a_gpu(tmp_path):
    config = write_checkpoint(tmp_path / "tiny")
    done = benchmark(
        "gpu", "--config", config, "--folds", 2, "--epochs", 2, "--clips", 24, "--batch", 8,
        CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    sides = rows(done)
    check(sides)
    assert done.stdout.startswith("CPU, ") and "2 folds of 2 epochs" in done.stdout
    for _, _, fold, every, warm_up in sides.values():
        assert every == pytest.approx(2 * fold, abs=0.2) and warm_up < every


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "no CUDA device here"),
        (["--clips", 12, "--epochs", 1], "10 clips, 1 epochs, batches of 32: expected more than 2"),
    ],
)
def test_what_it_cannot_measure_is_one_line(options, says):
    one_line(benchmark("gpu", *options, CUDA_VISIBLE_DEVICES=""), "gpu: ", says)


@pytest.mark.gpu
@pytest.mark.slow
def test_all_folds_in_small_on_a_gpu(tmp_path):
    done = benchmark("gpu", "--folds", 2, "--epochs", 1, "--clips", 192)
    check(rows(done))
    assert not done.stdout.startswith("CPU")
    assert done.stdout.count("GiB on the GPU") == 3
