"""Several processes for one stage: they make what one makes, and none outlives a signal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import workplace
from conftest import one_line
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow  # whole stages

STAGE = [sys.executable, "-m", "stages.w2v_finetune", "0"]
DVC = [sys.executable, "-m", "dvc"]


def configure(folder: Path, processes: int, **changes: object) -> dict[str, str]:
    """The environment of a machine on which `accelerate config` has asked for so many processes."""
    file = folder / "hf/accelerate/default_config.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    config = {"distributed_type": "MULTI_CPU", "use_cpu": True, "num_processes": processes}
    YAML().dump({"compute_environment": "LOCAL_MACHINE", **config, **changes}, file)
    return workplace.environment(HF_HOME=str(folder / "hf"), RAVDESS_SAVE_SECONDS="0")


def run(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess:
    """Run the stage, whatever its exit code."""
    return subprocess.run(STAGE, cwd=folder, env=env, capture_output=True, text=True, check=False)


def start(folder: Path, command: list[str]) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """Start `command` with two processes for its stage, and wait until a state is saved; return it
    and all that it has started."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=configure(folder, 2),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list((folder / ".checkpoints").glob("*.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process, psutil.Process(process.pid).children(recursive=True)


def ended(process: subprocess.Popen, below: list[psutil.Process]) -> list[str]:
    """Wait until `process` and all that it has started have ended; return the lines of standard
    error that are no progress bar."""
    assert not psutil.wait_procs(below, timeout=100)[1]
    error = process.communicate()[1]
    return [line for line in error.splitlines() if line.strip() and "%|" not in line]


def test_two_processes_equal_one(trained, tmp_path):
    """What is random stays the same, and the probe that the head starts from."""
    changes = {"head": "layers", "head_dropout": 0.2, "label_smoothing": 0.1}
    one, two = (workplace.again(trained, tmp_path / name, **changes) for name in ("one", "two"))
    one_line(run(two, configure(two, 9)), "w2v_finetune: 9 processes for the 8 clips of a step")
    done = run(two, configure(two, 2))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fold 0:") == 1  # one process speaks
    workplace.run(one, "w2v_finetune 0")
    for table in ("curve.csv", "predictions.csv"):
        pd.testing.assert_frame_equal(
            *(pd.read_csv(folder / "data/w2v/fold_0" / table) for folder in (one, two)), rtol=1e-3
        )


def test_a_mistake_of_all_processes_is_one_line(trained, tmp_path):
    folder = workplace.again(trained, tmp_path / "mistake", mask_time_length=500)
    one_line(run(folder, configure(folder, 2)), "w2v_finetune: mask_time_length = 500")
    broken = configure(folder, 2, num_proceses=2)
    one_line(run(folder, broken), "default_config.yaml", "num_proceses", "`accelerate config`")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_processes_and_saves(trained, tmp_path, number):
    folder = workplace.again(trained, tmp_path / "stopped", epochs=2000)
    process, below = start(folder, STAGE)
    assert len(below) == 2
    process.send_signal(number)
    (line,) = ended(process, below)
    assert process.returncode == 128 + number
    (state,) = (folder / ".checkpoints").glob("*.pt")
    step = torch.load(state, weights_only=True)["done"]
    assert line.startswith(f"w2v_finetune: stopped after step {step} of 5000; the same")
    assert not (folder / "data/w2v").exists()


@pytest.mark.parametrize("victim", ["dvc", "launcher", "process"])
def test_the_others_end_after_one_is_killed(trained, tmp_path, victim):
    """Whatever DVC has started ends, and a state is saved if there is a whole group to do so."""
    folder = workplace.again(trained, tmp_path / "killed", epochs=2000)
    stage = {"cmd": " ".join(["python", *STAGE[1:]]), "outs": ["data/w2v/fold_0"]}
    YAML().dump({"stages": {"w2v_finetune": stage}}, folder / "dvc.yaml")
    subprocess.run([*DVC, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    process, below = start(folder, [*DVC, "repro", "--quiet"])
    launcher, *workers = [one for one in below if one.name() not in ("sh", "bash")]
    assert len(workers) == 2
    {"dvc": process, "launcher": launcher, "process": workers[1]}[victim].kill()
    lines = ended(process, below)
    print(victim, lines)
    assert process.returncode != 0
    if victim == "dvc":
        assert "w2v_finetune: stopped after step" in lines[0]


def test_ctrl_c_in_a_terminal_reaches_the_stage_of_dvc():
    pass
