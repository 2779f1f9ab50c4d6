"""Several processes for one stage: they make what one makes, and none outlives a signal."""

import os
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
from accelerate.commands.config import config_args
from conftest import one_line
from ruamel.yaml import YAML

from ser.run import processes
from ser.run.errors import UserError

pytestmark = pytest.mark.slow  # whole stages


def configure(folder: Path, **changes: object) -> dict[str, str]:
    """The environment of a machine on which `accelerate config` has asked for two processes."""
    file = folder / "hf/accelerate/default_config.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    config = {"distributed_type": "MULTI_CPU", "use_cpu": True, "num_processes": 2}
    YAML().dump({"compute_environment": "LOCAL_MACHINE", **config, **changes}, file)
    return workplace.environment(HF_HOME=str(folder / "hf"), RAVDESS_SAVE_SECONDS="0")


def run(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess:
    """Run the stage, whatever its exit code."""
    command = [sys.executable, "-m", "stages.w2v_finetune", "0"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_two_processes_equal_one(trained, tmp_path):
    """What is random stays the same, and the probe that the head starts from."""
    changes = {"head": "layers", "head_dropout": 0.2, "label_smoothing": 0.1}
    one, two = (workplace.again(trained, tmp_path / name, **changes) for name in ("one", "two"))
    done = run(two, configure(two))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fold 0:") == 1  # one process speaks
    workplace.run(one, "w2v_finetune 0")
    for table in ("curve.csv", "predictions.csv"):
        pd.testing.assert_frame_equal(
            *(pd.read_csv(folder / "data/w2v/fold_0" / table) for folder in (one, two)), rtol=1e-3
        )


def test_a_mistake_of_all_processes_is_one_line(trained, tmp_path):
    folder = workplace.again(trained, tmp_path / "mistake", mask_time_length=500)
    one_line(run(folder, configure(folder)), "w2v_finetune: mask_time_length = 500")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_processes": 9}, "9 processes for the 8 clips of a step"),
        ({"num_machines": 0}, "num_processes = 2 on num_machines = 0: .*`accelerate config`"),
        ({"num_machines": 3}, "num_processes = 2 on num_machines = 3: "),
        ({"num_machines": "two"}, r"default_config.yaml: .*`accelerate config`"),
        ({"num_proceses": 2}, r"default_config.yaml: .*num_proceses.*`accelerate config`"),
    ],
)
def test_what_accelerate_config_cannot_ask_for(tmp_path, monkeypatch, changes, message):
    configure(tmp_path, **changes)
    file = tmp_path / "hf/accelerate/default_config.yaml"
    monkeypatch.setattr(config_args, "default_config_file", str(file))
    with pytest.raises(UserError, match=message):
        processes.launch("stages.w2v_finetune", "0", most=8)


def test_half_the_variables_of_a_group_are_one_line(monkeypatch):
    for name in processes.GROUP:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="LOCAL_RANK is set, RANK, WORLD_SIZE, .* not: unset it"):
        processes.launch("stages.w2v_finetune", "0", most=8)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UserError, match="RANK, MASTER_ADDR, MASTER_PORT not"):
        processes.launch("stages.w2v_finetune", "0", most=8)


@pytest.mark.parametrize(
    ("target", "number", "words"),
    [
        ("terminal", signal.SIGINT, ["w2v_finetune: stopped after step", "exited with"]),
        ("dvc", signal.SIGKILL, ["w2v_finetune: stopped after step"]),
        ("launcher", signal.SIGKILL, []),
    ],
)
def test_no_process_outlives_a_signal(trained, tmp_path, target, number, words):
    folder = workplace.again(trained, tmp_path / "stopped", epochs=2000)
    stage = {"cmd": "python -m stages.w2v_finetune 0", "outs": ["data/w2v/fold_0"]}
    YAML().dump({"stages": {"w2v_finetune": stage}}, folder / "dvc.yaml")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    process = subprocess.Popen(
        [*dvc, "repro", "--single-item", "w2v_finetune"],
        cwd=folder,
        env=configure(folder),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (states := list((folder / ".checkpoints").glob("*.pt"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    launcher, *workers = [one for one in below if "stages.w2v_finetune" in one.cmdline()]
    assert len(workers) == 2
    if target == "terminal":
        os.killpg(process.pid, number)
    else:
        {"dvc": process, "launcher": launcher}[target].send_signal(number)
    assert not psutil.wait_procs(below, timeout=100)[1]
    error = process.communicate()[1]
    lines = [line for line in error.splitlines() if line.startswith(("w2v_finetune: ", "ERROR: "))]
    assert len(lines) >= len(words), error
    assert all(word in line for word, line in zip(words, lines, strict=False)), lines
    assert torch.load(states[0], weights_only=True)["done"] > 0
    assert not (folder / "data/w2v").exists()
