"""Folds fine-tuned side by side, each by a DVC of its own."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import workplace
from conftest import ROOT, one_line
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from commands import folds
from ser import params

pytestmark = pytest.mark.slow  # whole stages

# In the place of the fine-tuning, where it is the command that is looked at.
STAGE = """
import sys, time
from pathlib import Path
from ser.run import errors, signals

@errors.one_line
def main():
    state = Path(f"state_{sys.argv[1]}")
    if Path("mistake").exists():
        raise errors.UserError("mask_time_length = 500")
    print("goes on after" if state.exists() else "begins with", "step 1")
    with signals.caught() as caught:
        Path(f"begun_{sys.argv[1]}").touch()
        while not caught:
            time.sleep(0.05)
    state.touch()
    raise errors.Stopped("stopped after step 2", caught[0])

main()
"""


def project(folder: Path, warm: Path, module: str) -> Path:
    """A DVC project with two folds to fine-tune in `folder`; what they depend on is there."""
    tuned = {
        "cmd": f"python -m {module} ${{item}}",
        "outs": ["data/w2v/fold_${item}", "data/models/w2v/fold_${item}"],
    }
    stages = {name: {"cmd": "true"} for name in folds.BEFORE}
    stages["w2v_finetune"] = {"foreach": [0, 1], "do": tuned}
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    subprocess.run([warm / "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    return folder


def pretended(folder: Path, warm: Path) -> Path:
    """Such a project whose fine-tuning only waits."""
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    apply_overrides(folder / "params.yaml", ["folds=[0,1]"])
    (folder / "w2v_finetune.py").write_text(STAGE)
    return project(folder, warm, "w2v_finetune")


def run(folder: Path, python: Path, at_a_time: str) -> subprocess.CompletedProcess:
    """Run the command, whatever its exit code."""
    return subprocess.run(
        [python, "-m", "commands.folds", "--at-a-time", at_a_time],
        cwd=folder, env=workplace.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_comes_before_the_folds_are_stages():
    assert set(folds.BEFORE) <= YAML().load(ROOT / "dvc.yaml")["stages"].keys()


@pytest.mark.parametrize(
    ("cards", "free", "changes", "count", "on_first"),
    [
        (1, 80e9, {}, 6, 6),  # 8 would fit
        (1, 24e9, {}, 2, 2),
        (2, 24e9, {}, 4, 2),
        (1, 24e9, {"micro_batch": 8}, 5, 5),
        (1, 6e9, {}, 1, 1),
        (1, 80e9, {"freeze_cnn": False}, 1, 1),
        (0, 0, {}, 2, 0),
    ],
)
def test_as_many_at_a_time_as_fit_on_the_cards(
    tmp_path, monkeypatch, cards, free, changes, count, on_first
):
    """Of wav2vec2-base and RAVDESS, by their sizes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free, 80e9))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    files = {folds.CHECKPOINT / "pytorch_model.bin": 380e6, folds.FEATURES: 545e6}
    for file, size in {**files, folds.AUDIO / "a.wav": 5.3 * 32000}.items():
        file.parent.mkdir(parents=True)
        with file.open("wb") as stream:
            stream.truncate(int(size))
    places = folds.places(None, params.load(ROOT / "params.yaml").model_copy(update=changes))
    assert len(places) == count
    assert all(place["OMP_NUM_THREADS"] == str(16 // count) for place in places)
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in places].count("3") == on_first
    assert len(folds.places(3, params.load(ROOT / "params.yaml"))) == 3


def test_side_by_side_make_the_same_bytes(trained, warm, tmp_path):
    alone = workplace.again(trained, tmp_path / "alone")
    workplace.run(alone, "w2v_finetune 0", "w2v_finetune 1")
    together = workplace.again(trained, tmp_path / "together", folds=[0, 1])
    project(together, warm, "stages.w2v_finetune")
    done = run(together, warm / "python", "2")
    assert done.returncode == 0, done
    assert done.stdout.rindex("started") < done.stdout.index("up to date"), "at the same time"
    for made in ("data/w2v", "data/models/w2v"):
        assert workplace.digest(together / made) == workplace.digest(alone / made)
    locked = YAML().load(together / "dvc.lock")["stages"]
    assert {"w2v_finetune@0", "w2v_finetune@1"} <= locked.keys()


def test_a_signal_stops_all_and_the_next_run_goes_on(warm, tmp_path):
    folder = pretended(tmp_path / "stopped", warm)
    for number, resumed in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        process = subprocess.Popen(
            [sys.executable, "-m", "commands.folds", "--at-a-time", "2"],
            cwd=folder, env=workplace.environment(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun = [folder / "begun_0", folder / "begun_1"]
        while not all(file.exists() for file in begun):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        error = process.communicate()[1]
        assert process.returncode == 128 + number
        assert error.splitlines()[-1] == "folds: stopped; the same command goes on from there"
        assert not psutil.wait_procs(below, timeout=0)[1]
        for fold in (0, 1):
            begun[fold].unlink()
            log = (folder / f"runs/folds/fold_{fold}.log").read_text()
            assert "w2v_finetune: stopped after step" in log
            assert ("goes on after step" in log) == resumed
    assert not (folder / "data/w2v").exists()


def test_a_fold_that_fails_is_one_line(warm, tmp_path):
    folder = pretended(tmp_path / "failed", warm)
    (folder / "mistake").touch()
    failed = run(folder, warm / "python", "1")
    one_line(failed, "folds: fold 0: w2v_finetune: mask_time_length = 500", "fold_0.log")
    assert "fold 1" not in failed.stdout  # not started any more
    one_line(run(folder, warm / "python", "0"), "--at-a-time = 0: expected at least 1")
