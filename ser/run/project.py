"""The project's folder."""

from pathlib import Path


def folder() -> Path:
    """The project's folder, also from inside the work tree of an experiment, which lies in the
    project's `.dvc/tmp`."""
    parts = Path.cwd().parts
    return Path(*parts[: parts.index(".dvc")]) if ".dvc" in parts else Path.cwd()
