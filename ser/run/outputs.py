"""Outputs that appear whole or not at all: written beside their place and renamed into it."""

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name to write a file or a folder to; move it to `path` at the end.

    It lies in `.NAME.partial` beside `path`, which git and DVC ignore. After an exception nothing
    is left of it, and an older `path` stays as it was. What a killed process leaves of it, the next
    `whole` of the same path removes; so one process at a time writes a path.

    Raises:
        OSError: a full or read-only disk; its `filename` is `path`, or a file elsewhere.
    """
    path = Path(path)
    work = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(work)
        work.mkdir()
        yield work / path.name
        move(work / path.name, path, work / ".older")
    except Exception as raised:
        error = reason(raised)
        if error is None:
            raise
        # A failed write does not say to which file.
        if error.filename is None or ".partial" in str(error.filename):
            error.filename = str(path)
        raise error from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def move(new: Path, path: Path, older: Path) -> None:
    """Rename `new` to `path`. No folder can be renamed over another: that one goes to `older`."""
    is_folder = stat.S_ISDIR(new.stat().st_mode)  # an error if nothing was written
    if is_folder or path.is_dir():
        with suppress(FileNotFoundError):
            path.rename(older)
    new.replace(path)


def reason(error: Exception) -> OSError | None:
    """The OSError that an error is, or hides: PyTorch raises its own over it, safetensors quotes
    its number. None: it is another."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        return error.__context__
    quoted = re.search(r"I/O error: .*\(os error (\d+)\)", str(error))
    return OSError(int(quoted[1]), os.strerror(int(quoted[1]))) if quoted else None


@contextmanager
def together() -> Iterator[Callable[[str | Path], Path]]:
    """Yield a function that does what `whole` does, for several outputs that belong together.

    All are moved to their places at the end, so that a stage that fails half-way leaves no new
    output beside an old one.
    """
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(whole(path))


def write_json(path: str | Path, values: dict) -> None:
    """Write figures as people read and diff them, whole or not at all: indented, in the order
    given, floats rounded to four digits."""
    with whole(path) as partial:
        text = json.dumps(rounded(values), indent=2) + "\n"
        partial.write_text(text, encoding="utf-8", newline="\n")


def rounded(value: object) -> object:
    """`value` with every float in it, at any depth of dicts, rounded to four digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
