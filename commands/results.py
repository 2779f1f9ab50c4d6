"""Print the figures of all models that have been scored, as a Markdown table with their protocol;
or make the tables of README.md and docs/results.md anew.

    python -m commands.results [--pages]

Without an option, the last thing that `make repro` prints.

Reads:  metrics/NAME.json, metrics/NAME/folds.csv and protocol.txt of each scored model;
        metrics/compare.json, if it is there; what `dvc status` reads; params `models`; with --pages
        results/
Writes: with --pages, the tables in README.md and docs/results.md
"""

import argparse
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from ser import params
from ser.report import ledger, summary
from ser.run import errors

PAGES = ("README.md", "docs/results.md")


def outdated(models: dict[str, str]) -> str:
    """A line on models whose figures are of other code, parameters or data than those here.

    Figures stay when a stage fails, and this keeps them from passing for new.
    """
    scored = [name for name in models if Path(f"metrics/{name}.json").exists()]
    try:
        with Repo() as repo:
            old = [models[name] for name in scored if summary.outdated(repo, name)]
    except DvcException as error:
        return f"Whether these figures are up to date DVC cannot say: {error}"
    return f"Out of date, until `dvc repro` has run: {', '.join(old)}." if old else ""


@errors.one_line
def main() -> None:
    """Print the table of the workspace, or write those of the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", action="store_true", help="make the pages' tables anew")
    if parser.parse_args().pages:
        for page in map(Path, PAGES):
            page.write_text(ledger.filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        return
    models = params.load().models
    print("\n".join(summary.lines(Path("metrics"), models)))
    if line := outdated(models):
        print(f"\n{line}")


if __name__ == "__main__":
    main()
