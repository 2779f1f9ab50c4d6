"""The benchmarks of fine-tuning run, in small, and print their figures."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_models import write_checkpoint

pytestmark = pytest.mark.slow


def printed(python: Path, name: str, *options: object) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [python, "-m", f"benchmarks.{name}", *map(str, options)],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_beside_trainer(warm, tmp_path):
    """There are rates of all three sides; of ours the ratio is 1."""
    config = write_checkpoint(tmp_path / "tiny")
    out = printed(warm / "python", "train", "--config", config, "--clips", 40)
    rows = re.findall(r"^(ours|trainer|trainer best) +([\d.]+) +([\d.]+) ", out, re.M)
    assert [side for side, *_ in rows] == ["ours", "trainer", "trainer best"], out
    assert all(float(rate) > 0 for _, rate, _ in rows) and float(rows[0][2]) == 1


def test_what_a_gpu_is_to_prove(warm):
    """Every check passes, and every row has its figures, without a GPU in small."""
    out = printed(warm / "python", "gpu", "--small")
    rows = json.loads(out.splitlines()[-1])["rows"]
    answers = [figures["answer"] for figures in rows.values() if "answer" in figures]
    assert len(answers) == 4 and not any(answer.startswith("NO") for answer in answers), answers
    rates = [figures["clips/s"] for figures in rows.values() if "clips/s" in figures]
    assert len(rates) == 10 and min(rates) > 0
