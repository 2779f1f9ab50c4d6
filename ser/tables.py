"""The CSV tables that stages hand each other, read in one place: what a later stage would stumble
over, or take for right, is refused."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from ser import corpus
from ser.run.errors import UserError

FOLDS = Path("data/folds.csv")

# They may differ from what a clip's name says, as where labels are permuted for a control.
LABELS = {"emotion": corpus.EMOTIONS, "intensity": ("normal", "strong")}
COLUMNS = (
    "clip", "actor", "gender", "emotion", "intensity", "statement", "repetition", "fold",
)  # fmt: skip


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
    if columns is not None and list(table.columns) != list(columns):
        raise UserError(f"{path}: columns {list(table.columns)}; expected {list(columns)}")
    if columns is not None and not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{path}: rows of more than {len(columns)} fields")
    if columns is not None and table.isna().any(axis=None):
        row, column = next(zip(*table.isna().to_numpy().nonzero(), strict=True))
        raise UserError(f"{path}: no {table.columns[column]} in line {row + 2}")
    return table


def folds(path: Path = FOLDS) -> pd.DataFrame:
    """What `split` wrote: `COLUMNS`, a row per clip.

    Raises:
        UserError: as `read`; a clip stands there twice or is not who its name says, an emotion is
            none of ours, there is but one fold, or an actor is in two.
    """
    table = read(path, COLUMNS)
    if len(table) < 2 or table["fold"].nunique() < 2:
        raise UserError(f"{path}: {len(table)} clips; expected clips of two folds at least")
    if not pd.api.types.is_integer_dtype(table["fold"]) or table["fold"].min() < 0:
        raise UserError(f"{path}: a fold that is no number from 0 up; `dvc repro split` mends it")
    if table["clip"].duplicated().any():
        twice = table.loc[table["clip"].duplicated(), "clip"].iloc[0]
        raise UserError(f"{path}: {twice} stands there twice")
    for column, allowed in LABELS.items():
        if not table[column].isin(allowed).all():
            strange = table.loc[~table[column].isin(allowed), column].iloc[0]
            raise UserError(f"{path}: {column} {strange!r}; expected {', '.join(allowed)}")
    named = pd.DataFrame([corpus.describe(str(clip)) for clip in table["clip"]])
    for column in named.columns.difference([*LABELS]):
        wrong = table[column].to_numpy() != named[column].to_numpy()
        if wrong.any():
            row = table[wrong].iloc[0]
            raise UserError(f"{path}: {row['clip']}: {column} {row[column]}, against its name")
    several = table.groupby("actor")["fold"].nunique() > 1
    if several.any() and not several.all():  # all are by the scheme that is leaky on purpose
        raise UserError(f"{path}: actor {several.idxmax()} is in two folds, on both sides")
    return table
