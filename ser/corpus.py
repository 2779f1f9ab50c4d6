"""A corpus: recordings, each by one speaker and with one label, in a table that every stage reads.

The table has the columns `COLUMNS` and whatever else is known of a clip: gender, session, sentence.
Labels are in the order in which the table first has them.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from ser.run.errors import UserError

CLIPS = Path("data/clips.csv")
COLUMNS = ("clip", "file", "speaker", "label")
FEWEST_LABELS, MOST_LABELS = 2, 50
MOST_KINDS = 12  # values of a further column that tables and the page tell clips apart by

# What stands beside figures, by the value of `corpus` in params.yaml.
TITLES = {"ravdess": "RAVDESS speech", "demo": "SYNTHETIC demo corpus, not RAVDESS"}


def title(corpus: str) -> str:
    """The value of `corpus` in params.yaml in words: of a folder, its name."""
    return TITLES.get(corpus, Path(corpus).name)


def labels(table: pd.DataFrame) -> list[str]:
    """The labels of a corpus, in their order.

    Args:
        table: all its clips.
    """
    return table["label"].drop_duplicates().to_list()


def kinds(table: pd.DataFrame) -> list[str]:
    """The further columns that tell clips apart: of two to `MOST_KINDS` values."""
    further = table.columns.difference([*COLUMNS, "fold", "text"], sort=False)
    return [name for name in further if 2 <= table[name].nunique() <= MOST_KINDS]


def names(files: Sequence[str]) -> list[str]:
    """The clips' names: those of their files, with folders and endings only where these are needed
    to tell them apart.

    Raises:
        UserError: two would have the same.
    """
    paths = [PurePosixPath(file) for file in files]
    flat = [file.replace("/", "_") for file in files]
    endless = [str(path.with_suffix("")).replace("/", "_") for path in paths]
    for found in ([path.stem for path in paths], endless, flat):
        if len(set(found)) == len(files):
            return found
    twice = next(name for name in flat if flat.count(name) > 1)
    raise UserError(f"{twice}: the name of two files once / is _; rename one")


def files(folder: str | Path) -> list[Path]:
    """The WAV files in a folder, sorted.

    Raises:
        UserError: there are none.
    """
    paths = sorted(Path(folder).glob("*.wav"))
    if not paths:
        raise UserError(f"{folder}: holds no WAV files; run `dvc repro` in the project's folder")
    return paths
