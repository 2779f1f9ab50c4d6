"""Names and folds: what the first stages promise."""

import numpy as np
import pytest

from ser import corpus, protocols
from ser.corpora import ravdess
from ser.run import errors
from stages import split

MANIFEST = ravdess.read_manifest(ravdess.MANIFEST)
CLIPS = list(MANIFEST)


def test_the_manifest_is_the_published_corpus():
    table = ravdess.table(CLIPS)
    assert len(table) == 1440 == table["clip"].nunique()
    assert corpus.labels(table) == list(ravdess.EMOTIONS)
    assert corpus.kinds(table) == ["gender", "intensity", "statement", "repetition"]
    assert dict(table["label"].value_counts()) == {
        label: 96 if label == "neutral" else 192 for label in ravdess.EMOTIONS
    }
    assert set(table.groupby("speaker").size()) == {60}
    assert len(set(MANIFEST.values())) == 1440 - 1, "one pair of clips is the same"
    assert all(name.startswith(f"Actor_{name[-6:-4]}/") for name in CLIPS)


def test_name_of_a_clip():
    assert ravdess.describe("03-01-05-02-01-02-12") == {
        "clip": "03-01-05-02-01-02-12", "speaker": 12, "gender": "female", "label": "angry",
        "intensity": "strong", "statement": 1, "repetition": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [f"03-{rest}" for rest in ("01-09-01-01-01-01", "01-01-02-01-01-01", "01-02-01-01-01-25")]
    + ["03-02-02-01-01-01-01", "take 7"],
)
def test_names_that_do_not_parse(name):
    with pytest.raises(errors.UserError, match="expected"):
        ravdess.describe(name)


def test_folds_share_no_speaker_and_balance_gender_and_label():
    clips = ravdess.table(CLIPS)
    folds = clips.assign(fold=split.fold_numbers(clips, "six", 0))
    assert (folds.groupby("speaker")["fold"].nunique() == 1).all()
    assert (folds.drop_duplicates("speaker").groupby(["fold", "gender"]).size() == 2).all()
    counts = folds.groupby(["fold", "label"]).size().unstack()
    assert (counts["neutral"] == 16).all()
    assert (counts.drop(columns="neutral") == 32).all(axis=None)


@pytest.mark.parametrize("scheme", [*protocols.RAVDESS, "speakers", "random", 5])
def test_each_protocol_holds_out_every_clip_once(scheme):
    clips = ravdess.table(CLIPS)
    table = clips.assign(fold=split.fold_numbers(clips, scheme, 0))
    assert set(table["fold"]) == set(range(protocols.count(scheme) or 24))
    both_sides = table.groupby("speaker")["fold"].nunique().max() > 1
    assert both_sides == ("LEAKY" in protocols.title(scheme)) == (scheme == "random")
    if both_sides:
        assert table.groupby(["label", "fold"]).size().groupby("label").agg(np.ptp).max() <= 1
        assert not split.fold_numbers(clips, scheme, 1).equals(table["fold"])
