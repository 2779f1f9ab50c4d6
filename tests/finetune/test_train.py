"""The training recipe: what is trained, in which order, at what rate; and a training that was
killed ends as if it had not been."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import workplace
from conftest import ROOT, small_files
from tiny_models import write_checkpoint
from torch.overrides import TorchFunctionMode

from ser import params
from ser.finetune import device, progress, train
from ser.run.errors import UserError

PARAMS = params.load(ROOT / "params.yaml")


@pytest.mark.parametrize("freeze_cnn", [True, False])
def test_the_optimizer_has_all_that_is_trained(tmp_path, freeze_cnn):
    """Once the CNN from scratch was not in it: it stayed as drawn, and its gradients, never
    cleared, doubled between processes."""
    changes = {"freeze_cnn": freeze_cnn, "lr": 1e-4, "head_lr": 5e-4, "weight_decay": 0.1}
    settings = PARAMS.model_copy(update=changes)
    encoder = train.fine_tunable(write_checkpoint(tmp_path / "c"), settings)
    optimizer = train.make_optimizer(encoder, settings)
    groups = {
        id(parameter): group for group in optimizer.param_groups for parameter in group["params"]
    }
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (not freeze_cnn or not name.startswith("cnn.")), name
        assert (id(parameter) in groups) == parameter.requires_grad, name
        if parameter.requires_grad:
            group = groups[id(parameter)]
            head = name.startswith(("model.projector", "model.classifier"))
            assert group["lr"] == (5e-4 if head else 1e-4), name
            assert group["weight_decay"] == (0.1 if parameter.squeeze().ndim > 1 else 0), name


@pytest.mark.parametrize("growth", [1.0, 3.5])
def test_every_clip_comes_once_an_epoch(growth):
    changes = {"epochs": 4, "batch_size": 8, "batch_growth": growth, "decay_start": 0.7}
    steps = train.batches(50, PARAMS.model_copy(update=changes))
    order = np.concatenate(steps)
    for epoch in range(4):
        assert sorted(order[50 * epoch : 50 * (epoch + 1)]) == list(range(50))
    sizes = [len(step) for step in steps]
    assert all(size == 8 for size in sizes[: int(0.6 * len(sizes))])
    assert min(sizes) >= 4
    assert (sizes[-2] >= 16) == (growth > 1)


def course(schedule: str, decay_start: float = 0.7) -> list[float]:
    """The learning rates of 100 steps, the highest 1."""
    changes = {"schedule": schedule, "decay_start": decay_start, "warmup": 0.1}
    changes |= {"epochs": 10, "batch_size": 10, "batch_growth": 1.0}
    settings = PARAMS.model_copy(update=changes)
    steps = train.batches(100, settings)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = train.learning_rate(optimizer, steps, settings)
    rates = []
    for _ in steps:
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules():
    wsd, constant, linear, cosine = map(course, ("wsd", "constant", "linear", "cosine"))
    for rates in (wsd, constant, linear, cosine):
        assert rates[:11] == pytest.approx(np.arange(11) / 10)
    assert wsd[10:70] == pytest.approx(np.ones(60))
    assert wsd[70:] == pytest.approx(1 - np.arange(30) / 30)
    assert constant[10:] == [1] * 90
    assert linear[10:] == pytest.approx(1 - np.arange(90) / 90)
    assert cosine[55] == pytest.approx(0.5)
    assert course("wsd", 1.0)[10:] == [1] * 90


@pytest.mark.parametrize("lost", ["data/folds.csv", "data/features"])
def test_folds_of_other_clips_than_the_stored_ones_are_refused(trained, tmp_path, lost):
    folder = workplace.again(trained, tmp_path / "again")
    clip = pd.read_csv(folder / "data/folds.csv")["clip"][0]
    if lost == "data/folds.csv":
        pd.read_csv(folder / lost)[1:].to_csv(folder / lost, index=False)
    else:
        (folder / f"data/audio/{clip}.wav").unlink()
        workplace.run(folder, "w2v_features")
    with pytest.raises(UserError, match=f"^{clip}: not in both data/folds.csv and data/fea"):
        workplace.training(folder)


def test_what_is_not_finite_spoils_nothing(trained):
    """Once the weights were NaN, and saved, a step before anybody noticed."""
    run = workplace.training(trained)
    for _ in range(2):
        run.step()
    run.settle()
    before = {name: parameter.detach().clone() for name, parameter in run.trained.items()}
    last = run.trained["model.classifier.weight"]
    hook = last.register_hook(lambda gradient: gradient * float("inf"))
    run.step()
    hook.remove()
    run.step()  # a GPU is a few steps ahead
    with pytest.raises(UserError, match=r"^step 3: .* norm (inf|nan): lower lr"):
        run.settle()
    assert all(torch.equal(before[name], run.trained[name]) for name in before)


def test_every_epoch_has_its_row_though_a_batch_is_longer(trained):
    run = workplace.training(trained, inner=True, batch_size=40, epochs=5)
    assert len(run.numbers) == 16 and len(run.batches) == 2
    while run.done < len(run.batches):
        run.step()
    _, epochs = run.finish()
    assert list(epochs["epoch"]) == [1, 2, 3, 4, 5]
    assert epochs["inner_uar"].notna().all()


def test_the_logged_rate_is_that_of_lr(trained):
    """Once it was the head's, if a parameter of the head came first."""
    changes = {"lr": 1e-5, "head_lr": 3e-3, "schedule": "constant", "warmup": 0.0}
    run = workplace.training(trained, weighted_layer_sum=True, **changes)
    run.step()
    run.settle()
    assert run.curve[0]["lr"] == pytest.approx(1e-5)


class Doubles(TorchFunctionMode):
    """Refuses what makes float64 tensors, as Apple's GPUs do."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        assert getattr(result, "dtype", None) != torch.float64, function
        return result


def test_no_float64_on_the_device(trained):
    run = workplace.training(trained, inner=True)
    with Doubles():
        while not run.inner_scores:
            run.step()
        probabilities = run.probabilities(run.inner)
    assert probabilities.dtype == np.float64
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)


def test_single_precision_means_it_on_gpus(trained):
    """cuDNN's convolutions would round to ten bits unless told not to."""
    torch.backends.cudnn.allow_tf32 = True
    workplace.training(trained)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_search_scores_every_epoch_and_predicts_as_the_stage(trained, monkeypatch):
    monkeypatch.chdir(trained)
    settings = params.load()
    scores = list(train.inner_scores(settings, 0))
    assert len(scores) == settings.epochs and all(0 <= score <= 1 for score in scores)
    best = list(train.inner_scores(settings.model_copy(update={"select": "inner"}), 0))
    assert best == list(np.maximum.accumulate(scores))
    table = pd.read_csv("data/w2v/fold_0/predictions.csv", index_col="clip")
    pd.testing.assert_series_equal(train.predict(settings, 0), table["predicted"])


class TestSavedState:
    """The state that a stopped training goes on from."""

    def name(self, folder: Path, **changes: object) -> str:
        with contextlib.chdir(folder):
            settings = params.load().model_copy(update=changes)
            return train.state_file(settings, 0, device.make_accelerator(settings.precision)).name

    def test_its_name_stands_for_what_makes_the_numbers_and_nothing_else(self, trained, tmp_path):
        folder = workplace.again(trained, tmp_path / "again")
        name = self.name(folder)
        advice = {"folds": [0], "checkpoint": "elsewhere", "revision": "main", "corpus": "demo"}
        assert self.name(folder, **advice) == name
        names = {name, self.name(folder, precision="bf16"), self.name(folder, lr=1e-4)}
        config = folder / "data/checkpoint/config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "extra": 1}))
        names.add(self.name(folder))
        table = pd.read_csv(folder / "data/folds.csv")
        table.iloc[::-1].to_csv(folder / "data/folds.csv", index=False)
        names.add(self.name(folder))
        assert len(names) == 5

    def test_a_damaged_one_is_reported_and_removed_and_an_old_one_forgotten(self, tmp_path, capsys):
        accelerator, file = device.make_accelerator("fp32"), tmp_path / "a.pt"
        train.save({"done": 3, "weights": torch.zeros(9)}, file)
        assert train.load(file, accelerator)["done"] == 3
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"torn"):
            file.write_bytes(content)
            assert train.load(file, accelerator) is None
            assert capsys.readouterr().err.count("damaged; the training begins anew") == 1
            assert not file.exists()
        file.write_bytes(whole)
        os.utime(file, (0, 0))
        train.save({"done": 1}, tmp_path / "b.pt")
        assert [path.name for path in tmp_path.iterdir()] == ["b.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_for_tensorboard_is_raised_once(tmp_path, capsys):
    """And not printed by TensorBoard's thread, too."""
    with (
        pytest.raises(OSError) as full,
        progress.tensorboard(tmp_path) as writer,
        small_files(600),
    ):
        for step in range(100):
            writer.add_scalar("loss", 1.0, step)
        writer.flush()
    assert full.value.errno == errno.EFBIG
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(trained, tmp_path, capsys):
    folder = workplace.again(trained, tmp_path / "killed")
    # As `dvc exp run --temp` does: a work tree that is lost after a failure.
    work = folder / ".dvc/tmp/exps/standalone/x"
    states = folder / ".checkpoints"

    def saved() -> set[int]:
        return {file.stat().st_mtime_ns for file in states.glob("*.pt")}

    for kill, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        work.mkdir(parents=True)
        for name in ("data", "params.yaml", "tiny"):
            (work / name).symlink_to(folder / name)
        before = saved()
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.w2v_finetune", "0"],
            cwd=work,
            env=workplace.environment(RAVDESS_SAVE_SECONDS="0"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while saved() <= before and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(kill)
        err = process.communicate()[1]
        assert process.returncode == code, err
        assert ("stopped after step" in err) == (kill is signal.SIGINT)
        shutil.rmtree(work.parents[0])
    workplace.run(folder, "w2v_finetune 0")
    assert "goes on after step" in capsys.readouterr().out
    for results in ("data/w2v/fold_0", "data/models/w2v/fold_0"):
        assert workplace.digest(folder / results) == workplace.digest(trained / results)
    assert not list(states.iterdir())
