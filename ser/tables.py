"""The tables that stages hand each other, data/folds.csv and each model's predictions.csv, read and
written in one place: what a later stage would stumble over, or take for right, is refused."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from ser import corpus
from ser.corpus import EMOTIONS
from ser.run.errors import UserError

FOLDS = Path("data/folds.csv")
MODELS = Path("data/predictions")  # a folder per model

# They may differ from what a clip's name says, as where labels are permuted for a control.
LABELS = {"label": EMOTIONS, "intensity": ("normal", "strong")}
COLUMNS = (
    "clip", "speaker", "gender", "label", "intensity", "statement", "repetition", "fold",
)  # fmt: skip
PREDICTIONS = ("clip", "speaker", "fold", "actual", "predicted", *EMOTIONS)


def read(path: str | Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """The table in a CSV file.

    Args:
        path: of the file.
        columns: that it must have, in this order; None: any.

    Raises:
        UserError: there is no such file, it is no CSV, it has other columns, or a field is empty.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such table; `dvc repro` makes it")
    try:
        table = pd.read_csv(path, low_memory=False)
    except (ValueError, OverflowError) as error:  # pandas' own errors, and those of UTF-8, are such
        raise UserError(f"{path}: not a CSV table: {' '.join(str(error).split())[:150]}") from None
    if columns is None:
        return table
    if list(table.columns) != list(columns):
        raise UserError(f"{path}: columns {list(table.columns)}; expected {list(columns)}")
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{path}: rows of more than {len(columns)} fields")
    if table.isna().any(axis=None):
        row, column = np.argwhere(table.isna())[0]
        raise UserError(f"{path}: no {table.columns[column]} in line {row + 2}")
    return table


def check_labels(path: Path, labels: pd.Series, allowed: Collection[str]) -> None:
    """Refuse a column of a table that holds a label other than those allowed."""
    strange = labels[~labels.isin(allowed)]
    if len(strange):
        raise UserError(f"{path}: {labels.name} {strange.iloc[0]!r}; expected {', '.join(allowed)}")


def folds(path: Path = FOLDS) -> pd.DataFrame:
    """The table that `split` writes: `COLUMNS`, a row per clip.

    Raises:
        UserError: as `read`; a clip stands there twice or is not who its name says, a label is
            none of ours, there is but one fold, or a speaker is in two.
    """
    table = read(path, COLUMNS)
    if len(table) < 2 or table["fold"].nunique() < 2:
        raise UserError(f"{path}: {len(table)} clips; expected clips of two folds at least")
    if not pd.api.types.is_integer_dtype(table["fold"]) or table["fold"].min() < 0:
        raise UserError(f"{path}: a fold that is no number from 0 up; `dvc repro split` mends it")
    twice = table.loc[table["clip"].duplicated(), "clip"]
    if len(twice):
        raise UserError(f"{path}: {twice.iloc[0]} stands there twice")
    for column, allowed in LABELS.items():
        check_labels(path, table[column], allowed)
    named = pd.DataFrame([corpus.describe(str(clip)) for clip in table["clip"]])
    for column in named.columns.difference([*LABELS]):
        wrong = table[table[column].to_numpy() != named[column].to_numpy()]
        if len(wrong):
            row = wrong.iloc[0]
            raise UserError(f"{path}: {row['clip']}: {column} {row[column]}, against its name")
    several = table.groupby("speaker")["fold"].nunique() > 1
    if several.any() and not several.all():  # all are by the scheme that is leaky on purpose
        raise UserError(f"{path}: speaker {several.idxmax()} is in two folds, on both sides")
    return table


def from_probabilities(clips: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
    """A table of predictions: the likeliest label of each clip is the predicted one.

    Args:
        clips: rows of `folds`.
        probabilities: a column per label, in any order; a row per row of `clips`, in theirs.

    Returns:
        the columns of `PREDICTIONS`.
    """
    shares = probabilities.reindex(columns=EMOTIONS, fill_value=0.0).set_index(clips.index)
    table = clips[["clip", "speaker", "fold"]].assign(
        actual=clips["label"], predicted=shares.idxmax(axis=1)
    )
    return table.join(shares)


def write_predictions(folder: Path, predictions: pd.DataFrame, protocol: str) -> None:
    """Make a model's folder and write what every model writes; print the accuracy.

    Args:
        folder: that `outputs.whole("data/predictions/NAME")` gives.
        predictions: the columns of `PREDICTIONS`, a row per held-out clip.
        protocol: how they came about, in one line, to stand beside every figure.
    """
    folder.mkdir()
    predictions.to_csv(folder / "predictions.csv", index=False)
    (folder / "protocol.txt").write_text(protocol + "\n", encoding="utf-8")
    accuracy = (predictions["predicted"] == predictions["actual"]).mean()
    print(f"accuracy on held-out speakers: {accuracy:.3f}")


def read_predictions(path: Path) -> pd.DataFrame:
    """The rows of one table of predictions: the columns of `PREDICTIONS`.

    Raises:
        UserError: it is missing, damaged, or holds what no model predicts.
    """
    table = read(path, PREDICTIONS)
    for column in ("actual", "predicted"):
        check_labels(path, table[column], EMOTIONS)
    for column in ("speaker", "fold"):
        if len(table) and not pd.api.types.is_integer_dtype(table[column]):
            raise UserError(f"{path}: {column} is not a whole number everywhere")
    shares = table[list(EMOTIONS)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not ((shares >= 0).all() and np.allclose(shares.sum(axis=1), 1, atol=1e-3)):
        raise UserError(f"{path}: expected eight probabilities that sum to 1 in every line")
    return table


def predictions(model: str, folds: list[int], project: Path = Path()) -> pd.DataFrame:
    """The held-out predictions of a model, a row per clip of the given folds, sorted by clip.

    Args:
        model: one of `models` in params.yaml.
        folds: held-out folds to keep; a model may have predicted more.
        project: the folder in which data/ lies.

    Returns:
        the columns of `PREDICTIONS`; the eight probabilities of a row sum to 1.

    Raises:
        UserError: as `read_predictions`; a fold is missing, or a clip stands there twice.
    """
    path = project / MODELS / model / "predictions.csv"
    table = read_predictions(path)
    table = table[table["fold"].isin(folds)].sort_values("clip", ignore_index=True)
    if set(table["fold"]) != set(folds) or table["clip"].duplicated().any():
        raise UserError(f"{path}: expected every clip of the folds {folds} once")
    return table
