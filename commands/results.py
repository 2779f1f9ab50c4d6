"""Print the figures of all models that have been scored, as a Markdown table with their protocol.

    python -m commands.results

The last thing that `make repro` prints.

Reads: metrics/MODEL.json, MODEL_folds.csv and MODEL_protocol.txt of each scored model;
       metrics/compare.json, if it is there; what `dvc status` reads
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from ser import scoring
from ser.report import summary
from ser.run import errors

# What DVC says of data that is not on this machine, as in a fresh clone.
ELSEWHERE = ("deleted", "not in cache")


def changes(status: Any) -> Iterator[str]:
    """The words in what DVC says of some stages, such as `modified`, at any depth."""
    if isinstance(status, str):
        yield status
    else:
        for item in status.values() if isinstance(status, dict) else status:
            yield from changes(item)


def outdated() -> str:
    """A line on models whose figures are of other code, parameters or data than those here.

    Figures stay when a stage fails, and this keeps them from passing for new.
    """
    scored = [model for model in scoring.MODELS if Path(f"metrics/{model}.json").exists()]
    try:
        with Repo() as repo:
            old = [
                scoring.MODELS[model]
                for model in scored
                if set(changes(repo.status(targets=[f"evaluate@{model}"], with_deps=True)))
                - set(ELSEWHERE)
            ]
    except DvcException as error:
        return f"Whether these figures are up to date DVC cannot say: {error}"
    return f"Out of date, until `dvc repro` has run: {', '.join(old)}." if old else ""


@errors.one_line
def main() -> None:
    """Print the table of the workspace."""
    print("\n".join(summary.lines(Path("metrics"))))
    if line := outdated():
        print(f"\n{line}")


if __name__ == "__main__":
    main()
