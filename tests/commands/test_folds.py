"""Folds fine-tuned side by side, each by a DVC of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import workplace
from conftest import ROOT, one_line
from ruamel.yaml import YAML

from commands import folds

pytestmark = pytest.mark.slow  # whole stages

COMMAND = [sys.executable, "-m", "commands.folds", "--at-a-time"]
ENV = workplace.environment(RAVDESS_SAVE_SECONDS="0")


def project(trained: Path, folder: Path, **changes: object) -> Path:
    """A DVC project with two folds to fine-tune; what they depend on is there."""
    workplace.again(trained, folder, folds=[0, 1], **changes)
    tuned = {
        "cmd": "python -m stages.w2v_finetune ${item}",
        "deps": ["data/features/clips.arrow", "data/folds.csv"],
        "outs": ["data/w2v/fold_${item}", "data/models/w2v/fold_${item}"],
    }
    stages = {name: {"cmd": "true"} for name in folds.BEFORE}
    stages["w2v_finetune"] = {"foreach": [0, 1], "do": tuned}
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True
    )
    return folder


def run(folder: Path, at_a_time: str) -> subprocess.CompletedProcess:
    """Run the command, whatever its exit code."""
    return subprocess.run(
        [*COMMAND, at_a_time], cwd=folder, env=ENV, capture_output=True, text=True, check=False
    )


def test_what_comes_before_the_folds_are_stages():
    assert set(folds.BEFORE) <= YAML().load(ROOT / "dvc.yaml")["stages"].keys()


def test_side_by_side_make_the_same_bytes(trained, tmp_path):
    alone = workplace.again(trained, tmp_path / "alone")
    workplace.run(alone, "w2v_finetune 0", "w2v_finetune 1")
    together = project(trained, tmp_path / "together")
    done = run(together, "2")
    assert done.returncode == 0, done
    assert done.stdout.rindex("started") < done.stdout.index("up to date"), "at the same time"
    for made in ("data/w2v", "data/models/w2v"):
        assert workplace.digest(together / made) == workplace.digest(alone / made)
    locked = YAML().load(together / "dvc.lock")["stages"]
    assert {"w2v_finetune@0", "w2v_finetune@1"} <= locked.keys()


def test_a_signal_stops_all_and_the_next_run_goes_on(trained, tmp_path):
    folder = project(trained, tmp_path / "stopped", epochs=2000)
    began = time.time()
    for number, resumed in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        process = subprocess.Popen(
            [*COMMAND, "2"], cwd=folder, env=ENV, stderr=subprocess.PIPE, text=True
        )
        states = (folder / ".checkpoints").glob
        while sum(state.stat().st_mtime > began for state in states("*.pt")) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        error = process.communicate()[1]
        assert process.returncode == 128 + number
        assert error.splitlines()[-1] == "folds: stopped; the same command goes on from there"
        assert not psutil.wait_procs(below, timeout=0)[1]
        for fold in (0, 1):
            log = (folder / f"runs/folds/fold_{fold}.log").read_text()
            assert "w2v_finetune: stopped after step" in log
            assert ("goes on after step" in log) == resumed
        began = time.time()
    assert not (folder / "data/w2v").exists()


def test_a_fold_that_fails_is_one_line(trained, tmp_path):
    folder = project(trained, tmp_path / "failed", mask_time_length=500)
    failed = run(folder, "1")
    one_line(failed, "folds: fold 0: w2v_finetune: mask_time_length = 500", "fold_0.log")
    assert "fold 1" not in failed.stdout  # not started any more
    one_line(run(folder, "0"), "--at-a-time = 0: expected at least 1")
