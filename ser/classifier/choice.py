"""Choose a classifier by cross-validation over training actors, calibrate and train it on them."""

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from ser import params
from ser.classifier import kernels
from ser.classifier.model import Model, Settings
from ser.run import errors


def columns_of(block: str, table: pd.DataFrame) -> list[str]:
    """The columns of a block: those whose names begin with it."""
    return [name for name in table.columns if name.startswith(f"{block}_")]


def candidates(
    blocks: Sequence[Mapping[Any, float]], settings: params.Classifier, table: pd.DataFrame
) -> list[dict]:
    """Everything to choose from.

    Args:
        blocks: weights of feature blocks by name. Blocks that the table has not are left out.
        settings: what else to choose from.

    Returns:
        dicts of blocks (weights by name), kernel, C and gamma; those that differ in C alone stand
        side by side.

    Raises:
        UserError: no block is left.
    """
    present = [
        {name: weight for name, weight in weights.items() if columns_of(name, table)}
        for weights in blocks
    ]
    distinct = [weights for i, weights in enumerate(present) if weights not in present[:i]]
    distinct = [weights for weights in distinct if weights]
    if not distinct:
        known = dict.fromkeys(name.partition("_")[0] for name in table.columns)
        raise errors.UserError(
            f"blocks = {list(blocks)}: the table has none of these blocks, but {', '.join(known)}"
        )
    return [
        {"blocks": weights, "kernel": kernel, "C": C, "gamma": gamma}
        for weights, kernel in itertools.product(distinct, settings.kernel)
        for gamma in ([1.0] if kernel in kernels.LINEAR else settings.gamma)  # which have none
        for C in settings.C
    ]


def inner_splits(
    labels: np.ndarray, actors: np.ndarray, folds: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of a cross-validation whose folds share no actor and have like shares of
    emotions.

    Raises:
        UserError: fewer actors than folds.
    """
    if len(set(actors)) < folds:
        raise errors.UserError(
            f"inner_folds = {folds}: a fold has only {len(set(actors))} training actors"
        )
    return list(StratifiedGroupKFold(folds).split(labels, labels, actors))


def decisions(
    table: pd.DataFrame, labels: np.ndarray, train: np.ndarray, test: np.ndarray, grid: list[dict]
) -> np.ndarray:
    """What every candidate, trained on the rows `train`, says about the rows `test`.

    Each block is standardised and compared once for all candidates, which differ only in how they
    combine blocks.

    Returns:
        a value per class, in alphabetical order: shape (candidates, test, classes).
    """
    classes = len(np.unique(labels[train]))

    @functools.cache
    def compared(block: str, linear: bool) -> list[np.ndarray]:
        """The rows `train`, then `test`, with the rows `train`."""
        values = table[columns_of(block, table)].to_numpy()
        standard = StandardScaler().fit(values[train])
        known, new = standard.transform(values[train]), standard.transform(values[test])
        return [kernels.compare(rows, known, linear) for rows in (known, new)]

    @functools.cache
    def alike(block: str, kind: str, gamma: float) -> list[np.ndarray]:
        parts = compared(block, kind in kernels.LINEAR)
        return [kernels.alike(kind, part, gamma) for part in parts]

    values = []
    for (blocks, kind, gamma), same in itertools.groupby(
        grid, operator.itemgetter("blocks", "kernel", "gamma")
    ):
        pairs = zip(*[alike(block, kind, gamma) for block in blocks], strict=True)
        weights = list(blocks.values())
        among, between = (kernels.combine(kind, pair, weights, gamma) for pair in pairs)
        costs = [candidate["C"] for candidate in same]
        for coefficients, intercepts in kernels.fit(kind, among, labels[train], costs):
            margins = between @ coefficients.T + intercepts
            values.append(kernels.decide(kind, margins, classes))
    return np.stack(values)


class Choice(NamedTuple):
    """What a cross-validation has chosen.

    Attributes:
        rows: the candidates with their accuracy and whether each is chosen.
        best: the one that is.
        unseen: what it says about each clip by the model that has not seen its actor, shape
            (clips, classes).
    """

    rows: list[dict]
    best: dict
    unseen: np.ndarray


def choose(
    table: pd.DataFrame, labels: np.ndarray, actors: np.ndarray, grid: list[dict], folds: int
) -> Choice:
    """Score every candidate by a cross-validation over the actors given."""
    splits = inner_splits(labels, actors, folds)
    decided = [decisions(table, labels, *split, grid) for split in splits]
    return best(labels, grid, splits, decided)


def best(
    labels: np.ndarray,
    grid: list[dict],
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    decided: Sequence[np.ndarray],
) -> Choice:
    """The candidate that is right most often.

    Args:
        splits: of `inner_splits`.
        decided: what `decisions` returns for each of them.
    """
    classes = np.unique(labels)
    values = np.empty((len(grid), len(labels), len(classes)))
    for (_, test), said in zip(splits, decided, strict=True):
        values[:, test] = said
    accuracy = (classes[values.argmax(axis=-1)] == labels).mean(axis=1)
    number = int(np.argmax(accuracy))
    rows = [
        {**candidate, "accuracy": float(share), "chosen": row == number}
        for row, (candidate, share) in enumerate(zip(grid, accuracy, strict=True))
    ]
    return Choice(rows, grid[number], values[number])


def sharpness(values: np.ndarray, labels: np.ndarray) -> float:
    """The factor on decision values whose softmax suits the labels best.

    Source: Guo et al. (2017), ICML, "On Calibration of Modern Neural Networks".

    Args:
        values: shape (n, classes), of clips that their model has not seen.
        labels: shape (n,).
    """
    right = (np.arange(len(labels)), np.unique(labels, return_inverse=True)[1])

    def loss(logarithm: float) -> float:
        return -scipy.special.log_softmax(np.exp(logarithm) * values, axis=1)[right].mean()

    options = {"xatol": 64 * np.finfo(float).eps}
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-10, 10), options=options).x))


def train(table: pd.DataFrame, labels: np.ndarray, chosen: Choice, features: dict) -> Model:
    """Calibrate and train what was chosen on the rows given, and on nothing else.

    Args:
        table: features in columns, float64.
        chosen: by `choose`, on the same rows.
        features: how the table was made (see `model.Settings`).
    """
    best = chosen.best
    columns = {name: columns_of(name, table) for name in best["blocks"]}
    values = table[[name for block in columns.values() for name in block]].to_numpy()
    standard = StandardScaler().fit(values)
    settings = Settings(
        kernel=best["kernel"],
        gamma=best["gamma"],
        blocks=best["blocks"],
        columns=columns,
        sharpness=sharpness(chosen.unseen, labels),
        features=features,
    )
    empty = np.empty((0, 0))
    untrained = Model(settings, standard.mean_, standard.scale_, values, empty, empty)
    blocks, weights = untrained.blockwise(values), list(best["blocks"].values())
    kernel = kernels.between(best["kernel"], blocks, blocks, weights, best["gamma"])
    coefficients, intercepts = next(kernels.fit(best["kernel"], kernel, labels, [best["C"]]))
    if best["kernel"] == "logistic":  # a sum over clips of their features: no need to keep them
        shares = [w / sum(weights) / (2 * b.shape[1]) for w, b in zip(weights, blocks, strict=True)]
        scaled = [share * block for share, block in zip(shares, blocks, strict=True)]
        values, coefficients = values[:0], coefficients @ np.concatenate(scaled, axis=1)
    else:
        used = coefficients.any(axis=0)
        values, coefficients = values[used], coefficients[:, used]
    return Model(settings, standard.mean_, standard.scale_, values, coefficients, intercepts)
