"""The figures of all models that have been scored, as a Markdown table with their protocol."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.repo import Repo

from ser import scoring

# What DVC says of data that is not on this machine, as in a fresh clone.
ELSEWHERE = ("deleted", "not in cache")


def changes(status: Any) -> Iterator[str]:
    """The words in what DVC says of some stages, such as `modified`, at any depth."""
    if isinstance(status, str):
        yield status
    else:
        for item in status.values() if isinstance(status, dict) else status:
            yield from changes(item)


def outdated(repo: Repo, model: str) -> bool:
    """Whether a model's figures are of other code, parameters or data than those here."""
    status = repo.status(targets=[f"evaluate@{model}"], with_deps=True)
    return bool(set(changes(status)) - set(ELSEWHERE))


def difference(pair: str, figures: dict[str, float]) -> str:
    """A line on a pair of models, such as `w2v - svm`, from its figures in compare.json."""
    titles = " - ".join(scoring.MODELS[model] for model in pair.split(" - "))
    accuracy, uar = (scoring.as_text(figures, name, "{:+.1f}") for name in ("accuracy", "uar"))
    return f"{titles}: accuracy {accuracy}, UAR {uar} points, paired over actors"


def lines(folder: Path) -> list[str]:
    """The table, a line on each model's protocol and one on each pair of models, from what
    `evaluate` and `compare` wrote to `folder`."""
    scored = {
        model: json.loads((folder / f"{model}.json").read_text(encoding="utf-8"))
        for model in scoring.MODELS
        if (folder / f"{model}.json").exists()
    }
    rows = ["| model | clips | accuracy, % | UAR, % | macro-F1, % |", "|---|---|---|---|---|"]
    for model, figures in scored.items():
        clips = pd.read_csv(folder / f"{model}_folds.csv")["clips"].sum()
        cells = [scoring.as_text(figures, name) for name in scoring.RATES]
        rows.append(f"| {scoring.MODELS[model]} | {clips} | {' | '.join(cells)} |")
    rows += ["", "In brackets: 95 % bounds, a t interval over actors. Chance is 12.5 %."]
    for model in scored:
        protocol = (folder / f"{model}_protocol.txt").read_text(encoding="utf-8").strip()
        rows.append(f"{scoring.MODELS[model]}: {protocol}.")
    if (folder / "compare.json").exists():
        pairs = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
        rows += [f"{difference(pair, figures)}." for pair, figures in pairs.items()]
    return rows
