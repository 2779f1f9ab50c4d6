"""Print the DVC experiments with the models' scores and what each experiment changed, as wide as
the screen.

    python -m commands.experiments [OPTION of `dvc exp show`, such as --all-branches …]

`dvc exp show` itself has a column for every parameter and every file that a stage depends on.

Reads: what `dvc exp show` reads: params.yaml and metrics/*.json of the experiments
"""

import json
import subprocess
import sys
from pathlib import PurePath

from rich import box
from rich.console import Console
from rich.table import Table

from ser.run import errors, experiments

LEFT_OUT = ("_low", "_high", "macro_f1", "ece")  # of the metrics: how their names end


def changes(of: dict[str, object], baseline: dict[str, object]) -> str:
    """The parameters that differ from the baseline's, such as `lr=2e-05 svm_train.C=[1,5]`."""
    return " ".join(
        f"{name}={json.dumps(value, separators=(',', ':'))}"
        for name, value in of.items()
        if value != baseline.get(name)
    )


def rows(shown: list[dict]) -> list[tuple[str, dict[tuple[str, str], object], str]]:
    """Name, scores by model and metric, and changed parameters, of each commit and, indented below
    it, of each of its experiments; from what `dvc exp show --json` prints."""

    def read(state: dict) -> tuple[dict[tuple[str, str], object], dict[str, object]]:
        data = state["data"] or {"metrics": {}, "params": {}}
        scores: dict[tuple[str, str], object] = {
            (PurePath(path).stem, name): value
            for path, file in data["metrics"].items()
            for name, value in (file.get("data") or {}).items()
            if isinstance(value, int | float) and not name.endswith(LEFT_OUT)
        }
        params = data["params"].get("params.yaml", {}).get("data") or {}
        return scores, experiments.flat(params)

    made = []
    for commit in shown:
        scores, baseline = read(commit)
        made.append((commit["name"] or commit["rev"][:9], scores, ""))
        for experiment in commit["experiments"] or []:
            for state in experiment["revs"]:
                scores, params = read(state)
                name = f"  {state['name'] or state['rev'][:9]}"
                made.append((name, scores, changes(params, baseline)))
    return made


def table(shown: list[dict]) -> Table:
    """`rows`, laid out."""
    made = rows(shown)
    columns = list(dict.fromkeys(column for _, scores, _ in made for column in scores))
    laid_out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    laid_out.add_column("experiment", no_wrap=True)
    for model, name in columns:
        laid_out.add_column(f"{model}\n{name}", justify="right", no_wrap=True)
    laid_out.add_column("changed parameters", overflow="fold", min_width=20)
    for name, scores, changed in made:
        cells = [str(scores.get(column, "")) for column in columns]
        laid_out.add_row(name, *cells, changed)
    return laid_out


@errors.one_line
def main() -> None:
    """Ask DVC, print the table."""
    done = subprocess.run(
        ["dvc", "exp", "show", "--json", *sys.argv[1:]],
        env=experiments.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise errors.UserError(f"dvc exp show: {' '.join(done.stderr.split())}")
    Console(highlight=False).print(table(json.loads(done.stdout)))


if __name__ == "__main__":
    main()
