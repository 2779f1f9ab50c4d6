"""Scores of predictions with their bounds, and the calibration of probabilities.

A table of predictions has the columns of `tables.PREDICTIONS`. A model's confidence in a clip is
the highest of the clip's eight probabilities.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ser import corpus
from ser.corpus import EMOTIONS
from ser.run.errors import UserError

RATES = ("accuracy", "uar", "macro_f1")
BINS = 10  # of confidence, of equal width, from 0 to 1


def per_actor_confusion(predictions: pd.DataFrame) -> np.ndarray:
    """Counts of (actor, actual, predicted): shape (actors, 8, 8), actors ascending, emotions in the
    corpus's order."""
    return np.stack(
        [
            confusion_matrix(rows["actual"], rows["predicted"], labels=EMOTIONS)
            for _, rows in predictions.groupby("actor")
        ]
    )


def rates(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, UAR and macro-F1, each from 0 to 1, of confusion matrices.

    UAR (unweighted average recall) and macro-F1 are means over the emotions that occur, each of
    which counts the same.

    Args:
        confusion: counts, actual emotions in rows, shape (..., 8, 8).

    Returns:
        The keys of `RATES`, each of shape (...).
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    actual, predicted = confusion.sum(-1), confusion.sum(-2)
    occurs = np.where(actual > 0, 1.0, np.nan)
    return {
        "accuracy": hits.sum(-1) / actual.sum(-1),
        "uar": np.nanmean(occurs * hits / np.maximum(actual, 1), axis=-1),
        "macro_f1": np.nanmean(occurs * 2 * hits / np.maximum(actual + predicted, 1), axis=-1),
    }


def interval(pooled: float, without: np.ndarray) -> tuple[float, float]:
    """95 % bounds of a figure of counts that are pooled over actors: a t interval over actors.

    Clips of one actor are not independent, actors are. What an actor contributes is its jackknife
    pseudo-value, n times the figure less n - 1 times the figure without that actor. Of accuracy,
    with as many clips from each actor, this is the actor's own accuracy.

    Args:
        pooled: the figure of all actors.
        without: the figure without each of them, shape (actors,); of two at least.

    Returns:
        Lower and upper bound, the figure half-way between.

    Source: Tukey (1958), Ann. Math. Statist. 29, p. 614; Miller (1974), Biometrika 61(1), "The
    jackknife: a review".
    """
    actors = len(without)
    contributions = actors * pooled - (actors - 1) * without
    half_width = stats.t.ppf(0.975, actors - 1) * stats.sem(contributions)
    return pooled - half_width, pooled + half_width


def with_bounds(
    per_actor: np.ndarray, figures: Callable[[np.ndarray], dict[str, np.ndarray]], least: float
) -> dict[str, float]:
    """Figures of pooled counts, each as NAME, NAME_low, NAME_high, see `interval`.

    Args:
        per_actor: counts that add up over actors, shape (actors, ...).
        figures: of summed counts, shape (...), also of many at a time, shape (many, ...).
        least: at which bounds are cut off, as they are at 1: no figure passes these.

    Returns:
        Of a single actor no bounds: one says nothing about others.
    """
    total = per_actor.sum(axis=0)
    without = figures(total - per_actor) if len(per_actor) > 1 else {}
    values = {}
    for name, pooled in figures(total).items():
        values[name] = float(pooled)
        if name in without:
            bounds = np.clip(interval(float(pooled), without[name]), least, 1)
            values[f"{name}_low"], values[f"{name}_high"] = map(float, bounds)
    return values


def bounded(predictions: pd.DataFrame) -> dict[str, float]:
    """Accuracy, UAR and macro-F1 (`RATES`), from 0 to 1, pooled over the clips, with 95 % bounds
    over actors, see `with_bounds`."""
    return with_bounds(per_actor_confusion(predictions), rates, 0)


def differences(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """The figures of `first` less those of `second` on the same clips, see `mean_differences`."""
    return mean_differences([first], [second])


def mean_differences(
    first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame]
) -> dict[str, float]:
    """The figures of `first` less those of `second` on the same clips, each averaged over its
    seeds, with 95 % bounds paired over actors: what is easy or hard about an actor for both cancels
    out.

    Args:
        first, second: prediction tables, one for each seed, sorted by clip; clip, actor, actual and
            predicted suffice.

    Returns:
        For each of `RATES`: NAME, NAME_low, NAME_high, from -1 to 1; of a single actor no bounds.

    Raises:
        UserError: the tables do not hold the same clips.
    """
    tables = [*first, *second]
    if any(list(table["clip"]) != list(tables[0]["clip"]) for table in tables):
        raise UserError("the prediction tables do not hold the same clips; run `dvc repro`")
    seeds = len(first)

    def difference(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name: each[..., :seeds].mean(axis=-1) - each[..., seeds:].mean(axis=-1)
            for name, each in rates(counts).items()
        }

    per_actor = np.stack([per_actor_confusion(table) for table in tables], axis=1)
    return with_bounds(per_actor, difference, -1)


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


def by_emotion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every emotion that occurs, in the corpus's order: emotion, clips, recall, precision, f1."""
    emotions = [emotion for emotion in EMOTIONS if emotion in set(predictions["actual"])]
    precision, recall, f1, clips = precision_recall_fscore_support(
        predictions["actual"], predictions["predicted"], labels=emotions, zero_division=0
    )
    return pd.DataFrame(
        {"emotion": emotions, "clips": clips, "recall": recall, "precision": precision, "f1": f1}
    )


def scores(predictions: pd.DataFrame) -> dict[str, Any]:
    """The number of clips, and their `rates`."""
    confusion = confusion_matrix(predictions["actual"], predictions["predicted"], labels=EMOTIONS)
    return {"clips": len(predictions), **rates(confusion)}


def by_group(predictions: pd.DataFrame, column: str) -> pd.DataFrame:
    """Scores of the clips of each fold or of each actor, as `column` says: a row each, ascending.

    Returns:
        fold (of an actor in several: none); actor, or actors (how many) of a fold; clips; accuracy;
        uar; macro_f1.
    """
    rows = []
    for value, part in predictions.groupby(column):
        who = {"fold": value, "actors": part["actor"].nunique()}
        if column == "actor":
            folds = set(part["fold"])
            who = {"actor": value, "fold": folds.pop() if len(folds) == 1 else ""}
        rows.append({**who, **scores(part)})
    return pd.DataFrame(rows)


def by_kind(predictions: pd.DataFrame) -> pd.DataFrame:
    """Scores of the clips of either gender, intensity and statement: kind, value, clips, accuracy,
    uar, macro_f1. Neutral has no strong intensity, so that the two have not the same emotions."""
    clips = predictions.merge(corpus.table(predictions["clip"]).drop(columns="actor"), on="clip")
    return pd.DataFrame([
        {"kind": kind, "value": value, **scores(part)}
        for kind in ("gender", "intensity", "statement")
        for value, part in clips.groupby(kind)
    ])  # fmt: skip


def calibration(predictions: pd.DataFrame) -> pd.DataFrame:
    """The clips by their confidence, in `BINS` groups of equal width, those that hold any.

    Returns:
        low, high: bounds of the group; clips; confidence, accuracy: means over its clips.
    """
    confidence = predictions[list(EMOTIONS)].max(axis=1)
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
    columns = predictions["actual"].map(EMOTIONS.index)
    of_actual = predictions[list(EMOTIONS)].to_numpy()[np.arange(len(predictions)), columns]
    return float(-np.log(np.clip(of_actual, 1e-12, None)).mean())
