"""Names and folds: what the first stages promise."""

import pytest
from conftest import ROOT

from ser import corpus, params
from ser.run import errors
from stages import split

CLIPS = [
    line.split()[1] for line in (ROOT / "ser" / "corpora" / "ravdess.md5").read_text().splitlines()
]


def test_the_manifest_is_the_published_corpus():
    table = corpus.table(CLIPS)
    assert len(table) == corpus.CLIPS == table["clip"].nunique()
    assert dict(table["emotion"].value_counts()) == {
        emotion: 96 if emotion == "neutral" else 192 for emotion in corpus.EMOTIONS
    }
    assert set(table.groupby("actor").size()) == {60}


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
    folds = split.assign(corpus.table(CLIPS), params.load(ROOT / "params.yaml").split.folds)
    assert (folds.groupby("actor")["fold"].nunique() == 1).all()
    assert (folds.drop_duplicates("actor").groupby(["fold", "gender"]).size() == 2).all()
    counts = folds.groupby(["fold", "emotion"]).size().unstack()
    assert (counts["neutral"] == 16).all()
    assert (counts.drop(columns="neutral") == 32).all(axis=None)
