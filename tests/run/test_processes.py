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


def run(warm: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run the stage in two processes, whatever its exit code."""
    command, env = [warm / "python", "-m", "stages.w2v_finetune", "0"], configure(folder)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_two_processes_equal_one(trained, warm, tmp_path):
    """What is random stays the same, and the probe that the head starts from."""
    changes = {"head": "layers", "head_dropout": 0.2, "label_smoothing": 0.1}
    one, two = (workplace.again(trained, tmp_path / name, **changes) for name in ("one", "two"))
    done = run(warm, two)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fold 0:") == 1  # one process speaks
    workplace.run(one, "w2v_finetune 0")
    for table in ("curve.csv", "predictions.csv"):
        pd.testing.assert_frame_equal(
            *(pd.read_csv(folder / "data/w2v/fold_0" / table) for folder in (one, two)), rtol=1e-3
        )


def test_a_mistake_of_all_processes_is_one_line(trained, warm, tmp_path):
    folder = workplace.again(trained, tmp_path / "mistake", mask_time_length=500)
    one_line(run(warm, folder), "w2v_finetune: mask_time_length = 500")


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


# A stage like the fine-tuning, in its ways with processes and signals.
STAGE = """
import os, signal, sys, time
from pathlib import Path
from ser.run import errors, processes, signals

@errors.one_line
def main():
    code = processes.launch("w2v_finetune", most=2)
    if code is not None:
        sys.exit(code)
    with signals.caught() as caught:
        Path(".checkpoints", os.environ["LOCAL_RANK"]).touch()
        while not caught and not processes.orphaned():
            time.sleep(0.1)
    raise errors.Stopped("stopped after step 1", next(iter(caught), signal.SIGTERM))

main()
"""


def start(folder: Path, module: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """DVC with a stage of two processes, which have begun; and all processes below DVC's."""
    stage = {"cmd": f"python -m {module} 0", "outs": ["data/w2v/fold_0"]}
    YAML().dump({"stages": {"w2v_finetune": stage}}, folder / "dvc.yaml")
    for name in (".dvc", ".checkpoints"):
        (folder / name).mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "w2v_finetune"],
        cwd=folder,
        env=configure(folder),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    of_both = 1 if module.startswith("stages.") else 2  # files that say that the work has begun
    while len(list((folder / ".checkpoints").glob("[!.]*"))) < of_both:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process, psutil.Process(process.pid).children(recursive=True)


def test_no_process_outlives_ctrl_c_and_the_state_is_saved(trained, tmp_path):
    folder = workplace.again(trained, tmp_path / "stopped", epochs=2000)
    process, below = start(folder, "stages.w2v_finetune")
    os.killpg(process.pid, signal.SIGINT)
    assert not psutil.wait_procs(below, timeout=100)[1]
    error = process.communicate()[1]
    lines = [line for line in error.splitlines() if line.startswith(("w2v_finetune: ", "ERROR: "))]
    assert len(lines) == 2, error
    assert "w2v_finetune: stopped after step" in lines[0] and "exited with" in lines[1]
    (state,) = (folder / ".checkpoints").glob("*.pt")
    assert torch.load(state, weights_only=True)["done"] > 0
    assert not (folder / "data/w2v").exists()


@pytest.mark.parametrize("killed", ["dvc", "launcher"])
def test_no_process_outlives_dvc_or_the_launcher(tmp_path, killed):
    (tmp_path / "w2v_finetune.py").write_text(STAGE)
    process, below = start(tmp_path, "w2v_finetune")
    launcher, *workers = [one for one in below if "w2v_finetune" in one.cmdline()]
    assert len(workers) == 2
    {"dvc": process, "launcher": launcher}[killed].kill()
    assert not psutil.wait_procs(below, timeout=100)[1]
    error = process.communicate()[1]
    assert killed == "launcher" or "\nw2v_finetune: stopped after step" in f"\n{error}", error


def test_a_training_that_nobody_waits_for_stops_with_its_state_saved(
    trained, tmp_path, monkeypatch
):
    folder = workplace.again(trained, tmp_path / "orphaned")
    gone = subprocess.Popen(["true"])
    monkeypatch.setattr(processes, "WAITING", [psutil.Process(gone.pid)])
    monkeypatch.setenv("DVC_STAGE", "w2v_finetune@0")
    gone.wait()
    stopped = workplace.outcome(folder, "stages.w2v_finetune", "0")
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "w2v_finetune: stopped after step" in stopped.stderr
    (state,) = (folder / ".checkpoints").glob("*.pt")
    assert torch.load(state, weights_only=True)["done"] > 0
    assert not (folder / "data/w2v").exists()
