"""Any clip, answered by any model, wherever its folder lies; what has no answer is one line."""

import contextlib
import importlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import ROOT
from feature_tables import clips
from ruamel.yaml import YAML
from tiny_models import write_checkpoint
from voices import clip

from ser import corpus, params
from ser.classifier import model as classifier
from ser.corpus import EMOTIONS

DEFAULT = params.load(ROOT / "params.yaml")
ROWS = clips(((1, 2), (3, 4), (5, 6)), statements=(1,))


def run(folder: Path, name: str, *arguments: str | Path) -> tuple[int, str, str]:
    """Run a stage or a command in a folder, in this process: exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            importlib.import_module(name).main()
            code = 0
        except SystemExit as end:
            code = 1 if isinstance(end.code, str) else end.code or 0
            err.write(f"{end.code}\n" if isinstance(end.code, str) else "")
    return code, out.getvalue(), err.getvalue()


def set_params(folder: Path, **changes: dict) -> None:
    values = YAML().load(ROOT / "params.yaml")
    for section, knobs in changes.items():
        values[section].update(knobs)
    YAML().dump(values, folder / "params.yaml")


def answers(folder: Path, model: str | Path, *paths: str | Path) -> list[dict[str, float]]:
    """The probabilities that `predict` prints for each clip."""
    code, out, err = run(folder, "commands.predict", "--json", "--model", model, *paths)
    assert (code, err) == (0, ""), err
    return [json.loads(line)["probabilities"] for line in out.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with clips, their folds and their features."""
    home = tmp_path_factory.mktemp("home")
    (home / "data" / "audio").mkdir(parents=True)
    ROWS.to_csv(home / "data" / "folds.csv", index=False)
    for number, row in ROWS.iterrows():
        emotion = EMOTIONS.index(row["emotion"])
        clip(
            home / f"data/audio/{row['clip']}.wav",
            0.4,
            number,
            0.1,
            100 + 30 * emotion,
            3 + emotion,
        )
    set_params(home)
    assert run(home, "stages.mfcc")[0] == 0
    return home


@pytest.fixture(scope="module")
def svm(home, tmp_path_factory) -> Path:
    """A copy of `home` in which `svm_train` has run: one of the pairs of blocks and kernels."""
    return train(home, tmp_path_factory.mktemp("svm") / "home")


def train(home: Path, folder: Path, **changes: object) -> Path:
    """A copy of `home` in which `svm_train` has run with few candidates, then is no checkout any
    more: only the model and the clips are left."""
    shutil.copytree(home, folder)
    few = {"kernel": ["rbf"], "C": [20], "gamma": [0.5], "inner_folds": 2}
    set_params(folder, svm_train=few | changes)
    code, _, err = run(folder, "stages.svm_train")
    assert code == 0, err
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "kernel"), [(DEFAULT.svm_train.blocks[-1], "rbf_mean"), ({"seg": 1}, "rbf")]
)
def test_whatever_was_chosen_predicts_from_its_folder_alone(home, tmp_path, blocks, kernel):
    """With the features that it was trained on, whatever params.yaml says by now."""
    folder = train(home, tmp_path / "home", blocks=[blocks], kernel=[kernel])
    model = Path(shutil.move(folder / "data" / "models" / "svm", tmp_path / "model"))
    table = pd.read_parquet(folder / "data" / "mfcc.parquet").set_index("clip")
    shares = classifier.load(model).probabilities(table)
    right = ROWS.set_index("clip")["emotion"] == shares.idxmax(axis=1)
    assert right.mean() > 0.9  # its own training clips
    paths = [folder / f"data/audio/{name}.wav" for name in table.index[::10]]
    (tmp_path / "elsewhere").mkdir()
    set_params(tmp_path / "elsewhere", mfcc={"hop": 320, "n_mfcc": 30, "trim_db": None})
    found = answers(tmp_path / "elsewhere", "../model", *paths)
    for answer, name in zip(found, table.index[::10], strict=True):
        assert list(answer) == list(EMOTIONS)
        # Features are float32, whose last digits depend on BLAS's number of threads.
        assert answer == pytest.approx(dict(shares.loc[name]), abs=1e-6)


@pytest.mark.slow
def test_a_probe_predicts_from_its_folder_alone(home, tmp_path):
    folder = tmp_path / "home"
    shutil.copytree(home, folder)
    write_checkpoint(folder / "data" / "checkpoint")
    set_params(folder, probe_train={"inner_folds": 2})
    for stage in ("embed", "probe_train"):
        code, _, err = run(folder, f"stages.{stage}")
        assert code == 0, err
    model = Path(shutil.move(folder / "data" / "models" / "probe", tmp_path / "model"))
    table = pd.read_parquet(folder / "data" / "embeddings.parquet").set_index("clip")
    shares = classifier.load(model).probabilities(table)
    paths = [folder / f"data/audio/{name}.wav" for name in table.index[::10]]
    found = answers(tmp_path, "model", *paths)
    for answer, name in zip(found, table.index[::10], strict=True):
        assert answer == pytest.approx(dict(shares.loc[name]), abs=1e-6)
    (model / "checkpoint" / "config.json").write_text("{}")
    code, _, err = run(tmp_path, "commands.predict", "--model", "model", paths[0])
    assert (code, err.count("\n")) == (1, 1)
    assert "not the encoder that the probe was trained on" in err


def test_a_model_that_cannot_answer_says_why_in_one_line(svm, tmp_path):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    model = Path(shutil.copytree(svm / "data" / "models" / "svm", tmp_path / "model"))
    text = (model / classifier.SETTINGS).read_text()
    wrong = {
        "needs many clips of each voice": text.replace('"mfcc": {', '"speaker_norm": 1, "mfcc": {'),
        "hop Input should be a valid integer": text.replace('"hop": 160', '"hop": "x"'),
        "(stat_mfcc99)": text.replace("stat_mfcc03_mean", "stat_mfcc99"),
        "of another version of the project ('mfcc')": text.replace('"mfcc": {', '"eyes": {'),
        "not a model of this project": "hello",
    }
    for words, content in wrong.items():
        (model / classifier.SETTINGS).write_text(content)
        code, out, err = run(tmp_path, "commands.predict", "--model", "model", path)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert words in err, err


@pytest.mark.parametrize("model", ["svm", "w2v", "nowhere"])
def test_no_model_is_one_line(tmp_path, model):
    code, out, err = run(tmp_path, "commands.predict", "--model", model, "clip.wav")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert f"{model}: no model there, nor in data/models/{model}, where `dvc repro`" in err


def test_files_without_an_answer_are_named_and_the_rest_goes_on(svm, tmp_path):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    soundfile.write(tmp_path / "long.flac", np.zeros(61 * 1000, np.int16), 1000)
    (tmp_path / "text.txt").write_text("no sound\n")
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile {path}\n")
    (tmp_path / "silence.wav").write_bytes(path.read_bytes()[:44])
    names = {
        "long.flac": "longer than 60 s",
        "text.txt": "not an audio file",
        "list.ffconcat": "playlist",
        "silence.wav": "",
        "absent.wav": "No such file",
        "http://127.0.0.1:9/clip.wav": "No such file",
    }
    model = svm / "data" / "models" / "svm"
    code, out, err = run(tmp_path, "commands.predict", "--model", model, *names, path)
    assert code == 1
    header, row = out.splitlines()
    assert header.split() == ["clip", "predicted", *EMOTIONS]
    assert row.startswith(f"{path} ") and row.split()[1] in EMOTIONS
    assert sum(map(float, row.split()[2:])) == pytest.approx(1, abs=0.005)
    for (name, words), line in zip(names.items(), err.splitlines(), strict=True):
        assert line.startswith(f"predict: {name}: ") and words in line


def test_standard_input(svm, monkeypatch):
    path = svm / f"data/audio/{ROWS['clip'][0]}.wav"
    expected = answers(svm, "svm", path)
    piped = io.BufferedReader(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped))
    assert answers(svm, "svm", "-") == expected


@pytest.mark.slow
def test_fine_tuned_models_answer_from_any_folder_and_all_folds_that_there_are_are_averaged(
    trained, tmp_path
):
    folds = tmp_path / "data" / "models" / "w2v"
    shutil.copytree(trained / "data" / "models" / "w2v" / "fold_0", folds / "fold_0")
    path = corpus.files(trained / "data" / "audio")[0]
    alone = answers(tmp_path, folds / "fold_0", path)
    assert sum(alone[0].values()) == pytest.approx(1)
    assert answers(tmp_path, "w2v", path) == alone
    shutil.copytree(folds / "fold_0", folds / "fold_3")
    both = answers(tmp_path, "w2v", path)
    assert both[0] == pytest.approx(alone[0], abs=1e-12)
    (folds / "fold_3" / "config.json").unlink()
    code, _, err = run(tmp_path, "commands.predict", path)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "fold_3" in err
