"""Tables that stages hand each other: what is damaged is refused in one line, and never scored."""

import pandas as pd
import pytest
from feature_tables import clips

from ser import tables
from ser.run.errors import UserError

CLIPS = clips()
SHARES = pd.get_dummies(CLIPS["label"]) * 0.2 + 0.1  # columns in alphabetical order
PREDICTIONS = tables.from_probabilities(CLIPS, SHARES)


def changed(table, column, value, row=3):
    """`table` with another value in one place."""
    table = table.astype({column: object})
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (changed(CLIPS, "clip", CLIPS["clip"][0]), "twice"),
        (changed(CLIPS, "speaker", None), "no speaker in line 5"),
        (changed(CLIPS, "fold", 1), "is in two folds"),
        (changed(CLIPS, "fold", -1), "no number from 0 up"),
        (changed(CLIPS, "fold", None), "no number from 0 up"),
        (CLIPS.assign(fold=0), "two folds at least"),
        (CLIPS[:0], "two folds at least"),
        (CLIPS.drop(columns="fold"), "two folds at least"),
        (CLIPS.drop(columns="label"), "columns"),
    ],
)
def test_folds_that_do_not_hold_together(tmp_path, table, words):
    table.to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(UserError, match=words):
        tables.folds(tmp_path / "folds.csv")


def test_labels_and_speakers_are_read_as_they_stand_there(tmp_path):
    """Numbers, and words that pandas takes for nothing; speakers are numbers only if all are."""
    labels, speakers = ["1", "NA", "a, b", "null"], ["03", "1", "x", "é"]
    table = pd.DataFrame({"clip": list("abcd"), "file": list("abcd")})
    table.assign(speaker=speakers, label=labels).to_csv(tmp_path / "c.csv", index=False)
    read = tables.clips(tmp_path / "c.csv")
    assert (list(read["label"]), list(read["speaker"])) == (labels, speakers)
    table.assign(speaker=[10, 9, 9, 1], label=labels).to_csv(tmp_path / "c.csv", index=False)
    assert sorted(set(tables.clips(tmp_path / "c.csv")["speaker"])) == [1, 9, 10]


def test_permuted_labels_are_no_mistake(tmp_path):
    """As a control needs them."""
    permuted = CLIPS.assign(label=CLIPS["label"].to_numpy()[::-1])
    permuted.to_csv(tmp_path / "folds.csv", index=False)
    assert list(tables.folds(tmp_path / "folds.csv")["label"]) == list(permuted["label"])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (changed(PREDICTIONS, "calm", None), "sum to 1"),
        (changed(PREDICTIONS, "actual", None), "no actual in line 5"),
        (changed(PREDICTIONS, "calm", 0.9), "sum to 1"),
        (changed(PREDICTIONS, "calm", -0.1), "sum to 1"),
        (changed(PREDICTIONS, "calm", "much"), "sum to 1"),
        (changed(PREDICTIONS, "calm", float("inf")), "sum to 1"),
        (changed(PREDICTIONS, "predicted", "bored"), "predicted 'bored'"),
        (changed(PREDICTIONS, "fold", 1.5), "fold is not a whole number"),
        (changed(PREDICTIONS, "clip", PREDICTIONS["clip"][0]), "every clip"),
        (PREDICTIONS[:0], "every clip"),
        (PREDICTIONS[PREDICTIONS["fold"] > 0], r"folds \[0, 1, 2\]"),
    ],
)
def test_predictions_that_no_model_makes(tmp_path, table, words):
    (tmp_path / "data/predictions/svm").mkdir(parents=True)
    table.to_csv(tmp_path / "data/predictions/svm/predictions.csv", index=False)
    with pytest.raises(UserError, match=words):
        tables.predictions("svm", [0, 1, 2], tmp_path)


def test_what_is_written_can_be_read(tmp_path):
    folder = tmp_path / "data/predictions/own"
    folder.parent.mkdir(parents=True)
    tables.write_predictions(folder, PREDICTIONS, "by hand")
    read = tables.predictions("own", [0, 2], tmp_path)
    kept = PREDICTIONS[PREDICTIONS["fold"] != 1].sort_values("clip", ignore_index=True)
    pd.testing.assert_frame_equal(read, kept, check_exact=True)
    assert (read["predicted"] == read["actual"]).all()
    assert (folder / "protocol.txt").read_text() == "by hand\n"


@pytest.mark.parametrize("content", [b"", b"\x80", b"a,b\n1,2,3\n1\n", b'"', b"\x00"])
def test_what_is_no_table(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match="t.csv: "):
        tables.read(tmp_path / "t.csv", ("a", "b"))
