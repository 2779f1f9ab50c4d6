"""The project's folder, and folders named from it."""

from pathlib import Path


def folder() -> Path:
    """The project's folder, also from inside the work tree of an experiment, which lies in the
    project's `.dvc/tmp`."""
    parts = Path.cwd().parts
    return Path(*parts[: parts.index(".dvc")]) if ".dvc" in parts else Path.cwd()


def local_folder(name: str) -> Path | None:
    """The folder called `name`, relative to this folder or to the project's; None if there is
    none."""
    place = Path(name).expanduser()
    return next((each for each in (place, folder() / place) if each.is_dir()), None)
