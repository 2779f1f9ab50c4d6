"""The page of results: one HTML file that holds all it shows, and opens without a network."""

import base64
import itertools
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from itables.utils import read_package_file
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ser import audio, calibration, corpus, scoring
from ser.report import charts, clips, ledger
from ser.run import parallel

WEB = Path(__file__).parent / "web"  # template, style and script
PACKAGES = ("av", "librosa", "numpy", "pandas", "scikit-learn", "scipy", "torch", "transformers")
SENTENCES = {
    "ravdess": ("Kids are talking by the door", "Dogs are sitting by the door"),
    "demo": ("sentence 1", "sentence 2"),
}
GROUPS = {"gender": "{}", "intensity": "{} intensity", "statement": "{}"}


@dataclass(frozen=True)
class Results:
    """What the page is made of.

    Attributes:
        corpus: the value of `corpus` in params.yaml.
        leaky: whether held-out actors may be in training, too.
        params: the text of params.yaml.
        tables: the held-out predictions by the model's name, of the same clips, sorted by clip.
        protocols: how each model's figures came about, by its name.
        runs: a line on each model that wrote down what device it was trained on.
        audit: metrics/corpus.json.
        by_emotion: metrics/corpus.csv.
        measured: the ledger's results, see `ledger.results`.
        published: other people's figures, as results/tables.yaml has them.
    """

    corpus: str
    leaky: bool
    params: str
    tables: dict[str, pd.DataFrame]
    protocols: dict[str, str]
    runs: list[str]
    audit: dict[str, object]
    by_emotion: pd.DataFrame
    measured: list[list[str]]
    published: list[dict[str, Any]]

    @property
    def described(self) -> pd.DataFrame:
        """The clips, a row each, with the columns of `corpus.describe` and their fold."""
        first = next(iter(self.tables.values()))
        return corpus.table(first["clip"]).merge(first[["clip", "fold"]], on="clip")


def model(name: str, predictions: pd.DataFrame, protocol: str) -> dict[str, Any]:
    """The figures of a model and its confusion matrix, for the template."""
    figures = scoring.summary(predictions) | scoring.bounded(predictions)
    counts = scoring.per_actor_confusion(predictions).sum(axis=0)
    rows = [
        {
            "emotion": emotion,
            "clips": row.sum(),
            "recall": row[index] / row.sum(),
            "cells": [
                {"emotion": heard, "clips": number, "percent": round(100 * number / row.sum())}
                for heard, number in zip(corpus.EMOTIONS, row, strict=True)
            ],
        }
        for index, (emotion, row) in enumerate(zip(corpus.EMOTIONS, counts, strict=True))
        if row.sum()
    ]
    return {
        "name": name,
        "title": scoring.title(name),
        "clips": len(predictions),
        **{rate: scoring.as_text(figures, rate) for rate in scoring.RATES},
        "log_loss": calibration.log_loss(predictions),
        "calibration_error": figures["ece"],
        "confusion": rows,
        "protocol": protocol,
    }


def pairs(tables: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """How every two models differ on the same clips, for the template."""
    rows = []
    for second, first in itertools.combinations(tables, 2):
        figures = scoring.differences(tables[first], tables[second])
        right, too = (
            tables[name]["actual"] == tables[name]["predicted"] for name in (first, second)
        )
        rows.append(
            {
                "title": f"{scoring.title(first)} - {scoring.title(second)}",
                "accuracy": scoring.as_text(figures, "accuracy", "{:+.1f}"),
                "uar": scoring.as_text(figures, "uar", "{:+.1f}"),
                "only_first": (right & ~too).sum(),
                "only_second": (too & ~right).sum(),
            }
        )
    return rows


def groups(results: Results) -> list[dict[str, Any]]:
    """Accuracy and UAR of all models on the clips of each gender, intensity and sentence."""
    rows = []
    scored = [scoring.by_kind(table).to_dict("records") for table in results.tables.values()]
    for figures in zip(*scored, strict=True):
        kind, value = figures[0]["kind"], figures[0]["value"]
        name = GROUPS[kind].format(value)
        if kind == "statement":
            name = SENTENCES[results.corpus][value - 1]
        rows.append({"name": name, "clips": figures[0]["clips"], "figures": figures})
    return rows


def drawn(results: Results, epochs: pd.DataFrame | None) -> dict[str, tuple[str, str, Any]]:
    """The charts by the name of their file: title, a sentence and the chart.

    Args:
        epochs: metrics/w2v_epochs.csv; None: no chart of learning.
    """

    def each(function: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return {scoring.title(name): function(table) for name, table in results.tables.items()}

    made = {
        "emotions": (
            "Recall by emotion",
            "The share of an emotion's clips that a model names. A bar leads to their clips.",
            charts.by_emotion(each(scoring.by_emotion)),
        ),
        "actors": (
            "Recall by actor",
            "The mean recall over the emotions, for each actor. A mark leads to the actor's clips.",
            charts.by_actor(each(lambda table: scoring.by_group(table, "actor"))),
        ),
        "calibration": (
            "Calibration",
            "Is a model as often right as it is sure? On the dashed line it is; below, it claims "
            "too much. A mark stands for the clips of a tenth of the range of confidence.",
            charts.calibration(each(calibration.bins)),
        ),
    }
    if epochs is not None:
        made["learning"] = (
            f"Learning: {scoring.MODELS['w2v']}",
            "On the training clips, each as it was when its turn came. Held-out clips are looked "
            "at once, after the last epoch.",
            charts.curves(epochs),
        )
    return made


def described(results: Results) -> dict[str, Any]:
    """What the page's script knows of the clips and of the models' answers."""
    columns = results.described
    models = []
    for name, table in results.tables.items():
        probabilities = table[list(corpus.EMOTIONS)].to_numpy()
        models.append(
            {
                "name": name,
                "title": scoring.title(name),
                "predicted": table["predicted"].map(corpus.EMOTIONS.index).tolist(),
                "permille": np.rint(1000 * probabilities).astype(int).tolist(),
            }
        )
    return {
        "emotions": corpus.EMOTIONS,
        "statements": SENTENCES[results.corpus],
        "quietest": clips.QUIETEST,
        "clips": {name: columns[name].tolist() for name in columns},
        "models": models,
    }


def heard(path: Path) -> tuple[str, str, list[int]]:
    """Sound and spectrogram of a clip in base64, and its loudness."""
    samples = audio.read(path)
    files = (clips.opus(samples), clips.spectrogram(samples))
    sound, picture = (base64.b64encode(file).decode("ascii") for file in files)
    return sound, picture, clips.loudness(samples)


def as_data(values: object) -> Markup:
    """Values as JSON for inside a script element."""
    return Markup(json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"))


def render(results: Results, drawings: dict[str, tuple[str, str, Any]], sounds: Path | None) -> str:
    """The page, as HTML.

    Args:
        drawings: of `drawn`.
        sounds: the folder of the clips, 16 kHz mono WAV files; None: a page without audio, nor
            spectrograms, from which it could be had back.

    Raises:
        UserError: a clip is missing or no such file.
    """
    data = described(results)
    embedded = {}
    if sounds is not None:
        paths = [sounds / f"{clip}.wav" for clip in data["clips"]["clip"]]
        encoded, pictures, data["clips"]["loudness"] = zip(
            *parallel.over(heard, paths, "report"), strict=True
        )
        embedded = {"sounds": "\n".join(encoded), "pictures": "\n".join(pictures)}
    actors = sorted(set(data["clips"]["actor"]))
    title = corpus.TITLES[results.corpus]
    shown = [
        {"id": name, "title": title, "text": text, "svg": Markup(charts.svg(chart))}
        for name, (title, text, chart) in drawings.items()
    ]
    environment = Environment(
        loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.jinja").render(
        title=title,
        leaky=results.leaky,
        counts=f"{len(data['clips']['clip'])} held-out clips of {len(actors)} actors",
        audio=bool(embedded),
        synthetic=results.corpus == "demo",
        sections=[
            ("results", "Results"), ("confusion", "Confusion"),
            *((chart["id"], chart["title"]) for chart in shown),
            ("clips", "Clips"), ("corpus", "Corpus"), ("run", "Parameters, versions, device"),
        ],
        models=[
            model(name, table, results.protocols[name]) for name, table in results.tables.items()
        ],
        measured=results.measured,
        published=[
            {**words, "figures": ledger.published(words)} for words in results.published
        ],
        pairs=pairs(results.tables),
        groups=groups(results),
        emotions=corpus.EMOTIONS,
        charts=shown,
        actors=actors,
        corpus=results.audit,
        by_emotion=results.by_emotion.to_dict("records"),
        runs=results.runs,
        versions=", ".join([
            f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)
        ]),
        params=results.params,
        quietest=-clips.QUIETEST,
        data=as_data(data),
        tables_js=as_data(read_package_file("html", "dt_bundle.js")),
        tables_css=Markup(read_package_file("html", "dt_bundle.css")),
        css=Markup((WEB / "page.css").read_text(encoding="utf-8")),
        js=Markup((WEB / "page.js").read_text(encoding="utf-8")),
        **{name: Markup(text) for name, text in embedded.items()},
    )  # fmt: skip
