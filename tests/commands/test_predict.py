"""Any clip, answered by any model, wherever its folder lies; one without an answer is one line."""

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import workplace
from conftest import ROOT, one_line
from feature_tables import clips
from ruamel.yaml import YAML
from tiny_models import write_checkpoint
from voices import clip

from commands import predict
from ser import corpus, params
from ser.classifier import model as classifier
from ser.corpus import EMOTIONS

BLOCKS = params.load(ROOT / "params.yaml").svm_train.blocks[-1]
ROWS = clips(((1, 2), (3, 4), (5, 6)), statements=(1,))


def set_params(folder: Path, **changes: dict) -> None:
    values = YAML().load(ROOT / "params.yaml")
    for section, knobs in changes.items():
        values[section].update(knobs)
    YAML().dump(values, folder / "params.yaml")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with clips, their folds, their features, and an encoder."""
    home = tmp_path_factory.mktemp("home")
    (home / "data" / "audio").mkdir(parents=True)
    ROWS.to_csv(home / "data" / "folds.csv", index=False)
    for number, row in ROWS.iterrows():
        emotion, path = EMOTIONS.index(row["emotion"]), home / f"data/audio/{row['clip']}.wav"
        clip(path, 0.4, number, 0.1, pitch=100 + 30 * emotion, syllables=3 + emotion)
    write_checkpoint(home / "data" / "checkpoint")
    set_params(home)
    workplace.run(home, "mfcc")
    return home


@pytest.fixture(scope="module")
def svm(home, tmp_path_factory) -> Path:
    """A copy of `home` in which `svm_train` has run."""
    return train(home, tmp_path_factory.mktemp("svm") / "home", "svm_train")


def train(home: Path, folder: Path, *stages: str, **changes: object) -> Path:
    """A copy of `home` in which stages have run, the last one with few candidates."""
    shutil.copytree(home, folder)
    few = {"kernel": ["rbf"], "C": [20], "gamma": [0.5], "inner_folds": 2}
    set_params(folder, **{stages[-1]: few | changes})
    workplace.run(folder, *stages)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages", "features", "changes"),
    [
        ("svm", ["svm_train"], "mfcc", {"blocks": [BLOCKS], "kernel": ["rbf_mean"]}),
        ("svm", ["svm_train"], "mfcc", {"blocks": [{"seg": 1}]}),
        ("probe", ["embed", "probe_train"], "embeddings", {}),
    ],
)
def test_a_model_predicts_from_its_folder_alone(home, tmp_path, name, stages, features, changes):
    """With the features that it was trained on, whatever params.yaml says by now."""
    folder = train(home, tmp_path / "home", *stages, **changes)
    model = Path(shutil.move(folder / "data" / "models" / name, tmp_path / "model"))
    table = pd.read_parquet(folder / "data" / f"{features}.parquet").set_index("clip")
    shares = classifier.load(model).probabilities(table)
    paths = [folder / f"data/audio/{name}.wav" for name in table.index[::10]]
    (tmp_path / "elsewhere").mkdir()
    set_params(tmp_path / "elsewhere", mfcc={"hop": 320, "n_mfcc": 30, "trim_db": None})
    found = workplace.answers(tmp_path / "elsewhere", "../model", *paths)
    for answer, name in zip(found, table.index[::10], strict=True):
        assert list(answer) == list(EMOTIONS)
        # Features are float32, whose last digits depend on BLAS's number of threads.
        assert answer == pytest.approx(dict(shares.loc[name]), abs=1e-6)
    if features == "embeddings":
        (model / "checkpoint" / "config.json").write_text("{}")
        done = workplace.outcome(tmp_path, "commands.predict", "--model", "model", paths[0])
        one_line(done, "not the encoder that the probe was trained on")


def test_a_model_that_cannot_answer_says_why_in_one_line(svm, tmp_path):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    model = Path(shutil.copytree(svm / "data" / "models" / "svm", tmp_path / "model"))
    text = (model / classifier.SETTINGS).read_text()
    wrong = {
        "needs many clips of each voice": text.replace('"mfcc": {', '"speaker_norm": 1, "mfcc": {'),
        "hop Input should be a valid integer": text.replace('"hop": 160', '"hop": "x"'),
        "(stat_mfcc99)": text.replace("stat_mfcc03_mean", "stat_mfcc99"),
        "of another version of the project ('mfcc')": text.replace('"mfcc": {', '"eyes": {'),
    }
    for words, content in wrong.items():
        (model / classifier.SETTINGS).write_text(content)
        done = workplace.outcome(tmp_path, "commands.predict", "--model", "model", path)
        one_line(done, words)
        assert done.stdout == ""


@pytest.mark.parametrize("model", ["svm", "w2v", "nowhere"])
def test_no_model_is_one_line(tmp_path, model):
    done = workplace.outcome(tmp_path, "commands.predict", "--model", model, "clip.wav")
    one_line(done, f"{model}: no model there, nor in data/models/{model}, where `dvc repro`")


def test_files_without_an_answer_are_named_and_the_rest_goes_on(svm, tmp_path):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    soundfile.write(tmp_path / "long.flac", np.zeros(61 * 1000, np.int16), 1000)
    (tmp_path / "text.txt").write_text("no sound\n")
    (tmp_path / "silence.wav").write_bytes(path.read_bytes()[:44])
    names = {
        "long.flac": "longer than 60 s",
        "text.txt": "not an audio file",
        "silence.wav": "",
        "absent.wav": "No such file",
    }
    model = svm / "data" / "models" / "svm"
    done = workplace.outcome(tmp_path, "commands.predict", "--model", model, *names, path)
    assert done.returncode == 1
    header, row = done.stdout.splitlines()
    assert header.split() == ["clip", "predicted", *EMOTIONS]
    assert row.startswith(f"{path} ") and row.split()[1] in EMOTIONS
    assert sum(map(float, row.split()[2:])) == pytest.approx(1, abs=0.005)
    for (name, words), line in zip(names.items(), done.stderr.splitlines(), strict=True):
        assert line.startswith(f"predict: {name}: ") and words in line


def test_what_is_lost_of_a_file_is_said_and_the_rest_answered(svm, tmp_path):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    content = path.read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    done = workplace.outcome(svm, "commands.predict", "--model", "svm", tmp_path / "cut.wav", path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == [
        str(tmp_path / "cut.wav"), str(path)
    ]  # fmt: skip
    words = f"predict: {tmp_path / 'cut.wav'}: cut off or damaged: "
    assert re.fullmatch(rf"{re.escape(words)}\S+ s of \S+ s could be read\n", done.stderr)


def test_names_of_files_cannot_command_a_terminal(svm, tmp_path):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    content = path.read_bytes()
    odd = tmp_path / "a\x1b[31m\x9b2J\u202e\n.wav"
    odd.write_bytes(content[: len(content) // 2])
    for flags in ([], ["--json"]):
        done = workplace.outcome(svm, "commands.predict", "--model", "svm", *flags, odd)
        for text in (done.stdout, done.stderr):
            assert "".join(text.splitlines()).isprintable()
        assert len(done.stderr.splitlines()) == 1
    assert json.loads(done.stdout)["clip"] == str(odd)


def test_a_model_of_the_synthetic_corpus_says_so(svm, tmp_path):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    model = Path(shutil.copytree(svm / "data" / "models" / "svm", tmp_path / "model"))
    text = (model / classifier.SETTINGS).read_text()
    assert '"corpus": "ravdess"' in text
    (model / classifier.SETTINGS).write_text(text.replace("ravdess", "demo"))
    done = workplace.outcome(tmp_path, "commands.predict", "--model", model, path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2
    assert done.stderr == (
        f"predict: {model}: trained on the SYNTHETIC demo corpus, not RAVDESS: what it answers "
        "says nothing about human speech\n"
    )


def test_a_closed_standard_input_is_one_line(svm, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    done = workplace.outcome(svm, "commands.predict", "--model", "svm", "-")
    one_line(done, "predict: -: standard input is closed")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_whoever_has_read_enough_may_close_the_output(svm, monkeypatch, capfd, flags):
    """As `head` does."""
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.chdir(svm)
    monkeypatch.setattr(sys, "argv", ["predict", "--model", "svm", *flags, str(path)])
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as end:
            predict.main()
    assert end.value.code == 128 + 13
    assert capfd.readouterr().err == ""


def test_standard_input(svm, monkeypatch):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    expected = workplace.answers(svm, "svm", path)
    piped = io.BufferedReader(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped))
    assert workplace.answers(svm, "svm", "-") == expected


@pytest.mark.slow
def test_fine_tuned_models_answer_from_any_folder_and_all_folds_that_there_are_are_averaged(
    trained, tmp_path
):
    folds = tmp_path / "data" / "models" / "w2v"
    shutil.copytree(trained / "data" / "models" / "w2v" / "fold_0", folds / "fold_0")
    path = corpus.files(trained / "data" / "audio")[0]
    alone = workplace.answers(tmp_path, folds / "fold_0", path)
    assert sum(alone[0].values()) == pytest.approx(1)
    config = (folds / "fold_0" / "config.json").read_text()
    assert '"corpus": "ravdess"' in config
    (folds / "fold_0" / "config.json").write_text(config.replace('"ravdess"', '"demo"'))
    done = workplace.outcome(tmp_path, "commands.predict", "--model", folds / "fold_0", path)
    assert f"{folds / 'fold_0'}: trained on the SYNTHETIC demo corpus" in done.stderr
    (folds / "fold_0" / "config.json").write_text(config)
    assert workplace.answers(tmp_path, "w2v", path) == alone
    shutil.copytree(folds / "fold_0", folds / "fold_3")
    both = workplace.answers(tmp_path, "w2v", path)
    assert both[0] == pytest.approx(alone[0], abs=1e-12)
    (folds / "fold_3" / "config.json").unlink()
    one_line(workplace.outcome(tmp_path, "commands.predict", path), "fold_3")
