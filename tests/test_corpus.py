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
    assert dict(table["emotion"].value_counts()) == {
        emotion: 96 if emotion == "neutral" else 192 for emotion in corpus.EMOTIONS
    }
    assert set(table.groupby("actor").size()) == {60}
    assert len(set(MANIFEST.values())) == corpus.CLIPS - 1, "one pair of clips is the same"
    assert all(name.startswith(f"Actor_{name[-6:-4]}/") for name in CLIPS)


def test_name_of_a_clip():
    assert corpus.describe("03-01-05-02-01-02-12") == {
        "clip": "03-01-05-02-01-02-12",
        "actor": 12,
        "gender": "female",
        "emotion": "angry",
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


def test_folds_share_no_actor_and_balance_gender_and_emotion():
    folds = split.assign(corpus.table(CLIPS), protocols.folds("six"))
    assert (folds.groupby("actor")["fold"].nunique() == 1).all()
    assert (folds.drop_duplicates("actor").groupby(["fold", "gender"]).size() == 2).all()
    counts = folds.groupby(["fold", "emotion"]).size().unstack()
    assert (counts["neutral"] == 16).all()
    assert (counts.drop(columns="neutral") == 32).all(axis=None)


@pytest.mark.parametrize("scheme", protocols.PROTOCOLS)
def test_each_protocol_holds_out_every_clip_once(scheme):
    clips, actors = corpus.table(CLIPS), protocols.folds(scheme)
    table = split.assign(clips, actors) if actors else split.deal_out(clips, seed=0)
    assert set(table["fold"]) == set(range(protocols.count(scheme)))
    both_sides = table.groupby("actor")["fold"].nunique().max() > 1
    assert both_sides == ("LEAKY" in protocols.title(scheme)) == (scheme == "random")
    if both_sides:
        assert table.groupby(["emotion", "fold"]).size().groupby("emotion").agg(np.ptp).max() <= 1
        assert not split.deal_out(clips, seed=1).equals(table)
