"""Every number of `metrics/` and `results/`, counted anew from the predictions with pandas,
scikit-learn and SciPy alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from ser import scoring

ROOT = Path(__file__).resolve().parent.parent
RESULTS = sorted(path.parent for path in (ROOT / "results").glob("*/predictions.csv"))


def read(folder: Path) -> pd.DataFrame:
    """A table of predictions, its labels by number: scikit-learn takes seconds over words."""
    table = pd.read_csv(folder / "predictions.csv")
    labels = list(table.columns[5:13])
    return table.assign(**{name: table[name].map(labels.index) for name in ("actual", "predicted")})


def over_labels(figure: Callable, table: pd.DataFrame) -> float:
    """The mean of a figure over the labels that occur."""
    actual = table["actual"]
    labels = sorted(set(actual))
    return figure(actual, table["predicted"], average="macro", labels=labels, zero_division=0)


RATES = {
    "accuracy": lambda table: metrics.accuracy_score(table["actual"], table["predicted"]),
    "uar": lambda table: over_labels(metrics.recall_score, table),
    "macro_f1": lambda table: over_labels(metrics.f1_score, table),
}
AS_WRITTEN = 6e-5  # four decimals
PAIR = ("svm", "whisper-tiny.en-probe")


def bounds(table: pd.DataFrame, figure: Callable) -> tuple[float, float]:
    """A t interval over the speakers' jackknife pseudo-values."""
    speakers, all_of_them = sorted(set(table["speaker"])), figure(table)
    pseudo = [
        len(speakers) * all_of_them
        - (len(speakers) - 1) * figure(table[table["speaker"] != speaker])
        for speaker in speakers
    ]
    return stats.t.interval(0.95, len(speakers) - 1, all_of_them, stats.sem(pseudo))


def confidence_less_accuracy(table: pd.DataFrame) -> float:
    """Expected calibration error, ten bins."""
    confidence = table.iloc[:, 5:13].max(axis=1).to_numpy()
    right = (table["actual"] == table["predicted"]).to_numpy()
    error = 0.0
    for number in range(10):
        here = (confidence >= number / 10) & (confidence < (number + 1) / 10)
        if number == 9:
            here |= confidence == 1
        if here.any():
            error += here.mean() * abs(confidence[here].mean() - right[here].mean())
    return error


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_figures(folder):
    table = read(folder)
    written = json.loads((folder / "metrics.json").read_text())
    counted = {name: each(table) for name, each in RATES.items()}
    for name in ("accuracy", "uar"):
        low, high = bounds(table, RATES[name])
        counted |= {f"{name}_low": max(low, 0), f"{name}_high": min(high, 1)}
    counted["ece"] = confidence_less_accuracy(table)
    assert counted == pytest.approx(written, abs=AS_WRITTEN)
    likeliest = table.iloc[:, 5:13].to_numpy().argmax(axis=1)
    assert (likeliest == table["predicted"]).mean() > 0.999  # ties of the last decimal


def test_differences():
    """Of two models on the same clips: paired over speakers."""
    svm, probe = (pd.read_csv(ROOT / "results" / name / "predictions.csv") for name in PAIR)
    figures = scoring.differences(probe, svm)
    svm, probe = (read(ROOT / "results" / name) for name in PAIR)
    both = probe.assign(other=svm["predicted"])
    for name, rate in RATES.items():

        def difference(rows: pd.DataFrame, rate: Callable = rate) -> float:
            return rate(rows) - rate(rows.assign(predicted=rows["other"]))

        low, high = bounds(both, difference)
        counted = {name: difference(both), f"{name}_low": low, f"{name}_high": high}
        assert {key: figures[key] for key in counted} == pytest.approx(counted)


# By table in metrics/svm/: what a row of it is of, from the predictions and the clips' names.
GROUPS = {
    "folds": lambda table: {"fold": table["fold"]},
    "speakers": lambda table: {"speaker": table["speaker"]},
    "kinds": lambda table: {
        "gender": table["speaker"].map(lambda speaker: "male" if speaker % 2 else "female"),
        "intensity": table["clip"].str[9:11].map({"01": "normal", "02": "strong"}),
        "statement": table["clip"].str[13:14],
        "repetition": table["clip"].str[16:17],
    },
}


@pytest.mark.parametrize("name", GROUPS)
def test_tables(name):
    table = read(ROOT / "results/svm")
    written = pd.read_csv(ROOT / f"metrics/svm/{name}.csv", dtype={"value": str})
    counted = [
        [str(value), len(rows), *(each(rows) for each in RATES.values())]
        for groups in GROUPS[name](table).values()
        for value, rows in table.groupby(groups)
    ]
    key = {"folds": "fold", "speakers": "speaker", "kinds": "value"}[name]
    columns = [key, "clips", *RATES]
    expected = pd.DataFrame(counted, columns=columns)
    pd.testing.assert_frame_equal(
        written[columns].astype({key: str}), expected, atol=AS_WRITTEN, rtol=0
    )


def test_labels_confusion_and_calibration():
    table = pd.read_csv(ROOT / "results/svm/predictions.csv")
    actual, predicted = table["actual"], table["predicted"]
    labels = list(table.columns[5:13])
    written = pd.read_csv(ROOT / "metrics/svm/labels.csv")
    assert list(written["label"]) == labels
    for name, figure in {
        "recall": metrics.recall_score,
        "precision": metrics.precision_score,
        "f1": metrics.f1_score,
    }.items():
        counted = figure(actual, predicted, labels=labels, average=None)
        assert written[name].to_numpy() == pytest.approx(counted, abs=AS_WRITTEN)
    pairs = pd.read_csv(ROOT / "metrics/svm/confusion.csv")
    assert pairs.value_counts().to_dict() == table[["actual", "predicted"]].value_counts().to_dict()
    bins = pd.read_csv(ROOT / "metrics/svm/calibration.csv")
    assert bins["clips"].sum() == len(table)
    right = (bins["accuracy"] * bins["clips"]).sum()
    assert right == pytest.approx((actual == predicted).sum(), abs=0.1)
