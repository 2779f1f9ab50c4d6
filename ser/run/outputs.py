"""Outputs that appear whole or not at all: written beside their place and renamed into it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a folder to; rename it to `path` at the end.

    After an exception nothing is left of it, and an older `path` stays as it was. What a killed
    process leaves behind ends in `.partial`, which git and DVC ignore, and the next run removes it.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        if path.is_dir():
            remove(path)  # a rename replaces files only
        partial.replace(path)
    except OSError as error:  # a failed write does not say to which file
        error.filename = error.filename or str(path)
        raise
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, values: dict) -> None:
    """Write metrics as JSON that people read and diff: indented, in the order given, floats rounded
    to four digits."""
    with whole(path) as partial:
        partial.write_text(json.dumps(rounded(values), indent=2) + "\n")


def rounded(value: object) -> object:
    """`value` with every float in it, at any depth of dicts, rounded to four digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
