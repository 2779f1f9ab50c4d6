"""The page of results: one HTML file that holds all it shows, and opens without a network."""

import base64
import hashlib
import itertools
import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from itables.utils import read_package_file
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ser import corpus, scoring, tables
from ser.report import charts, ledger
from ser.run.errors import UserError

WEB = Path(__file__).parent / "web"  # template, style and script
PACKAGES = ("av", "librosa", "numpy", "pandas", "scikit-learn", "scipy", "torch", "transformers")


@dataclass(frozen=True)
class Model:
    """A model on the page.

    Attributes:
        title: in words.
        predictions: of the held-out clips, the same for all models, sorted by clip.
        protocol: how they came about, in one line.
        run, epochs: its run.json and its learning curve, epochs.csv, if it has them.
    """

    title: str
    predictions: pd.DataFrame
    protocol: str
    run: dict[str, Any] | None
    epochs: pd.DataFrame | None


@dataclass(frozen=True)
class Results:
    """The content of the page.

    Attributes:
        corpus: the value of `corpus` in params.yaml.
        params: the text of params.yaml.
        table: the corpus's clips, as in data/clips.csv.
        models: by name.
        audit, by_label: metrics/corpus.json and corpus.csv.
        measured: the ledger's results, see `ledger.results`.
        published: other people's figures, as results/tables.yaml has them.
    """

    corpus: str
    params: str
    table: pd.DataFrame
    models: dict[str, Model]
    audit: dict[str, object]
    by_label: pd.DataFrame
    measured: list[list[str]]
    published: list[dict[str, Any]]

    @property
    def leaky(self) -> bool:
        """True if held-out speakers may be in training, too."""
        return any("LEAKY" in model.protocol for model in self.models.values())

    @property
    def clips(self) -> pd.DataFrame:
        """The clips, a row each: clip, speaker, label, `kinds` and fold."""
        first = next(iter(self.models.values())).predictions
        columns = ["clip", "speaker", "label", *self.kinds]
        return first[["clip", "fold"]].merge(self.table[columns], on="clip")

    @property
    def kinds(self) -> list[str]:
        """What else tells clips apart, such as gender."""
        return corpus.kinds(self.table)

    @property
    def labels(self) -> list[str]:
        """The labels in the corpus's order."""
        return tables.labels(next(iter(self.models.values())).predictions)


def figures_of(model: Model) -> dict[str, Any]:
    """The figures of a model and its confusion matrix, for the template."""
    predictions = model.predictions
    figures = scoring.summary(predictions) | scoring.bounded(predictions)
    counts = pd.crosstab(predictions["actual"], predictions["predicted"])
    every = tables.labels(predictions)
    labels = [label for label in every if label in counts.index]
    return {
        **{rate: scoring.as_text(figures, rate) for rate in scoring.RATES},
        "log_loss": scoring.log_loss(predictions),
        "calibration_error": figures["ece"],
        "confusion": counts.reindex(index=labels, columns=every, fill_value=0),
    }


def pairs(models: Iterable[Model]) -> list[dict[str, Any]]:
    """The differences of every two models on the same clips, for the template."""
    rows = []
    for second, first in itertools.combinations(models, 2):
        figures = scoring.compare(first.predictions, second.predictions)
        rows.append(
            {
                **figures,
                "title": f"{first.title} - {second.title}",
                "accuracy": scoring.as_text(figures, "accuracy", "{:+.1f}"),
                "uar": scoring.as_text(figures, "uar", "{:+.1f}"),
            }
        )
    return rows


def groups(results: Results) -> list[dict[str, Any]]:
    """Accuracy and UAR of all models on the clips of each of `Results.kinds`."""
    scored = [
        scoring.by_kind(model.predictions, results.table).to_dict("records")
        for model in results.models.values()
    ]
    rows = []
    for figures in zip(*scored, strict=True):
        kind, value = figures[0]["kind"], figures[0]["value"]
        rows.append({"name": f"{kind} {value}", "clips": figures[0]["clips"], "figures": figures})
    return rows


def machine(model: Model) -> str:
    """A sentence on the machine that trained a model, from its run.json."""
    run = dict(model.run or {})
    versions = ", ".join(f"{name} {of}" for name, of in run.pop("versions", {}).items())
    facts = ", ".join(f"{name} {value}" for name, value in run.items())
    return f"{model.title} was trained on: {facts}; {versions}."


def drawings(results: Results) -> dict[str, tuple[str, str, str]]:
    """The charts by the name of their file: title, a sentence and the SVG element."""

    def each(function: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return {model.title: function(model.predictions) for model in results.models.values()}

    shown = {
        "labels": (
            "Recall by label",
            "The share of a label's clips that a model names. A bar leads to their clips.",
            charts.by_label(each(scoring.by_label), results.labels),
        ),
        "speakers": (
            "Recall by speaker",
            "The mean recall over the labels, for each speaker. A mark leads to the speaker's "
            "clips.",
            charts.by_speaker(
                each(lambda table: scoring.by_group(table, "speaker")),
                results.table.drop_duplicates("speaker").set_index("speaker").get("gender"),
            ),
        ),
        "calibration": (
            "Calibration",
            "Is a model as often right as it is sure? On the dashed line it is; below, it claims "
            "too much. A mark stands for the clips of a tenth of the range of confidence.",
            charts.calibration(each(scoring.calibration)),
        ),
    }
    for name, model in results.models.items():
        if model.epochs is not None:
            shown[f"learning-{name}"] = (
                f"Learning: {model.title}",
                "On the training clips, each as it was when its turn came. Held-out clips are "
                "looked at once, after the last epoch.",
                charts.curves(model.epochs),
            )
    return {name: (title, text, charts.svg(chart)) for name, (title, text, chart) in shown.items()}


def for_script(results: Results) -> dict[str, Any]:
    """The clips and the models' answers, for the page's script."""
    labels = results.labels
    return {
        "labels": labels,
        "kinds": results.kinds,
        "clips": results.clips.fillna("").to_dict("list"),
        "models": [
            {
                "name": name,
                "title": model.title,
                "predicted": model.predictions["predicted"].map(labels.index).tolist(),
                "permille": np.rint(1000 * model.predictions[labels].to_numpy())
                .astype(int)
                .tolist(),
            }
            for name, model in results.models.items()
        ],
    }


def lines(files: pd.Series) -> Markup:
    """Files in base64, a line each."""
    return Markup("\n".join(base64.b64encode(file).decode("ascii") for file in files))


def as_data(values: object) -> Markup:
    """Values as JSON for inside a script element."""
    return Markup(json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"))


def render(
    results: Results, drawn: dict[str, tuple[str, str, str]], sounds: pd.DataFrame | None
) -> str:
    """The page, as HTML.

    Args:
        drawn: what `drawings` returns.
        sounds: the table that the stage of this name writes; None: a page without audio, nor
            spectrograms, from which it could be had back.

    Raises:
        UserError: a clip has no sound.
    """
    data = for_script(results)
    embedded = {}
    if sounds is not None:
        rows = sounds.set_index("clip").reindex(data["clips"]["clip"])
        if rows["sound"].isna().any():
            clip = rows["sound"].isna().idxmax()
            raise UserError(f"{clip}: not in data/sounds.parquet; `dvc repro sounds` adds it")
        data["quietest"] = sounds.attrs["quietest"]
        data["clips"]["loudness"] = [levels.tolist() for levels in rows["loudness"]]
        embedded = {
            "sounds": lines(rows["sound"]),
            "pictures": lines(rows["picture"]),
            "quietest": -data["quietest"],
        }
    shown = [
        {"id": name, "title": title, "text": text, "svg": Markup(svg)}
        for name, (title, text, svg) in drawn.items()
    ]
    js = (WEB / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.jinja").render(
        title=corpus.title(results.corpus),
        baseline=scoring.baseline(next(iter(results.models.values())).predictions),
        kinds={kind: sorted(results.table[kind].dropna().unique()) for kind in results.kinds},
        results=results,
        audio=bool(embedded),
        models={name: vars(model) | figures_of(model) for name, model in results.models.items()},
        published=[(words, ledger.published(words)) for words in results.published],
        pairs=pairs(results.models.values()),
        groups=groups(results),
        labels=results.labels,
        charts=shown,
        speakers=sorted(set(data["clips"]["speaker"])),
        runs=[machine(model) for model in results.models.values() if model.run],
        versions=", ".join([
            f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)
        ]),
        data=as_data(data),
        tables_js=as_data(read_package_file("html", "dt_bundle.js")),
        tables_css=Markup(read_package_file("html", "dt_bundle.css")),
        css=Markup((WEB / "page.css").read_text(encoding="utf-8")),
        js=Markup(js),
        js_hash=f"sha256-{base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()}",
        **embedded,
    )  # fmt: skip
