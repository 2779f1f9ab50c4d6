"""Write the page of results, and the pictures that a page or a README can show.

    python -m stages.report [--no-audio] [--beside COMMIT]

What `make report` calls. The page shows the models that have predictions; DVC runs it when all
have.

Reads:  data/predictions/NAME/: predictions.csv, protocol.txt; run.json and epochs.csv of the models
            that bring them
        metrics/corpus.json, metrics/corpus.csv
        results/: the ledger, and the published figures
        data/audio/*.wav
        params.yaml, all of which the page shows; params `corpus`, `folds`, `models`, `split.scheme`
Writes: report/index.html: the page, which holds all it shows, audio included; with --no-audio
            report/no-audio.html: the same without audio and spectrograms, for sharing; with
            --beside, which adds the models of another commit or experiment on the same clips,
            report/beside.html or beside-no-audio.html, and nothing else
        metrics/charts/: the page's charts: emotions.png, actors.png, calibration.png,
            learning-NAME.png
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from ser import params, protocols, tables
from ser.report import another_commit, charts, ledger, page
from ser.run import errors, outputs


def read(name: str, title: str, values: dict, project: Path = Path()) -> page.Model:
    """A model as the page shows it.

    Args:
        values: of params.yaml, as they are written there.
        project: the folder in which data/ lies.

    Raises:
        UserError: its predictions are missing or damaged.
    """
    folder = project / tables.MODELS / name
    predictions = tables.predictions(name, values["folds"], project)
    text = (folder / "protocol.txt").read_text(encoding="utf-8")
    run, epochs = folder / "run.json", folder / "epochs.csv"
    return page.Model(
        title=title,
        predictions=predictions,
        protocol=protocols.sentence(values["corpus"], values["split"]["scheme"], predictions, text),
        run=json.loads(run.read_text(encoding="utf-8")) if run.exists() else None,
        epochs=pd.read_csv(epochs) if epochs.exists() else None,
    )


def gather() -> page.Results:
    """The results that are here, of the models that have predictions.

    Raises:
        UserError: there are none, or predictions that do not fit together.
    """
    settings = params.load()
    models = {
        name: read(name, title, settings.model_dump())
        for name, title in settings.models.items()
        if (tables.MODELS / name).exists()
    }
    if not models:
        raise errors.UserError(f"{tables.MODELS}: no model's predictions; `dvc repro` makes them")
    return page.Results(
        corpus=settings.corpus,
        params=Path("params.yaml").read_text(encoding="utf-8"),
        models=models,
        audit=json.loads(Path("metrics/corpus.json").read_text(encoding="utf-8")),
        by_emotion=pd.read_csv("metrics/corpus.csv"),
        measured=ledger.results(),
        published=ledger.settings()["published"],
    )


def beside(results: page.Results, commit: str) -> page.Results:
    """The results, and after them those of another commit or experiment, which may have other
    parameters: they are read as they are.

    Raises:
        UserError: as `another_commit.copy`, or they are of no model, or of other clips.
    """
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        another_commit.copy(commit, project)
        text = (project / "params.yaml").read_text(encoding="utf-8")
        values = YAML(typ="safe", pure=True).load(text)
        models = {
            f"{name}@{commit}": read(name, f"{title}, {commit}", values, project)
            for name, title in values.get("models", {}).items()
            if (project / tables.MODELS / name).exists()
        }
    if not models:
        raise errors.UserError(f"--beside {commit}: it has no predictions of any model")
    models = results.models | models
    clips = [list(model.predictions["clip"]) for model in models.values()]
    if any(names != clips[0] for names in clips):
        raise errors.UserError(f"--beside {commit}: its predictions are of other clips")
    both = f"{results.params}\n# {commit}\n\n{text}"
    return dataclasses.replace(results, models=models, params=both)


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
    options = parser.parse_args()
    results = gather()
    name = "no-audio" if options.no_audio else "index"
    if options.beside:
        name = f"beside-{name}" if options.no_audio else "beside"
        results = beside(results, options.beside)
    drawn = page.drawings(results)
    target = Path("report", f"{name}.html")
    with outputs.together() as output:
        if not options.beside:  # the pictures in git are of what is here
            folder = output("metrics/charts")
            folder.mkdir()
            for name, (_, _, chart) in drawn.items():
                (folder / f"{name}.png").write_bytes(charts.png(chart))
        html = page.render(results, drawn, None if options.no_audio else Path("data/audio"))
        output(target).write_text(html, encoding="utf-8", newline="\n")
    titles = ", ".join(model.title for model in results.models.values())
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {titles}")


if __name__ == "__main__":
    main()
