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
    table = corpus.table(CLIPS)
    assert len(table) == corpus.CLIPS == table["clip"].nunique()
    assert dict(table["label"].value_counts()) == {
        label: 96 if label == "neutral" else 192 for label in corpus.EMOTIONS
    }
    assert set(table.groupby("speaker").size()) == {60}
    assert len(set(MANIFEST.values())) == corpus.CLIPS - 1, "one pair of clips is the same"
    assert all(name.startswith(f"Actor_{name[-6:-4]}/") for name in CLIPS)


def test_name_of_a_clip():
    assert corpus.describe("03-01-05-02-01-02-12") == {
        "clip": "03-01-05-02-01-02-12",
        "speaker": 12,
        "gender": "female",
        "label": "angry",
        "intensity": "strong",
        "statement": 1,
        "repetition": 2,
    }


@pytest.mark.parametrize(
    "name",
    [
        "03-01-09-01-01-01-01",
        "03-01-01-02-01-01-01",
        "03-02-02-01-01-01-01",
        "03-01-02-01-01-01-25",
        "take 7",
    ],
)
def test_names_that_do_not_parse(name):
    with pytest.raises(errors.UserError, match="expected"):
        corpus.describe(name)


def test_folds_share_no_speaker_and_balance_gender_and_label():
    folds = split.assign(corpus.table(CLIPS), protocols.folds("six"))
    assert (folds.groupby("speaker")["fold"].nunique() == 1).all()
    assert (folds.drop_duplicates("speaker").groupby(["fold", "gender"]).size() == 2).all()
    counts = folds.groupby(["fold", "label"]).size().unstack()
    assert (counts["neutral"] == 16).all()
    assert (counts.drop(columns="neutral") == 32).all(axis=None)


@pytest.mark.parametrize("scheme", protocols.PROTOCOLS)
def test_each_protocol_holds_out_every_clip_once(scheme):
    clips, speakers = corpus.table(CLIPS), protocols.folds(scheme)
    table = split.assign(clips, speakers) if speakers else split.deal_out(clips, seed=0)
    assert set(table["fold"]) == set(range(protocols.count(scheme)))
    both_sides = table.groupby("speaker")["fold"].nunique().max() > 1
    assert both_sides == ("LEAKY" in protocols.title(scheme)) == (scheme == "random")
    if both_sides:
        assert table.groupby(["label", "fold"]).size().groupby("label").agg(np.ptp).max() <= 1
        assert not split.deal_out(clips, seed=1).equals(table)
