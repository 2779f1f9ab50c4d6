"""A trained model on another corpus: which labels correspond, what is left out, what comes out."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import workplace
from conftest import ROOT, one_line
from ruamel.yaml import YAML
from voices import clip

from commands import score
from ser import corpus, mfcc, params, tables
from ser.classifier import model as classifier
from ser.corpora import folder
from ser.run.errors import UserError
from ser.trained import models, windows

MODEL = ("calm", "happy", "angry", "sad")  # labels of the trained model
OTHER = ("neutral", "Ärger, laut", "happy", "sad")  # and of the folder
MAP = '"Ärger, laut=angry"'


def recordings(home: Path, labels: tuple[str, ...], speakers: int) -> Path:
    """A labelled folder, a clip of each speaker and label, whose pitch tells the labels apart."""
    home.mkdir(parents=True)
    rows = []
    for number, label in enumerate(labels):
        for who in range(speakers):
            name = f"{who} {number}.wav"
            clip(home / name, 0.4, who, 0.1, pitch=100 + 60 * number, syllables=3 + number)
            rows.append((name, label, f"s{who}"))
    pd.DataFrame(rows, columns=folder.COLUMNS).to_csv(home / folder.METADATA, index=False)
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a corpus, `own`, an SVM that is trained on it, and another corpus, `other`."""
    home = tmp_path_factory.mktemp("home")
    recordings(home / "own", MODEL, 4)
    recordings(home / "other", OTHER, 3)
    values = YAML().load(ROOT / "params.yaml")
    values.update({"corpus": "own", "folds": [0, 1]})
    values["split"]["scheme"] = 2
    values["mfcc"]["warps"] = [1.0]
    values["svm_train"].update({"kernel": ["rbf"], "C": [20], "gamma": [0.5], "inner_folds": 2})
    YAML().dump(values, home / "params.yaml")
    workplace.run(home, "download", "resample", "split", "mfcc", "svm_train")
    return home


def test_a_model_is_scored_on_another_corpus(home):
    done = workplace.outcome(
        home, "commands.score", "--model", "svm", "other", "--map", MAP, "--output", "runs/other"
    )
    assert done.returncode == 0
    protocol = (home / "runs/other/protocol.txt").read_text()
    assert protocol == (
        "data/models/svm, trained on own; scored on other; 9 of 12 clips of 3 speakers; labels "
        "happy, angry (Ärger, laut), sad; left out: of the folder neutral (3 clips); of the model "
        "calm\n"
    )
    assert done.stdout.startswith(protocol.strip().replace("; ", "\n") + "\n\naccuracy ")
    assert "chance is 33.3%, always the most frequent label 33.3%" in done.stdout
    predictions = tables.read_predictions(home / "runs/other/predictions.csv")
    assert tables.labels(predictions) == ["happy", "angry", "sad"]
    assert set(predictions["fold"]) == {0} and len(predictions) == 9
    assert predictions["actual"].value_counts().to_dict() == {"happy": 3, "angry": 3, "sad": 3}
    model, (row, *_) = models.load(str(home / "data/models/svm")), predictions.itertuples()
    shares, _ = windows.hear(model, str(home / "other" / f"{row.clip}.wav"))
    whole = dict(zip(model.labels, shares, strict=True))
    assert row.happy == pytest.approx(whole["happy"] / (1 - whole["calm"]), abs=1e-6)
    right = (predictions["actual"] == predictions["predicted"]).mean()
    assert f"accuracy  {100 * right:.1f} [" in done.stdout
    table = done.stdout.split("\n\n")[-1].splitlines()
    assert table[0].split() == ["predicted:", "happy", "angry", "sad", "recall"]
    counts = np.array([line.split()[1:4] for line in table[2:]], dtype=int)
    assert counts.sum() == 9 and np.trace(counts) == round(9 * right)


def test_a_model_of_normalised_speakers_normalises_the_folder_s(home, tmp_path, monkeypatch):
    """Each by all clips, those of labels that are left out included."""
    shutil.copytree(home / "data", tmp_path / "data")
    values = YAML().load(home / "params.yaml")
    values["svm_train"]["speaker_norm"] = True
    YAML().dump(values, tmp_path / "params.yaml")
    workplace.run(tmp_path, "svm_train")
    words = ("commands.score", "--model", "svm", str(home / "other"), "--map", MAP)
    done = workplace.outcome(tmp_path, *words)
    one_line(done, "4 clips of speaker s0; expected 10 at least", "by all clips of it")

    monkeypatch.setattr(score, "FEWEST_CLIPS", 4)
    done = workplace.outcome(tmp_path, *words)
    assert "TRANSDUCTIVE" in done.stdout and "9 of 12 clips" in done.stdout
    predictions = tables.read_predictions(tmp_path / "runs/score/predictions.csv")
    settings = params.load(home / "params.yaml").mfcc
    clips = folder.read(home / "other")
    table = mfcc.table([home / "other" / file for file in clips["file"]], settings, desc=None)
    table = table.drop(columns="clip").astype(float)
    trained = classifier.load(tmp_path / "data/models/svm")
    shares = trained.probabilities(classifier.normalised(table, clips["speaker"]))
    shares = shares[list(MODEL[1:])].set_index(clips["clip"]).loc[predictions["clip"]]
    shares = shares.div(shares.sum(axis=1), axis=0)
    np.testing.assert_allclose(predictions[list(MODEL[1:])], shares, atol=1e-5)


def test_its_own_corpus_is_called_so(home):
    done = workplace.outcome(home, "commands.score", "--model", "svm", "own")
    assert done.returncode == 0
    assert "the corpus that the model was trained on: VOICES IT KNOWS\n" in done.stdout
    assert "left out: of the folder none\nof the model none\n" in done.stdout
    predictions = tables.read_predictions(home / "runs/score/predictions.csv")
    assert len(predictions) == 16 and tables.labels(predictions) == list(MODEL)
    again = workplace.outcome(home, "commands.score", "--model", "svm", "own")
    assert again.stdout == done.stdout


def test_a_clip_without_an_answer_is_named_and_left_out(home, tmp_path):
    place = shutil.copytree(home / "other", tmp_path / "other")
    (place / "1 2.wav").write_text("no sound")
    flags = ["--model", home / "data/models/svm", place]
    done = workplace.outcome(tmp_path, "commands.score", *flags)
    one_line(done, f"score: {place}/1 2.wav: not an audio file")
    assert len(tables.read_predictions(tmp_path / "runs/score/predictions.csv")) == 5
    assert "\n5 of 12 clips of 3 speakers\n" in done.stdout
    for path in place.glob("*.wav"):
        path.write_text("no sound")
    done = workplace.outcome(tmp_path, "commands.score", *flags)
    assert done.stderr.splitlines()[-1] == f"score: {place}: none of its 6 clips has an answer"


def test_a_folder_with_other_things_is_not_overwritten(home):
    flags = ["--model", "svm", "own", "--output"]
    one_line(workplace.outcome(home, "commands.score", *flags, "data"), "--output data: holds some")
    one_line(workplace.outcome(home, "commands.score", *flags, "params.yaml"), "params.yaml: holds")
    assert (home / "data/clips.csv").exists() and (home / "params.yaml").is_file()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("joy", "--map: joy: expected FOLDER_LABEL=MODEL_LABEL"),
        ("joy=happy,", "--map: : expected FOLDER_LABEL=MODEL_LABEL"),
        ("fun=happy", "--map: fun=happy: the folder has no label 'fun'; it has joy, sad, bored"),
        ("joy=glad", "--map: joy=glad: the model has no label 'glad'; it has happy, sad, angry"),
        ("joy=happy, joy=sad", "--map: joy stands there twice"),
        (
            "",
            "1 labels in common; expected 2: the folder has joy, sad, bored, the model happy, sad",
        ),
        ("joy=sad", "1 labels in common"),
    ],
)
def test_a_mistake_in_the_map_is_one_line(text, words):
    with pytest.raises(UserError) as caught:
        score.correspondence(text, ["joy", "sad", "bored"], ["happy", "sad", "angry"])
    assert str(caught.value).startswith(words)


def test_several_labels_of_a_folder_may_be_one_of_the_model():
    pairs = score.correspondence("joy=happy, bored=sad", ["joy", "sad", "bored"], ["sad", "happy"])
    assert pairs == {"joy": "happy", "sad": "sad", "bored": "sad"}


def test_ravdess_is_known_by_the_names_of_its_clips():
    model = models.Trained(Path("svm"), ["x", "y"], "ravdess", lambda samples, clip: samples)
    names = pd.DataFrame({"clip": ["03-01-05-02-01-01-12"]})
    assert score.is_own(model, Path("any"), names)
    assert not score.is_own(model, Path("any"), pd.DataFrame({"clip": ["03a01Fa"]}))
    assert corpus.title("ravdess") == "RAVDESS speech"
