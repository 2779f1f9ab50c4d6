"""Write the page of results, and the pictures that a page or a README can show.

    python -m stages.report [--no-audio] [--beside COMMIT]

What `make report` calls. The page shows the models that have predictions for all folds of
params.yaml; DVC runs it when all have.

Reads:  data/MODEL/predictions.csv, for w2v in a folder per fold, there also run.json
        metrics/MODEL_protocol.txt, metrics/corpus.json, metrics/corpus.csv; metrics/w2v_epochs.csv
        results/: the ledger, and the published figures
        data/audio/*.wav
        params.yaml, all of which the page shows; params `corpus`, `folds`
Writes: report/index.html: the page, which holds all it shows, audio included; with --no-audio
            report/no-audio.html: the same without audio and spectrograms, for sharing; with
            --beside, which adds the models of another commit or experiment on the same clips,
            report/beside.html or beside-no-audio.html, and nothing else
        metrics/calibration.csv: model, low, high (bounds of the confidence), clips, confidence,
            accuracy (means); a row per tenth of the range that holds any clips
        metrics/emotions.png, actors.png, calibration.png, learning.png: the page's charts
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import pandas as pd

from ser import calibration, params, scoring
from ser.report import another_commit, charts, ledger, page
from ser.run import errors, outputs


def predicted(folds: list[int], project: Path) -> list[str]:
    """The models that have predictions for all of the folds."""
    return [
        model
        for model in scoring.MODELS
        if all(
            (source / "predictions.csv").exists()
            for source in scoring.sources(model, folds, project)
        )
    ]


def devices(title: str, sources: list[Path]) -> list[str]:
    """A line on each way in which the folds of a model were computed, where it is written down."""
    lines = []
    for source in sources:
        if (source / "run.json").exists():
            run = json.loads((source / "run.json").read_text(encoding="utf-8"))
            versions = ", ".join(f"{name} {of}" for name, of in run.pop("versions").items())
            facts = ", ".join(f"{name} {value}" for name, value in run.items())
            lines.append(f"{title} was trained on: {facts}; {versions}.")
    return list(dict.fromkeys(lines))


def gather(settings: params.Params, project: Path = Path(), at: str = "") -> page.Results:
    """What the page is made of.

    Args:
        project: the folder in which data/, metrics/ and params.yaml lie.
        at: added to the models' names, see `scoring.title`.

    Raises:
        UserError: there are no predictions, or tables that do not fit together.
    """
    tables, said, runs = {}, {}, []
    for model in predicted(settings.folds, project):
        name = f"{model}{at}"
        tables[name] = scoring.read(model, settings.folds, project)
        protocol = project / f"metrics/{model}_protocol.txt"
        said[name] = protocol.read_text(encoding="utf-8").strip()
        runs += devices(scoring.title(name), scoring.sources(model, settings.folds, project))
    if not tables:
        raise errors.UserError(f"data{at}: predictions of no model; `dvc repro` makes them")
    return page.Results(
        corpus=settings.corpus,
        leaky=any("LEAKY" in text for text in said.values()),
        params=(project / "params.yaml").read_text(encoding="utf-8"),
        tables=tables,
        protocols=said,
        runs=runs,
        audit=json.loads((project / "metrics/corpus.json").read_text(encoding="utf-8")),
        by_emotion=pd.read_csv(project / "metrics/corpus.csv"),
        measured=ledger.results(),
        published=ledger.settings()["published"],
    )


def beside(results: page.Results, settings: params.Params, commit: str) -> page.Results:
    """The results, and after them those of another commit or experiment.

    Raises:
        UserError: as `another_commit.copy`, or they are of other clips.
    """
    with tempfile.TemporaryDirectory() as folder:
        another_commit.copy(commit, settings.folds, Path(folder))
        other = gather(settings, Path(folder), f"@{commit}")
    clips = [list(table["clip"]) for of in (results, other) for table in of.tables.values()]
    if any(names != clips[0] for names in clips):
        raise errors.UserError(f"--beside {commit}: its predictions are of other clips")
    return dataclasses.replace(
        results,
        leaky=results.leaky or other.leaky,
        params=f"{results.params}\n# {commit}\n\n{other.params}",
        tables=results.tables | other.tables,
        protocols=results.protocols | other.protocols,
        runs=results.runs + other.runs,
    )


@errors.one_line
def main() -> None:
    """Gather the results, draw the charts, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--no-audio", action="store_true", help="leave out audio and spectrograms, for sharing"
    )
    parser.add_argument(
        "--beside", metavar="COMMIT", help="show the results of this commit or experiment, too"
    )
    wanted = parser.parse_args()
    settings = params.load()
    results = gather(settings)
    bins = {model: calibration.bins(table) for model, table in results.tables.items()}
    epochs = pd.read_csv("metrics/w2v_epochs.csv") if "w2v" in results.tables else None
    name = "no-audio" if wanted.no_audio else "index"
    if wanted.beside:
        name = f"beside-{name}" if wanted.no_audio else "beside"
        results = beside(results, settings, wanted.beside)
    drawings = page.drawn(results, epochs)
    target = Path("report", f"{name}.html")
    with outputs.together() as output:
        if not wanted.beside:  # the pictures and the table in git are of what is here
            for name, (_, _, chart) in drawings.items():
                output(f"metrics/{name}.png").write_bytes(charts.png(chart))
            table = output("metrics/calibration.csv")
            charts.stacked(bins).to_csv(table, index=False, float_format="%.4f")
        html = page.render(results, drawings, None if wanted.no_audio else Path("data/audio"))
        output(target).write_text(html, encoding="utf-8", newline="\n")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {', '.join(results.tables)}")


if __name__ == "__main__":
    main()
