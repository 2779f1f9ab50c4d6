"""The tables that stages hand each other, data/folds.csv and each model's predictions.csv, read and
written in one place: what a later stage would stumble over, or take for right, is refused."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from ser import corpus
from ser.run.errors import UserError

FOLDS = Path("data/folds.csv")
MODELS = Path("data/predictions")  # a folder per model
PREDICTIONS = ("clip", "speaker", "fold", "actual", "predicted")  # and a column for each label

# What is text whatever it looks like: a label may be called 1 or NA.
TEXT = dict.fromkeys(("clip", "file", "file_name", "speaker", "label", "actual", "predicted"), str)


def read(path: str | Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """The table in a CSV file. Speakers are whole numbers where all of them look like it.

    Args:
        path: of the file.
        columns: that it must begin with, in this order, and without an empty field.

    Raises:
        UserError: there is no such file, it is no CSV, or lacks what it must have.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such table; `dvc repro` makes it")
    try:
        table = pd.read_csv(
            path, dtype=TEXT, keep_default_na=False, na_values=[""], low_memory=False
        )
    except (ValueError, OverflowError) as error:  # pandas' own errors, and those of UTF-8, are such
        raise UserError(f"{path}: not a CSV table: {' '.join(str(error).split())[:150]}") from None
    if list(table.columns[: len(columns)]) != list(columns):
        raise UserError(f"{path}: columns {list(table.columns)}; expected {list(columns)} first")
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{path}: rows of more than {len(table.columns)} fields")
    required = table[list(columns)]
    if required.isna().any(axis=None):
        row, column = np.argwhere(required.isna())[0]
        raise UserError(f"{path}: no {required.columns[column]} in line {row + 2}")
    if "speaker" in table and table["speaker"].str.fullmatch("0|[1-9][0-9]{0,8}").all():
        table["speaker"] = table["speaker"].astype(int)
    return table


def clips(path: Path = corpus.CLIPS) -> pd.DataFrame:
    """The table that `download` writes: `corpus.COLUMNS` and further ones, a row per clip.

    Raises:
        UserError: as `read`.
    """
    return read(path, corpus.COLUMNS)


def folds(path: Path = FOLDS) -> pd.DataFrame:
    """The table that `split` writes: that of `clips`, and fold.

    Raises:
        UserError: as `read`; a clip stands there twice, there is but one fold, or a speaker is in
            two.
    """
    table = read(path, corpus.COLUMNS)
    if "fold" not in table or len(table) < 2 or table["fold"].nunique() < 2:
        raise UserError(f"{path}: {len(table)} clips; expected clips of two folds at least")
    if not pd.api.types.is_integer_dtype(table["fold"]) or table["fold"].min() < 0:
        raise UserError(f"{path}: a fold that is no number from 0 up; `dvc repro split` mends it")
    twice = table.loc[table["clip"].duplicated(), "clip"]
    if len(twice):
        raise UserError(f"{path}: {twice.iloc[0]} stands there twice")
    several = table.groupby("speaker")["fold"].nunique() > 1
    if several.any() and not several.all():  # all are by the scheme that is leaky on purpose
        raise UserError(f"{path}: speaker {several.idxmax()} is in two folds, on both sides")
    return table


def labels(predictions: pd.DataFrame) -> list[str]:
    """The labels that a table of predictions has probabilities of, in the corpus's order; none, if
    it is another table."""
    first, names = (
        list(predictions.columns[: len(PREDICTIONS)]),
        list(predictions.columns[len(PREDICTIONS) :]),
    )
    return names if first == list(PREDICTIONS) else []


def from_probabilities(clips: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
    """A table of predictions: the likeliest label of each clip is the predicted one.

    Args:
        clips: clip, speaker, fold and label of the clips to predict.
        probabilities: a column per label, in the corpus's order; a row per row of `clips`, in
            theirs.

    Returns:
        the columns of `PREDICTIONS`, and the probabilities.
    """
    shares = probabilities.set_index(clips.index)
    table = clips[["clip", "speaker", "fold"]].assign(
        actual=clips["label"], predicted=shares.idxmax(axis=1)
    )
    return table.join(shares)


def write_predictions(folder: Path, predictions: pd.DataFrame, protocol: str) -> None:
    """Make a model's folder and write what every model writes; print the accuracy.

    Args:
        folder: that `outputs.whole("data/predictions/NAME")` gives.
        predictions: of `from_probabilities`, a row per held-out clip.
        protocol: how they came about, in one line, to stand beside every figure.
    """
    folder.mkdir()
    predictions.to_csv(folder / "predictions.csv", index=False)
    (folder / "protocol.txt").write_text(protocol + "\n", encoding="utf-8")
    accuracy = (predictions["predicted"] == predictions["actual"]).mean()
    print(f"accuracy on held-out speakers: {accuracy:.3f}")


def read_predictions(path: Path) -> pd.DataFrame:
    """The rows of one table of predictions: `PREDICTIONS`, and a column per label.

    Raises:
        UserError: it is missing, damaged, or holds what no model predicts.
    """
    table = read(path, PREDICTIONS)
    names = labels(table)
    for column in ("actual", "predicted"):
        strange = table[~table[column].isin(names)]
        if len(strange):
            raise UserError(
                f"{path}: {column} {strange[column].iloc[0]!r}; expected {', '.join(names)}"
            )
    if len(table) and not pd.api.types.is_integer_dtype(table["fold"]):
        raise UserError(f"{path}: fold is not a whole number everywhere")
    shares = table[names].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not ((shares >= 0).all() and np.allclose(shares.sum(axis=1), 1, atol=1e-3)):
        raise UserError(f"{path}: expected probabilities that sum to 1 in every line")
    return table


def predictions(model: str, folds: list[int], project: Path = Path()) -> pd.DataFrame:
    """The held-out predictions of a model, a row per clip of the given folds, sorted by clip.

    Args:
        model: one of `models` in params.yaml.
        folds: held-out folds to keep; a model may have predicted more.
        project: the folder in which data/ lies.

    Returns:
        the columns of `PREDICTIONS`, and a probability per label, which sum to 1 in a row.

    Raises:
        UserError: as `read_predictions`; a fold is missing, or a clip stands there twice.
    """
    path = project / MODELS / model / "predictions.csv"
    table = read_predictions(path)
    table = table[table["fold"].isin(folds)].sort_values("clip", ignore_index=True)
    if set(table["fold"]) != set(folds) or table["clip"].duplicated().any():
        raise UserError(f"{path}: expected every clip of the folds {folds} once")
    return table
