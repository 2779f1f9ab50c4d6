"""Write the page of results, and the pictures that a page or a README can show.

    python -m stages.report [--no-audio]

What `make report` calls. The page shows the models that have predictions for all folds of
params.yaml; DVC runs it when all have.

Reads:  data/MODEL/predictions.csv, for w2v in a folder per fold, there also run.json
        metrics/MODEL_protocol.txt, metrics/corpus.json, metrics/corpus.csv; metrics/w2v_epochs.csv
        results/tables.yaml: the published figures
        data/audio/*.wav
        params.yaml, all of which the page shows; params `corpus`, `folds`
Writes: report/index.html: the page, which holds all it shows, audio included; with --no-audio
            report/no-audio.html: the same without audio and spectrograms, for sharing
        metrics/calibration.csv: model, low, high (bounds of the confidence), clips, confidence,
            accuracy (means); a row per tenth of the range that holds any clips
        metrics/emotions.png, actors.png, calibration.png, learning.png: the page's charts
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from ser import params, scoring
from ser.report import calibration, charts, ledger, page
from ser.run import errors, outputs


def predicted(folds: list[int]) -> list[str]:
    """The models that have predictions for all of the folds.

    Raises:
        UserError: none has.
    """
    models = [
        model
        for model in scoring.MODELS
        if all((source / "predictions.csv").exists() for source in scoring.sources(model, folds))
    ]
    if not models:
        raise errors.UserError("data: predictions of no model; `dvc repro` makes them")
    return models


def devices(model: str, folds: list[int]) -> list[str]:
    """A line on each way in which the folds of a model were computed, where it is written down."""
    lines = []
    for source in scoring.sources(model, folds):
        if (source / "run.json").exists():
            run = json.loads((source / "run.json").read_text(encoding="utf-8"))
            versions = ", ".join(f"{name} {of}" for name, of in run.pop("versions").items())
            facts = ", ".join(f"{name} {value}" for name, value in run.items())
            lines.append(f"{scoring.MODELS[model]} was trained on: {facts}; {versions}.")
    return list(dict.fromkeys(lines))


def gather(settings: params.Params) -> page.Results:
    """What the page is made of.

    Raises:
        UserError: there are no predictions, or tables that do not fit together.
    """
    models = predicted(settings.folds)
    return page.Results(
        corpus=settings.corpus,
        params=Path("params.yaml").read_text(encoding="utf-8"),
        tables={model: scoring.read(model, settings.folds) for model in models},
        protocols={
            model: Path(f"metrics/{model}_protocol.txt").read_text(encoding="utf-8").strip()
            for model in models
        },
        runs=[line for model in models for line in devices(model, settings.folds)],
        audit=json.loads(Path("metrics/corpus.json").read_text(encoding="utf-8")),
        by_emotion=pd.read_csv("metrics/corpus.csv"),
        published=ledger.settings()["published"],
    )


@errors.one_line
def main() -> None:
    """Gather the results, draw the charts, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--no-audio", action="store_true", help="leave out audio and spectrograms, for sharing"
    )
    silent = parser.parse_args().no_audio
    results = gather(params.load())
    epochs = pd.read_csv("metrics/w2v_epochs.csv") if "w2v" in results.tables else None
    drawings = page.drawn(results, epochs)
    target = Path("report", "no-audio.html" if silent else "index.html")
    with outputs.together() as output:
        for name, (_, _, chart) in drawings.items():
            output(f"metrics/{name}.png").write_bytes(charts.png(chart))
        bins = {model: calibration.bins(table) for model, table in results.tables.items()}
        table = output("metrics/calibration.csv")
        charts.stacked(bins).to_csv(table, index=False, float_format="%.4f")
        html = page.render(results, drawings, None if silent else Path("data/audio"))
        output(target).write_text(html, encoding="utf-8", newline="\n")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {', '.join(results.tables)}")


if __name__ == "__main__":
    main()
