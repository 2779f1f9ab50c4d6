"""The ledger: measured results, a folder each in results/, and the tables in pages made from them.

A folder holds predictions.csv, as a stage wrote it, with six decimals; metrics.json, as `evaluate`
writes it; params.yaml, the parameters that differ from the default's; protocol.txt; and run.json:
model, command, device, versions, and what else the model says of its training, such as precision;
seconds, of all stages that made features or predictions, and memory_bytes, the most of one;
checkpoint (sha256 of the encoder's weights, if one is used). results/tables.yaml says in which
order the tables name them, in which words, and holds the published figures beside them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from ser import scoring
from ser.corpus import EMOTIONS
from ser.run.errors import UserError

FOLDER = Path("results")
TABLES = FOLDER / "tables.yaml"
DECIMALS = 6  # of probabilities


@dataclass(frozen=True)
class Result:
    """A folder of the ledger.

    Attributes:
        predictions: the columns of `tables.PREDICTIONS`, sorted by clip.
        metrics: as in metrics/MODEL.json.
        run: the content of run.json.
    """

    name: str
    predictions: pd.DataFrame
    metrics: dict[str, float]
    run: dict


def read(name: str) -> Result:
    """The result of this name.

    Raises:
        UserError: there is none.
    """
    folder = FOLDER / name
    if not (folder / "run.json").exists():
        raise UserError(f"{folder}: no such result; `python -m commands.record {name} MODEL`")
    return Result(
        name,
        pd.read_csv(folder / "predictions.csv"),
        json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        json.loads((folder / "run.json").read_text(encoding="utf-8")),
    )


def rounded(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions as the ledger keeps them, with `DECIMALS` decimals."""
    return predictions.round(dict.fromkeys(EMOTIONS, DECIMALS))


def settings() -> dict:
    """The content of results/tables.yaml: `measured`, by name model, protocol, seeds and page;
    `pairs`, lists of two names; `protocols`, lists of names by protocol; `published`, a list of
    rows."""
    return YAML(typ="safe").load(TABLES.read_text(encoding="utf-8"))


def table(head: list[str], rows: list[list[str]]) -> str:
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


def minutes(run: dict) -> str:
    """The time that the stages took, in words."""
    if run["seconds"] is None:
        return "not measured"
    seconds = run["seconds"]
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def gigabytes(run: dict) -> str:
    """The most memory that a stage took, in words."""
    memory = run["memory_bytes"]
    return "not measured" if memory is None else f"{memory / 1e9:.1f} GB"


def overview() -> str:
    """The README's table, the results and published figures that are marked for it, with their
    caveats as footnotes."""
    listed = settings()
    ours = {name: words for name, words in listed["measured"].items() if words.get("readme")}
    others = [words for words in listed["published"] if words.get("readme")]
    caveats = [words["caveat"] for words in [*ours.values(), *others] if "caveat" in words]
    marks = dict(zip(dict.fromkeys(caveats), "¹²³⁴⁵⁶⁷⁸⁹", strict=False))

    def protocol(words: dict) -> str:
        return f"{words['protocol']} {marks.get(words.get('caveat'), '')}".strip()

    rows = []
    for name, words in ours.items():
        cells = [figure(name, rate, words.get("seeds", [])) for rate in ("accuracy", "uar")]
        rows.append([words["model"], protocol(words), *cells])
    for words in others:
        rows.append([f"*published:* {words['system']}", protocol(words), *published(words)])
    notes = "\\\n".join(f"{mark} {caveat}" for caveat, mark in marks.items())
    return f"{table(['model', 'protocol', 'accuracy, %', 'UAR, %'], rows)}\n\n{notes}"


def published(words: dict) -> list[str]:
    """Accuracy and UAR of a published system, and what else its source gives in their place."""
    cells = [f"{words[rate]:.1f}" if rate in words else "" for rate in ("accuracy", "uar")]
    if "other" in words:
        cells[0] = f"{cells[0]}, {words['other']}".strip(", ")
    return cells


def results() -> list[list[str]]:
    """Name, model, protocol, and accuracy, UAR and macro-F1 with their bounds, of all results."""
    return [
        [
            name,
            words["model"],
            "; ".join(words[key] for key in ("protocol", "caveat") if key in words),
            *(figure(name, rate, words.get("seeds", [])) for rate in scoring.RATES),
        ]
        for name, words in settings()["measured"].items()
    ]


def measured() -> str:
    """The table of all results."""
    rows = []
    for name, *cells in results():
        run = read(name).run
        link = f"[{name}](../results/{name})"
        rows.append([link, *cells, minutes(run), gigabytes(run)])
    head = ["result", "model", "protocol", "accuracy, %", "UAR, %", "macro-F1, %", "time", "memory"]
    return table(head, rows)


def folds() -> str:
    """The accuracy of each result with several folds of several actors in each, in percent."""
    scores = {
        name: scoring.by_group(read(name).predictions, "fold") for name in settings()["measured"]
    }
    scores = {name: part for name, part in scores.items() if len(part) > 1 < part["actors"].min()}
    most = max(map(len, scores.values()))
    rows = [
        [name, *(f"{100 * value:.1f}" for value in part["accuracy"]), *[""] * (most - len(part))]
        for name, part in scores.items()
    ]
    return table(["result", *(f"fold {number}" for number in range(most))], rows)


def differences() -> str:
    """The differences of the pairs that tables.yaml names, in points, on the clips of both, paired
    over actors."""
    rows = []
    for first, second in settings()["pairs"]:
        tables = [read(name).predictions for name in (first, second)]
        clips = set.intersection(*(set(table["clip"]) for table in tables))
        points = scoring.differences(*(table[table["clip"].isin(clips)] for table in tables))
        cells = [scoring.as_text(points, rate, "{:+.1f}") for rate in ("accuracy", "uar")]
        rows.append([f"{first} less {second}", *cells])
    return table(["difference", "accuracy, points", "UAR, points"], rows)


def protocols() -> str:
    """Accuracy and UAR of each model under each protocol, their bounds, and the command."""
    rows = []
    for protocol, names in settings()["protocols"].items():
        for name in names:
            words, result = settings()["measured"][name], read(name)
            cells = [figure(name, rate, words.get("seeds", [])) for rate in ("accuracy", "uar")]
            rows.append([protocol, words["model"], *cells, f"`{result.run['command']}`"])
    return table(["protocol", "model", "accuracy, %", "UAR, %", "command"], rows)


def others() -> str:
    """The table of published figures."""
    rows = [
        [
            words["system"],
            words["protocol"],
            *published(words),
            words.get("source", ""),
            words.get("caveat", ""),
        ]
        for words in settings()["published"]
    ]
    return table(["system", "protocol", "accuracy, %", "UAR, %", "source", "caveat"], rows)


# Tables by what a page names them, between `<!-- NAME -->` and `<!-- end of NAME -->`.
PARTS = {
    "overview": overview,
    "measured": measured,
    "folds": folds,
    "differences": differences,
    "protocols": protocols,
    "published": others,
}


def filled(page: str) -> str:
    """A page with its tables made anew."""
    for name, make in PARTS.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if first in page:
            before, _, rest = page.partition(first)
            page = f"{before}{first}{make()}\n{last}{rest.partition(last)[2]}"
    return page
