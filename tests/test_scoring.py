"""Scores against those counted anew, comparisons against cases counted by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from ser import corpus, scoring
from ser.corpora import ravdess
from ser.corpus import EMOTIONS
from ser.run import errors
from stages.compare import compare
from stages.mean import mean

NAMES = corpus.table(ravdess.read_manifest(ravdess.MANIFEST))


def predictions(accuracy: float, seed: int = 0, actors: int = 24, clips: int = 60) -> pd.DataFrame:
    """A table as the models write it, right with a given probability."""
    rng = np.random.default_rng(seed)
    size = actors * clips
    actual = rng.integers(8, size=size)
    predicted = np.where(
        rng.random(size) < accuracy, actual, (actual + rng.integers(1, 8, size=size)) % 8
    )
    probabilities = np.full((size, 8), 0.05)
    probabilities[np.arange(size), predicted] = 0.65
    actor = np.repeat(np.arange(1, actors + 1), clips)
    groups = itertools.islice(NAMES.groupby("actor"), actors)
    return pd.DataFrame({
        "clip": [clip for _, names in groups for clip in names["clip"][:clips]],
        "actor": actor, "fold": (actor - 1) // 4,
        "actual": np.array(EMOTIONS)[actual], "predicted": np.array(EMOTIONS)[predicted],
        **dict(zip(EMOTIONS, probabilities.T, strict=True)),
    })  # fmt: skip


def test_tables_are_those_in_metrics():
    """Where tests/test_recount.py counts them anew, as it does the figures of every result."""
    table = pd.read_csv(ROOT / "results/svm/predictions.csv")
    for name, scores in {
        "folds": scoring.by_group(table, "fold"),
        "actors": scoring.by_group(table, "actor"),
        "kinds": scoring.by_kind(table),
        "emotions": scoring.by_emotion(table),
    }.items():
        written = pd.read_csv(ROOT / f"metrics/svm/{name}.csv")
        pd.testing.assert_frame_equal(
            scores.astype(written.dtypes), written, atol=1e-4, check_exact=False
        )
    chances = [row[row["actual"]] for row in table.to_dict("records")]
    assert scoring.log_loss(table) == pytest.approx(-np.log(chances).mean())


def test_uar_counts_only_emotions_that_occur():
    table = predictions(0.5).query("actual != 'calm'")
    recalls = [(rows["predicted"] == emotion).mean() for emotion, rows in table.groupby("actual")]
    assert scoring.summary(table)["uar"] == pytest.approx(np.mean(recalls))
    assert "calm" not in set(scoring.by_emotion(table)["emotion"])


def test_bounds_stay_among_possible_values():
    table = predictions(1.0, actors=4)
    table.loc[:3, "predicted"] = "calm"  # of the first actor: a bound above 1 by the formula
    figures = scoring.summary(table)
    assert figures["accuracy_low"] < figures["accuracy"] < figures["accuracy_high"] == 1


def test_one_actor_has_figures_without_bounds():
    table = predictions(0.6, actors=1)
    assert set(scoring.summary(table)) == {*scoring.RATES, "ece"}
    assert set(scoring.differences(table, table)) == set(scoring.RATES)


def test_a_comparison_counts_the_clips_that_only_one_has_right():
    worse = predictions(0.4)
    men, right = worse["actor"] % 2 == 1, worse["actual"] == worse["predicted"]
    better = worse.assign(predicted=worse["predicted"].where(~men, worse["actual"]))
    figures = compare(better, worse)
    assert figures["only_first_right"] == (men & ~right).sum() > 0
    assert figures["only_second_right"] == 0
    assert figures["both_right"] == right.sum()
    assert figures["clips"] == len(worse)


def test_equal_models_do_not_differ_and_those_of_other_clips_are_refused():
    figures = compare(predictions(0.4), predictions(0.4))
    assert (figures["accuracy"], figures["accuracy_low"], figures["accuracy_high"]) == (0, 0, 0)
    for together in (scoring.differences, lambda *tables: mean([*tables])):
        with pytest.raises(errors.UserError, match="same clips"):
            together(predictions(0.4), predictions(0.4, actors=23))


def test_the_mean_of_probabilities_decides():
    tables = [predictions(0.5, seed=seed).iloc[:1].copy() for seed in range(3)]
    for table, row in zip(tables, ([0.6, 0.4], [0.4, 0.6], [0.1, 0.9]), strict=True):
        table[list(EMOTIONS)] = 0.0
        table[["calm", "sad"]] = row
        table["predicted"] = "calm"
    together = mean(tables)
    assert list(together["predicted"]) == ["sad"]
    assert list(together[["calm", "sad"]].iloc[0]) == pytest.approx([1.1 / 3, 1.9 / 3])
    assert list(together.columns) == list(tables[0].columns)
