"""A classifier over blocks of features: its candidates, how one is chosen inside training actors,
calibration."""

import itertools
import operator

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ser import params
from ser.corpus import EMOTIONS
from ser.run import errors
from ser.svm import kernels

Trained = tuple[CalibratedClassifierCV, list[dict]]


def columns_of(block: str, table: pd.DataFrame) -> list[str]:
    """The columns of a block: those whose names begin with it."""
    return [name for name in table.columns if name.startswith(f"{block}_")]


def candidates(settings: params.SvmTrain, table: pd.DataFrame) -> list[dict]:
    """Everything to choose from: keys blocks (weights by name), kernel, C, gamma. Blocks that the
    table has not are left out.

    Raises:
        UserError: no block is left.
    """
    made = [
        {name: weight for name, weight in blocks.items() if columns_of(name, table)}
        for blocks in settings.blocks
    ]
    distinct = [blocks for i, blocks in enumerate(made) if blocks and blocks not in made[:i]]
    if not distinct:
        raise errors.UserError(
            f"params.yaml: svm_train.blocks = {settings.blocks}: data/mfcc.parquet has none of these blocks"
        )
    found = []
    for blocks, kernel in itertools.product(distinct, settings.kernel):
        gammas = settings.gamma if kernel != "linear" else [1.0]  # which has none
        found += [
            {"blocks": blocks, "kernel": kernel, "C": C, "gamma": gamma}
            for gamma, C in itertools.product(gammas, settings.C)
        ]
    return found


def pipeline(candidate: dict, table: pd.DataFrame) -> Pipeline:
    """The model of a candidate, untrained: predicts emotions from the columns of
    `candidate["blocks"]`, block by block."""
    blocks = candidate["blocks"]
    sizes = [len(columns_of(name, table)) for name in blocks]
    kernel = kernels.BlockKernel(
        candidate["kernel"], sizes, list(blocks.values()), candidate["gamma"]
    )
    return make_pipeline(
        StandardScaler(),
        kernels.SoftVotes(kernel=kernel, C=candidate["C"], decision_function_shape="ovo"),
    )


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
            f"params.yaml: svm_train.inner_folds = {folds}: a fold has only {len(set(actors))} training actors"
        )
    return list(StratifiedGroupKFold(folds).split(labels, labels, actors))


def scores(
    table: pd.DataFrame, labels: np.ndarray, train: np.ndarray, test: np.ndarray, grid: list[dict]
) -> list[float]:
    """Accuracy on the rows `test` of every candidate trained on the rows `train`.

    The figures of `pipeline(candidate, table).fit(…).score(…)`, many times as fast: each block is
    standardised and compared once for all candidates, which differ only in how they combine blocks.
    """
    parts = {}
    for name in {name for candidate in grid for name in candidate["blocks"]}:
        values = table[columns_of(name, table)].to_numpy()
        standard = StandardScaler().fit(values[train])
        known, new = standard.transform(values[train]), standard.transform(values[test])
        for linear in {candidate["kernel"] == "linear" for candidate in grid}:
            parts[name, linear] = [kernels.compare(rows, known, linear) for rows in (known, new)]
    found = []
    for (blocks, kernel, gamma), alike in itertools.groupby(
        grid, operator.itemgetter("blocks", "kernel", "gamma")
    ):
        pairs = zip(*[parts[name, kernel == "linear"] for name in blocks], strict=True)
        among, between = (
            kernels.combine(kernel, one, list(blocks.values()), gamma) for one in pairs
        )
        for candidate in alike:
            machine = kernels.SoftVotes(
                kernel="precomputed", C=candidate["C"], decision_function_shape="ovo"
            )
            found.append(machine.fit(among, labels[train]).score(between, labels[test]))
    return found


def choose(
    table: pd.DataFrame, labels: np.ndarray, actors: np.ndarray, settings: params.SvmTrain
) -> tuple[list[dict], dict]:
    """Score every candidate by a cross-validation over the actors given: the candidates with their
    accuracy, and the best."""
    grid = candidates(settings, table)
    splits = inner_splits(labels, actors, settings.inner_folds)
    right = [
        np.multiply(scores(table, labels, train, test, grid), len(test)) for train, test in splits
    ]
    accuracy = np.sum(right, axis=0) / len(labels)
    best = grid[np.argmax(accuracy)]
    rows = [
        {**candidate, "accuracy": value, "chosen": candidate is best}
        for candidate, value in zip(grid, accuracy, strict=True)
    ]
    return rows, best


def train(
    table: pd.DataFrame, labels: np.ndarray, actors: np.ndarray, settings: params.SvmTrain
) -> Trained:
    """Choose, calibrate and train on the rows given, and on nothing else.

    Returns:
        the model, whose probabilities are softmaxes of the SVM's decision values, at the
        temperature that suits the values which a cross-validation by actors gives (Guo et al. 2017,
        ICML, "On Calibration of Modern Neural Networks"); and the search's rows.
    """
    found, best = choose(table, labels, actors, settings)
    splits = inner_splits(labels, actors, settings.inner_folds)
    model = CalibratedClassifierCV(
        pipeline(best, table), method="temperature", cv=splits, ensemble=False
    )
    return model.fit(
        table[[column for name in best["blocks"] for column in columns_of(name, table)]], labels
    ), found


def fold(
    job: tuple[str, np.ndarray], table: pd.DataFrame, clips: pd.DataFrame, settings: params.SvmTrain
) -> tuple:
    """Train on the rows of `job` and predict all others: model, search's rows, predictions."""
    name, rows = job
    labels, actors = clips["emotion"].to_numpy(dtype=str), clips["actor"].to_numpy()
    with threadpool_limits(1):
        model, found = train(table[rows], labels[rows], actors[rows], settings)
        unseen = table.loc[~rows, model.feature_names_in_]
        probabilities = pd.DataFrame(
            model.predict_proba(unseen) if len(unseen) else [], unseen.index, model.classes_
        )
    return model, [{"fold": name, **row} for row in found], probabilities[list(EMOTIONS)]


def normalise_speakers(table: pd.DataFrame, actors: pd.Series) -> pd.DataFrame:
    """Standardise each actor's features by mean and deviation of that actor's own clips: no labels,
    but all those clips."""
    groups = table.groupby(actors.to_numpy())
    return (table - groups.transform("mean")) / groups.transform("std", ddof=0).replace(0, 1)


def protocol(settings: params.SvmTrain) -> str:
    """How the predictions came about, in the words that stand beside every figure."""
    chosen = f"blocks, kernel, C, gamma and calibration chosen by {settings.inner_folds}-fold cross-validation over training actors"
    transductive = "TRANSDUCTIVE: each speaker normalised by all of that speaker's own clips, the held-out ones included; "
    return (transductive if settings.speaker_norm else "") + chosen


def read(settings: params.SvmTrain) -> tuple[pd.DataFrame, pd.DataFrame]:
    """data/folds.csv, and the features of its clips in the same order, of speakers normalised if so
    wanted."""
    clips = pd.read_csv("data/folds.csv")
    table = (
        pd.read_parquet("data/mfcc.parquet")
        .set_index("clip")
        .loc[clips["clip"]]
        .astype(np.float64)
        .reset_index(drop=True)
    )
    return clips, normalise_speakers(table, clips["actor"]) if settings.speaker_norm else table
