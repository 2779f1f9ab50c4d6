"""Outputs that appear whole or not at all: written beside their place and renamed into it."""

import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

ABANDONED = 7 * 24 * 3600  # seconds after which what a process of another machine left is removed
OLDER = ".older"  # what was there before, in the work folder, while the new output takes its place
REMOVED = ".removed"  # what was half written, in the work folder
_in_use: set[Path] = set()  # this process's work folders


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name to write a file or a folder to; move it to `path` at the end.

    After an exception nothing is left of it, and an older `path` stays as it was. It is written in
    a work folder beside `path`, `.NAME.….partial`, which git and DVC ignore. Each process has its
    own, so that two that write the same output do not disturb each other: the last one counts. What
    a killed process leaves behind, the next `whole` of the same path removes.

    An older folder is set aside, and removed only when the new one is in its place. If the machine
    stops between the two, the next `whole` puts the older one back.

    Raises:
        OSError: a full or read-only disk; its `filename` is `path`, or a file elsewhere.
    """
    path = Path(path)
    work = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy(path)
        work = open_work_folder(path)
        yield work / path.name
        move(work / path.name, path, work / OLDER)
    except Exception as raised:
        error = reason(raised)
        if error is None:
            raise
        # A failed write does not say to which file.
        if error.filename is None or ".partial" in str(error.filename):
            error.filename = str(path)
        raise error from None
    finally:
        if work:
            close(work, path)


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


def open_work_folder(path: Path) -> Path:
    """Make a folder beside `path` whose name says which process is at work in it."""
    name = tempfile.mkdtemp(
        prefix=f".{path.name}.{os.getpid()}@{platform.node()}.", suffix=".partial", dir=path.parent
    )
    work = path.with_name(Path(name).name)
    _in_use.add(work)
    return work


def move(new: Path, path: Path, older: Path) -> None:
    """Rename `new` to `path`; set aside as `older` what is there, unless it is a file for a file.

    Raises:
        OSError: `new` does not exist, or cannot be moved there.
    """
    while True:
        if new.is_dir() or path.is_dir():
            remove(older)
            with suppress(FileNotFoundError):  # there is none, or another process was quicker
                path.rename(older)
        try:
            new.replace(path)
            return
        except OSError:
            if not (new.is_dir() and os.path.lexists(path)):  # else another process was quicker
                raise


def close(work: Path, path: Path) -> None:
    """Remove a work folder; what was set aside in it goes back if `path` is not there."""
    if (work / OLDER).exists() and not os.path.lexists(path):
        with suppress(OSError):
            (work / OLDER).rename(path)
    with suppress(OSError):  # threads that are still writing to it write no more
        (work / path.name).rename(work / REMOVED)
    shutil.rmtree(work, ignore_errors=True)
    _in_use.discard(work)


def tidy(path: Path) -> None:
    """Close the work folders of `path` that killed processes have left."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)@(.*)\.\w+\.partial")
    for entry in os.scandir(path.parent):
        match = name.fullmatch(entry.name)
        work = path.with_name(entry.name)
        if match and work not in _in_use and not runs(int(match[1]), match[2], work):
            close(work, path)


def runs(process: int, machine: str, work: Path) -> bool:
    """Whether the process that made a work folder may still be at work in it."""
    if machine != platform.node():
        with suppress(FileNotFoundError):
            return time.time() - work.stat().st_mtime < ABANDONED
        return False
    if process == os.getpid():  # an earlier process with the number of this one
        return False
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, values: dict) -> None:
    """Write metrics, as `as_json` lays them out, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(as_json(values), encoding="utf-8", newline="\n")


def as_json(values: dict) -> str:
    """`values` as people read and diff them: indented, in the order given, floats rounded to four
    digits."""
    return json.dumps(rounded(values), indent=2) + "\n"


def rounded(value: object) -> object:
    """`value` with every float in it, at any depth of dicts, rounded to four digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
