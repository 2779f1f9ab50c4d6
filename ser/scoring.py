"""What predictions are worth: the one place that reads prediction tables and scores them."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from ser.corpus import EMOTIONS
from ser.run.errors import UserError

COLUMNS = ("clip", "actor", "fold", "actual", "predicted", *EMOTIONS)
RESAMPLES = 10_000  # of the bootstrap: the bounds' own noise is then below a tenth of a point


def sources(model: str, folds: list[int]) -> list[Path]:
    """The folders that hold a model's predictions: one for `svm`, one per fold for `w2v`."""
    return (
        [Path("data/svm")] if model == "svm" else [Path(f"data/w2v/fold_{fold}") for fold in folds]
    )


def read(model: str, folds: list[int]) -> pd.DataFrame:
    """The held-out predictions of a model, one row per clip of the given folds, sorted by clip.

    Args:
        model: `svm` (one table, data/svm/predictions.csv) or `w2v` (a table per fold,
            data/w2v/fold_K/predictions.csv).
        folds: held-out folds to keep. They come from params.yaml and not from the folders found: a
            fold that was dropped stays on the disk.

    Returns:
        The columns of `COLUMNS`; the eight probabilities of a row sum to 1.

    Raises:
        UserError: a table is missing, lacks a column or a fold, or has a clip twice.
    """
    paths = [source / "predictions.csv" for source in sources(model, folds)]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]}: no such table; `dvc repro` makes it")
    table = pd.concat([pd.read_csv(path) for path in paths])
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{paths[0]}: columns {list(table.columns)}; expected {list(COLUMNS)}")
    table = table[table["fold"].isin(folds)].sort_values("clip", ignore_index=True)
    if set(table["fold"]) != set(folds) or table["clip"].duplicated().any():
        raise UserError(f"{paths[0]}: expected every clip of the folds {folds} once")
    return table


def per_actor_confusion(predictions: pd.DataFrame) -> np.ndarray:
    """Counts of (actor, actual, predicted): shape (actors, 8, 8), actors ascending, emotions in the
    corpus's order."""
    by_actor = predictions.groupby("actor")
    return np.stack(
        [
            confusion_matrix(rows["actual"], rows["predicted"], labels=EMOTIONS)
            for _, rows in by_actor
        ]
    )


def rates(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, UAR and macro-F1 of confusion matrices with actual emotions in rows, shape (..., 8,
    8).

    UAR (unweighted average recall) and macro-F1 are means over the emotions that occur, each of
    which counts the same.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    actual, predicted = confusion.sum(-1), confusion.sum(-2)
    occurs = np.where(actual > 0, 1.0, np.nan)
    return {
        "accuracy": hits.sum(-1) / actual.sum(-1),
        "uar": np.nanmean(occurs * hits / np.maximum(actual, 1), axis=-1),
        "macro_f1": np.nanmean(occurs * 2 * hits / np.maximum(actual + predicted, 1), axis=-1),
    }


def interval(per_actor: np.ndarray, seed: int = 0) -> dict[str, float]:
    """95 % bounds of accuracy and UAR: a bootstrap over actors, since clips of one actor are not
    independent.

    Args:
        per_actor: confusion counts, shape (actors, 8, 8).
        seed: of the resampling.

    Returns:
        `accuracy_low`, `accuracy_high`, `uar_low`, `uar_high`: the 2.5th and 97.5th percentile.

    Source: Field and Welsh (2007), J. R. Statist. Soc. B 69(3), "Bootstrapping clustered data".
    """
    actors = len(per_actor)
    weights = np.random.default_rng(seed).multinomial(
        actors, np.full(actors, 1 / actors), size=RESAMPLES
    )
    resampled = rates(np.tensordot(weights, per_actor.astype(float), axes=1))
    return {
        f"{name}_{bound}": float(np.percentile(resampled[name], percent))
        for name in ("accuracy", "uar")
        for bound, percent in (("low", 2.5), ("high", 97.5))
    }


def summary(predictions: pd.DataFrame) -> dict:
    """All figures of one model, pooled over the held-out clips: see `rates` and `interval`; recall
    by emotion; mean and standard deviation over folds; the cross-entropy of the probabilities
    (`log_loss`, in nats: 2.08 for eight equal ones). """  # fmt: skip
    per_actor = per_actor_confusion(predictions)
    pooled = per_actor.sum(axis=0)
    by_fold = {
        fold: rates(per_actor_confusion(rows).sum(axis=0))
        for fold, rows in predictions.groupby("fold")
    }
    of_actual = predictions[list(EMOTIONS)].to_numpy()[
        np.arange(len(predictions)), predictions["actual"].map(EMOTIONS.index)
    ]
    return {
        **{name: float(rate) for name, rate in rates(pooled).items()},
        **interval(per_actor),
        "log_loss": float(-np.log(np.clip(of_actual, 1e-12, None)).mean()),
        "recall": dict(
            zip(
                EMOTIONS,
                (pooled.diagonal() / np.maximum(pooled.sum(axis=1), 1)).tolist(),
                strict=True,
            )
        ),
        "over_folds": {
            f"{name}_{statistic}": float(function([figures[name] for figures in by_fold.values()]))
            for name in ("accuracy", "uar")
            for statistic, function in (("mean", np.mean), ("std", np.std))
        },
        "fold_accuracy": {
            str(fold): float(figures["accuracy"]) for fold, figures in by_fold.items()
        },
    }


def by_actor(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and UAR of every actor: actor, fold, clips, accuracy, uar; a row per actor,
    ascending."""
    per_actor = rates(per_actor_confusion(predictions))
    actors = (
        predictions.groupby("actor")
        .agg(fold=("fold", "first"), clips=("clip", "size"))
        .reset_index()
    )
    return actors.assign(accuracy=per_actor["accuracy"].round(4), uar=per_actor["uar"].round(4))
