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
    """True if a model's figures are of other code, parameters or data than those here."""
    status = repo.status(targets=[f"evaluate@{model}"], with_deps=True)
    return bool(set(changes(status)) - set(ELSEWHERE))


def lines(folder: Path, models: dict[str, str]) -> list[str]:
    """The table, a line on each model's protocol and one on each pair of models.

    Args:
        folder: that `evaluate` and `compare` wrote to, such as metrics.
        models: titles by name; those that have not been scored are left out.
    """
    scored = {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in models
        if (folder / f"{name}.json").exists()
    }
    rows = ["| model | clips | accuracy, % | UAR, % | macro-F1, % |", "|---|---|---|---|---|"]
    for name, figures in scored.items():
        clips = pd.read_csv(folder / name / "folds.csv")["clips"].sum()
        cells = [scoring.as_text(figures, rate) for rate in scoring.RATES]
        rows.append(f"| {models[name]} | {clips} | {' | '.join(cells)} |")
    rows += ["", "In brackets: 95 % bounds, a t interval over speakers."]
    for name in list(scored)[:1]:
        clips = pd.read_csv(folder / name / "labels.csv")["clips"]
        rows[-1] += (
            f" Chance is {1 / len(clips):.1%}, always the most frequent label "
            f"{clips.max() / clips.sum():.1%}."
        )
    for name in scored:
        protocol = (folder / name / "protocol.txt").read_text(encoding="utf-8").strip()
        rows.append(f"{models[name]}: {protocol}.")
    if (folder / "compare.json").exists():
        pairs = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
        for pair, figures in pairs.items():
            titles = " - ".join(models.get(name, name) for name in pair.split(" - "))
            accuracy, uar = (
                scoring.as_text(figures, rate, "{:+.1f}") for rate in ("accuracy", "uar")
            )
            rows.append(f"{titles}: accuracy {accuracy}, UAR {uar} points, paired over speakers.")
    return rows
