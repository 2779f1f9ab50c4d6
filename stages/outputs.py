"""Outputs that appear whole or not at all: written beside their place and renamed into it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a folder to; rename it to `path` at the end.

    After an exception nothing is left of it, and an older `path` stays as it was. What a killed process leaves
    behind ends in `.partial`, which git and DVC ignore, and the next run removes it.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        remove(path)
        partial.rename(path)
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
