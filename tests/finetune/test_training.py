"""The training loop: what is trained, in which order, at what rate."""

import contextlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import workplace
from conftest import ROOT
from ruamel.yaml import YAML
from tiny_models import write_checkpoint
from torch.overrides import TorchFunctionMode

from ser import params
from ser.finetune import clips, finetuning, schedule, training
from ser.run import code
from ser.run.errors import UserError


@pytest.mark.parametrize("freeze_cnn", [True, False])
def test_the_optimizer_has_all_that_is_trained(tmp_path, freeze_cnn):
    """Once the CNN from scratch was not in it: it stayed as drawn, and its gradients, never
    cleared, doubled between processes."""
    changes = {"freeze_cnn": freeze_cnn, "lr": 1e-4, "head_lr": 5e-4, "weight_decay": 0.1}
    settings = params.load(ROOT / "params.yaml").model_copy(update=changes)
    classifier = finetuning.for_training(write_checkpoint(tmp_path / "c"), settings)
    optimizer = training.make_optimizer(classifier, settings)
    groups = {
        id(parameter): group for group in optimizer.param_groups for parameter in group["params"]
    }
    for name, parameter in classifier.named_parameters():
        assert parameter.requires_grad == (not freeze_cnn or not name.startswith("cnn.")), name
        assert (id(parameter) in groups) == parameter.requires_grad, name
        if parameter.requires_grad:
            group = groups[id(parameter)]
            assert group["lr"] == (
                5e-4 if name.startswith(("model.projector", "model.classifier")) else 1e-4
            ), name
            assert group["weight_decay"] == (0.1 if parameter.squeeze().ndim > 1 else 0), name


@pytest.mark.parametrize("growth", [1.0, 3.5])
def test_every_clip_comes_once_an_epoch(growth):
    steps = schedule.batches(50, 4, 8, growth, 0.7, seed=0)
    order = np.concatenate(steps)
    for epoch in range(4):
        assert sorted(order[50 * epoch : 50 * (epoch + 1)]) == list(range(50))
    sizes = [len(step) for step in steps]
    assert all(size == 8 for size in sizes[: int(0.6 * len(sizes))])
    assert min(sizes) >= 4
    assert (sizes[-2] >= 16) == (growth > 1)


def course(name: str, steps: list[np.ndarray], decay_start: float = 0.7) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule.learning_rate(optimizer, name, steps, 0.1, decay_start)
    rates = []
    for _ in steps:
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules():
    steps = schedule.batches(100, 10, 10, 1, 0.7, seed=0)
    wsd, constant, linear, cosine = (
        course(name, steps) for name in ("wsd", "constant", "linear", "cosine")
    )
    for rates in (wsd, constant, linear, cosine):
        assert rates[:11] == pytest.approx(np.arange(11) / 10)
    assert wsd[10:70] == pytest.approx(np.ones(60))
    assert wsd[70:] == pytest.approx(1 - np.arange(30) / 30)
    assert constant[10:] == [1] * 90
    assert linear[10:] == pytest.approx(1 - np.arange(90) / 90)
    assert cosine[55] == pytest.approx(0.5)
    assert course("wsd", steps, 1.0)[10:] == [1] * 90


def begin(folder: Path, fold: int = 0, inner: bool = False, **changes: object) -> training.Training:
    """A training in a workplace's folder, not yet begun."""
    with contextlib.chdir(folder):
        settings = params.load().model_copy(update=changes)
        return finetuning.prepare(settings, fold, inner)[0]


@pytest.mark.parametrize("lost", ["data/folds.csv", "data/features"])
def test_folds_of_other_clips_than_the_stored_ones_are_refused(trained, tmp_path, lost):
    folder = tmp_path / "again"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("w2v", "runs"))
    clip = pd.read_csv(folder / "data/folds.csv")["clip"][0]
    if lost == "data/folds.csv":
        pd.read_csv(folder / lost)[1:].to_csv(folder / lost, index=False)
    else:
        (folder / f"data/audio/{clip}.wav").unlink()
        workplace.run(folder, "w2v_features")
    with pytest.raises(UserError, match=f"^{clip}: not in both data/folds.csv and data/fea"):
        begin(folder)


def test_what_is_not_finite_spoils_nothing(trained):
    """Once the weights were NaN, and saved, a step before anybody noticed."""
    run = begin(trained)
    for _ in range(2):
        run.advance()
    run.settle()
    before = {name: parameter.detach().clone() for name, parameter in run.trained.items()}
    last = run.trained["model.classifier.weight"]
    hook = last.register_hook(lambda gradient: gradient * float("inf"))
    run.advance()
    hook.remove()
    run.advance()  # a GPU is a few steps ahead
    with pytest.raises(UserError, match=r"^step 3: .* norm (inf|nan): lower lr"):
        run.settle()
    assert all(torch.equal(before[name], run.trained[name]) for name in before)


def test_every_epoch_has_its_row_though_a_batch_is_longer(trained):
    run = begin(trained, inner=True, batch_size=40, epochs=5)
    assert len(run.numbers) == 16 and len(run.steps) == 2
    while run.done < len(run.steps):
        run.advance()
    _, epochs = run.finish()
    assert list(epochs["epoch"]) == [1, 2, 3, 4, 5]
    assert epochs["inner_uar"].notna().all()


def test_the_logged_rate_is_that_of_lr(trained):
    """Once it was the head's, if a parameter of the head came first."""
    run = begin(
        trained, weighted_layer_sum=True, lr=1e-5, head_lr=3e-3, schedule="constant", warmup=0.0
    )
    run.advance()
    run.settle()
    assert run.curve[0]["lr"] == pytest.approx(1e-5)


class Doubles(TorchFunctionMode):
    """Refuses what makes float64 tensors, as Apple's GPUs do."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        assert getattr(result, "dtype", None) != torch.float64, function
        return result


def test_no_float64_on_the_device(trained):
    run = begin(trained, inner=True)
    with Doubles():
        while not run.inner_scores:
            run.advance()
        probabilities = run.probabilities(run.inner)
    assert probabilities.dtype == np.float64
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)


def test_single_precision_means_it_on_gpus(trained):
    """cuDNN's convolutions would round to ten bits unless told not to."""
    torch.backends.cudnn.allow_tf32 = True
    begin(trained)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_beside_a_result_stands_what_computed_it(trained):
    found = json.loads((trained / "data/w2v/fold_0/run.json").read_text())
    assert found["device"].startswith("cpu, ")
    assert (found["precision"], found["processes"]) == ("fp32", 1)
    assert found["versions"]["torch"] == version("torch")


def test_faster_voices_keep_their_sound():
    """Straight lines between samples halved 5 kHz, and mirrored 7.5 kHz to lower tones."""
    time = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (4800, 7500))
    for factor in (0.8, 1.1, 1.25):
        faster = clips.respeed(low, factor)
        assert len(faster) == pytest.approx(16000 / factor, abs=1)
        assert faster.dtype == np.float32
        middle = faster[1000:-1000] * np.hanning(len(faster) - 2000)
        spectrum = np.abs(np.fft.rfft(middle)) ** 2
        loudest = spectrum.argmax() * 16000 / len(middle)
        assert loudest == pytest.approx(4800 * factor, abs=5)
        assert np.square(faster[1000:-1000]).mean() == pytest.approx(0.5, rel=0.02)
    # Too high for 16 kHz once it is faster: gone, rather than somewhere else.
    assert np.square(clips.respeed(high, 1.25)[1000:-1000]).mean() < 1e-4


class TestSavedState:
    """The name of the state that a stopped training goes on from."""

    def name(self, folder: Path, **changes: object) -> str:
        with contextlib.chdir(folder):
            settings = params.load().model_copy(update=changes)
            run, _ = finetuning.prepare(settings, changes.get("fold", 0), inner=False)
            return finetuning.saved_state(settings, run).path.name

    def test_advice_does_not_throw_it_away(self, trained, tmp_path):
        """Fewer folds, other knobs of other stages, the checkpoint under another name."""
        folder = tmp_path / "again"
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("w2v", "runs"))
        before = self.name(folder)
        values = YAML().load(folder / "params.yaml")
        values.update({"folds": [0], "corpus": "demo", "checkpoint": "elsewhere"})
        values["svm_train"]["C"] = [7]
        values["revision"] = "main"
        YAML().dump(values, folder / "params.yaml")
        assert self.name(folder) == before

    def test_what_makes_the_numbers_is_in_it(self, trained, tmp_path):
        folder = tmp_path / "again"
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("w2v", "runs"))
        names = {self.name(folder), self.name(folder, precision="bf16")}
        names |= {self.name(folder, lr=1e-4), self.name(folder, epochs=4)}
        config = json.loads((folder / "data/checkpoint/config.json").read_text())
        (folder / "data/checkpoint/config.json").write_text(json.dumps({**config, "extra": 1}))
        names.add(self.name(folder))
        table = pd.read_csv(folder / "data/folds.csv")
        table.iloc[::-1].to_csv(folder / "data/folds.csv", index=False)
        names.add(self.name(folder))
        assert len(names) == 6

    def test_code_behind_the_numbers_is_in_it(self):
        files = {file.name for file in code.behind(Path(finetuning.__file__))}
        assert {"training.py", "whisper.py", "clips.py", "schedule.py"} <= files
        assert not {"w2v_finetune.py", "loop.py", "card.py", "params.py"} & files
