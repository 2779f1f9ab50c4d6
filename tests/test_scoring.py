"""Scores against those counted anew, bounds against how often they hold the truth, comparisons
against cases counted by hand."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from ser import scoring, tables
from ser.corpora import ravdess
from ser.corpora.ravdess import EMOTIONS
from ser.run import errors
from stages.mean import mean

RESULTS = sorted(path.parent for path in (ROOT / "results").glob("*/predictions.csv"))
NAMES = ravdess.table(ravdess.read_manifest(ravdess.MANIFEST))


def predictions(
    accuracy: float, seed: int = 0, speakers: int = 24, clips: int = 60
) -> pd.DataFrame:
    """A table as the models write it, right with a given probability."""
    rng = np.random.default_rng(seed)
    size = speakers * clips
    actual = rng.integers(8, size=size)
    predicted = np.where(
        rng.random(size) < accuracy, actual, (actual + rng.integers(1, 8, size=size)) % 8
    )
    probabilities = np.full((size, 8), 0.05)
    probabilities[np.arange(size), predicted] = 0.65
    speaker = np.repeat(np.arange(1, speakers + 1), clips)
    groups = itertools.islice(NAMES.groupby("speaker"), speakers)
    return pd.DataFrame({
        "clip": [clip for _, names in groups for clip in names["clip"][:clips]],
        "speaker": speaker, "fold": (speaker - 1) // 4,
        "actual": np.array(EMOTIONS)[actual], "predicted": np.array(EMOTIONS)[predicted],
        **dict(zip(EMOTIONS, probabilities.T, strict=True)),
    })  # fmt: skip


def right(table: pd.DataFrame) -> pd.Series:
    """Accuracy by speaker."""
    return (table["actual"] == table["predicted"]).groupby(table["speaker"]).mean()


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_figures_are_those_of_the_ledger(folder):
    """Which tests/test_recount.py counts anew with scikit-learn and SciPy alone."""
    figures = scoring.summary(tables.read_predictions(folder / "predictions.csv"))
    written = json.loads((folder / "metrics.json").read_text())
    assert figures == pytest.approx(written, abs=2e-4)  # the predictions are rounded, too


def test_tables_are_those_in_metrics():
    """Which tests/test_recount.py counts anew as well."""
    table = tables.read_predictions(ROOT / "results/svm/predictions.csv")
    for name, scores in {
        "folds": scoring.by_group(table, "fold"),
        "speakers": scoring.by_group(table, "speaker"),
        "kinds": scoring.by_kind(table, NAMES),
        "labels": scoring.by_label(table),
    }.items():
        written = pd.read_csv(ROOT / f"metrics/svm/{name}.csv")
        pd.testing.assert_frame_equal(
            scores.astype(written.dtypes), written, atol=1e-4, check_exact=False
        )
    chances = [row[row["actual"]] for row in table.to_dict("records")]
    assert scoring.log_loss(table) == pytest.approx(-np.log(chances).mean())


def test_uar_counts_only_labels_that_occur():
    table = predictions(0.5).query("actual != 'calm'")
    recalls = [(rows["predicted"] == label).mean() for label, rows in table.groupby("actual")]
    assert scoring.summary(table)["uar"] == pytest.approx(np.mean(recalls))
    assert "calm" not in set(scoring.by_label(table)["label"])


def test_bounds_stay_among_possible_values():
    table = predictions(1.0, speakers=4)
    table.loc[:3, "predicted"] = "calm"  # of the first speaker: a bound above 1 by the formula
    figures = scoring.summary(table)
    assert figures["accuracy_low"] < figures["accuracy"] < figures["accuracy_high"] == 1


def test_one_speaker_has_figures_without_bounds():
    table = predictions(0.6, speakers=1)
    assert set(scoring.summary(table)) == {*scoring.RATES, "ece"}
    assert set(scoring.differences(table, table)) == set(scoring.RATES)


# Speakers that differ as RAVDESS's actors do under MFCC + SVM, where accuracy by actor has gone
# from 0.28 to 0.90: here the worst and the best of 24 have about 0.33 and 0.92.
CLIPS = np.array([4] + 7 * [8])  # of a speaker, by label
EASE = np.array([0.3, 1.2, 0.4, 0.3, 1.4, 0.9, 1.3, 0.6])  # of a label: log odds of being right


def matrices(log_odds: np.ndarray) -> np.ndarray:
    """Probabilities of (actual, predicted), shape (..., 8, 8), errors spread evenly."""
    chance = 1 / (1 + np.exp(-log_odds))[..., None]
    return np.where(np.eye(8, dtype=bool), chance, (1 - chance) / 7)


def two_models(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Matrices of random speakers, shape (*shape, 2, 8, 8), under a model and one that is better,
    but not for every speaker."""
    speaker, label = rng.normal(0, 0.75, (*shape, 1)), rng.normal(0, 0.6, (*shape, 8))
    gain = rng.normal(0.5, 0.4, (*shape, 1))
    log_odds = [EASE + speaker + label, EASE + speaker + label / 2 + gain]
    return matrices(np.stack(log_odds, axis=-2))


@pytest.mark.slow
@pytest.mark.parametrize("speakers", [4, 8, 24])
def test_bounds_hold_the_truth_in_95_of_100_experiments(speakers):
    """Each experiment draws speakers anew, and then their clips, of a model's figures and of the
    differences of two models alike."""
    rng = np.random.default_rng(0)
    everyone = (two_models(rng, 100_000) * CLIPS[:, None]).mean(axis=0)
    truth = scoring.rates(everyone)
    counts = rng.multinomial(CLIPS, two_models(rng, 2000, speakers))
    for name in scoring.RATES:
        figures = {
            "model": (truth[name][0], lambda c, name=name: scoring.rates(c)[name][..., 0]),
            "difference": (
                truth[name][1] - truth[name][0],
                lambda c, name=name: np.diff(scoring.rates(c)[name])[..., 0],
            ),
        }
        for what, (true, figure) in figures.items():
            totals = counts.sum(axis=1)
            bounds = np.array(
                [
                    scoring.interval(figure(total), figure(total - experiment))
                    for total, experiment in zip(totals, counts, strict=True)
                ]
            )
            held = np.mean((bounds[:, 0] <= true) & (true <= bounds[:, 1]))
            print(f"{speakers} speakers, {name} of {what}: {held:.1%}")
            assert 0.93 <= held <= 0.97, (name, what)


def test_difference_is_that_of_the_speakers():
    """For as many clips from each speaker, a t interval over the speakers' own differences."""
    worse = predictions(0.4)
    better = worse.assign(  # right wherever the speaker is a man
        predicted=worse["predicted"].where(worse["speaker"] % 2 == 0, worse["actual"])
    )
    figures = scoring.differences(better, worse)
    by_speaker = right(better) - right(worse)
    low, high = stats.t.interval(0.95, 23, by_speaker.mean(), stats.sem(by_speaker))
    expected = (by_speaker.mean(), low, high)
    keys = ("accuracy", "accuracy_low", "accuracy_high")
    assert [figures[key] for key in keys] == pytest.approx(expected)
    assert 0 < figures["uar_low"] < figures["uar"] < figures["uar_high"]
    backwards = scoring.differences(worse, better)
    assert backwards["uar_low"] == pytest.approx(-figures["uar_high"])
    counts = scoring.compare(better, worse)
    wrong_men = (worse["speaker"] % 2 == 1) & (worse["actual"] != worse["predicted"])
    assert counts["only_first_right"] == wrong_men.sum() > 0
    assert counts["only_second_right"] == 0
    assert counts["both_right"] == (worse["actual"] == worse["predicted"]).sum()
    assert counts["clips"] == len(worse)


def test_equal_models_do_not_differ_and_those_of_other_clips_are_refused():
    figures = scoring.compare(predictions(0.4), predictions(0.4))
    assert (figures["accuracy"], figures["accuracy_low"], figures["accuracy_high"]) == (0, 0, 0)
    for together in (scoring.differences, lambda *tables: mean([*tables])):
        with pytest.raises(errors.UserError, match="same clips"):
            together(predictions(0.4), predictions(0.4, speakers=23))


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


def test_calibration_error():
    """Sure to 0.9 and right in 3 of 4, sure to 0.4 and right in 1 of 2: 4/6 * 0.15 + 2/6 * 0.1."""
    rows = []
    for confidence, right in [(0.9, 1), (0.9, 1), (0.9, 1), (0.9, 0), (0.4, 1), (0.4, 0)]:
        others = (1 - confidence) / 7
        rows.append(["a", 1, 0, "calm", "calm" if right else "sad", *[others] * 7, confidence])
    table = pd.DataFrame(rows, columns=[*tables.PREDICTIONS, *EMOTIONS])
    assert scoring.calibration_error(table) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert list(scoring.calibration(table)["clips"]) == [2, 4]
    assert list(scoring.calibration(table)["low"]) == pytest.approx([0.4, 0.9])
