"""Choose and train an SVM on the MFCC table inside each fold's training actors, and predict the held-out clips.

Reads:  data/mfcc.parquet, data/folds.csv, params `svm_train`
Writes: data/svm/: predictions.csv: a row per clip, sorted by clip: clip, actor, fold, actual, predicted, a probability per emotion;
        search.csv: a row per fold and candidate: blocks, kernel, C, gamma, accuracy (of inner held-out clips), chosen; fold `all` is
        the final model's; model.joblib: the final model, trained on all actors; predicts from the table's columns
"""

import itertools

import joblib
import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from stages import errors, outputs, parallel, params
from stages.corpus import EMOTIONS

CACHE = 1000  # MB of kernel values that libsvm may keep


def columns_of(block: str, table: pd.DataFrame) -> list[str]:
    """The columns of a block: those whose names begin with it."""
    return [name for name in table.columns if name.startswith(f"{block}_")]


def candidates(settings: params.SvmTrain, table: pd.DataFrame) -> list[dict]:
    """Everything to choose from: keys blocks (weights by name), kernel, C, gamma. Blocks that the table has not are left out.

    Raises:
        UserError: no block is left.
    """
    made = [{name: weight for name, weight in blocks.items() if columns_of(name, table)} for blocks in settings.blocks]
    distinct = [blocks for i, blocks in enumerate(made) if blocks and blocks not in made[:i]]
    if not distinct:
        raise errors.UserError(f"params.yaml: svm_train.blocks = {settings.blocks}: data/mfcc.parquet has none of these blocks")
    found = []
    for blocks, kernel in itertools.product(distinct, settings.kernel):
        gammas = settings.gamma if kernel == "rbf" else [1.0]  # a linear kernel has none
        found += [{"blocks": blocks, "kernel": kernel, "C": C, "gamma": gamma} for gamma, C in itertools.product(gammas, settings.C)]
    return found


def scaler(blocks: dict[str, float], table: pd.DataFrame) -> ColumnTransformer:
    """Standardise every feature, then weigh the blocks so that squared distances between clips average 1 whatever a block's size."""
    columns = {name: columns_of(name, table) for name in blocks}
    weights = {name: np.sqrt(weight / sum(blocks.values()) / (2 * len(columns[name]))) for name, weight in blocks.items()}
    return ColumnTransformer([(name, StandardScaler(), columns[name]) for name in blocks], transformer_weights=weights)


def pipeline(candidate: dict, table: pd.DataFrame) -> Pipeline:
    """The model of a candidate, untrained: predicts emotions from the columns of `table`."""
    svc = SVC(kernel=candidate["kernel"], C=candidate["C"], gamma=candidate["gamma"], cache_size=CACHE)
    return make_pipeline(scaler(candidate["blocks"], table), svc)


def inner_splits(labels: np.ndarray, actors: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of a cross-validation whose folds share no actor."""
    return list(StratifiedGroupKFold(folds).split(labels, labels, actors))


def scores(table: pd.DataFrame, labels: np.ndarray, train: np.ndarray, test: np.ndarray, grid: list[dict]) -> list[float]:
    """Accuracy on the rows `test` of every candidate trained on the rows `train`.

    The same figures as `pipeline(candidate).fit(…).score(…)`, many times as fast: squared distances and inner products of weighted
    blocks are weighted sums over blocks, so that each block is standardised and multiplied once for all candidates.
    """
    distance, product = {}, {}
    for name in {name for candidate in grid for name in candidate["blocks"]}:
        one = scaler({name: 1.0}, table).fit(table.iloc[train])
        rows = one.transform(table.iloc[train]), one.transform(table.iloc[test])
        distance[name] = [euclidean_distances(part, rows[0], squared=True) for part in rows]
        product[name] = [part @ rows[0].T for part in rows]
    found = []
    for (blocks, kernel, gamma), group in itertools.groupby(grid, lambda candidate: [candidate[key] for key in ("blocks", "kernel", "gamma")]):
        parts = distance if kernel == "rbf" else product
        fit, held_out = (sum(weight * parts[name][i] for name, weight in blocks.items()) / sum(blocks.values()) for i in (0, 1))
        if kernel == "rbf":
            fit, held_out = np.exp(-gamma * fit), np.exp(-gamma * held_out)
        for candidate in group:
            svc = SVC(kernel="precomputed", C=candidate["C"], cache_size=CACHE).fit(fit, labels[train])
            found.append(np.mean(svc.classes_[svc.decision_function(held_out).argmax(axis=1)] == labels[test]))
    return found


def choose(table: pd.DataFrame, labels: np.ndarray, actors: np.ndarray, settings: params.SvmTrain) -> tuple[list[dict], dict]:
    """Score every candidate by a cross-validation over the actors given: the candidates with their accuracy, and the best."""
    grid = candidates(settings, table)
    splits = inner_splits(labels, actors, settings.inner_folds)
    accuracy = np.average(
        [scores(table, labels, train, test, grid) for train, test in splits], axis=0, weights=[len(test) for _, test in splits]
    )
    best = int(np.argmax(accuracy))
    return [{**candidate, "accuracy": value, "chosen": i == best} for i, (candidate, value) in enumerate(zip(grid, accuracy, strict=True))], grid[best]


def train(table: pd.DataFrame, labels: np.ndarray, actors: np.ndarray, settings: params.SvmTrain) -> tuple[CalibratedClassifierCV, list[dict]]:
    """Choose, calibrate and train on the rows given, and on nothing else.

    Returns:
        the model, whose probabilities are softmaxes of the SVM's decision values, at the temperature that suits the values which a
        cross-validation by actors gives (Guo et al. 2017, ICML, "On Calibration of Modern Neural Networks"); and the search's rows.
    """
    found, best = choose(table, labels, actors, settings)
    splits = inner_splits(labels, actors, settings.inner_folds)
    model = CalibratedClassifierCV(pipeline(best, table), method="temperature", cv=splits, ensemble=False)
    return model.fit(table, labels), found


def fold(job: tuple[str, np.ndarray], table: pd.DataFrame, clips: pd.DataFrame, settings: params.SvmTrain) -> tuple:
    """Train on the rows of `job` and predict all others: model, search's rows, predictions."""
    name, rows = job
    labels, actors = clips["emotion"].to_numpy(dtype=str), clips["actor"].to_numpy()
    with threadpool_limits(1):
        model, found = train(table[rows], labels[rows], actors[rows], settings)
        probabilities = pd.DataFrame(model.predict_proba(table[~rows]) if not rows.all() else [], columns=model.classes_)
    return model, [{"fold": name, **row} for row in found], probabilities[list(EMOTIONS)].set_index(clips.index[~rows])


def normalise_speakers(table: pd.DataFrame, actors: pd.Series) -> pd.DataFrame:
    """Standardise each actor's features by the mean and deviation of that actor's own clips. Needs no labels, but all those clips."""
    groups = table.groupby(actors.to_numpy())
    return (table - groups.transform("mean")) / groups.transform("std", ddof=0).replace(0, 1)


@errors.one_line
def main() -> None:
    """Train a model per fold and one on all actors, write predictions, search and the last model."""
    settings = params.load().svm_train
    clips = pd.read_csv("data/folds.csv")
    table = pd.read_parquet("data/mfcc.parquet").set_index("clip").loc[clips["clip"]].astype(np.float64).reset_index(drop=True)
    if settings.speaker_norm:
        table = normalise_speakers(table, clips["actor"])
    jobs = [(str(k), (clips["fold"] != k).to_numpy()) for k in sorted(clips["fold"].unique())] + [("all", np.ones(len(clips), bool))]
    with joblib.parallel_config(backend="threading"):
        trained = parallel.over(lambda job: fold(job, table, clips, settings), jobs, "svm_train")
    probabilities = pd.concat([part for _, _, part in trained]).sort_index()
    predictions = clips[["clip", "actor", "fold"]].assign(actual=clips["emotion"], predicted=probabilities.idxmax(axis=1))
    with outputs.whole("data/svm") as folder:
        folder.mkdir()
        joblib.dump(trained[-1][0], folder / "model.joblib")
        pd.concat([predictions, probabilities], axis=1).to_csv(folder / "predictions.csv", index=False)
        pd.DataFrame([row for _, found, _ in trained for row in found]).to_csv(folder / "search.csv", index=False)
    print(f"accuracy on held-out actors: {(predictions.predicted == predictions.actual).mean():.3f}")


if __name__ == "__main__":
    main()
