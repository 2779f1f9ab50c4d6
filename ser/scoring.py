"""Scores of predictions with their bounds, and the calibration of probabilities.

A table of predictions has the columns of `tables.PREDICTIONS`. A model's confidence in a clip is
the highest of the clip's probabilities.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ser import corpus, tables
from ser.run.errors import UserError

RATES = ("accuracy", "uar", "macro_f1")
BINS = 10  # of confidence, of equal width, from 0 to 1


def labels(predictions: pd.DataFrame) -> list[str]:
    """The labels of a table of predictions: in the corpus's order where it has probabilities of
    them, else in alphabetical order."""
    return tables.labels(predictions) or sorted({*predictions["actual"], *predictions["predicted"]})


def per_speaker_confusion(predictions: pd.DataFrame, names: list[str] | None = None) -> np.ndarray:
    """Counts of (speaker, actual, predicted): shape (speakers, n, n) for n labels, speakers
    ascending; the labels are `names`, or those of `labels`."""
    names = names or labels(predictions)
    speakers, numbers = np.unique(predictions["speaker"], return_inverse=True)
    actual, predicted = (pd.Categorical(predictions[of], names) for of in ("actual", "predicted"))
    counts = np.zeros((len(speakers), len(names), len(names)), int)
    np.add.at(counts, (numbers, actual.codes, predicted.codes), 1)
    return counts


def confusion(predictions: pd.DataFrame) -> np.ndarray:
    """Counts of (actual, predicted), shape (n, n), in the order of `labels`."""
    return per_speaker_confusion(predictions).sum(axis=0)


def rates(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, UAR and macro-F1, each from 0 to 1, of confusion matrices.

    UAR (unweighted average recall) and macro-F1 are means over the labels that occur, each of
    which counts the same.

    Args:
        counts: confusion matrices, actual labels in rows, shape (..., n, n).

    Returns:
        The keys of `RATES`, each of shape (...).
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    actual, predicted = counts.sum(-1), counts.sum(-2)
    occurs = np.where(actual > 0, 1.0, np.nan)
    return {
        "accuracy": hits.sum(-1) / actual.sum(-1),
        "uar": np.nanmean(occurs * hits / np.maximum(actual, 1), axis=-1),
        "macro_f1": np.nanmean(occurs * 2 * hits / np.maximum(actual + predicted, 1), axis=-1),
    }


def interval(pooled: float, without: np.ndarray) -> tuple[float, float]:
    """95 % bounds of a figure of counts that are pooled over speakers: a t interval over speakers.

    Clips of one speaker are not independent, speakers are. What a speaker contributes is its
    jackknife pseudo-value, n times the figure less n - 1 times the figure without that speaker. Of
    accuracy, with as many clips from each speaker, this is the speaker's own accuracy.

    Args:
        pooled: the figure of all speakers.
        without: the figure without each of them, shape (speakers,); of two at least.

    Returns:
        Lower and upper bound, the figure half-way between.

    Source: Tukey (1958), Ann. Math. Statist. 29, p. 614; Miller (1974), Biometrika 61(1), "The
    jackknife: a review".
    """
    speakers = len(without)
    contributions = speakers * pooled - (speakers - 1) * without
    error = contributions.std(ddof=1) / np.sqrt(speakers)
    half_width = special.stdtrit(speakers - 1, 0.975) * error
    return pooled - half_width, pooled + half_width


def with_bounds(
    per_speaker: np.ndarray, figures: Callable[[np.ndarray], dict[str, np.ndarray]], least: float
) -> dict[str, float]:
    """Figures of pooled counts, each as NAME, NAME_low, NAME_high, see `interval`.

    Args:
        per_speaker: counts that add up over speakers, shape (speakers, ...).
        figures: of summed counts, shape (...), also of many at a time, shape (many, ...).
        least: at which bounds are cut off, as they are at 1: no figure passes these.

    Returns:
        Of a single speaker no bounds: one says nothing about others.
    """
    total = per_speaker.sum(axis=0)
    without = figures(total - per_speaker) if len(per_speaker) > 1 else {}
    values = {}
    for name, pooled in figures(total).items():
        values[name] = float(pooled)
        if name in without:
            bounds = np.clip(interval(float(pooled), without[name]), least, 1)
            values[f"{name}_low"], values[f"{name}_high"] = map(float, bounds)
    return values


def bounded(predictions: pd.DataFrame) -> dict[str, float]:
    """Accuracy, UAR and macro-F1 (`RATES`), from 0 to 1, pooled over the clips, with 95 % bounds
    over speakers, see `with_bounds`."""
    return with_bounds(per_speaker_confusion(predictions), rates, 0)


def differences(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """The figures of `first` less those of `second` on the same clips, see `mean_differences`."""
    return mean_differences([first], [second])


def mean_differences(
    first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame]
) -> dict[str, float]:
    """The figures of `first` less those of `second` on the same clips, each averaged over its
    seeds, with 95 % bounds paired over speakers: what is easy or hard about a speaker for both
    cancels out.

    Args:
        first, second: prediction tables, one for each seed, sorted by clip; clip, speaker, actual
            and predicted suffice.

    Returns:
        For each of `RATES`: NAME, NAME_low, NAME_high, from -1 to 1; of a single speaker no bounds.

    Raises:
        UserError: the tables do not hold the same clips.
    """
    every = [*first, *second]
    if any(list(table["clip"]) != list(every[0]["clip"]) for table in every):
        raise UserError("the prediction tables do not hold the same clips; run `dvc repro`")
    seeds = len(first)

    def difference(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name: each[..., :seeds].mean(axis=-1) - each[..., seeds:].mean(axis=-1)
            for name, each in rates(counts).items()
        }

    names = sorted({name for table in every for name in labels(table)})
    per_speaker = np.stack([per_speaker_confusion(table, names) for table in every], axis=1)
    return with_bounds(per_speaker, difference, -1)


def compare(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """The differences of two prediction tables, see `differences`; clips; how often only one of the
    two is right, or both."""
    right, too = (table["actual"] == table["predicted"] for table in (first, second))
    return {
        **differences(first, second),
        "clips": len(first),
        "only_first_right": int((right & ~too).sum()),
        "only_second_right": int((too & ~right).sum()),
        "both_right": int((right & too).sum()),
    }


def as_text(figures: dict[str, float], name: str, style: str = "{:.1f}") -> str:
    """A rate in percent, or a difference in points, with its bounds where it has them, such as
    `66.9 [60.8, 73.0]`."""
    text = style.format(100 * figures[name])
    if f"{name}_low" not in figures:
        return text
    low, high = (style.format(100 * figures[f"{name}_{bound}"]) for bound in ("low", "high"))
    return f"{text} [{low}, {high}]"


def summary(predictions: pd.DataFrame) -> dict[str, float]:
    """The figures that a model goes by, pooled over the held-out clips.

    Returns:
        Accuracy, UAR and macro-F1, the first two with their bounds, see `bounded`; `ece`, see
        `calibration_error`. No more, so that `dvc metrics show` fits a screen 120 columns
        wide.
    """
    figures = bounded(predictions)
    return {
        **{name: value for name, value in figures.items() if not name.startswith("macro_f1_")},
        "ece": calibration_error(predictions),
    }


def by_label(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every label that occurs, in the corpus's order: label, clips, recall, precision, f1."""
    counts = confusion(predictions)
    hits, clips, predicted = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    table = pd.DataFrame({
        "label": labels(predictions),
        "clips": clips,
        "recall": hits / np.maximum(clips, 1),
        "precision": hits / np.maximum(predicted, 1),
        "f1": 2 * hits / np.maximum(clips + predicted, 1),
    })  # fmt: skip
    return table[clips > 0].reset_index(drop=True)


def scores(predictions: pd.DataFrame) -> dict[str, Any]:
    """The number of clips, and their `rates`."""
    return {"clips": len(predictions), **rates(confusion(predictions))}


def by_group(predictions: pd.DataFrame, column: str) -> pd.DataFrame:
    """Scores of the clips of each fold or of each speaker, as `column` says: a row each, ascending.

    Returns:
        fold (of a speaker in several: none); speaker, or speakers (how many) of a fold; clips;
        accuracy; uar; macro_f1.
    """
    rows = []
    for value, part in predictions.groupby(column):
        who = {"fold": value, "speakers": part["speaker"].nunique()}
        if column == "speaker":
            folds = set(part["fold"])
            who = {"speaker": value, "fold": folds.pop() if len(folds) == 1 else ""}
        rows.append({**who, **scores(part)})
    return pd.DataFrame(rows)


def by_kind(predictions: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Scores of the clips of each gender, or whatever else the corpus knows of them, see
    `corpus.kinds`: kind, value, clips, accuracy, uar, macro_f1.

    Args:
        clips: the table of clips.
    """
    kinds = corpus.kinds(clips)
    further = predictions[["clip"]].merge(clips[["clip", *kinds]], on="clip")
    rows = [
        {"kind": kind, "value": value, **scores(part)}
        for kind in kinds
        for value, part in predictions.groupby(further[kind].set_axis(predictions.index))
    ]
    return pd.DataFrame(rows, columns=["kind", "value", "clips", "accuracy", "uar", "macro_f1"])


def baseline(predictions: pd.DataFrame) -> dict[str, float]:
    """The shares that guessing gets right: `chance`, one of the labels at random; `majority`,
    always the most frequent one."""
    return {
        "chance": 1 / len(labels(predictions)),
        "majority": float(predictions["actual"].value_counts(normalize=True).iloc[0]),
    }


def calibration(predictions: pd.DataFrame) -> pd.DataFrame:
    """The clips by their confidence, in `BINS` groups of equal width, those that hold any.

    Returns:
        low, high: bounds of the group; clips; confidence, accuracy: means over its clips.
    """
    confidence = predictions[tables.labels(predictions)].max(axis=1)
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    right = predictions["actual"] == predictions["predicted"]
    clips = pd.DataFrame({"bin": number, "confidence": confidence, "right": right})
    groups = clips.groupby("bin", as_index=False).agg(
        clips=("right", "size"), confidence=("confidence", "mean"), accuracy=("right", "mean")
    )
    low = groups.pop("bin")
    groups.insert(0, "low", low / BINS)
    groups.insert(1, "high", (low + 1) / BINS)
    return groups


def calibration_error(predictions: pd.DataFrame) -> float:
    """The expected calibration error, 0 to 1: how far confidence and accuracy lie apart, in the
    mean over the clips' groups.

    Source: Guo et al. (2017), ICML, "On Calibration of Modern Neural Networks".
    """
    groups = calibration(predictions)
    apart = (groups["confidence"] - groups["accuracy"]).abs()
    return float(np.average(apart, weights=groups["clips"]))


def log_loss(predictions: pd.DataFrame) -> float:
    """The cross-entropy of the probabilities in nats; of eight equal ones 2.08, lower is better."""
    names = tables.labels(predictions)
    columns = predictions["actual"].map(names.index)
    of_actual = predictions[names].to_numpy()[np.arange(len(predictions)), columns]
    return float(-np.log(np.clip(of_actual, 1e-12, None)).mean())
