"""The head over all layers: starts at the probe, is saved with the model, and answers alike."""

import json
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import workplace
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ser import audio
from ser.corpora.ravdess import EMOTIONS
from ser.finetune import train, trained
from ser.finetune.head import LayersHead
from ser.run.errors import UserError


@pytest.fixture(scope="module", params=["wav2vec2", "whisper"])
def folder(request, tmp_path_factory):
    """Fold 0 fine-tuned under this head."""
    place = workplace.with_a_head(tmp_path_factory.mktemp(request.param), request.param)
    workplace.run(place, "w2v_finetune 0")
    return place


def test_it_starts_as_a_logistic_regression_on_the_frozen_encoder(folder):
    run = workplace.training(folder, head_probe=0.05)
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
    found = run.probabilities(np.arange(len(pooled)))[:, probe.classes_]
    expected = probe.predict_proba(pooled)
    assert found / found.sum(1, keepdims=True) == pytest.approx(expected, abs=2e-3)
    assert expected.max(1).mean() > 0.3  # it says something


@pytest.mark.parametrize("labels", [2, 3])
def test_the_probe_it_starts_as_knows_two_labels_too(labels):
    """Of which scikit-learn has one margin, and the head two logits."""
    rng = np.random.default_rng(0)
    numbers = np.arange(60) % labels
    pooled = rng.normal(0, 0.3, (60, 8)).astype(np.float32)
    pooled[np.arange(60), numbers] += 1
    head = LayersHead(1, 4, labels, 0.0)
    head.fit(pooled, numbers, 1.0)
    standard = StandardScaler().fit(pooled.astype(float))
    probe = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
    expected = probe.fit(standard.transform(pooled), numbers).predict_proba(
        standard.transform(pooled)
    )
    logits = head.linear((torch.from_numpy(pooled) - head.centre) / head.scale)
    assert logits.softmax(1).detach().numpy() == pytest.approx(expected, abs=1e-3)


def test_held_out_clips_change_nothing(folder, tmp_path):
    """Other audio and other labels of fold 0 leave the encoder and the head of fold 0, whose probe
    saw training clips alone, as they are."""
    other = workplace.again(folder, tmp_path / "other")
    folds = pd.read_csv(other / "data/folds.csv")
    held_out = folds["fold"] == 0
    for clip in folds.loc[held_out, "clip"]:
        path = other / f"data/audio/{clip}.wav"
        audio.write(path, np.rint(audio.read(path)[::-1] * 2**14).astype(np.int16))
    folds.loc[held_out, "label"] = "calm"
    folds.to_csv(other / "data/folds.csv", index=False)
    workplace.run(other, "w2v_features", "w2v_finetune 0")
    models = [workplace.digest(place / "data/models/w2v/fold_0") for place in (folder, other)]
    before, after = ({**files, "README.md": None} for files in models)
    assert before == after and "head.safetensors" in after
    for file in ("curve.csv", "epochs.csv"):
        tables = [(place / "data/w2v/fold_0" / file).read_bytes() for place in (folder, other)]
        assert tables[0] == tables[1], file
    before, after = (
        pd.read_csv(place / "data/w2v/fold_0/predictions.csv")[list(EMOTIONS)]
        for place in (folder, other)
    )
    assert not np.allclose(before, after)


def test_a_restored_training_ends_with_the_same_weights(folder, tmp_path):
    """Head and standardisation are in the state."""
    ends = []
    for saved in (None, tmp_path / "state.pt"):
        run = workplace.training(folder)
        if saved:
            for _ in range(3):
                run.step()
            run.settle()
            train.save(run.state(), saved)
            run = workplace.training(folder, saved=saved)
            assert run.done == 3
        while run.done < len(run.batches):
            run.step()
        run.finish()
        ends.append({**run.trained, **dict(run.encoder.head.named_buffers())})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("size", [1, 8])
def test_micro_batches_change_rounding_alone(folder, size):
    """Smaller ones, and ones that do not fit into the memory."""
    runs = []
    for micro_batch in (3, size):
        run = workplace.training(folder, micro_batch=micro_batch, dropout=0.2)
        if micro_batch == 8:

            def full(module: torch.nn.Module, arguments: tuple) -> None:
                if len(arguments[0]) > 2:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

            run.encoder.head.linear.register_forward_pre_hook(full)
        for _ in range(2):  # the first with a learning rate of 0
            run.step()
        runs.append(run)
    assert runs[1].micro_batch == {1: 1, 8: 2}[size]
    assert torch.allclose(runs[0].seen, runs[1].seen, atol=1e-4)
    assert torch.allclose(runs[0].norms, runs[1].norms, rtol=1e-4)
    for one, other in zip(*(run.trained.values() for run in runs), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, other.grad, atol=1e-5 * float(runs[0].norms[1]))


def test_clips_on_a_device_are_those_of_the_file(folder):
    clips = workplace.training(folder).clips
    numbers, speeds = np.array([3, 0, 11, 7]), np.array([0, 2, 1, 1])
    expected, lengths = clips.batch(numbers, speeds)
    clips.keep("cpu")
    found, again = clips.batch(numbers, speeds)
    assert torch.equal(found, expected) and torch.equal(lengths, again)
    assert len(set(lengths.tolist())) > 1


@pytest.mark.slow
def test_the_card_says_which_call_answers_like_the_predictions(folder, warm, tmp_path):
    model = folder / "data/models/w2v/fold_0"
    row = pd.read_csv(folder / "data/w2v/fold_0/predictions.csv").iloc[0]
    card = (model / "README.md").read_text()
    assert "it does not know a head that looks at all layers" in card
    (program,) = re.findall(r"```python\n(.+?)```", card, re.DOTALL)
    program = program.replace("FOLDER", str(model))
    program = program.replace("CLIP", str(folder / f"data/audio/{row['clip']}.wav"))
    *lines, last = program.strip().splitlines()
    program = "\n".join([*lines, f"print({last.partition('  #')[0]}[0].tolist())"])
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [warm / "python", "-m", "program"], env=workplace.environment(), cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = [row[label] for label in EMOTIONS]
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-5)


def test_predict_answers_like_the_predictions(folder):
    """Also for a tenth of a second, and in a line for what is too long."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 3 * 16000).astype(np.int16)
    row = pd.read_csv(folder / "data/w2v/fold_0/predictions.csv").iloc[0]
    soundfile.write(folder / "short.wav", noise[:1600], 16000)
    soundfile.write(folder / "long.wav", noise, 16000)
    clips = [folder / f"data/audio/{row['clip']}.wav", folder / "short.wav", folder / "long.wav"]
    model = folder / "data/models/w2v/fold_0"
    done = workplace.outcome(folder, "commands.predict", "--json", "--model", model, *clips)
    found = [json.loads(line)["probabilities"] for line in done.stdout.splitlines()]
    assert found[0] == pytest.approx({label: row[label] for label in EMOTIONS}, abs=1e-5)
    whisper = "whisper" in folder.name
    assert len(found) == (2 if whisper else 3)
    assert all(sum(each.values()) == pytest.approx(1) for each in found)
    assert (f"{clips[2]}: 3.0 s long; {model} hears 1 s at most" in done.stderr) == whisper


def test_a_saved_model_without_its_head_is_refused(folder, tmp_path):
    model = tmp_path / "model"
    encoder = trained.load(folder / "data/models/w2v/fold_0")
    model.mkdir()
    encoder.save(model)
    (model / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="head.safetensors: does not load"):
        trained.load(model)
    (model / "head.safetensors").unlink()
    with pytest.raises(UserError, match="lacks"):
        trained.load(model)
