"""Scores against scikit-learn's, bounds against what they claim, comparison against cases counted
by hand."""

import numpy as np
import pandas as pd
import pytest
from conftest import one_line
from sklearn import metrics

from ser import scoring
from ser.corpus import EMOTIONS
from stages.compare import compare


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
    return pd.DataFrame({
        "clip": [f"clip {number:04}" for number in range(size)], "actor": actor, "fold": (actor - 1) // 4,
        "actual": np.array(EMOTIONS)[actual], "predicted": np.array(EMOTIONS)[predicted],
        **dict(zip(EMOTIONS, probabilities.T, strict=True)),
    })  # fmt: skip


def test_figures_are_those_of_scikit_learn():
    table = predictions(0.5)
    figures = scoring.summary(table)
    actual, predicted = table["actual"], table["predicted"]
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(actual, predicted))
    assert figures["uar"] == pytest.approx(metrics.balanced_accuracy_score(actual, predicted))
    assert figures["macro_f1"] == pytest.approx(
        metrics.f1_score(actual, predicted, average="macro")
    )
    assert list(figures["recall"].values()) == pytest.approx(
        metrics.recall_score(actual, predicted, labels=EMOTIONS, average=None)
    )
    assert figures["log_loss"] == pytest.approx(
        metrics.log_loss(actual, table[sorted(EMOTIONS)], labels=sorted(EMOTIONS))
    )


def test_uar_counts_only_emotions_that_occur():
    table = predictions(0.5).query("actual != 'calm'")
    recalls = [(rows["predicted"] == emotion).mean() for emotion, rows in table.groupby("actual")]
    assert scoring.summary(table)["uar"] == pytest.approx(np.mean(recalls))


def test_bounds_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(50):
        bounds = scoring.interval(scoring.per_actor_confusion(predictions(0.6, seed, clips=20)))
        held += bounds["accuracy_low"] <= 0.6 <= bounds["accuracy_high"]
    assert 42 <= held <= 50


def test_bounds_widen_when_actors_differ():
    same = predictions(0.5)
    differ = pd.concat(
        [
            predictions(0.9, seed=1).query("actor <= 12"),
            predictions(0.1, seed=2).query("actor > 12"),
        ]
    )
    width = [
        (lambda b: b["accuracy_high"] - b["accuracy_low"])(
            scoring.interval(scoring.per_actor_confusion(t))
        )
        for t in (same, differ)
    ]
    assert width[1] > 3 * width[0]


def test_comparison_counts_and_bounds():
    svm = predictions(0.4)
    w2v = svm.assign(
        predicted=svm["predicted"].where(svm["actor"] % 2 == 0, svm["actual"])
    )  # right wherever the actor is a man
    figures = compare(svm, w2v)
    assert figures["only_svm_right"] == 0
    assert (
        figures["only_w2v_right"]
        == (svm["actual"] != w2v["actual"]).sum()
        + ((svm["actor"] % 2) & (svm["actual"] != svm["predicted"])).sum()
    )
    assert figures["accuracy_difference"] == pytest.approx(
        figures["accuracy_w2v"] - figures["accuracy_svm"]
    )
    assert (
        0
        < figures["accuracy_difference_low"]
        < figures["accuracy_difference"]
        < figures["accuracy_difference_high"]
    )
    assert figures["mcnemar_p"] < 1e-6


def test_comparison_of_equals_is_no_difference():
    figures = compare(predictions(0.4), predictions(0.4))
    assert (figures["accuracy_difference"], figures["mcnemar_p"]) == (0, 1)


def test_tables_that_do_not_fit_are_named(project):
    one_line(project.stage("compare"), "data/svm/predictions.csv", "dvc repro")
    (project.path / "data" / "svm").mkdir(parents=True)
    predictions(0.5).drop(columns="calm").to_csv(
        project.path / "data" / "svm" / "predictions.csv", index=False
    )
    one_line(project.stage("compare"), "data/svm/predictions.csv", "columns")
    predictions(0.5, actors=8).to_csv(
        project.path / "data" / "svm" / "predictions.csv", index=False
    )
    one_line(project.stage("compare"), "data/svm/predictions.csv", "folds [0, 1, 2, 3, 4, 5]")
