"""The head over all layers: starts at the probe, is saved with the model, and answers alike."""

import contextlib
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import workplace
from conftest import ROOT
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ser import params
from ser.corpus import EMOTIONS
from ser.finetune import finetuning, trained
from ser.run.errors import UserError


@pytest.fixture(scope="module", params=["wav2vec2", "whisper"])
def folder(request, tmp_path_factory):
    """Fold 0 fine-tuned with everything that this issue added."""
    whisper = request.param == "whisper"
    place = workplace.make(
        tmp_path_factory.mktemp(request.param), weights=not whisper, whisper=whisper,
        head="layers", head_probe=1e-2, head_dropout=0.2, layer_decay=0.5, average=0.4,
        speeds=[0.9, 1.0, 1.1], label_smoothing=0.1, mask_feature_prob=0.1, mask_feature_length=2,
    )  # fmt: skip
    workplace.run(place, "checkpoint", "w2v_features", "w2v_finetune 0")
    return place


def begin(folder, **changes):
    with contextlib.chdir(folder):
        settings = params.load().model_copy(update=changes)
        return finetuning.prepare(settings, 0, inner=False)


def test_it_starts_as_a_logistic_regression_on_the_frozen_encoder(folder):
    run, _ = begin(folder, lr=1e-12, head_lr=1e-12, head_probe=0.05)
    frozen = run.encoder.eval()
    pooled = []
    for number in range(len(run.clips.names)):
        inputs, lengths = run.clips.batch([number])
        with torch.inference_mode():
            states = frozen.hidden_states(inputs, lengths)
        layers = [layer[0, states.mask[0]].numpy() for layer in states.layers[1:]]
        pooled.append(np.concatenate([part for x in layers for part in (x.mean(0), x.std(0))]))
    pooled = np.array(pooled, float)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    probe.fit(pooled[run.numbers], run.labels[run.numbers])
    frozen.train()
    run.advance()
    found = run.probabilities(np.arange(len(pooled)))
    expected = np.zeros_like(found)
    expected[:, probe.classes_] = probe.predict_proba(pooled)
    assert found[:, probe.classes_] / found[:, probe.classes_].sum(
        1, keepdims=True
    ) == pytest.approx(expected[:, probe.classes_], abs=2e-3)
    assert expected.max(1).mean() > 0.3  # it says something


def test_it_never_sees_the_fold(folder):
    """The probe and the standardisation are of the training clips alone."""
    run, table = begin(folder)
    held_out = np.flatnonzero(table["fold"] == 0)
    run.fit_head()
    before = {name: value.clone() for name, value in run.encoder.head.state_dict().items()}
    other, _ = begin(folder)
    for number in held_out:
        for row in range(number * 3, number * 3 + 3):
            other.clips.rows[row] = other.clips.rows[row][::-1].copy() * 3
    other.labels = other.labels.copy()
    other.labels[held_out] = 0
    other.fit_head()
    assert all(torch.equal(before[name], v) for name, v in other.encoder.head.state_dict().items())


def test_it_can_start_at_random(folder):
    run, _ = begin(folder, head_probe=None)
    before = run.encoder.head.linear.weight.detach().clone()
    run.fit_head()
    assert torch.equal(before, run.encoder.head.linear.weight)
    assert run.encoder.head.scale.std() > 0


def test_lower_layers_learn_more_slowly(folder):
    run, _ = begin(folder, lr=1e-3, head_lr=5e-3, layer_decay=0.5)
    rates = {
        id(p): group["initial_lr"] for group in run.optimizer.param_groups for p in group["params"]
    }
    first, last = run.encoder.layers[0], run.encoder.layers[-1]
    assert {rates[id(p)] for p in last.parameters()} == {1e-3}
    assert {rates[id(p)] for p in first.parameters()} == {5e-4}
    below = [
        p for part in run.encoder.below for p in getattr(part, "parameters", lambda p=part: [p])()
    ]
    assert {rates[id(p)] for p in below} == {2.5e-4}
    assert {rates[id(p)] for p in run.encoder.head.parameters()} == {5e-3}
    assert (
        len(rates)
        == len(run.trained)
        == len([p for p in run.encoder.parameters() if p.requires_grad])
    )


def test_the_mean_of_the_last_weights_counts(folder):
    run, _ = begin(folder, average=0.4)
    weights = []
    while run.done < len(run.steps):
        run.advance()
        weights.append({name: weight.detach().clone() for name, weight in run.trained.items()})
    last = weights[-int(0.4 * len(weights)) :]
    assert len(last) == 3
    run.finish()
    for name, weight in run.trained.items():
        mean = torch.stack([each[name] for each in last]).mean(0)
        assert torch.allclose(weight, mean, atol=1e-7), name


def finished(run, steps: int | None = None) -> dict[str, torch.Tensor]:
    """The weights after all steps."""
    while run.done < (steps or len(run.steps)):
        run.advance()
    run.finish()
    return {name: weight.detach().clone() for name, weight in run.trained.items()}


def test_a_restored_training_ends_with_the_same_weights(folder, tmp_path):
    """Head, standardisation and the mean that has begun are in the state."""
    expected = finished(begin(folder)[0])
    for stop in (1, 6):
        run, _ = begin(folder)
        while run.done < stop:
            run.advance()
        run.settle()
        torch.save(run.state(), tmp_path / "state.pt")
        again, _ = begin(folder)
        again.restore(torch.load(tmp_path / "state.pt", weights_only=True))
        found = finished(again)
        assert all(torch.equal(found[name], expected[name]) for name in expected), stop


@pytest.mark.parametrize("case", ["smaller", "larger", "does not fit"])
def test_micro_batches_change_rounding_alone(folder, case):
    """Whatever is random, and however much memory there is."""
    runs = []
    for size in (3, {"smaller": 1, "larger": None, "does not fit": 8}[case]):
        run, _ = begin(folder, micro_batch=size, dropout=0.2)
        if size == 8:

            def full(module: torch.nn.Module, arguments: tuple) -> None:
                if len(arguments[0]) > 2:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

            run.encoder.head.linear.register_forward_pre_hook(full)
        for _ in range(2):  # the first with a learning rate of 0
            run.advance()
        runs.append(run)
    assert runs[1].micro_batch == {"smaller": 1, "larger": 8, "does not fit": 2}[case]
    assert torch.allclose(runs[0].seen, runs[1].seen, atol=1e-4)
    assert torch.allclose(runs[0].norms, runs[1].norms, rtol=1e-4)
    for one, other in zip(*(run.trained.values() for run in runs), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, other.grad, atol=1e-5 * float(runs[0].norms[1]))


def test_clips_on_a_device_are_those_of_the_file(folder):
    run, _ = begin(folder)
    numbers, speeds = np.array([3, 0, 11, 7]), np.array([0, 2, 1, 1])
    expected, lengths = run.clips.batch(numbers, speeds)
    run.clips.keep("cpu")
    found, again = run.clips.batch(numbers, speeds)
    assert torch.equal(found, expected) and torch.equal(lengths, again)
    assert len(set(lengths.tolist())) > 1


@pytest.mark.slow
def test_the_card_says_which_call_answers_like_the_predictions(folder, tmp_path):
    model = folder / "data/models/w2v/fold_0"
    predictions = pd.read_csv(folder / "data/w2v/fold_0/predictions.csv")
    row = predictions.iloc[0]
    expected = [row[emotion] for emotion in EMOTIONS]
    card = (model / "README.md").read_text()
    assert "it does not know a head that looks at all layers" in card
    (program,) = re.findall(r"```python\n(.+?)```", card, re.DOTALL)
    program = program.replace("FOLDER", str(model))
    program = program.replace("CLIP", str(folder / f"data/audio/{row['clip']}.wav"))
    *lines, last = program.strip().splitlines()
    program = "\n".join([*lines, f"print({last.partition('  #')[0]}[0].tolist())"])
    done = subprocess.run(
        [sys.executable, "-c", program], env=workplace.environment(), cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-5)


def test_predict_answers_like_the_predictions(folder, capsys):
    """Also for clips of speech shorter than a frame, and in a line for those that are too long."""
    row = pd.read_csv(folder / "data/w2v/fold_0/predictions.csv").iloc[0]
    soundfile.write(folder / "short.wav", np.zeros(20, np.int16), 16000)
    soundfile.write(folder / "long.wav", np.ones(3 * 16000, np.int16), 16000)
    clips = [folder / f"data/audio/{row['clip']}.wav", folder / "short.wav", folder / "long.wav"]
    model = folder / "data/models/w2v/fold_0"
    with pytest.raises(SystemExit):
        command = " ".join(["commands.predict --json --model", str(model), *map(str, clips)])
        workplace.run(folder, command)
    out, err = capsys.readouterr()
    found = [json.loads(line)["probabilities"] for line in out.splitlines()]
    assert found[0] == pytest.approx({emotion: row[emotion] for emotion in EMOTIONS}, abs=1e-5)
    whisper = "whisper" in folder.name
    assert len(found) == (2 if whisper else 3)
    assert all(sum(each.values()) == pytest.approx(1) for each in found)
    assert (f"{clips[2]}: 3.0 s long; {model} hears 1 s at most" in err) == whisper


def test_a_saved_model_without_its_head_is_refused(folder, tmp_path):
    model = tmp_path / "model"
    encoder = trained.load(folder / "data/models/w2v/fold_0")
    model.mkdir()
    encoder.save(model)
    clip = sorted((folder / "data/audio").iterdir())[0]
    samples, _ = soundfile.read(clip, dtype="float32")
    inputs = torch.from_numpy(encoder.prepare(samples))[None]
    again = trained.load(model)
    assert torch.equal(
        encoder(inputs, torch.tensor([inputs.shape[1]])),
        again(inputs, torch.tensor([inputs.shape[1]])),
    )
    (model / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="head.safetensors: does not load"):
        trained.load(model)
    (model / "head.safetensors").unlink()
    with pytest.raises(UserError, match="lacks"):
        trained.load(model)
