"""Nested cross-validation over speakers: every choice is made inside the training speakers of a
fold, then a model predicts the fold's own."""

import functools
import itertools
import operator
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from ser import corpus, params, tables
from ser.classifier import kernels, model
from ser.classifier.model import Model, block_columns
from ser.run import errors, outputs, parallel

TRANSDUCTIVE = (
    "TRANSDUCTIVE: each speaker normalised by all of that speaker's own clips, the held-out ones "
    "included"
)


@dataclass(frozen=True)
class Data:
    """Clips and their features.

    Attributes:
        clips: the columns of data/folds.csv.
        table: a column per feature, float64; a row per row of `clips`.
        features: settings that they were computed with, see `model.Settings`.
        corpus: that the clips belong to.
    """

    clips: pd.DataFrame
    table: pd.DataFrame
    features: dict
    corpus: str | None = None

    @property
    def labels(self) -> np.ndarray:
        """The label of each clip."""
        return self.clips["label"].to_numpy(dtype=str)

    @property
    def speakers(self) -> np.ndarray:
        """The speaker of each clip."""
        return self.clips["speaker"].to_numpy()

    @property
    def order(self) -> list[str]:
        """The labels in the corpus's order."""
        return corpus.labels(self.clips)

    def probabilities(self, fitted: Model, rows: np.ndarray) -> pd.DataFrame:
        """A model's probabilities of all labels for some rows; 0 of those it has never met."""
        known = fitted.probabilities(self.table[rows])
        return known.reindex(columns=self.order, fill_value=0.0)

    def with_speakers_normalised(self) -> "Data":
        """The same data with features as `model.normalised` makes them."""
        table = model.normalised(self.table, self.speakers)
        return replace(self, table=table, features=self.features | {"speaker_norm": True})


def read(path: str, stage: str, settings: params.Classifier, corpus: str | None = None) -> Data:
    """Read data/folds.csv and the features of its clips, by speaker normalised if asked for.

    Args:
        path: a Parquet file: the column clip, and a column per feature; its `attrs` are the
            settings that it was made with.
        stage: that made it.
        settings: `speaker_norm` counts.
        corpus: that the clips belong to.

    Raises:
        UserError: a table is missing or damaged, the two are not of the same clips, or a feature is
            not a number.
    """
    clips = tables.folds()
    if not Path(path).exists():
        raise errors.UserError(f"{path}: no such table; `dvc repro` makes it")
    try:
        stored = pd.read_parquet(path)
        table = stored.set_index("clip").astype(np.float64)
    except (ValueError, KeyError, OSError) as error:  # pyarrow's own errors are such
        reason = " ".join(str(error).split())[:150]
        raise errors.UserError(f"{path}: not a table of clips: {reason}") from None
    if not stored.attrs:
        raise errors.UserError(f"{path}: does not say how it was made; `dvc repro` makes it anew")
    if unpaired := set(clips["clip"]) ^ set(table.index.astype(str)):
        raise errors.UserError(
            f"{min(unpaired)}: not in both {tables.FOLDS} and {path}; `dvc repro` makes them agree"
        )
    table = table.loc[clips["clip"]].reset_index(drop=True)
    if len(table) != len(clips):
        raise errors.UserError(f"{path}: holds a clip twice; `dvc repro` makes it anew")
    if not np.isfinite(table).all(axis=None):
        name = table.columns[~np.isfinite(table).all()][0]
        raise errors.UserError(f"{path}: {name} of a clip is not a number")
    data = Data(clips, table, {stage: stored.attrs}, corpus)
    return data.with_speakers_normalised() if settings.speaker_norm else data


def candidates(
    blocks: Sequence[Mapping[Any, float]], settings: params.Classifier, table: pd.DataFrame
) -> list[dict]:
    """The grid of hyper-parameters to choose from.

    Args:
        blocks: weights of feature blocks by name. Blocks that are not in the table are left out.
        settings: values of the others.

    Returns:
        dicts of blocks (weights by name), kernel, C and gamma; C varies fastest.

    Raises:
        UserError: no block is left.
    """
    present = [
        {name: weight for name, weight in weights.items() if block_columns(name, table)}
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
    labels: np.ndarray, speakers: np.ndarray, folds: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of a cross-validation whose folds share no speaker and have like shares
    of labels.

    Raises:
        UserError: fewer speakers than folds.
    """
    if len(set(speakers)) < folds:
        raise errors.UserError(
            f"inner_folds = {folds}: a fold has only {len(set(speakers))} training speakers; "
            f"expected at most that, and 2 at least"
        )
    return list(StratifiedGroupKFold(folds).split(labels, labels, speakers))


def candidate_scores(
    table: pd.DataFrame, labels: np.ndarray, train: np.ndarray, test: np.ndarray, grid: list[dict]
) -> np.ndarray:
    """Class scores of the rows `test` by every candidate, trained on the rows `train`.

    Each block is standardised and measured once for all candidates, which differ only in how they
    combine blocks.

    Returns:
        shape (candidates, test, classes), the classes of `labels` in alphabetical order; one that
        no clip of `train` has scores lowest.
    """
    met = np.isin(np.unique(labels), labels[train])

    @functools.cache
    def measured(block: str, measure: Callable) -> list[np.ndarray]:
        """Products or distances of the rows `train`, then `test`, with the rows `train`."""
        values = table[block_columns(block, table)].to_numpy()
        standard = StandardScaler().fit(values[train])
        known, new = standard.transform(values[train]), standard.transform(values[test])
        return [measure(rows, known) for rows in (known, new)]

    @functools.cache
    def terms(block: str, kind: str, gamma: float) -> list[np.ndarray]:
        parts = measured(block, kernels.measure(kind))
        return [kernels.block_term(kind, part, gamma) for part in parts]

    scores = []
    for (blocks, kind, gamma), same in itertools.groupby(
        grid, operator.itemgetter("blocks", "kernel", "gamma")
    ):
        pairs = zip(*[terms(block, kind, gamma) for block in blocks], strict=True)
        weights = list(blocks.values())
        training, testing = (kernels.combined_kernel(kind, p, weights, gamma) for p in pairs)
        costs = [candidate["C"] for candidate in same]
        for coefficients, intercepts in kernels.fit(kind, training, labels[train], costs):
            margins = testing @ coefficients.T + intercepts
            known = kernels.class_scores(kind, margins, met.sum())
            padded = np.tile(known.min(axis=1, keepdims=True) - 1, len(met))
            padded[:, met] = known
            scores.append(padded)
    return np.stack(scores)


class Choice(NamedTuple):
    """The outcome of an inner cross-validation.

    Attributes:
        rows: the candidates with their accuracy and whether each is chosen.
        best: the chosen one.
        scores: its class scores of each clip by the model that has not seen the clip's speaker,
            shape (clips, classes).
    """

    rows: list[dict]
    best: dict
    scores: np.ndarray


def choose(
    table: pd.DataFrame, labels: np.ndarray, speakers: np.ndarray, grid: list[dict], folds: int
) -> Choice:
    """Choose the best candidate by a cross-validation over the speakers given."""
    splits = inner_splits(labels, speakers, folds)
    scores = [candidate_scores(table, labels, *split, grid) for split in splits]
    return best_candidate(labels, grid, splits, scores)


def best_candidate(
    labels: np.ndarray,
    grid: list[dict],
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    scores: Sequence[np.ndarray],
) -> Choice:
    """Choose the candidate of the highest accuracy.

    Args:
        splits: of `inner_splits`.
        scores: `candidate_scores` of each of them.
    """
    classes = np.unique(labels)
    unseen = np.empty((len(grid), len(labels), len(classes)))
    for (_, test), part in zip(splits, scores, strict=True):
        unseen[:, test] = part
    accuracy = (classes[unseen.argmax(axis=-1)] == labels).mean(axis=1)
    chosen = int(np.argmax(accuracy))
    rows = [
        {**candidate, "accuracy": float(share), "chosen": number == chosen}
        for number, (candidate, share) in enumerate(zip(grid, accuracy, strict=True))
    ]
    return Choice(rows, grid[chosen], unseen[chosen])


def fit_fold(
    rows: np.ndarray, data: Data, grid: list[dict], inner_folds: int
) -> tuple[Model, list[dict], pd.DataFrame]:
    """Choose and train on some rows, predict all others.

    Args:
        rows: True for the clips to train on, shape (clips,).
        data: of all clips.
        grid: of `candidates`.
        inner_folds: of the cross-validation that chooses.

    Returns:
        the model; the candidates with their accuracy; probabilities of the other clips, by row.
    """
    table, labels, speakers = data.table[rows], data.labels[rows], data.speakers[rows]
    choice = choose(table, labels, speakers, grid, inner_folds)
    fitted = model.fit(
        table, labels, choice.best, choice.scores, data.features, data.order, data.corpus
    )
    return fitted, choice.rows, data.probabilities(fitted, ~rows)


def fit_folds(
    stage: str, data: Data, grid: list[dict], inner_folds: int
) -> tuple[pd.DataFrame, pd.DataFrame, Model]:
    """Train a model per fold on all speakers but the fold's, and one on all speakers.

    As `fit_fold` does, but with the parts of all cross-validations side by side.

    Args:
        stage: name of the progress bar; for the others see `fit_fold`.

    Returns:
        predictions.csv, search.csv and the model of all speakers.
    """
    numbers, labels, speakers = data.clips["fold"].to_numpy(), data.labels, data.speakers
    training = {str(number): numbers != number for number in np.unique(numbers)}
    training["all"] = np.ones(len(numbers), bool)
    splits = {
        name: inner_splits(labels[rows], speakers[rows], inner_folds)
        for name, rows in training.items()
    }

    def score(job: tuple[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        name, split = job
        rows = training[name]
        return candidate_scores(data.table[rows], labels[rows], *split, grid)

    jobs = [(name, split) for name, parts in splits.items() for split in parts]
    scores = iter(parallel.over(score, jobs, stage, unit="split", largest=1))
    choices = {
        name: best_candidate(labels[training[name]], grid, parts, [next(scores) for _ in parts])
        for name, parts in splits.items()
    }

    def fit(name: str) -> tuple[Model, pd.DataFrame]:
        rows, choice = training[name], choices[name]
        fitted = model.fit(
            data.table[rows],
            labels[rows],
            choice.best,
            choice.scores,
            data.features,
            data.order,
            data.corpus,
        )
        return fitted, data.probabilities(fitted, ~rows)

    fitted = parallel.over(fit, training, None, largest=1)
    search = [{"fold": name, **row} for name, choice in choices.items() for row in choice.rows]
    probabilities = pd.concat([part for _, part in fitted]).sort_index()
    predictions = tables.from_probabilities(data.clips, probabilities)
    final, _ = fitted[-1]
    return predictions.sort_values("clip", ignore_index=True), pd.DataFrame(search), final


def protocol(settings: params.Classifier) -> str:
    """The protocol of the predictions, in the words that stand beside every figure."""
    chosen = f"{settings.inner_folds}-fold cross-validation over training speakers"
    text = f"blocks, kernel, C, gamma and calibration chosen by {chosen}"
    if settings.speaker_norm:
        text = f"{TRANSDUCTIVE}; {text}"
    return text


def write(
    name: str,
    predictions: pd.DataFrame,
    search: pd.DataFrame,
    final: Model,
    text: str,
    encoder: Path | None = None,
) -> None:
    """Write data/predictions/NAME and data/models/NAME, print the accuracy.

    Args:
        name: svm or probe.
        predictions, search, final: of `fit_folds`.
        text: of `protocol`.
        encoder: folder of the checkpoint that the features come from, which the model takes along.
    """
    with outputs.together() as output:
        folder = output(f"data/predictions/{name}")
        tables.write_predictions(folder, predictions, text)
        search.to_csv(folder / "search.csv", index=False)
        folder = output(f"data/models/{name}")
        folder.mkdir()
        final.save(folder)
        if encoder is not None:
            shutil.copytree(encoder, folder / encoder.name)
