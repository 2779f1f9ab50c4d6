"""Point at the local folders that params.yaml names, so that DVC sees what changes in them.

Everything else is a dep or an out already; a folder of recordings or a checkpoint may lie anywhere.
DVC follows the link, and `dvc repro` reads such a folder anew when a file in it has changed.

Reads:  params `corpus`, `checkpoint`
Writes: data/sources/corpus, data/sources/checkpoint: a link to the folder, or, where the name is
            none of a folder, a file with the name
"""

from pathlib import Path

from ser import params
from ser.run import errors, project

SOURCES = Path("data/sources")
BUILT_IN = ("ravdess", "demo")  # corpora, whatever folders are called so: `make demo` makes one


@errors.one_line
def main() -> None:
    """Write the two."""
    settings = params.load()
    SOURCES.mkdir(parents=True, exist_ok=True)
    for name in ("corpus", "checkpoint"):
        path, value = SOURCES / name, getattr(settings, name)
        path.unlink(missing_ok=True)
        folder = None if value in BUILT_IN else project.local_folder(value)
        if folder:
            path.symlink_to(folder.resolve())
        else:
            path.write_text(f"{value}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
