"""A corpus of one's own: a folder of recordings and a metadata.csv, as Hugging Face's `audiofolder`
has them.

metadata.csv has the columns file_name (a path within the folder), label and speaker, and may have
others. Cells are text as they stand there: `1` and `NA` are labels like any other.
"""

import shutil
import sys
import unicodedata
from pathlib import Path, PurePosixPath

import pandas as pd

from ser import audio, corpus, tables
from ser.run.errors import UserError

METADATA = "metadata.csv"
COLUMNS = ("file_name", "label", "speaker")
ENDINGS = (".aac", ".aiff", ".amr", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wav")


def read(folder: Path) -> pd.DataFrame:
    """Read and check the metadata.csv of a folder; print a warning for recordings it does not list.

    Returns:
        the columns of `corpus.COLUMNS` and the further ones, in the order of metadata.csv.

    Raises:
        UserError: names the file, the row and what is wrong with it.
    """
    path = folder / METADATA
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; expected a folder with recordings and {METADATA}, with the "
            f"columns {', '.join(COLUMNS)}; see docs/corpora.md"
        )
    table = tables.read(path)
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        there = ", ".join(map(repr, table.columns[:8]))
        reason = (
            "; without speakers voices would be on both sides; if every file is another person, "
            "repeat the file's name"
        )
        raise UserError(
            f"{path}: no column {', '.join(lacking)}; it has {there}"
            f"{reason if lacking == ['speaker'] else ''}"
        )
    taken = sorted({"clip", "file"} & {*table.columns})
    if taken:
        raise UserError(f"{path}: a column called {taken[0]}, which the project uses itself")
    check_rows(folder, path, table)
    check_names(path, table)
    check_labels(path, table)
    found = (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    names = {path.relative_to(folder).as_posix() for path in found}
    unlisted = sorted(names - {*table["file_name"]})
    if unlisted:
        print(
            f"{path}: {len(unlisted)} recordings in the folder are not listed and left out, such "
            f"as {unlisted[0]}",
            file=sys.stderr,
        )
    table = table.rename(columns={"file_name": "file"})
    further = table.columns.difference(corpus.COLUMNS, sort=False)
    table.insert(0, "clip", corpus.names(table["file"].to_list()))
    return table[[*corpus.COLUMNS, *further]]


def check_rows(folder: Path, path: Path, table: pd.DataFrame) -> None:
    """Refuse a row without name, label or speaker, or whose file is missing or listed twice; call
    files as the disk does."""
    for column in COLUMNS:
        if table[column].isna().any():
            line = table[column].isna().idxmax() + 2
            raise UserError(f"{path}, line {line}: no {column}")
    files = [located(folder, file) for file in table["file_name"]]
    if None in files:
        line = files.index(None) + 2
        raise UserError(
            f"{path}, line {line}: {table['file_name'][line - 2]}: no such file in {folder}"
        )
    table["file_name"] = files
    twice = table["file_name"].duplicated()
    if twice.any():
        line = twice.idxmax() + 2
        raise UserError(f"{path}, line {line}: {table['file_name'][line - 2]} is listed twice")


def located(folder: Path, file: str) -> str | None:
    """The path of a file in a folder; None: there is none. Windows writes it with other strokes,
    and an umlaut is one character or, by macOS, two."""
    for name in (file, file.replace("\\", "/")):
        for form in (None, "NFC", "NFD"):
            inside = PurePosixPath(unicodedata.normalize(form, name) if form else name)
            if ".." in inside.parts or inside.is_absolute():
                return None
            if (folder / inside).is_file():
                return inside.as_posix()
    return None


def check_names(path: Path, table: pd.DataFrame) -> None:
    """Refuse a label or speaker that is also written in another way: one voice under two names
    would be on both sides."""
    for column in ("label", "speaker"):
        names = table[column].drop_duplicates().astype(str)
        plain = names.map(lambda name: unicodedata.normalize("NFKC", name).casefold())
        plain = plain.str.split().str.join(" ").str.lstrip("0")
        if (again := plain.duplicated()).any():
            line = again.idxmax()
            other = names[plain == plain[line]].iloc[0]
            raise UserError(
                f"{path}, line {line + 2}: the {column} {names[line]!r}, elsewhere {other!r}: "
                "expected one way to write the same, or names that differ in more than that"
            )


def check_labels(path: Path, table: pd.DataFrame) -> None:
    """Refuse labels, or speakers, that nothing could be learnt from and scored on."""
    counts = table.groupby("label", sort=False)["speaker"].nunique()
    if not corpus.FEWEST_LABELS <= len(counts) <= corpus.MOST_LABELS:
        few = ", ".join(map(repr, counts.index[:3]))
        raise UserError(
            f"{path}: {len(counts)} labels ({few}{' …' if len(counts) > 3 else ''}); expected "
            f"{corpus.FEWEST_LABELS} to {corpus.MOST_LABELS}"
        )
    taken = set(counts.index) & {"clip", "speaker", "fold", "actual", "predicted"}
    if taken:
        raise UserError(f"{path}: the label {min(taken)}: the name of a column of predictions")
    if (counts < 2).any():
        label = counts.idxmin()
        line = (table["label"] == label).idxmax() + 2
        raise UserError(
            f"{path}, line {line}: the label {label!r} is in one speaker's clips only, who cannot "
            "be on both sides; expected two speakers of each label at least"
        )


def copy(folder: Path, target: Path, files: list[str]) -> None:
    """Copy the listed recordings.

    Raises:
        UserError: one is no audio.
    """
    for line, file in enumerate(files, start=2):
        try:
            audio.facts(folder / file)
        except UserError as error:
            raise UserError(f"{folder / METADATA}, line {line}: {error}") from None
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file, target / file)
