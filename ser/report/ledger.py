"""The ledger: measured results, a folder each in results/, and the tables of pages that show them.

A folder holds predictions.csv, as a stage wrote it, with six decimals; metrics.json, as `evaluate`
writes it; params.yaml, the parameters that differ from the default's; protocol.txt; and run.json:
model, command, device, versions, and what else the model says of its training, such as precision;
seconds, of all stages that made features or predictions, and memory_bytes, the most of one;
checkpoint (sha256 of the encoder's weights, if one is used). results/tables.yaml says in which
order the tables name them, in which words, and holds the published figures beside them.
"""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from ser import scoring
from ser.run.errors import UserError

FOLDER = Path("results")
TABLES = FOLDER / "tables.yaml"


@dataclass(frozen=True)
class Result:
    """What a folder of the ledger says in metrics.json and run.json."""

    metrics: dict[str, float]
    run: dict


def place(name: str) -> Path:
    """The folder of the result of this name.

    Raises:
        UserError: there is none.
    """
    folder = FOLDER / name
    if not (folder / "run.json").exists():
        raise UserError(f"{folder}: no such result; `python -m commands.record {name} MODEL`")
    return folder


def read(name: str) -> Result:
    """The result of this name, but for its predictions."""
    folder = place(name)
    return Result(
        json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        json.loads((folder / "run.json").read_text(encoding="utf-8")),
    )


def settings() -> dict:
    """The content of results/tables.yaml: `measured`, by name what there is to say of a result;
    `pairs`, lists of two names; `protocols`, lists of names by protocol; `published`, a list of
    rows."""
    return YAML(typ="safe").load(TABLES.read_text(encoding="utf-8"))


def predictions(name: str) -> list[pd.DataFrame]:
    """The predictions of a result, a table for each of its seeds."""
    seeds = settings()["measured"][name].get("seeds", [])
    return [pd.read_csv(place(each) / "predictions.csv") for each in [name, *seeds]]


def table(head: list[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(name: str, rate: str, seeds: list[str]) -> str:
    """A rate in percent with its bounds; with further seeds the mean and deviation of all, and the
    bounds of the first."""
    first = read(name).metrics
    if not seeds or rate not in first:
        return scoring.as_text(first, rate)
    values = [100 * read(each).metrics[rate] for each in [name, *seeds]]
    text = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    return f"{text} (first seed {scoring.as_text(first, rate)})"


def figures(name: str, words: dict, rates: Sequence[str] = ("accuracy", "uar")) -> list[str]:
    """The rates of a result, which tables.yaml describes by `words`."""
    return [figure(name, rate, words.get("seeds", [])) for rate in rates]


def cost(run: dict) -> list[str]:
    """The time that the stages took, and the most memory of one, in words."""
    seconds, memory = run["seconds"], run["memory_bytes"]
    if seconds is None:
        return ["not measured", "not measured"]
    time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return [time, f"{memory / 1e9:.1f} GB"]


def published(words: dict) -> list[str]:
    """Accuracy and UAR of a published system, and what else its source gives in their place."""
    cells = [f"{words[rate]:.1f}" if rate in words else "" for rate in ("accuracy", "uar")]
    if "other" in words:
        cells[0] = f"{cells[0]}, {words['other']}".strip(", ")
    return cells


def overview() -> str:
    """The README's table, the results and published figures that are marked for it, with their
    caveats as footnotes."""
    listed, rows = settings(), []
    marks: dict[str, str] = {}

    def add(words: dict, title: str, cells: list[str]) -> None:
        mark = ""
        if "caveat" in words:
            mark = f" {marks.setdefault(words['caveat'], '¹²³⁴⁵⁶⁷⁸⁹'[len(marks)])}"
        rows.append([title, words["protocol"] + mark, *cells])

    for name, words in listed["measured"].items():
        if words.get("readme"):
            add(words, words["model"], figures(name, words))
    for words in listed["published"]:
        if words.get("readme"):
            add(words, f"*published:* {words['system']}", published(words))
    notes = "\\\n".join(f"{mark} {caveat}" for caveat, mark in marks.items())
    return f"{table(['model', 'protocol', 'accuracy, %', 'UAR, %'], rows)}\n\n{notes}"


def results(corpus: str | None = None) -> list[list[str]]:
    """Name, model, protocol, and accuracy, UAR and macro-F1 with their bounds, of all results on a
    corpus, as tables.yaml calls it; None: on RAVDESS."""
    return [
        [
            name,
            words["model"],
            "; ".join(words[key] for key in ("protocol", "caveat") if key in words),
            *figures(name, words, scoring.RATES),
        ]
        for name, words in settings()["measured"].items()
        if words.get("corpus") == corpus
    ]


def measured(corpus: str | None = None) -> str:
    """The table of all results on a corpus, see `results`."""
    rows = [
        [f"[{name}](../results/{name})", *cells, *cost(read(name).run)]
        for name, *cells in results(corpus)
    ]
    head = ["result", "model", "protocol", "accuracy, %", "UAR, %", "macro-F1, %", "time", "memory"]
    return table(head, rows)


def folds() -> str:
    """The accuracy of each result with several folds of several speakers in each, in percent; with
    further seeds the mean of all."""
    scores = {}
    for name in settings()["measured"]:
        parts = [scoring.by_group(table, "fold") for table in predictions(name)]
        if len(parts[0]) > 1 < parts[0]["speakers"].min():
            accuracy = np.mean([part["accuracy"] for part in parts], axis=0)
            scores[name] = pd.Series(100 * accuracy).map("{:.1f}".format)
    cells = pd.DataFrame(scores).T.fillna("")
    return table(["result", *(f"fold {number}" for number in cells)], cells.itertuples())


def difference(first: str, second: str) -> dict[str, float]:
    """The figures of one result less those of another on the clips of both, each averaged over its
    seeds, see `scoring.mean_differences`."""
    sides = [predictions(name) for name in (first, second)]
    clips = set.intersection(*(set(table["clip"]) for side in sides for table in side))
    return scoring.mean_differences(
        *([table[table["clip"].isin(clips)] for table in side] for side in sides)
    )


def differences() -> str:
    """The differences of the pairs that tables.yaml names, in points."""
    rows = []
    for first, second in settings()["pairs"]:
        points = difference(first, second)
        cells = [scoring.as_text(points, rate, "{:+.1f}") for rate in ("accuracy", "uar")]
        rows.append([f"{first} less {second}", *cells])
    return table(["difference", "accuracy, points", "UAR, points"], rows)


def protocols() -> str:
    """Accuracy and UAR of each model under each protocol, their bounds, and the command."""
    listed, rows = settings(), []
    for protocol, names in listed["protocols"].items():
        for name in names:
            words, command = listed["measured"][name], read(name).run["command"]
            rows.append([protocol, words["model"], *figures(name, words), f"`{command}`"])
    return table(["protocol", "model", "accuracy, %", "UAR, %", "command"], rows)


def others() -> str:
    """The table of published figures."""
    rows = []
    for words in settings()["published"]:
        source, caveat = words.get("source", ""), words.get("caveat", "")
        rows.append([words["system"], words["protocol"], *published(words), source, caveat])
    return table(["system", "protocol", "accuracy, %", "UAR, %", "source", "caveat"], rows)


# Tables by what a page names them, between `<!-- NAME -->` and `<!-- end of NAME -->`.
PARTS: dict[str, Callable[[], str]] = {
    "overview": overview,
    "measured": measured,
    "emodb": functools.partial(measured, "EmoDB"),
    "folds": folds,
    "differences": differences,
    "protocols": protocols,
    "published": others,
}


def filled(page: str) -> str:
    """A page with today's tables."""
    for name, make in PARTS.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if first in page:
            before, _, rest = page.partition(first)
            page = f"{before}{first}{make()}\n{last}{rest.partition(last)[2]}"
    return page
