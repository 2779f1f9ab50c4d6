"""Tables that stages hand each other: what is damaged is refused in one line, and never scored."""

import numpy as np
import pytest
from feature_tables import clips

from ser import scoring, tables
from ser.corpus import EMOTIONS
from ser.run.errors import UserError

CLIPS = clips()
PREDICTIONS = CLIPS[["clip", "actor", "fold"]].assign(
    actual=CLIPS["emotion"],
    predicted=CLIPS["emotion"],
    **{emotion: np.where(CLIPS["emotion"] == emotion, 0.3, 0.1) for emotion in EMOTIONS},
)


def changed(table, column, value, row=3):
    """`table` with another value in one place."""
    table = table.astype({column: object})
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (changed(CLIPS, "clip", CLIPS["clip"][0]), "twice"),
        (changed(CLIPS, "clip", "x"), "not the name"),
        (changed(CLIPS, "actor", 7), "actor 7, against its name"),
        (changed(CLIPS, "fold", 1), "is in two folds"),
        (changed(CLIPS, "fold", -1), "no number from 0 up"),
        (changed(CLIPS, "fold", None), "no fold in line 5"),
        (changed(CLIPS, "emotion", "bored"), "emotion 'bored'"),
        (CLIPS.assign(fold=0), "two folds at least"),
        (CLIPS[:0], "two folds at least"),
        (CLIPS.drop(columns="fold"), "columns"),
    ],
)
def test_folds_that_do_not_hold_together(tmp_path, table, words):
    table.to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(UserError, match=words):
        tables.folds(tmp_path / "folds.csv")


def test_permuted_labels_are_no_mistake(tmp_path):
    """As a control needs them."""
    permuted = CLIPS.assign(emotion=CLIPS["emotion"].to_numpy()[::-1])
    permuted.to_csv(tmp_path / "folds.csv", index=False)
    assert list(tables.folds(tmp_path / "folds.csv")["emotion"]) == list(permuted["emotion"])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (changed(PREDICTIONS, "calm", None), "no calm in line 5"),
        (changed(PREDICTIONS, "calm", 0.9), "sum to 1"),
        (changed(PREDICTIONS, "calm", -0.1), "sum to 1"),
        (changed(PREDICTIONS, "calm", "much"), "sum to 1"),
        (changed(PREDICTIONS, "calm", float("inf")), "sum to 1"),
        (changed(PREDICTIONS, "predicted", "bored"), "predicted 'bored'"),
        (changed(PREDICTIONS, "actor", 1.5), "actor is not a whole number"),
        (changed(PREDICTIONS, "clip", PREDICTIONS["clip"][0]), "every clip"),
        (PREDICTIONS[:0], "every clip"),
    ],
)
def test_predictions_that_no_model_makes(tmp_path, monkeypatch, table, words):
    (tmp_path / "data/svm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    table.to_csv("data/svm/predictions.csv", index=False)
    with pytest.raises(UserError, match=words):
        scoring.read("svm", [0, 1, 2])


@pytest.mark.parametrize("content", [b"", b"\x80", b"a,b\n1,2,3\n1\n", b'"', b"\x00"])
def test_what_is_no_table(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match="t.csv: "):
        tables.read(tmp_path / "t.csv", ("a", "b"))
