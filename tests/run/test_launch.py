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
from ruamel.yaml import YAML

from ser.run import launch
from ser.run.errors import UserError

pytestmark = pytest.mark.slow  # whole stages and pipelines

STAGE = [sys.executable, "-m", "stages.w2v_finetune", "0"]


def configure(folder: Path, processes: int) -> dict[str, str]:
    """The environment of a machine on which `accelerate config` has asked for so many processes."""
    file = folder / "hf/accelerate/default_config.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    config = {"distributed_type": "MULTI_CPU", "use_cpu": True, "num_processes": processes}
    YAML().dump({"compute_environment": "LOCAL_MACHINE", **config}, file)
    return workplace.environment(HF_HOME=str(folder / "hf"), RAVDESS_SAVE_SECONDS="0")


def copy(trained: Path, folder: Path, **changes: object) -> Path:
    """A folder in which fold 0 is not yet trained, with other params."""
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("w2v", "runs"))
    values = YAML().load(folder / "params.yaml")
    values.update(changes)
    YAML().dump(values, folder / "params.yaml")
    return folder


def left(group: int) -> list[psutil.Process]:
    """The processes of a process group that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def stopped(folder: Path, command: list[str], env: dict[str, str], number: int, whole: bool):
    """Start `command`, and send it, or its whole group, a signal once a state is saved; return it,
    its standard error but for progress bars, and the state it leaves."""
    states = folder / ".checkpoints"
    process = subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while not list(states.glob("*.pt")) and process.poll() is None:
            time.sleep(0.01)
        (os.killpg if whole else os.kill)(process.pid, number)
        _, err = process.communicate(timeout=60)
        end = time.monotonic() + 20
        while left(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left(process.pid)
    finally:
        for survivor in left(process.pid):
            survivor.kill()
        process.communicate()
    (state,) = states.glob("*.pt")
    lines = [line for line in err.splitlines() if line.strip() and "%|" not in line]
    return process, lines, torch.load(state, weights_only=True)


@pytest.mark.parametrize(
    ("processes", "number", "whole"),
    [
        (1, signal.SIGTERM, False),
        (1, signal.SIGINT, True),
        (2, signal.SIGTERM, False),
        (2, signal.SIGTERM, True),
        (2, signal.SIGINT, True),
    ],
)
def test_a_signal_stops_all_processes_and_saves(trained, tmp_path, processes, number, whole):
    folder = copy(trained, tmp_path / "stopped", epochs=2000)
    process, lines, state = stopped(folder, STAGE, configure(folder, processes), number, whole)
    assert process.returncode == 128 + number
    (line,) = lines
    assert line.startswith(f"w2v_finetune: stopped after step {state['done']} of 5000; the same")
    assert not (folder / "data/w2v").exists()


@pytest.mark.parametrize(
    ("shell", "number", "whole"),
    [
        ("bash", signal.SIGINT, True),
        ("bash", signal.SIGTERM, False),
        ("sh", signal.SIGTERM, False),
    ],
)
def test_a_signal_to_dvc_stops_its_stage(trained, tmp_path, shell, number, whole):
    """Where SHELL is not set, as in a container, DVC takes sh, which stays between it and the
    stage on some systems, while bash hands over to the command."""
    folder = copy(trained, tmp_path / "stopped", epochs=2000)
    stage = {"cmd": " ".join(["python", *STAGE[1:]]), "outs": ["data/w2v/fold_0"]}
    YAML().dump({"stages": {"w2v_finetune": stage}}, folder / "dvc.yaml")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    env = {**configure(folder, 2), "SHELL": shutil.which(shell)}
    process, lines, state = stopped(folder, [*dvc, "repro", "--quiet"], env, number, whole)
    assert process.returncode != 0
    assert sum("stopped after step" in line for line in lines) == 1
    assert state["done"] > 0 and not (folder / "data/w2v").exists()


def test_two_processes_equal_one(trained, tmp_path):
    """Accelerate's configuration file alone makes the same command start two processes. What is
    random stays the same, and the probe that the head starts from."""
    changes = {"head": "layers", "head_dropout": 0.2, "average": 0.5, "label_smoothing": 0.1}
    one, two = (copy(trained, tmp_path / name, **changes) for name in ("one", "two"))
    for processes, code in ((9, 1), (2, 0)):
        env = configure(two, processes)
        done = subprocess.run(STAGE, cwd=two, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        if code:
            (line,) = done.stderr.splitlines()
            assert line.startswith("w2v_finetune: 9 processes for the 8 clips of a step")
    assert done.stdout.count("fold 0:") == 1  # one process speaks
    workplace.run(one, "w2v_finetune 0")
    for table in ("curve.csv", "predictions.csv"):
        pd.testing.assert_frame_equal(
            *(pd.read_csv(folder / "data/w2v/fold_0" / table) for folder in (one, two)), rtol=1e-3
        )


@pytest.mark.parametrize("stops", [False, True])
def test_the_group_is_taken_apart(trained, tmp_path, stops):
    """NCCL complains on standard error if it is not."""
    folder = copy(trained, tmp_path / "apart", epochs=1)
    program = f"""
import os, signal, sys
import torch.distributed
from ser.finetune.training import Training
from stages.w2v_finetune import main

settle = Training.settle
def stop(training):
    os.kill(os.getpid(), signal.SIGTERM)
    settle(training)
if {stops} and os.environ["RANK"] == "1":
    Training.settle = stop
try:
    main()
finally:
    print("group" if torch.distributed.is_initialized() else "no group", flush=True)
"""
    launcher = f"""
import sys
from accelerate.commands.config import config_args
from ser.run import launch
config = config_args.load_config_from_file(None)
workers = [launch.subprocess.Popen([sys.executable, "-c", {program!r}, "0"],
           env={{**launch.os.environ, **place}}) for place in launch.places(config)]
print([worker.wait() for worker in workers])
"""
    done = subprocess.run(
        [sys.executable, "-c", launcher],
        cwd=folder, env=configure(folder, 2), capture_output=True, text=True, check=False,
    )  # fmt: skip
    code = 128 + signal.SIGTERM if stops else 0
    assert done.stdout.endswith(f"[{code}, {code}]\n"), (done.stdout, done.stderr)
    assert done.stdout.splitlines().count("no group") == 2
    lines = [line for line in done.stderr.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == stops, lines


def test_a_user_error_in_all_processes_is_one_line(trained, tmp_path):
    folder = copy(trained, tmp_path / "error", mask_time_length=500)
    done = subprocess.run(
        STAGE, cwd=folder, env=configure(folder, 2), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("w2v_finetune: mask_time_length = 500")


@pytest.mark.parametrize(
    ("fails", "end", "says"),
    [
        (0, "sys.exit('a reason')", None),
        (1, "sys.exit('a reason')", "process 1 of 2 ended with exit code 1"),
        (0, "os.kill(os.getpid(), 9)", "process 0 of 2 was killed by signal 9"),
    ],
)
def test_when_one_process_fails_the_others_end(monkeypatch, capfd, fails, end, says):
    """They would wait for it for ever."""
    monkeypatch.setattr(launch, "FAILING", 1)
    program = f"import os, sys, time\nif os.environ['RANK'] == '{fails}': {end}\ntime.sleep(200)\n"
    began = time.monotonic()
    places = [{"RANK": "0"}, {"RANK": "1"}]
    if says:
        with pytest.raises(UserError, match=says):
            launch.run([sys.executable, "-c", program], places)
    else:
        assert launch.run([sys.executable, "-c", program], places) == 1
    assert time.monotonic() - began < 100
    assert capfd.readouterr().err == ("a reason\n" if "exit" in end else "")
