"""Train a classifier outside each fold and predict in it: what the stages `svm_train` and
`probe_train` share."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ser import tables
from ser.classifier import choice
from ser.classifier.model import Model
from ser.run import errors, outputs, parallel


@dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
        clips: the columns of data/folds.csv.
        table: a column per feature, float64; a row per row of `clips`.
        features: how they are made of a clip, see `model.Settings`.
    """

    clips: pd.DataFrame
    table: pd.DataFrame
    features: dict

    @property
    def labels(self) -> np.ndarray:
        """The emotion of each clip."""
        return self.clips["emotion"].to_numpy(dtype=str)

    @property
    def actors(self) -> np.ndarray:
        """The number of each clip's actor."""
        return self.clips["actor"].to_numpy()

    def with_speakers_normalised(self) -> "Data":
        """Each actor's features standardised by mean and deviation of that actor's own clips: no
        labels, but all those clips."""
        groups = self.table.groupby(self.actors)
        deviations = groups.transform("std", ddof=0).replace(0, 1)
        table = (self.table - groups.transform("mean")) / deviations
        return Data(self.clips, table, self.features | {"speaker_norm": True})


def read(path: str, stage: str) -> Data:
    """data/folds.csv and the features of its clips.

    Args:
        path: a Parquet file: the column clip, and a column per feature; its `attrs` are the
            settings that it was made with.
        stage: that made it.

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
        raise errors.UserError(
            f"{path}: not a table of clips: {' '.join(str(error).split())[:150]}"
        ) from None
    strange = table.columns[~np.isfinite(table).all()]
    if len(strange) or not (stored.attrs and table.index.is_unique):
        what = "does not say how it was made"
        what = f"{strange[0]} of a clip is not a number" if len(strange) else what
        what = "a clip stands there twice" if not table.index.is_unique else what
        raise errors.UserError(f"{path}: {what}; `dvc repro` makes it anew")
    if lonely := set(clips["clip"]) ^ set(table.index.astype(str)):
        raise errors.UserError(
            f"{min(lonely)}: not in both {tables.FOLDS} and {path}; `dvc repro` makes them agree"
        )
    return Data(clips, table.loc[clips["clip"]].reset_index(drop=True), {stage: stored.attrs})


def fold(
    rows: np.ndarray, data: Data, grid: list[dict], inner_folds: int
) -> tuple[Model, list[dict], pd.DataFrame]:
    """Choose and train on some rows, predict all others.

    Args:
        rows: whether to train on each clip, shape (clips,).
        data: of all clips.
        grid: what to choose from, see `choice.candidates`.
        inner_folds: of the cross-validation that chooses.

    Returns:
        the model; the candidates with their accuracy; probabilities of the other clips, by row.
    """
    table, labels, actors = data.table[rows], data.labels[rows], data.actors[rows]
    chosen = choice.choose(table, labels, actors, grid, inner_folds)
    model = choice.train(table, labels, chosen, data.features)
    return model, chosen.rows, model.probabilities(data.table[~rows])


def train(
    stage: str, data: Data, grid: list[dict], inner_folds: int
) -> tuple[pd.DataFrame, pd.DataFrame, Model]:
    """Train a model per fold on all actors but the fold's, and one on all actors.

    As `fold` does, but with the parts of each cross-validation side by side.

    Args:
        stage: name of the progress bar; for the others see `fold`.

    Returns:
        predictions.csv, search.csv and the model of all actors.
    """
    numbers, labels, actors = data.clips["fold"].to_numpy(), data.labels, data.actors
    known = {str(number): numbers != number for number in np.unique(numbers)}
    known["all"] = np.ones(len(numbers), bool)
    splits = {
        name: choice.inner_splits(labels[rows], actors[rows], inner_folds)
        for name, rows in known.items()
    }

    def decide(job: tuple[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        name, split = job
        rows = known[name]
        return choice.decisions(data.table[rows], labels[rows], *split, grid)

    jobs = [(name, split) for name, parts in splits.items() for split in parts]
    decided = iter(parallel.over(decide, jobs, stage, unit="split", largest=1))
    chosen = {
        name: choice.best(labels[known[name]], grid, parts, [next(decided) for _ in parts])
        for name, parts in splits.items()
    }

    def finish(name: str) -> tuple[Model, pd.DataFrame]:
        rows = known[name]
        model = choice.train(data.table[rows], labels[rows], chosen[name], data.features)
        return model, model.probabilities(data.table[~rows])

    trained = parallel.over(finish, known, None, largest=1)
    search = [{"fold": name, **row} for name, made in chosen.items() for row in made.rows]
    probabilities = pd.concat([part for _, part in trained]).sort_index()
    predictions = data.clips[["clip", "actor", "fold"]].assign(
        actual=data.clips["emotion"], predicted=probabilities.idxmax(axis=1)
    )
    final, _ = trained[-1]
    return pd.concat([predictions, probabilities], axis=1), pd.DataFrame(search), final


def protocol(inner_folds: int, transductive: bool = False) -> str:
    """How the predictions came about, in the words that stand beside every figure.

    Args:
        inner_folds: of the cross-validation that chose.
        transductive: whether speakers were normalised.
    """
    chosen = f"{inner_folds}-fold cross-validation over training actors"
    text = f"blocks, kernel, C, gamma and calibration chosen by {chosen}"
    if transductive:
        text = (
            "TRANSDUCTIVE: each speaker normalised by all of that speaker's own clips, the "
            f"held-out ones included; {text}"
        )
    return text


def write(
    name: str,
    predictions: pd.DataFrame,
    search: pd.DataFrame,
    model: Model,
    text: str,
    encoder: Path | None = None,
) -> None:
    """Write data/predictions/NAME and data/models/NAME, print the accuracy.

    Args:
        name: svm or probe.
        predictions, search, model: what `train` returns.
        text: what `protocol` returns.
        encoder: folder of the checkpoint that the features come from, which the model takes along.
    """
    with outputs.together() as output:
        folder = output(f"data/predictions/{name}")
        tables.write_predictions(folder, predictions, text)
        search.to_csv(folder / "search.csv", index=False)
        folder = output(f"data/models/{name}")
        folder.mkdir()
        model.save(folder)
        if encoder is not None:
            shutil.copytree(encoder, folder / encoder.name)
